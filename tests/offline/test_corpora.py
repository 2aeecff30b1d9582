"""Corpora in every form that they come in, as files of real sound; what is wrong with one is named by file and line."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from offline import corpora
from offline.corpora import read_corpus
from offline.data import ManifestError, Utterance, load_wave
from offline.training_data import SpeechDataset, join
from tests.conftest import noise

LIBRISPEECH = {
    "84-121123-0000": "GO DO YOU HEAR",
    "84-121123-0001": "but in less than five minutes",
    "1272-128104-0000": "MISTER QUILTER",
}


def sound(path: Path, seconds: float = 0.5, rate: int = 16_000, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise(int(seconds * rate), seed), rate)
    return path


@pytest.fixture
def librispeech(tmp_path: Path) -> Path:
    """A LibriSpeech root with one split of three recordings by two speakers."""
    for number, (name, text) in enumerate(LIBRISPEECH.items()):
        speaker, chapter, _ = name.split("-")
        folder = tmp_path / "LibriSpeech" / "test-clean" / speaker / chapter
        sound(folder / f"{name}.flac", 0.5 + number / 4)
        with (folder / f"{speaker}-{chapter}.trans.txt").open("a") as file:
            file.write(f"{name} {text}\n")
    return tmp_path


@pytest.fixture
def kaldi(tmp_path: Path) -> Path:
    """A Kaldi folder: two recordings, one of them behind a decoding command."""
    sound(tmp_path / "audio" / "one.wav", 3.0, seed=1)
    sound(tmp_path / "two.flac", 2.0, seed=2)
    (tmp_path / "wav.scp").write_text(f"r1 audio/one.wav\nr2 flac -c -d -s {tmp_path}/two.flac |\n")
    (tmp_path / "text").write_text("r1 hello there\nr2 again\n")
    (tmp_path / "utt2spk").write_text("r1 anna\nr2 bert\n")
    return tmp_path


def test_a_librispeech_split_by_name_and_by_folder(
    librispeech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = read_corpus("test-clean", root=librispeech)
    assert [(u.id, u.text, u.speaker) for u in found] == [  # type: ignore[attr-defined]
        ("1272-128104-0000", "MISTER QUILTER", "1272"),
        ("84-121123-0000", "GO DO YOU HEAR", "84"),
        ("84-121123-0001", "BUT IN LESS THAN FIVE MINUTES", "84"),
    ]
    assert [u.duration_s for u in found] == [1.0, 0.5, 0.75]
    assert found[1].audio.name == "84-121123-0000.flac" and len(found[1].wave()) == 8_000
    assert read_corpus("test-clean", root=librispeech / "LibriSpeech") == found
    assert read_corpus(librispeech / "LibriSpeech" / "test-clean") == found
    assert read_corpus("test-clean", root=librispeech, limit=2) == [found[0], found[1]]
    monkeypatch.setenv(corpora.ROOT_VARIABLE, str(librispeech))
    assert read_corpus("test-clean") == found
    monkeypatch.delenv(corpora.ROOT_VARIABLE)
    (librispeech / "data").mkdir()
    (librispeech / "LibriSpeech").rename(librispeech / "data" / "LibriSpeech")
    monkeypatch.chdir(librispeech)
    assert [u.text for u in read_corpus("test-clean")] == [u.text for u in found]


def test_a_split_that_is_not_here_is_not_fetched_unasked(librispeech: Path) -> None:
    with pytest.raises(ManifestError, match="dev-other is not here") as caught:
        read_corpus("dev-other", root=librispeech)
    for part in (f"{librispeech}/LibriSpeech/dev-other", "dev-other.tar.gz (314 MB)", "--download"):
        assert part in str(caught.value)


def test_a_kaldi_folder_without_segments(kaldi: Path) -> None:
    one, two = read_corpus(kaldi)
    assert (one.text, one.speaker, one.duration_s) == ("HELLO THERE", "anna", 3.0)
    assert np.array_equal(one.wave(), load_wave(kaldi / "audio" / "one.wav"))
    assert (two.text, two.speaker, two.duration_s) == ("AGAIN", "bert", 2.0)
    (kaldi / "utt2dur").write_text("r2 1.9\n")
    assert [u.duration_s for u in read_corpus(kaldi)] == [3.0, 1.9]


def test_a_kaldi_folder_with_segments_cuts_the_recordings(kaldi: Path) -> None:
    (kaldi / "segments").write_text("a-1 r1 0.25 1.5\na-2 r1 1.5 -1\nb-1 r2 0.5 1\n")
    (kaldi / "text").write_text("a-1 HELLO\na-2 THERE\nb-1 AGAIN\n")
    (kaldi / "utt2spk").write_text("a-1 anna\na-2 anna\nb-1 bert\n")
    first, second, third = read_corpus(kaldi)
    assert [u.duration_s for u in (first, second, third)] == [1.25, 1.5, 0.5]
    whole, other = load_wave(kaldi / "audio" / "one.wav"), load_wave(kaldi / "two.flac")
    assert np.array_equal(first.wave(), whole[4_000:24_000])
    assert np.array_equal(second.wave(), whole[24_000:])
    assert np.array_equal(third.wave(), other[8_000:16_000])
    assert corpora.names([first, second, third]) == ["a-1", "a-2", "b-1"]


@pytest.mark.parametrize("suffix", ["mp3", "wav"])
def test_parts_of_what_has_to_be_converted(suffix: str, tmp_path: Path) -> None:
    """At another rate, or in a format where places are not exact: cut out of the whole, decoded."""
    path = sound(tmp_path / f"x.{suffix}", 2.0, rate=22_050)
    whole = load_wave(path)
    part = Utterance(path, 0.5, "A", start_s=0.75, end_s=1.25)
    assert np.array_equal(part.wave(), whole[12_000:20_000])
    with pytest.raises(ManifestError, match=f"x.{suffix}: holds nothing from 9 s to 10 s"):
        Utterance(path, 1.0, "A", start_s=9.0, end_s=10.0).wave()


def test_training_takes_parts_and_joins_them(kaldi: Path, vocabulary) -> None:
    (kaldi / "segments").write_text("a-1 r1 0.25 1.5\na-2 r1 1.5 -1\n")
    (kaldi / "text").write_text("a-1 HELLO\na-2 THERE\n")
    parts = read_corpus(kaldi)
    data = SpeechDataset(parts, vocabulary)
    assert np.array_equal(data[0, 1].wave, parts[1].wave())
    longest = max(join(parts, limit_s=100.0, copies=3, seed=0), key=lambda row: row.duration_s)
    said = {"HELLO": parts[0].wave(), "THERE": parts[1].wave()}
    assert sorted(longest.text.split()) == sorted(said) and longest.duration_s == 2.75
    assert np.array_equal(longest.wave(), np.concatenate([said[word] for word in longest.text.split()]))


def test_tables(tmp_path: Path) -> None:
    sound(tmp_path / "a.wav", 0.5)
    sound(tmp_path / "clips" / "b.mp3", 1.0)
    (tmp_path / "x.csv").write_text('\ufefftext,Path,duration,speaker,id\n"well, yes",a.wav,,7,first\n')
    (one,) = read_corpus(tmp_path / "x.csv")
    assert (one.text, one.speaker, one.duration_s, one.audio) == ("WELL, YES", "7", 0.5, tmp_path / "a.wav")
    assert corpora.names([one]) == ["first"]
    (tmp_path / "x.tsv").write_text('client_id\tpath\tsentence\n9f\tb.mp3\tHe said "no\n')
    (two,) = read_corpus(tmp_path / "x.tsv")
    assert (two.text, two.speaker, two.audio.name) == ('HE SAID "NO', "9f", "b.mp3")
    assert two.duration_s == pytest.approx(1.0, abs=0.1) and corpora.names([two]) == ["b"]


def test_manifests_keep_their_labels(tmp_path: Path) -> None:
    sound(tmp_path / "a.flac")
    line = {"audio_filepath": "a.flac", "duration": 0.5, "text": "one", "voice": "v", "speaker": "s"}
    (tmp_path / "m.jsonl").write_text("\n".join([json.dumps(line)] * 3))
    found = read_corpus(tmp_path / "m.jsonl", limit=2)
    assert [(u.text, u.voice, u.speaker) for u in found] == [("ONE", "v", "s")] * 2
    path = corpora.names(found)[0]  # twice the same file: its path tells it from other corpora's
    assert path.endswith("a.flac:a") and corpora.names(found) == [path, f"{path}#1"]


def edited(file: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_text(text) and None


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (edited("text", "r1 A\nr9 B\n"), "text, line 2: recording 'r9' is not in"),
        (edited("wav.scp", "r1 gone.wav\nr2 two.flac\n"), "wav.scp, line 1: no such file"),
        (edited("wav.scp", "r1 rm -rf x |\n"), "wav.scp, line 1: commands are not run"),
        (edited("segments", "r1 r1 0 1\n"), "text, line 2: 'r2' is not in"),
        (edited("segments", "r1 r1 0\nr2 r2 0 1\n"), "segments, line 1: segments are"),
        (edited("segments", "r1 r1 0 x\nr2 r2 0 1\n"), "segments, line 1: 'x' is no number of seconds"),
        (edited("segments", "r1 r1 2 1\nr2 r2 0 1\n"), "segments, line 1: from 2 to 1 s is no segment"),
        (edited("segments", "r1 r7 0 1\nr2 r2 0 1\n"), "segments, line 1: recording 'r7' is not in"),
        (edited("utt2dur", "\nr1 long\n"), "utt2dur, line 2: 'long' is no number"),
        (edited("text", ""), "no recordings in it"),
        (lambda folder: (folder / "text").unlink(), "text: cannot be read"),
    ],
)
def test_what_is_wrong_with_a_kaldi_folder(spoil: Callable[[Path], None], named: str, kaldi: Path) -> None:
    spoil(kaldi)
    with pytest.raises(ManifestError) as caught:
        read_corpus(kaldi)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("path,words\na.wav,A\n", "x.csv, line 1: no column of texts: text or sentence"),
        ("sound,text\na.wav,A\n", "x.csv, line 1: no column of sound files"),
        ("path,text\na.wav,A\nb.wav,B\n", "x.csv, line 3: no such file"),
        ("path,text\na.wav,A,B\n", "x.csv, line 2: 3 fields, the first line has 2"),
        ("path,text,duration\na.wav,A,ten\n", "x.csv, line 2: 'ten' is no number of seconds"),
        ("", "x.csv, line 1: no column"),
        ("path,text\n", "x.csv: no recordings in it"),
    ],
)
def test_what_is_wrong_with_a_table(text: str, named: str, tmp_path: Path) -> None:
    sound(tmp_path / "a.wav")
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(ManifestError) as caught:
        read_corpus(tmp_path / "x.csv")
    assert named in str(caught.value)


def test_what_is_wrong_with_a_librispeech_folder(librispeech: Path, tmp_path: Path) -> None:
    next(librispeech.rglob("84-121123-0001.flac")).unlink()
    with pytest.raises(ManifestError, match=r"84-121123.trans.txt, line 2: no such file: .*0001.flac"):
        read_corpus("test-clean", root=librispeech)
    next(librispeech.rglob("84-121123-0000.flac")).write_bytes(b"no sound")
    with pytest.raises(ManifestError, match=r"84-121123-0000.flac: not a sound file"):
        read_corpus("test-clean", root=librispeech)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match="neither LibriSpeech"):
        read_corpus(tmp_path / "empty")


def test_what_is_no_corpus() -> None:
    with pytest.raises(ManifestError, match=r"no corpus 'test-claen'.*test-clean"):
        read_corpus("test-claen")
    with pytest.raises(ManifestError, match=r"gone.jsonl: no such manifest"):
        read_corpus("gone.jsonl")


def test_a_digest_tells_data_apart(librispeech: Path) -> None:
    before = read_corpus("test-clean", root=librispeech)
    digest = corpora.digest("test-clean", before)
    assert corpora.digest("test-clean", read_corpus("test-clean", root=librispeech)) == digest
    transcript = next(librispeech.rglob("1272-128104.trans.txt"))
    transcript.write_text(transcript.read_text().replace("QUILTER", "KILTER"))
    assert corpora.digest("test-clean", read_corpus("test-clean", root=librispeech)) != digest
