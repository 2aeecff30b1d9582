"""A deepened model says what it said, in every mode, and its new layers learn."""

import pytest
import torch

from offline.deepen import ENDS, deepen
from tests.conftest import LAYERS, noise, tiny_model

WAVE = torch.from_numpy(noise(16_000))[None].repeat(2, 1)
LENGTHS = torch.tensor([16_000, 9_000])


@pytest.mark.parametrize("positions", ["relative", "rotary"])
@torch.no_grad()
def test_nothing_changes_at_first(positions: str) -> None:
    model = tiny_model(positions=positions).double()
    deeper = deepen(model, 2 * LAYERS).double().eval()
    assert deeper.config.num_hidden_layers == len(deeper.encoder.layers) == 2 * LAYERS
    for sight in ({}, {"chunk_frames": 16, "left_context_frames": 32}):
        before = model(WAVE, LENGTHS, intermediate_layer=1, **sight)
        after = deeper(WAVE, LENGTHS, intermediate_layer=2, **sight)
        for said, says in zip(
            before[::2], after[::2], strict=True
        ):  # the last layer's scores, the middle one's
            assert (said - says).abs().max() < 1e-3  # the norms' epsilon counts twice in every new layer


def test_new_layers_stand_evenly_and_learn() -> None:
    deeper = deepen(tiny_model(), LAYERS + 1)
    idle = [
        not any(layer.get_submodule(end).get_parameter("weight").any() for end in ENDS)
        for layer in deeper.encoder.layers
    ]
    assert idle == [False] * LAYERS + [True]
    deeper(WAVE, LENGTHS)[0].square().mean().backward()
    for end in ENDS:
        gradient = deeper.encoder.layers[-1].get_submodule(end).get_parameter("weight").grad
        assert gradient is not None and gradient.any()


def test_what_cannot_be_deepened_is_refused() -> None:
    with pytest.raises(ValueError, match="for mha only"):
        deepen(tiny_model("mla"), 3)
    for layers in (2, 3, 7):
        with pytest.raises(ValueError, match=rf"--num_layers {layers}: from 4 to 6 for a model of 3"):
            deepen(tiny_model(), layers)
