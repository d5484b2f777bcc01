"""Cores, GPUs and memory that this process may use, as the machine or its batch system allows."""

import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def cores() -> int:
    """Number of cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """Facts of the first core from /proc/cpuinfo: `vendor_id`, `cpu family`, `model`, `flags` and others."""
    first = cpuinfo.read_text().split("\n\n")[0]
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())}


def gpus(devices: Path = Path("/dev")) -> int:
    """Number of NVIDIA GPUs that this process may use, at least 1: from CUDA_VISIBLE_DEVICES, else from /dev."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    usable = [n for n in named.split(",") if n] if named is not None else list(devices.glob("nvidia[0-9]*"))
    return max(1, len(usable))


def read_bytes() -> int:
    """Bytes that this process has read so far, from disks, their caches and the network (/proc/self/io)."""
    return int(Path("/proc/self/io").read_text().split(maxsplit=2)[1])


def memory_bytes(cgroups: Path = _CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """Memory in bytes of the machine, or the limit of a control group (batch job, container) where it is smaller.

    The limit of a group holds for all groups below it (Linux, Documentation/admin-guide/cgroup-v2.rst).
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in own.read_text().splitlines() if own.exists() else []:
        _, controllers, path = line.split(":", 2)
        root, name = (cgroups, "memory.max") if not controllers else (cgroups / "memory", "memory.limit_in_bytes")
        if controllers in ("", "memory"):
            group = root / path.lstrip("/")
            for folder in (group, *group.parents):
                limit = (folder / name).read_text().strip() if (folder / name).exists() else "max"
                memory = min(memory, int(limit)) if limit != "max" else memory
                if folder == root:
                    break
    return memory
