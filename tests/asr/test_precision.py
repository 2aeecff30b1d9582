"""What a model is loaded in, on GPUs that are not here."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import asr
from asr import checkpoint
from asr.precision import cuda_dtype


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [
        ((9, 0), "bfloat16"),
        ((8, 6), "bfloat16"),
        ((8, 0), "bfloat16"),
        ((7, 5), "float16"),
        ((7, 0), "float16"),
        ((6, 1), "float32"),
    ],
)
def test_load_takes_what_the_gpu_does_well(
    monkeypatch: pytest.MonkeyPatch, tiny_folder: Callable[..., Path], capability: tuple[int, int], dtype: str
) -> None:
    assert cuda_dtype(capability)[0] == dtype
    wanted: list[tuple[Any, Any]] = []

    def load(name: Path, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
        wanted.append((device, dtype))
        return real(name, torch.device("cpu"), torch.float32)

    real = checkpoint.load
    monkeypatch.setattr(checkpoint, "load", load)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    asr.load(tiny_folder("mha"), device="cuda:1")
    assert wanted == [(torch.device("cuda:1"), getattr(torch, dtype))]


def test_on_a_cpu_it_is_float32(tiny_folder: Callable[..., Path]) -> None:
    assert asr.load(tiny_folder("mha"), device="cpu").dtype == torch.float32
