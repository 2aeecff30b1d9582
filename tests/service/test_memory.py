"""Memory of machines and containers that are not here: told by files."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from service import memory
from tests.service.test_device import machine

MEMINFO = "MemTotal: 99 kB\nMemAvailable:       10 kB\n"
V1 = "9:name=systemd:/\n4:memory:/docker/abc\n"


def test_only_a_gpu_can_tell_what_a_call_takes() -> None:
    assert memory.measure("cpu") is None
    assert memory.measure("cuda:1") is not None


def test_free_memory_of_this_machine() -> None:
    assert 2**20 < memory.free_bytes("cpu") < 2**50


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {}, 10_240),
        ("0::/\n", {"memory.max": "5000\n", "memory.current": "1000\n"}, 4000),
        ("0::/\n", {"memory.max": "max\n", "memory.current": "1000\n"}, 10_240),
        ("0::/\n", {"memory.max": "1000\n", "memory.current": "5000\n"}, 0),
        ("0::/host/path\n", {"memory.max": "5000\n", "memory.current": "1000\n"}, 4000),
        (
            "0::/a/b\n",
            {
                **{"a__memory.max": "3000\n", "a__memory.current": "1000\n"},
                **{"a__b__memory.max": "9000\n", "a__b__memory.current": "1\n"},
            },
            2000,
        ),
        (
            V1,
            {
                "memory__docker__abc__memory.limit_in_bytes": "7000\n",
                "memory__docker__abc__memory.usage_in_bytes": "500\n",
            },
            6500,
        ),
        (
            V1,  # in the container the group's files lie at the top
            {"memory__memory.limit_in_bytes": "7000\n", "memory__memory.usage_in_bytes": "1000\n"},
            6000,
        ),
        (
            V1,  # no limit
            {
                "memory__memory.limit_in_bytes": "9223372036854771712\n",
                "memory__memory.usage_in_bytes": "500\n",
            },
            10_240,
        ),
    ],
)
def test_free_memory_in_a_container(
    tmp_path: Path, groups: str, files: dict[str, str], expected: int
) -> None:
    named = {f"sys__fs__cgroup__{name}": text for name, text in files.items()}
    assert memory.free_bytes("cpu", machine(tmp_path, groups, proc__meminfo=MEMINFO, **named)) == expected


@pytest.mark.parametrize(
    ("device", "there", "told"),
    [("cuda:1", True, ["cuda:1"]), ("cuda:1", False, []), ("cpu", True, [])],
)
def test_only_a_gpu_forgets_its_peak(
    monkeypatch: pytest.MonkeyPatch, device: str, there: bool, told: list[str]
) -> None:
    seen: list[str] = []
    forget: Callable[[str], None] = seen.append
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", forget)
    memory.forget_peak(device)
    assert seen == told
