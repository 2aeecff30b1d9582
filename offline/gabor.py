"""A first convolution that starts as a bank of band-passes."""

import math

import numpy as np
import torch
from torch import nn

from asr.audio import SAMPLE_RATE


@torch.no_grad()
def gabor_init(conv: nn.Conv1d) -> None:
    """Sets a first convolution [channels, 1, kernel] to windowed cosines and sines, mel-spaced from 80 Hz to 7.6 kHz.

    Random kernels of ten samples must first find pitch and formants; these let different bands through at once.
    """
    channels, _, kernel = conv.weight.shape
    mel = np.linspace(_mel(80), _mel(7600), math.ceil(channels / 2))
    hz = torch.tensor(700 * (10 ** (mel / 2595) - 1), dtype=torch.float32)
    time_s = (torch.arange(kernel) - (kernel - 1) / 2) / SAMPLE_RATE
    angle = 2 * math.pi * hz[:, None] * time_s
    bank = torch.cat((angle.cos(), angle.sin())) * torch.hamming_window(kernel, periodic=False)
    bank = bank / bank.norm(dim=1, keepdim=True)
    conv.weight.copy_(bank[:channels, None])
    if conv.bias is not None:
        conv.bias.zero_()


def _mel(hz: float) -> float:
    return 2595 * math.log10(1 + hz / 700)
