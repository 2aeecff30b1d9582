"""The parts of the distillation loss against their definitions, and gradients where frames are padded or masked."""

import numpy as np
import pytest
import torch

from asr import checkpoint
from asr.ctc import Vocabulary
from asr.encoder import ConformerCTC
from offline.finetuning.distill import Distilled, Weights, attention_outputs, check_pair
from offline.objective import Objective
from tests.conftest import noise, tiny_model


def batch(*samples: int) -> dict[str, torch.Tensor]:
    """Noise of so many samples each, padded; three letters each."""
    waves = torch.zeros(len(samples), max(samples))
    for row, length in enumerate(samples):
        waves[row, :length] = torch.from_numpy(noise(length, row))
    count = len(samples)
    return {
        "waves": waves,
        "lengths": torch.tensor(samples),
        "targets": torch.tensor([[5, 6, 7]] * count),
        "target_lengths": torch.tensor([3] * count),
    }


def distilled(student: ConformerCTC, teacher: ConformerCTC, trainable: str = "attention") -> Distilled:
    return Distilled(student, 0, teacher, Weights(ctc=1, kl=2, mse=3), trainable=trainable)


def test_parts_are_those_of_valid_frames_and_add_up() -> None:
    student, teacher = tiny_model("mla"), tiny_model("mha")
    given = batch(16_000, 7_000)
    sight = {"chunk_frames": 8, "left_context_frames": 4}
    parts = distilled(student, teacher).eval()(**given, **sight)
    whole = float(parts["loss"].detach())
    assert whole == pytest.approx(float(parts["ctc"] + 2 * parts["kl"] + 3 * parts["mse"]))
    kl, squares = 0.0, np.zeros((2, student.config.num_hidden_layers))
    for row, samples in enumerate((16_000, 7_000)):  # each clip alone, where there is no padding
        alone = given["waves"][row : row + 1, :samples], torch.tensor([samples])
        with torch.no_grad(), attention_outputs(student) as ours, attention_outputs(teacher) as theirs:
            given_p, wanted_p = (m(*alone, **sight)[0].log_softmax(-1) for m in (student, teacher))
        kl += float((wanted_p.exp() * (wanted_p - given_p)).sum())
        for layer, (our, their) in enumerate(zip(ours, theirs, strict=True)):
            squares[:, layer] += float((our - their).square().sum()), float(their.square().sum())
    assert float(parts["kl"]) == pytest.approx(kl / 6, rel=1e-3) and kl > 0.1
    assert float(parts["mse"]) == pytest.approx((squares[0] / squares[1]).mean(), rel=1e-3)


@pytest.mark.parametrize("trainable", ["attention", "all"])
def test_a_student_like_its_teacher_has_nothing_to_learn_from_it(trainable: str) -> None:
    """Batch norm too keeps to its statistics: with those of a small batch, training began three times as far off."""
    parts = distilled(tiny_model("mha"), tiny_model("mha"), trainable).train()(**batch(16_000, 7_000))
    assert abs(float(parts["kl"])) < 1e-5 and float(parts["mse"]) < 1e-8 < float(parts["ctc"])


def test_the_teacher_is_no_part_of_the_module() -> None:
    student, teacher = tiny_model("mla"), tiny_model("mha")
    objective = distilled(student, teacher).train()
    assert set(objective.state_dict()) == {f"model.{name}" for name in student.state_dict()}
    objective(**batch(16_000))["loss"].backward()
    assert not teacher.training and all(p.grad is None for p in teacher.parameters())
    assert not any(hooks for hooks in (m._forward_hooks for m in [*student.modules(), *teacher.modules()]))


@pytest.mark.parametrize("kind", ["mha", "mla", "mla-separate"])
@pytest.mark.parametrize("chunk_frames", [None, 8])
def test_gradients_are_finite_where_a_clip_is_all_padding(kind: str, chunk_frames: int | None) -> None:
    """A clip without one frame: every row of its attention is padded. Fused attention gave NaN gradients there."""
    model = tiny_model(kind, hidden_dropout=0.1, attention_dropout=0.1)
    given = batch(16_000, 300, 700)
    loss = Objective(model, 0).train()(**given, chunk_frames=chunk_frames, left_context_frames=0)["loss"]
    loss.backward()
    assert loss.isfinite() and float(loss.detach()) > 0
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert all(g is not None and g.isfinite().all() for g in gradients.values())
    moved = {name for name, g in gradients.items() if g is not None and g.abs().max() > 0}
    assert {name for name in gradients if "pos_bias" in name or "linear_pos" in name} <= moved


def test_another_architecture_or_vocabulary_is_no_teacher(vocabulary: Vocabulary) -> None:
    model, narrow = tiny_model("mla"), tiny_model("mha", hidden_size=16)
    with pytest.raises(ValueError, match=r"differ in hidden_size \(32 and 16\)$"):
        check_pair(model, vocabulary, narrow, vocabulary)
    other = Vocabulary([*vocabulary.tokens[:-2], "Z", "Q"])
    with pytest.raises(ValueError, match="differ in their vocabularies"):
        check_pair(model, vocabulary, tiny_model("mha"), other)
    check_pair(model, vocabulary, tiny_model("mha"), vocabulary)


def test_bundled_models_are_a_pair() -> None:
    check_pair(*checkpoint.load("mla"), *checkpoint.load("mha"))
