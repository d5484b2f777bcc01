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


def bind_near_gpu(local_rank: int, ranks: int) -> None:
    """Let this process, and threads that it starts from now on, run on the cores nearest to the GPU of its rank.

    Nothing is bound where the machine does not say where its GPUs are, or where this process may not use all of them:
    then their numbers are not those of the machine.
    """
    near = cores_near_gpus(os.sched_getaffinity(0), ranks)
    if near is not None:
        os.sched_setaffinity(0, near[local_rank])


def cores_near_gpus(
    allowed: set[int], ranks: int, system: Path = Path("/sys"), visible: str | None = None
) -> list[set[int]] | None:
    """For each rank of a node, the cores nearest to its GPU; each core goes to one rank.

    Where several GPUs are equally near, the rank with fewest cores gets it. `visible` is CUDA_VISIBLE_DEVICES, by
    default that of this process. None where there is nothing to choose, or the machine does not say.
    """
    addresses = sorted(path.name for path in (system / "bus/pci/drivers/nvidia").glob("*:*:*.*"))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") if visible is None else visible
    numbers = [str(i) for i in range(len(addresses))]
    if visible is not None and sorted(number.strip() for number in visible.split(",")) != sorted(numbers):
        return None
    order = [int(number) for number in visible.split(",")] if visible is not None else list(range(len(addresses)))
    nodes = system / "devices/system/node"
    try:
        homes = [int((system / "bus/pci/devices" / addresses[i] / "numa_node").read_text()) for i in order[:ranks]]
        node_of = {core: folder for folder in nodes.glob("node[0-9]*") for core in _cpulist(folder / "cpulist")}
        if len(homes) < ranks or len(set(homes)) < 2:
            return None
        shares: list[set[int]] = [set() for _ in homes]
        nearest = {}
        for core in sorted(allowed):
            distances = [int(word) for word in (node_of[core] / "distance").read_text().split()]
            least = min(distances[home] for home in homes)
            nearest[core] = [rank for rank, home in enumerate(homes) if distances[home] == least]
        # those with a choice come last, and even out the shares
        for core in sorted(nearest, key=lambda core: len(nearest[core])):
            shares[min(nearest[core], key=lambda rank: len(shares[rank]))].add(core)
    except (OSError, ValueError, IndexError, KeyError):
        return None
    return shares if all(shares) else None


def _cpulist(path: Path) -> list[int]:
    """The numbers in a list of the kernel, such as `0-5,48-53`."""
    spans = [span.partition("-") for span in path.read_text().strip().split(",") if span]
    return [core for first, _, last in spans for core in range(int(first), int(last or first) + 1)]


def shared_bytes(rollup: Path = Path("/proc/self/smaps_rollup")) -> int:
    """Bytes of this process's memory that count for the processes it shares them with: RSS - PSS; 0 if unknown."""
    try:
        words = [line.split() for line in rollup.read_text().splitlines()]
    except OSError:  # the kernel does not have it, or does not show it
        return 0
    kib = {line[0]: int(line[1]) for line in words if line[-1] == "kB"}
    return (kib["Rss:"] - kib["Pss:"]) << 10


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
