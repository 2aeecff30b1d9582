"""A deepened model says what it said, in every mode, and its new layers learn."""

import pytest
import torch

from offline.deepen import ENDS, deepen
from tests.conftest import noise, tiny_model

WAVE = torch.from_numpy(noise(16_000))[None].repeat(2, 1)
LENGTHS = torch.tensor([16_000, 9_000])


@pytest.mark.parametrize("positions", ["relative", "rotary"])
@pytest.mark.parametrize("layers", [6, 8])
@torch.no_grad()
def test_nothing_changes_at_first(positions: str, layers: int) -> None:
    model = tiny_model(positions=positions, num_hidden_layers=4).double()
    deeper = deepen(model, layers).double().eval()
    assert deeper.config.num_hidden_layers == len(deeper.encoder.layers) == layers
    for sight in ({}, {"chunk_frames": 16, "left_context_frames": 32}):
        before = model(WAVE, LENGTHS, intermediate_layer=2, **sight)
        after = deeper(WAVE, LENGTHS, intermediate_layer=layers // 2, **sight)
        # The last layer's scores, and the middle one's; the norms' epsilon counts twice in every new layer.
        for said, says in zip(before[::2], after[::2], strict=True):
            assert (said - says).abs().max() < 1e-4


def test_new_layers_stand_evenly_and_learn() -> None:
    deeper = deepen(tiny_model(num_hidden_layers=4), 6)
    idle = [
        not any(layer.get_submodule(end).get_parameter("weight").any() for end in ENDS)
        for layer in deeper.encoder.layers
    ]
    assert idle == [False, False, True] * 2
    deeper(WAVE, LENGTHS)[0].square().mean().backward()
    for end in ENDS:
        gradient = deeper.encoder.layers[-1].get_submodule(end).get_parameter("weight").grad
        assert gradient is not None and gradient.any()


def test_what_cannot_be_deepened_is_refused() -> None:
    with pytest.raises(ValueError, match="for mha only"):
        deepen(tiny_model("mla"), 6)
    for layers in (2, 4, 10):
        with pytest.raises(ValueError, match=rf"--num_layers {layers}: from 5 to 8 for a model of 4"):
            deepen(tiny_model(num_hidden_layers=4), layers)
    for before, layers in ((3, 4), (4, 5)):
        with pytest.raises(ValueError, match=rf"--num_layers {layers} for a model of {before}: both even"):
            deepen(tiny_model(num_hidden_layers=before), layers)
