"""Cores, GPUs and memory that a process may use, as the machine or its batch system limits them."""

import os
from pathlib import Path

import pytest

from embedcube.machine import cores, cores_near_gpus, gpus, memory_bytes, processor, shared_bytes

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


def machine(folder: Path, *, homes: list[int], nodes: int, cores_of_node: int, near: int = 12, far: int = 32) -> Path:
    """A /sys of two sockets with as many NUMA nodes, and GPUs at these nodes; hardware threads follow the cores."""
    drivers = folder / "bus/pci/drivers/nvidia"
    drivers.mkdir(parents=True)
    (drivers / "module").touch()
    for i, home in enumerate(homes):
        (drivers / f"0000:{i}4:00.0").touch()
        (folder / f"bus/pci/devices/0000:{i}4:00.0").mkdir(parents=True)
        (folder / f"bus/pci/devices/0000:{i}4:00.0/numa_node").write_text(f"{home}\n")
    total = nodes * cores_of_node
    for node in range(nodes):
        here = folder / f"devices/system/node/node{node}"
        here.mkdir(parents=True)
        first = node * cores_of_node
        last = first + cores_of_node - 1
        (here / "cpulist").write_text(f"{first}-{last},{first + total}-{last + total}\n")
        socket = [10 if n == node else near if 2 * n // nodes == 2 * node // nodes else far for n in range(nodes)]
        (here / "distance").write_text(" ".join(map(str, socket)) + "\n")
    return folder


def test_ranks_share_the_cores_by_nearness_to_their_gpus(tmp_path: Path) -> None:
    """A node of JUWELS Booster: eight NUMA nodes of six cores, four GPUs at nodes 3, 1, 7 and 5."""
    system = machine(tmp_path, homes=[3, 1, 7, 5], nodes=8, cores_of_node=6)
    shares = cores_near_gpus(set(range(48)), 4, system, "0,1,2,3")
    assert shares is not None
    assert [len(share) for share in shares] == [12, 12, 12, 12]
    assert set().union(*shares) == set(range(48))
    for share, home in zip(shares, [3, 1, 7, 5], strict=True):
        assert set(range(6 * home, 6 * home + 6)) <= share
        # the other half is of the same socket
        assert {core // 24 for core in share} == {home // 4}
    # the numbers of GPUs are in the order of CUDA_VISIBLE_DEVICES
    turned = cores_near_gpus(set(range(48)), 4, system, "1,0,2,3")
    assert turned is not None
    assert set(range(6, 12)) <= turned[0]
    # a core that the job has not is nobody's
    few = cores_near_gpus(set(range(0, 48, 2)), 4, system, "0,1,2,3")
    assert few is not None
    assert set().union(*few) == set(range(0, 48, 2))


@pytest.mark.parametrize(
    ("homes", "ranks", "visible"),
    [
        ([-1, -1], 2, "0,1"),  # a virtual machine that does not say
        ([0, 0], 2, "0,1"),  # all at one node: nothing to choose
        ([0, 1], 2, "0"),  # a part of the node: the numbers are not those of the machine
        ([0, 1], 2, "GPU-1,GPU-2"),
        ([0, 1], 2, ""),
        ([0, 1], 3, "0,1"),
        ([], 2, ""),
        ([0, 9], 2, "0,1"),
    ],
)
def test_nothing_is_bound_where_it_is_not_known(tmp_path: Path, homes: list[int], ranks: int, visible: str) -> None:
    system = machine(tmp_path, homes=homes, nodes=2, cores_of_node=4)
    assert cores_near_gpus(set(range(8)), ranks, system, visible) is None
    assert cores_near_gpus(set(range(8)), ranks, tmp_path / "nothing", visible) is None


def test_what_a_process_shares_is_what_its_memory_has_beyond_its_own_part(tmp_path: Path) -> None:
    (tmp_path / "rollup").write_text(
        "55a0-7ffd ---p 00000000 00:00 0    [rollup]\nRss:  5000 kB\nPss:  1200 kB\nLocked: 0 kB\n"
    )
    assert shared_bytes(tmp_path / "rollup") == 3800 * 1024
    assert shared_bytes(tmp_path / "none") == 0
    assert shared_bytes() > 0, "every process shares libc"
