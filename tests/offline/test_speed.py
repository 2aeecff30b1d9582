"""What the benchmark stands on: twins that share weights, forced paths, operations by formula, clips, memory."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import asr
from asr.audio import SAMPLE_RATE
from asr.ctc import Vocabulary
from asr.encoder import ConformerCTC
from offline.flops import forward_flops
from offline.speed import ceiling as ceilings
from offline.speed.arms import ARMS, LARGE, Arm, build, cast, rank_of
from offline.speed.ceiling import Ceiling, matmul_gflops
from offline.speed.equality import UnequalError, verify
from offline.speed.residence import _of_batch
from offline.speed.rounds import batches_of, sound_of
from offline.speed.twins import PATHS, latent_attentions, latent_twin, latents, on_path, stock_twin
from offline.turns import turns
from tests.conftest import LAYERS, noise, tiny_model

CLIPS = [noise(16_000, 1), noise(9_001, 2)]
CPU = torch.device("cpu")


@pytest.fixture
def arms(vocabulary: Vocabulary) -> list[Arm]:
    return build(asr.Transcriber("tiny", tiny_model(), vocabulary), ARMS, list(PATHS))


def find(arms: list[Arm], name: str, path: str | None = None) -> Arm:
    return next(arm for arm in arms if arm.label[1:] == (name, path))


def change(module: nn.Module, name: str) -> None:
    """Gives this module a changed copy of one of its weights; those who shared it keep theirs."""
    parent, _, leaf = name.rpartition(".")
    weight = module.get_parameter(name).detach() * 1.1
    setattr(module.get_submodule(parent), leaf, nn.Parameter(weight))


def test_arms_of_equal_weights_say_the_same(arms: list[Arm]) -> None:
    rows = verify(arms, CLIPS)
    compared = [(row["arm"], row["path"], row["against"]) for row in rows]
    assert compared == [
        *(("mla-lossless", path, "mha") for path in PATHS),
        ("mla-75", "auto", "mla-75 expanded"),
        ("mla-75", "absorbed", "mla-75 expanded"),
        ("mla-87.5", "auto", "mla-87.5 expanded"),
        ("mla-87.5", "absorbed", "mla-87.5 expanded"),
        ("stock-eager", None, "mha"),
        ("stock-sdpa", None, "mha"),
    ]
    assert all(row["frames"] == 49 + 27 and row["changed_frames"] == 0 for row in rows)


@pytest.mark.parametrize(
    ("name", "path", "weight", "complaint"),
    [
        ("mha", None, "encoder.layers.0.self_attn.linear_v.weight", "stock-sdpa against mha"),
        ("mla-lossless", "absorbed", "encoder.layers.2.self_attn.linear_latent.weight", "absorbed against mha"),
        ("mla-75", "absorbed", "encoder.layers.1.self_attn.linear_up_k.weight", "mla-75 absorbed against"),
        ("stock-eager", None, "wav2vec2_conformer.encoder.layers.0.self_attn.pos_bias_u", "stock-eager against mha"),
        ("stock-sdpa", None, "lm_head.bias", "stock-sdpa against mha"),
    ],
)  # fmt: skip
def test_a_changed_weight_is_found(
    arms: list[Arm], name: str, path: str | None, weight: str, complaint: str
) -> None:
    change(find(arms, name, path).network, weight)
    with pytest.raises(UnequalError, match=complaint):
        verify(arms, CLIPS)


def test_scores_that_are_no_numbers_are_found_in_half_precision(arms: list[Arm]) -> None:
    cast(arms, torch.bfloat16)
    assert {row["dtype"] for row in verify(arms, CLIPS)} == {"bfloat16"}
    with torch.no_grad():
        find(arms, "mha").network.get_parameter("lm_head.bias").fill_(float("nan"))  # theirs, all of them
    with pytest.raises(UnequalError, match="inf nats"):
        verify(arms, CLIPS)


def test_arms_share_their_weights_and_turn_to_another_dtype_as_one(arms: list[Arm]) -> None:
    def bytes_of(some: list[Arm]) -> int:
        tensors = [tensor for arm in some for tensor in arm.network.state_dict().values()]
        return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())

    mha = [find(arms, "mha")]
    ours = [arm for arm in arms if not arm.label.arm.startswith("stock")]
    latent = sum(
        4 * LAYERS * (3 * 32 * rank + 32) for rank in (32, 16, 8)
    )  # down, up to K, up to V, output bias
    assert bytes_of(ours) == bytes_of(mha) + latent
    assert find(arms, "mha").weight_bytes == bytes_of(mha)
    cast(arms, torch.bfloat16)
    for arm in arms:
        for name, parameter in arm.network.named_parameters():
            assert parameter.dtype is (torch.float32 if ".batch_norm." in name else torch.bfloat16), name
    assert bytes_of(ours) < 0.6 * (bytes_of(mha) + latent) + bytes_of(mha)


@pytest.mark.parametrize(("path", "expanded"), [("absorbed", 0), ("expanded", LAYERS), ("auto", LAYERS)])
def test_a_forced_path_is_taken(arms: list[Arm], path: str, expanded: int) -> None:
    """K is made from latents on the expanded path alone; for a second of sound that is the cheaper one."""
    arm, made = find(arms, "mla-lossless", path), []
    for attention in latent_attentions(arm.network):
        attention.linear_up_k.register_forward_hook(lambda *_: made.append(1))
    arm.texts([CLIPS[0]])
    assert len(made) == expanded
    assert arm.absorbed([16_000]) == [expanded == 0] * LAYERS


def test_the_stopwatch_sees_the_forward_of_ours_and_of_stock_code(arms: list[Arm]) -> None:
    for arm in arms:
        timing = arm.time(CLIPS)
        assert 0 < timing.forward_s < timing.whole_s
        assert timing.transient_bytes == 0  # no GPU


def test_texts_of_stock_code_are_ours(arms: list[Arm]) -> None:
    said = find(arms, "stock-sdpa").texts(CLIPS[:1])[0]
    for token in ("<s>", "</s>", "<unk>"):
        said = said.replace(token, "")
    assert said and " ".join(said.split()) == find(arms, "mha").texts(CLIPS[:1])[0]


def counted(model: nn.Module, run: Callable[[], object]) -> int:
    """What torch counts. With gradients, since it knows no formula for the CPU's fused attention."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def forward(model: ConformerCTC, samples: int, clips: int) -> Callable[[], object]:
    waves = torch.from_numpy(np.stack([noise(samples, seed) for seed in range(clips)]))
    return lambda: model(waves, torch.full((clips,), samples))


