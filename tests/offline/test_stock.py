"""Stock transformers behind our door says what ours says, of single clips; what it has none of is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import asr
from asr.checkpoint import CheckpointError
from offline import stock
from tests.conftest import noise

CLIPS = [noise(samples, seed) for seed, samples in enumerate((5_000, 9_000, 16_000, 399))]


@pytest.mark.parametrize("implementation", stock.IMPLEMENTATIONS)
@pytest.mark.parametrize("positions", ["relative", "rotary"])
def test_single_clips_come_out_as_ours(positions: str, implementation: str, tiny_folder) -> None:
    folder = tiny_folder("mha", positions)
    ours, theirs = (
        asr.load(folder, device="cpu"),
        stock.load(folder, device="cpu", attn_implementation=implementation),
    )
    assert theirs.model.config._attn_implementation == implementation
    expected = [ours.transcribe([clip])[0] for clip in CLIPS]
    found = [theirs.transcribe([clip])[0] for clip in CLIPS]
    assert [t.text for t in found] == [t.text for t in expected] and any(t.text for t in found)
    assert found[3].text == "" and [t.duration_s for t in found] == [t.duration_s for t in expected]
    scores = theirs.log_probs([CLIPS[1]])[0]
    assert np.abs(scores - ours.log_probs([CLIPS[1]])[0]).max() < 1e-4
    assert (
        theirs.folder_hash == ours.folder_hash and theirs.parameters > ours.parameters
    )  # some are never used


def test_a_batch_leaves_short_clips_out_and_keeps_the_order(tiny_folder) -> None:
    model = stock.load(tiny_folder("mha"), device="cpu")
    texts = [t.text for t in model.transcribe([CLIPS[3], CLIPS[2], CLIPS[3]])]
    assert texts == ["", model.transcribe([CLIPS[2]])[0].text, ""]


def test_a_long_recording_is_heard_whole(tiny_folder) -> None:
    (scores,) = stock.load(tiny_folder("mha"), device="cpu").log_probs([noise(61 * 16_000)])
    assert len(scores) == 61 * 50 - 1


def test_half_precision(tiny_folder) -> None:
    model = stock.load(tiny_folder("mha"), device="cpu", dtype="bfloat16")
    assert model.dtype == torch.bfloat16
    whole = stock.load(tiny_folder("mha"), device="cpu").log_probs([CLIPS[1]])[0]
    assert 0 < np.abs(model.log_probs([CLIPS[1]])[0] - whole).max() < 0.5


def test_what_it_has_none_of_is_refused(tiny_folder, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no latent attention; .*--export_hf"):
        stock.load(tiny_folder("mla"))
    with pytest.raises(ValueError, match="no chunks"):
        stock.load(tiny_folder("mha"), device="cpu").transcribe(CLIPS, chunk_frames=8)
    with pytest.raises(ValueError, match="dtype is 'int8'; choices: float32"):
        stock.load(tiny_folder("mha"), dtype="int8")
    folder = Path(shutil.copytree(tiny_folder("mha"), tmp_path / "broken"))
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="broken: transformers cannot load it"):
        stock.load(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(CheckpointError, match="model_type is 'bert'"):
        stock.load(folder)
