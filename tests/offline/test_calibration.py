"""What is heard is what the layers hear, clip by clip; held-out speech is refused."""

import json
from pathlib import Path

import pytest
import soundfile
import torch

from asr.encoder import ConformerCTC
from offline import calibration
from offline.calibration import CLIP_S, Calibration, Moments, Spread
from offline.data import ManifestError, Utterance
from tests.conftest import noise, tiny_model

WAVES = [torch.from_numpy(noise(samples, seed)) for seed, samples in enumerate((16_000, 9_001, 4_000))]


def write_manifest(folder: Path, name: str, audio: str = "audio", **more: str) -> str:
    (folder / audio).mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(3):
        soundfile.write(folder / audio / f"{index}.flac", noise(8_000, index), 16_000)
        rows.append({"audio_filepath": f"{audio}/{index}.flac", "duration": 0.5, "text": "A"} | more)
    (folder / name).write_text("\n".join(map(json.dumps, rows)) + "\n")
    return str(folder / name)


@pytest.mark.parametrize(
    ("name", "audio", "more", "said"),
    [
        ("test-seen-voices.jsonl", "audio", {}, "test-seen-voices"),
        ("my_dev.jsonl", "audio", {}, "my_dev"),
        ("all.jsonl", "audio", {"split": "test-clean"}, "lines of the split 'test-clean'"),
        ("all.jsonl", "audio", {"subset": "validation"}, "validation"),
        ("all.jsonl", "audio/dev", {}, "folder 'dev'"),
    ],
)
def test_held_out_speech_is_refused_unless_forced(
    name: str, audio: str, more: dict, said: str, tmp_path: Path
) -> None:
    manifest = write_manifest(tmp_path, name, audio, **more)
    with pytest.raises(ManifestError, match=f"{said}.*--force_calibration"):
        calibration.read([manifest])
    assert len(calibration.read([manifest], force=True)) == 3


@pytest.mark.parametrize("name", ["train.jsonl", "latest.jsonl", "attested-devices.jsonl"])
def test_training_speech_is_taken(name: str, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, name, split="train")
    assert len(calibration.read([manifest, manifest])) == 6


def test_names_of_splits_are_read_as_well() -> None:
    assert calibration.held_out("test-clean", []) and calibration.held_out(
        "hf:owner/set:clean:validation", []
    )
    assert calibration.held_out("train-clean-100", []) is None
    elsewhere = [Utterance(Path("/data/LibriSpeech/test-clean/1089/134686/a.flac"), 1.0, "A")]
    assert "test-clean" in (calibration.held_out("mine.jsonl", elsewhere) or "")


def test_so_much_speech_is_drawn_in_pieces_the_same_every_time(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.flac", noise(round(16_000 * (CLIP_S + 5))), 16_000)
    short = calibration.read([write_manifest(tmp_path, "train.jsonl")])
    utterances = [*short, Utterance(tmp_path / "long.flac", CLIP_S + 5, "A")]
    everything = calibration.draw(utterances, 1e3)
    assert sum(map(len, everything)) == 3 * 8_000 + 16_000 * (CLIP_S + 5)
    assert max(map(len, everything)) == 16_000 * CLIP_S
    some = calibration.draw(utterances, 1.2)
    assert sum(map(len, some)) == 16_000 * 1.2
    assert all(torch.equal(a, b) for a, b in zip(some, calibration.draw(utterances, 1.2), strict=True))


@pytest.mark.parametrize("positions", ["relative", "rotary"])
@torch.no_grad()
def test_statistics_are_of_what_reaches_k_v_and_the_scores(positions: str) -> None:
    model = tiny_model("mha", positions)
    heard: dict[str, list[torch.Tensor]] = {"k": [], "v": []}
    attention = model.encoder.layers[0].self_attn
    for name in heard:
        projection = getattr(attention, f"linear_{name}")
        projection.register_forward_pre_hook(
            lambda _, args, name=name: heard[name].append(args[0][0].double())
        )
    for wave in WAVES:
        model(wave[None], torch.tensor([len(wave)]))
    found = Calibration(model, WAVES).statistics(model.encoder.layers[0])
    k, v = torch.cat(heard["k"]), torch.cat(heard["v"])
    assert found.frames == len(v)
    assert torch.allclose(found.mean, v.mean(0), atol=1e-6)
    assert torch.allclose(found.overall_v, torch.cov(v.T, correction=0), atol=1e-5)
    assert torch.allclose(found.overall_k, torch.cov(k.T, correction=0), atol=1e-5)
    centred = torch.cat([x - x.mean(0) for x in heard["k"]])
    assert torch.allclose(found.within_k, centred.T @ centred / len(k), atol=1e-5)
    query = attention.linear_q(k.float()).double() + (
        attention.pos_bias_u.flatten().double() if positions == "relative" else 0
    )
    for head, block in enumerate(found.queries):
        own = query[:, head * 8 : head * 8 + 8]
        assert torch.allclose(block, own.T @ own / len(own), atol=1e-5)
    assert not torch.allclose(k, v) or positions == "relative"


def test_clips_are_centred_apart() -> None:
    moments = Moments(2)
    for offset in (-5.0, 5.0):
        moments.add(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]) + offset)
    assert torch.allclose(moments.within, torch.diag(torch.tensor([1.0, 0.0])).double())
    assert float(moments.overall[1, 1]) == pytest.approx(25) and float(moments.mean.abs().sum()) == 0


def walk(model: ConformerCTC, other: ConformerCTC) -> tuple[Calibration, list[float]]:
    heard = Calibration(model, WAVES)
    return heard, [
        heard.advance(*pair) for pair in zip(model.encoder.layers, other.encoder.layers, strict=True)
    ]


@torch.no_grad()
def test_chains_arrive_at_what_the_models_say() -> None:
    model, other = tiny_model(), tiny_model(seed=0)
    other.encoder.layers[1].self_attn.linear_out.weight.mul_(0.5)
    heard, errors = walk(model, other)
    assert errors[0] == 0 and errors[1] > 0 and errors[2] > 0
    divergence = frames = same = 0
    for wave in WAVES:
        teacher, student = (
            m(wave[None], torch.tensor([len(wave)]))[0][0].double().log_softmax(-1) for m in (model, other)
        )
        divergence += float((teacher.exp() * (teacher - student)).sum())
        same += int((teacher.argmax(-1) == student.argmax(-1)).sum())
        frames += len(teacher)
    agreement = heard.agreement()
    assert agreement["frames"] == frames and agreement["ctc_kl"] == pytest.approx(
        divergence / frames, rel=1e-4
    )
    assert agreement["argmax_agreement"] == pytest.approx(same / frames, abs=1e-6)


def test_a_model_agrees_with_itself() -> None:
    heard, errors = walk(tiny_model(), tiny_model())
    assert errors == [0, 0, 0] and heard.agreement() == {
        "frames": heard.frames,
        "argmax_agreement": 1,
        "ctc_kl": 0,
    }


def test_a_constant_offset_flatters_no_error() -> None:
    wanted = torch.tensor([[1.0], [3.0]])
    for offset in (0.0, 100.0):
        spread = Spread()
        spread.add(wanted + offset, wanted + offset + 0.5)
        assert spread.relative == pytest.approx(0.5)


def test_silence_of_no_length_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to calibrate on"):
        Calibration(tiny_model(), [torch.zeros(399)])
