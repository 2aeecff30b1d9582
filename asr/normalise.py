"""Zero mean and unit variance of the waveform: over the clip, or as far as a stream has heard.

B clips, N samples, K chunks. Statistics are float64, so that they do not depend on how far a batch is padded.
"""

import numpy as np
import torch
from torch import Tensor

EPSILON = 1e-7
# What a stream assumes before it has heard anything: half a second of quiet speech.
PRIOR_RMS = 0.05
PRIOR_SAMPLES = 8_000
BLOCK_SAMPLES = 2**20


def normalise(waves: Tensor, lengths: Tensor) -> Tensor:
    """[B, N] float32, [B] -> [B, N] float32: (x - mean) / sqrt(variance + 1e-7) of each clip; padding becomes 0.

    The reference feature extractor's formula (`Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm`).
    """
    valid = torch.arange(waves.shape[1], device=waves.device) < lengths[:, None]
    samples = (waves * valid).double()
    count = lengths.clamp(min=1)[:, None]
    mean = samples.sum(1, keepdim=True) / count
    centred = (samples - mean) * valid
    variance = centred.square().sum(1, keepdim=True) / count
    return (centred / (variance + EPSILON).sqrt()).float()


def moments(wave: np.ndarray) -> tuple[float, float]:
    """[N] float32 -> what `normalise` subtracts and divides by, in little more memory than the wave has already."""
    mean = float(wave.sum(dtype=np.float64)) / max(len(wave), 1)
    blocks = (wave[first : first + BLOCK_SAMPLES] for first in range(0, len(wave), BLOCK_SAMPLES))
    squares = sum(float(np.square(block - np.float64(mean)).sum()) for block in blocks)
    return mean, (squares / max(len(wave), 1) + EPSILON) ** 0.5


def normalise_chunks(waves: Tensor, lengths: Tensor, chunk_samples: int, tail_samples: int) -> Tensor:
    """The same as a stream does it: each sample once, with the statistics at the time its chunk first sees it.

    Chunk k has heard the samples up to chunk_samples * (k + 1) + tail_samples. Mean and variance are cumulative, with
    a prior of mean 0 and RMS 0.05 that weighs as much as half a second.
    """
    total = waves.shape[1]
    valid = torch.arange(total, device=waves.device) < lengths[:, None]
    samples = (waves * valid).double()
    chunks = max(1, -(-(total - tail_samples) // chunk_samples))
    ends = chunk_samples * torch.arange(1, chunks + 1, device=waves.device) + tail_samples
    heard = torch.minimum(ends, lengths[:, None])  # [B, K]
    at = (heard - 1).clamp(min=0)
    weight = heard + PRIOR_SAMPLES
    mean = samples.cumsum(1).gather(1, at) * (heard > 0) / weight
    power = samples.square().cumsum(1).gather(1, at) * (heard > 0) + PRIOR_SAMPLES * PRIOR_RMS**2
    deviation = (power / weight - mean.square() + EPSILON).sqrt()
    index = torch.arange(total, device=waves.device)
    chunk = ((index - tail_samples).clamp(min=0) // chunk_samples).clamp(max=chunks - 1)
    return ((samples - mean[:, chunk]) / deviation[:, chunk] * valid).float()


def normalise_step(samples: Tensor, valid: Tensor, sums: Tensor, heard: Tensor) -> tuple[Tensor, Tensor]:
    """`normalise_chunks` for one chunk of each stream.

    Args:
        samples: float32 [B, N], new ones where `valid` [B, N] is True.
        valid: bool [B, N].
        sums: float64 [B, 2], the sum and the sum of squares of all samples before.
        heard: int64 [B], how many samples there are with these.

    Returns:
        The normalised samples, 0 where not valid, and the sums with these.
    """
    new = (samples * valid).double()
    sums = sums + torch.stack((new.sum(1), new.square().sum(1)), -1)
    weight = heard + PRIOR_SAMPLES
    mean = sums[:, 0] / weight
    power = (sums[:, 1] + PRIOR_SAMPLES * PRIOR_RMS**2) / weight
    deviation = (power - mean.square() + EPSILON).sqrt()
    return ((new - mean[:, None]) / deviation[:, None] * valid).float(), sums
