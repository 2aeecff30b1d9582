"""Seconds and bytes of a model's work: of a whole call, and of the network's forward inside it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

import asr
from offline import provenance
from offline.speed.ceiling import synchronise

T = TypeVar("T")


def timed(model: asr.Transcriber, work: Callable[[], T]) -> tuple[T, float, list[int]]:
    """Returns what work returns, its seconds, and the peak bytes: [allocated, reserved] of the model's GPU in it.

    Without a GPU they are [resident], of the process since its start.

    Work has to wait for the device, as all that returns texts or arrays does.
    """
    on_gpu = model.device.type == "cuda"
    if on_gpu:
        synchronise(model.device)
        torch.cuda.reset_peak_memory_stats(model.device)
    started = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - started
    if not on_gpu:
        return result, seconds, [provenance.peak_resident_bytes()]
    peak = [torch.cuda.max_memory_allocated(model.device), torch.cuda.max_memory_reserved(model.device)]
    return result, seconds, peak


@contextmanager
def forward_stopwatch(model: asr.Transcriber) -> Iterator[list[float]]:
    """Collects the seconds of each forward of the network while it is open: first convolution to scores.

    Normalisation, padding and transfer come before, decoding after, in our code as in stock code.
    """
    network: Any = model.model
    front_end = getattr(network, "wav2vec2_conformer", network).feature_extractor
    laps: list[float] = []
    started = [0.0]

    def start(*_: Any) -> None:
        synchronise(model.device)
        started[0] = time.perf_counter()

    def stop(*_: Any) -> None:
        synchronise(model.device)
        laps.append(time.perf_counter() - started[0])

    # not the network's own end: a live stream's step goes through the layers without its forward
    hooks = [front_end.register_forward_pre_hook(start), network.lm_head.register_forward_hook(stop)]
    try:
        yield laps
    finally:
        for hook in hooks:
            hook.remove()