@pytest.mark.parametrize(("samples", "clips"), [(16_000, 1), (12_345, 3)])
@pytest.mark.parametrize(
    ("kind", "positions", "path"),
    [
        ("mha", "relative", None),
        ("mha", "rotary", None),
        ("mla", "relative", "absorbed"),
        ("mla", "relative", "expanded"),
        ("mla-separate", "relative", "absorbed"),
        ("mla-separate", "rotary", "expanded"),
    ],
)
def test_operations_by_formula_are_those_that_torch_counts(
    kind: str, positions: str, path: str | None, samples: int, clips: int
) -> None:
    model = tiny_model(kind, positions)
    model = on_path(model, path) if path else model
    formula = forward_flops(model.config, [samples] * clips, [path == "absorbed"] * LAYERS)
    assert counted(model, forward(model, samples, clips)) == formula


def test_stock_code_needs_what_mha_needs() -> None:
    """But for the last offset of the position table, which stock code does not make, and the work on padding."""
    model = tiny_model()
    stock = stock_twin(model, "eager")
    waves = torch.from_numpy(noise(16_000)[None])
    frames = 49
    spared = LAYERS * (2 * 32 * 32 + 2 * frames * 32)  # its projection, and its score with every query
    assert counted(stock, lambda: stock(waves)) == forward_flops(model.config, [16_000]) - spared


def test_padding_is_not_counted() -> None:
    config = tiny_model().config
    alone = forward_flops(config, [16_000]) + forward_flops(config, [8_000])
    table = LAYERS * 2 * (2 * config.frames(8_000)) * 32**2  # made once, for the longer one
    assert forward_flops(config, [16_000, 8_000]) == alone - table


def test_618m_parameters_need_what_the_literature_says() -> None:
    """A multiplication and an addition per parameter and frame, but for those of the front end, and attention's own."""
    seconds = 10
    flops = forward_flops(LARGE, [seconds * SAMPLE_RATE])
    per_frame = 2 * 605e6
    assert per_frame * 50 * seconds < flops < 1.3 * per_frame * 50 * seconds


