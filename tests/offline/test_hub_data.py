"""Data sets of the `datasets` library, from folders as it writes them; nothing is fetched."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from offline.corpora import names, read_corpus
from offline.data import ManifestError
from tests.conftest import noise

datasets = pytest.importorskip("datasets", reason="an extra: mla-asr[hf-datasets]")
pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
hub_data = pytest.importorskip("offline.hub_data")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def encoded(seconds: float, seed: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, noise(int(seconds * 16_000), seed), 16_000, format="FLAC")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A parquet file with the sound in it, as the hub has LibriSpeech: three rows in a split `test`."""
    columns = {
        "audio": [{"bytes": encoded(0.5 + n / 4, n), "path": f"84-1-{n:04}.flac"} for n in range(3)],
        "text": ["one", "TWO", "Three"],
        "speaker_id": [84, 84, 85],
        "id": [f"84-1-{n:04}" for n in range(3)],
    }
    audio = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    fields = {"audio": audio, "text": pyarrow.string(), "speaker_id": pyarrow.int64(), "id": pyarrow.string()}
    features = {
        "audio": {"sampling_rate": 16_000, "_type": "Audio"},
        "text": {"dtype": "string", "_type": "Value"},
        "speaker_id": {"dtype": "int64", "_type": "Value"},
        "id": {"dtype": "string", "_type": "Value"},
    }
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pyarrow.table(columns, pyarrow.schema(list(fields.items()), about))
    (tmp_path / "set").mkdir()
    parquet.write_table(table, tmp_path / "set" / "test-00000-of-00001.parquet")
    return tmp_path / "set"


def check(source: str) -> None:
    found = read_corpus(source)
    assert [(u.text, u.speaker, u.duration_s) for u in found] == [
        ("ONE", "84", 0.5),
        ("TWO", "84", 0.75),
        ("THREE", "85", 1.0),
    ]
    assert names(found) == ["84-1-0000", "84-1-0001", "84-1-0002"]
    expected, _ = soundfile.read(io.BytesIO(encoded(0.75, 1)), dtype="float32")
    assert np.array_equal(found[1].wave(), expected)
    assert read_corpus(source, limit=2) == found[:2]


def test_a_folder_of_parquet(folder: Path) -> None:
    check(f"hf:{folder}:test")


def test_a_folder_that_was_saved_to(folder: Path, tmp_path: Path) -> None:
    rows = datasets.load_dataset(str(folder), split="test").cast_column("audio", datasets.Audio(decode=False))
    rows.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"dev": rows}).save_to_disk(tmp_path / "splits")
    check(f"hf:{tmp_path / 'saved'}:all")
    check(f"hf:{tmp_path / 'saved'}:test")
    with pytest.raises(ManifestError, match="holds one split, test; no train"):
        read_corpus(f"hf:{tmp_path / 'saved'}:train")
    check(f"hf:{tmp_path / 'splits'}:dev")
    with pytest.raises(ManifestError, match="KeyError: 'test'"):
        read_corpus(f"hf:{tmp_path / 'splits'}:test")


def test_paths_in_a_column_are_read_from_their_files(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(8_000), 16_000)
    rows = datasets.Dataset.from_dict({"path": [str(tmp_path / "a.wav")], "sentence": ["yes"]})
    rows.save_to_disk(tmp_path / "saved")
    (one,) = read_corpus(f"hf:{tmp_path / 'saved'}:all")
    assert (one.text, one.audio, one.duration_s, names([one])) == ("YES", tmp_path / "a.wav", 0.5, ["a"])
    (tmp_path / "a.wav").unlink()
    with pytest.raises(ManifestError, match=r"saved:all, row 0: no such file: .*a.wav"):
        read_corpus(f"hf:{tmp_path / 'saved'}:all")


def test_what_cannot_be_read_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"hf:dataset:split or hf:dataset:config:split"):
        read_corpus(f"hf:{folder}")
    with pytest.raises(ManifestError, match='Unknown split "dev"'):
        read_corpus(f"hf:{folder}:dev")
    rows = datasets.Dataset.from_dict({"audio": ["x.wav"], "words": ["yes"]})
    rows.save_to_disk(tmp_path / "saved")
    with pytest.raises(ManifestError, match=r"no column of texts: .*; it has audio, words"):
        read_corpus(f"hf:{tmp_path / 'saved'}:all")


def test_a_librispeech_split_as_the_hub_lays_it_out(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same files in a folder here instead of the hub's; a split that is here already is not asked for."""
    (tmp_path / "all").mkdir()
    folder.rename(tmp_path / "all" / "test.clean")
    monkeypatch.setattr(hub_data, "LIBRISPEECH", str(tmp_path / "all"))
    found = read_corpus("test-clean", root=tmp_path, download=True)
    assert names(found) == ["84-1-0000", "84-1-0001", "84-1-0002"] and len(found[2].wave()) == 16_000
    assert "fetching LibriSpeech test-clean, about 346 MB" in capsys.readouterr().err
    with pytest.raises(ManifestError, match="dev-clean: ValueError: At least one valid data file"):
        read_corpus("dev-clean", root=tmp_path, download=True)


def test_nothing_is_fetched_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    with pytest.raises(ManifestError, match="someone/some-set is no folder here; --download fetches it"):
        read_corpus("hf:someone/some-set:clean:test")
