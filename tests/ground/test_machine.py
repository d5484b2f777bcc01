"""Cores, GPUs and memory that a process may use, as the machine or its batch system limits them."""

import os
from pathlib import Path

import pytest

from embedcube.machine import cores, gpus, memory_bytes, processor

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("line", "limits", "expected"),
    [
        ("0::/", {}, MACHINE),
        ("0::/job", {"job/memory.max": "max"}, MACHINE),
        ("0::/job/step", {"job/memory.max": "5000000", "job/step/memory.max": "max"}, 5_000_000),
        ("0::/job/step", {"job/memory.max": "max", "job/step/memory.max": "7000000"}, 7_000_000),
        ("4:memory:/slurm/job", {"memory/slurm/memory.limit_in_bytes": "9000000"}, 9_000_000),
        ("4:memory:/", {"memory/memory.limit_in_bytes": "9223372036854771712"}, MACHINE),
        ("3:cpu:/job", {"job/memory.max": "1"}, MACHINE),
    ],
)
def test_the_least_of_all_limits_holds(tmp_path: Path, line: str, limits: dict[str, str], expected: int) -> None:
    (tmp_path / "own").write_text(line + "\n")
    for name, limit in limits.items():
        path = tmp_path / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(limit + "\n")
    assert memory_bytes(tmp_path / "fs", tmp_path / "own") == expected


def test_a_processor_is_told_by_its_first_core(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(
        "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu avx2\n\nprocessor\t: 1\nvendor_id\t: x\n\n"
    )
    assert processor(path) == {"processor": "0", "vendor_id": "GenuineIntel", "flags": "fpu avx2"}


def test_cores_are_those_that_this_process_may_use() -> None:
    mine = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(mine)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, mine)
    assert cores() == len(mine)


def test_gpus_are_those_that_are_named_else_the_drivers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus(tmp_path) == 1, "a plan made where there is none is for one"
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert gpus(tmp_path) == 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,GPU-8a56a4bc")
    assert gpus(tmp_path) == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus(tmp_path) == 1
