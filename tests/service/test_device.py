"""What a model runs on, for machines that are not here: told by files and numbers."""

import os
from pathlib import Path

import pytest
import torch

from service import device
from service.device import choose, cores, cpu_dtype, cpu_flags, threads_for


def test_the_type_on_a_gpu_is_the_librarys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    choice = choose(5_000_000, device="cuda:0")
    assert (choice.dtype, choice.threads) == ("float16", None)
    assert choice.why == "cuda:0, float16 (compute capability 7.5: no bfloat16)"


@pytest.mark.parametrize(
    ("flags", "parameters", "dtype"),
    [
        ({"avx2", "avx512_bf16"}, 600_000_000, "bfloat16"),
        ({"amx_bf16"}, 100_000_000, "bfloat16"),
        ({"avx512_bf16", "amx_bf16"}, 5_000_000, "float32"),
        ({"avx2", "avx512f"}, 600_000_000, "float32"),
        (set(), 600_000_000, "float32"),
    ],
)
def test_the_type_on_a_cpu(flags: set[str], parameters: int, dtype: str) -> None:
    assert cpu_dtype(flags, parameters)[0] == dtype


def test_flags_are_read_from_the_kernel(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("processor : 0\nflags\t\t: fpu avx512_bf16\nbugs : x\n\nprocessor : 1\nflags : fpu\n")
    assert cpu_flags(file) == {"fpu", "avx512_bf16"}
    assert cpu_flags(tmp_path / "none") == set()


@pytest.mark.parametrize(
    ("parameters", "count", "threads"),
    [
        *[(5_000_000, count, threads) for count, threads in ((1, 1), (2, 1), (4, 2), (8, 4), (64, 4))],
        *[(600_000_000, count, count) for count in (1, 2, 64)],
    ],
)
def test_threads_by_size_and_cores(parameters: int, count: int, threads: int) -> None:
    assert threads_for(parameters, count) == threads


def machine(root: Path, groups: str, **files: str) -> Path:
    """A file system with these groups of this process; `files` by path, with __ for a slash."""
    for name, text in {"proc__self__cgroup": groups, **files}.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V1 = "5:cpuset:/\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/x\n"


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {}, 8),
        ("0::/\n", {"sys__fs__cgroup__cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"sys__fs__cgroup__cpu.max": "350000 100000\n"}, 3),
        ("0::/\n", {"sys__fs__cgroup__cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"sys__fs__cgroup__cpu.max": "1600000 100000\n"}, 8),
        ("0::/\n", {"sys__fs__cgroup__cpu.max": "nonsense\n"}, 8),
        (
            "0::/a/b\n",
            {"sys__fs__cgroup__a__cpu.max": "200000 100000", "sys__fs__cgroup__a__b__cpu.max": "max 1"},
            2,
        ),
        ("0::/host/path\n", {"sys__fs__cgroup__cpu.max": "400000 100000\n"}, 4),
        (
            V1,
            {
                "sys__fs__cgroup__cpu__docker__abc__cpu.cfs_quota_us": "250000\n",
                "sys__fs__cgroup__cpu__docker__abc__cpu.cfs_period_us": "100000\n",
            },
            2,
        ),
        (
            V1,  # in the container the group's files lie at the top
            {
                "sys__fs__cgroup__cpu__cpu.cfs_quota_us": "300000\n",
                "sys__fs__cgroup__cpu__cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        (
            V1,
            {
                "sys__fs__cgroup__cpu__cpu.cfs_quota_us": "-1\n",
                "sys__fs__cgroup__cpu__cpu.cfs_period_us": "100000\n",
            },
            8,
        ),
    ],
)
def test_cores_by_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str, files: dict[str, str], expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert cores(machine(tmp_path, groups, **files)) == expected


def test_cores_by_affinity_where_there_are_no_groups(tmp_path: Path) -> None:
    assert cores(tmp_path) == len(os.sched_getaffinity(0))


def test_what_is_given_is_kept() -> None:
    choice = choose(5_000_000, device="cpu", dtype="bfloat16", threads=3)
    assert (choice.device, choice.dtype, choice.threads) == ("cpu", "bfloat16", 3)
    assert choice.why == "cpu, bfloat16 (as set), 3 threads (as set)"


def test_omp_num_threads_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert choose(600_000_000, device="cpu").threads == torch.get_num_threads()


def test_the_rest_is_chosen_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(device, "cores", lambda: 8)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    choice = choose(5_000_000)
    assert (choice.device, choice.dtype, choice.threads) == ("cpu", "float32", 4)
    assert "there is no CUDA device" in choice.why and "4 threads (of 8 cores)" in choice.why


def test_other_devices_are_left_in_float32() -> None:
    choice = choose(600_000_000, device="mps")
    assert (choice.dtype, choice.threads) == ("float32", None)
