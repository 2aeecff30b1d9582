"""The front end's windows: a convolution by hand, forwards and backwards, for every length that a window may end at."""

import pytest
import torch
from torch.nn import functional as F

from asr.convolution import cut


@pytest.mark.parametrize(("kernel", "stride"), [(10, 5), (3, 2), (2, 2), (5, 2), (1, 1), (4, 3), (2, 3)])
def test_windows_are_those_of_a_convolution(kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 4, kernel, dtype=torch.float64)
    for frames in range(kernel, kernel + 3 * stride + 1):
        x = torch.randn(2, frames, 4, dtype=torch.float64, requires_grad=True)
        twin = x.detach().clone().requires_grad_()
        ours = F.linear(cut(x, kernel, stride), weight.transpose(1, 2).flatten(1))
        theirs = F.conv1d(twin.transpose(1, 2), weight, stride=stride).transpose(1, 2)
        torch.testing.assert_close(ours, theirs)
        ours.square().sum().backward()
        theirs.square().sum().backward()
        torch.testing.assert_close(x.grad, twin.grad)