def test_latents_are_orthonormal_and_nested() -> None:
    model = tiny_model()
    bases = latents(model)
    for base in bases:
        assert torch.allclose(base @ base.T, torch.eye(32).double(), atol=1e-10)
    errors = []
    for rank in (8, 16, 32):
        twin = latent_twin(model, rank, bases)
        attention, source = next(latent_attentions(twin)), model.encoder.layers[0].get_submodule("self_attn")
        key = attention.linear_up_k.weight @ attention.linear_latent.weight
        errors.append(float((key - source.linear_k.weight).detach().norm()))  # type: ignore[union-attr]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-5


@pytest.mark.parametrize(
    ("name", "width", "rank"),
    [("mla-lossless", 1024, 1024), ("mla-75", 1024, 512), ("mla-87.5", 1024, 256), ("mla-93.75", 1024, 128),
     ("mla-50", 32, 32), ("mla-80", 160, 64), ("mla-99.9", 32, 2)],
)  # fmt: skip
def test_ranks(name: str, width: int, rank: int) -> None:
    assert rank_of(name, width) == rank


@pytest.mark.parametrize("name", ["mla", "mla-", "mla-49", "mla-100", "mla-nan", "stock", "75", "lossless"])
def test_what_is_no_arm_is_refused_with_the_choices(name: str) -> None:
    with pytest.raises(ValueError, match=r"is no arm; choices: mha, mla-lossless, .*stock-sdpa"):
        rank_of(name, 1024)


@pytest.mark.parametrize(("size", "batches"), [(1, 3), (2, 2), (8, 1)])
def test_a_mix_holds_each_length_as_often_as_the_next(size: int, batches: int) -> None:
    sound = sound_of(None)
    found = batches_of(size, [1.0, 2.0, 4.0], sound)
    assert [len(batch) for batch in found] == [size] * batches
    lengths = [len(wave) // SAMPLE_RATE for batch in found for wave in batch]
    assert max(map(lengths.count, (1, 2, 4))) - min(map(lengths.count, (1, 2, 4))) <= 1
    again = batches_of(size, [1.0, 2.0, 4.0], sound)
    assert np.array_equal(
        *(np.concatenate([wave for batch in cut for wave in batch]) for cut in (found, again))
    )


@pytest.mark.parametrize("arms", [1, 2, 3, 12])
def test_every_arm_has_its_turn_and_none_follows_itself(arms: int) -> None:
    rounds = [turns(range(arms), number) for number in range(2 * arms)]
    assert all(sorted(order) == list(range(arms)) for order in rounds)
    row = [arm for order in rounds for arm in order]
    assert arms == 1 or all(one != other for one, other in itertools.pairwise(row))
    assert arms < 3 or any(order[0] > order[1] for order in rounds)


def test_clips_are_cut_in_a_row_and_begin_anew_where_the_sound_ends() -> None:
    sound = np.arange(SAMPLE_RATE, dtype=np.float32)
    first, second = batches_of(2, [0.75], sound)[0]
    assert first[0] == 0 and second[0] == 12_000 and second[4_000] == 0


def test_clips_come_from_recordings() -> None:
    manifest = Path(__file__).parent.parent / "speech" / "test-seen-voices.jsonl"
    sound = sound_of(manifest)
    assert sound.dtype == np.float32 and len(sound) > 5 * SAMPLE_RATE


def test_resident_memory_is_that_of_the_batch_alone() -> None:
    """64 MiB come and go while it runs; what was there at another time does not count."""
    earlier = np.ones(200 << 20, np.uint8)
    del earlier
    idle, peak = _of_batch(lambda _: np.ones(64 << 20, np.uint8).sum(), CLIPS)
    assert 63 << 20 <= peak - idle < 100 << 20


def test_the_ceiling_only_rises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "CPU_SHAPES", [(64, 64, 64)])
    assert matmul_gflops(CPU, torch.float32) > 0
    ceiling = Ceiling(CPU, torch.bfloat16)
    assert ceiling.gflops == {"float32": 0, "bfloat16": 0}
    ceiling.gflops["float32"] = 1e9
    ceiling.measure()
    assert ceiling.gflops["float32"] == 1e9 and ceiling.gflops["bfloat16"] > 0
