"""What a machine can do: the rate of large matrix products.

A share of the ceiling is the operations that the clips themselves need (padding is no use to anybody), over the seconds
of the forward, over the rate of the fastest large matrix product in the same dtype, threads and device.
"""

import time

import torch
from torch.nn import functional as F

# Rows, inner, columns. Which is fastest depends on caches: the feed-forward's shape at 618M, and square ones.
CPU_SHAPES = ((512, 1024, 4096), (1024, 1024, 1024), (2048, 2048, 2048))
GPU_SHAPES = ((8192, 8192, 8192), (16384, 1024, 4096))


def synchronise(device: torch.device) -> None:
    """Waits until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_gflops(device: torch.device, dtype: torch.dtype, repeats: int = 5) -> float:
    """Returns the highest GFLOP/s seen in matrix products.

    The best of `repeats`, not the median: it is to be what the machine can do when nothing else runs.
    """
    best = 0.0
    for rows, inner, columns in GPU_SHAPES if device.type == "cuda" else CPU_SHAPES:
        left = torch.randn(rows, inner, device=device, dtype=dtype)
        right = torch.randn(columns, inner, device=device, dtype=dtype)
        for _ in range(1 + repeats):  # a first one that prepares is never the best
            best = max(best, 2e-9 * rows * inner * columns / _seconds(left, right))
    return best


class Ceiling:
    """The highest matrix-product rate seen so far, in float32 and in the models' dtype."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        self.gflops = dict.fromkeys(dict.fromkeys(("float32", str(dtype).removeprefix("torch."))), 0.0)

    def measure(self) -> None:
        """Measures once more: a busy machine may have hidden what it can do."""
        for name, seen in self.gflops.items():
            self.gflops[name] = round(max(seen, matmul_gflops(self.device, getattr(torch, name))), 1)


@torch.inference_mode()
def _seconds(left: torch.Tensor, right: torch.Tensor) -> float:
    synchronise(left.device)
    started = time.perf_counter()
    F.linear(left, right)
    synchronise(left.device)
    return time.perf_counter() - started
