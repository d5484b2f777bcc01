"""Checks of `doctor`: whether a node is as its site's file says, and whether Slurm takes jobs from it."""

import grp
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from embedcube.campaign.price import size
from embedcube.campaign.schema import Campaign
from embedcube.campaign.site import Site
from embedcube.jobs.check import Check, equal, looked, tried
from embedcube.jobs.slurm import trial_command
from embedcube.machine import cores, memory_bytes

ANSWER = "EMBEDCUBE_TEST_ONLY"
"""What `sbatch --test-only` said on the node, and its exit code: asked outside of a container, which has no sbatch."""

COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo", "sacct")
"""Commands of Slurm that embedcube, or a person who follows its advice, calls."""

_QUOTA_S = 60


def site_checks(site: Site, folder: Path, campaign: Campaign | None) -> Iterator[Check]:
    """Every check of a node against its site's file; `folder` is where runs are written."""
    file = "in the site's file"
    if site.container is not None:
        yield from looked("image", lambda: _image(site), f"container.image {file}: choose a file that nodes can read")
    yield from looked("network", lambda: [_network(site)], f"correct interface and host_suffix {file}")
    if site.time_zone:
        yield from looked("time zone", lambda: _time_zone(site), f"correct time_zone {file}")
    if site.umask:
        yield from looked("umask", lambda: _umask(site), f"correct umask {file}")
    if site.group:
        yield from looked("group", lambda: _group(site, folder), f"correct group {file}, or ask the site")
    if site.quota:
        move = f"quota {file}: name a command that works on a compute node"
        yield from looked("quota", lambda: _quota(site, move), move)
    if campaign is None or campaign.how.executor == "slurm":
        move = (
            "where compute nodes cannot submit, consolidation cannot submit again what failed: run `embedcube submit`"
        )
        yield from looked("sbatch", lambda: _trial(site, campaign), move)


def node_checks(site: Site) -> Iterator[Check]:
    """Whether a node has the cores, the memory and the GPUs that the site's file says; needs no campaign."""

    def cores_and_memory() -> Iterator[Check]:
        here, memory = cores(), memory_bytes()
        ok = here >= site.cpus_per_node and memory >= 0.9e9 * site.mem_gb_per_node
        yield Check(
            what="cores, memory",
            ok=ok,
            found=f"{here} cores, the site's file says {site.cpus_per_node}; {size(memory)}, it says "
            f"{site.mem_gb_per_node:g} GB",
            move="" if ok else "correct cpus_per_node and mem_gb_per_node in the site's file",
        )

    yield from looked("cores, memory", cores_and_memory, "correct the site's file")
    if site.gpus_per_node:
        yield from looked("GPUs", lambda: [gpu_check(_visible(), "", site.gpus_per_node)], "correct gpus_per_node")


def gpu_check(count: int, names: str, needed: int, devices: Path = Path("/dev")) -> Check:
    """Whether a process sees as many GPUs as are needed; and if not, whether Slurm hides them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    on_node = len(list(devices.glob("nvidia[0-9]*")))
    ok = count >= needed
    move = "check gpus_per_node, gpu_option, container.nvidia and modules in the site's file"
    if not ok and given is not None and on_node > count:
        move = (
            "Slurm hides GPUs from this process (psslurm at JSC gives each process one of its own, and one process on "
            "each node starts all ranks here): write name_gpus: true in the site's file"
        )
    return Check(
        what="GPUs",
        ok=ok,
        found=f"{count} {names}".strip()
        + f" for {needed} ranks; CUDA_VISIBLE_DEVICES is {given or 'not set'}, the node has {on_node}",
        move="" if ok else move,
    )


def commands_check() -> Check:
    """Which of Slurm's commands this machine has."""
    missing = [command for command in COMMANDS if shutil.which(command) is None]
    return Check(
        what="Slurm's commands",
        ok=not missing,
        found=f"there is no {', '.join(missing)} here" if missing else "all are here",
        move="run this on a machine of the cluster, such as a login node" if missing else "",
    )


def _visible() -> int:
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return len([name for name in given.split(",") if name])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def _image(site: Site) -> Iterator[Check]:
    assert site.container is not None
    inside = "APPTAINER_CONTAINER" in os.environ
    ok = inside or os.access(site.container.image, os.R_OK)
    yield Check(
        what="image",
        ok=ok,
        found="this check runs in it" if inside else site.container.image,
        move="" if ok else "container.image: choose a file that nodes can read",
    )


def _network(site: Site) -> Check:
    host = socket.gethostname()
    if site.host_suffix:
        host = host.split(".")[0] + site.host_suffix
    interfaces = [name for _, name in socket.if_nameindex()]
    if site.interface is not None and site.interface not in interfaces:
        return Check(
            what="network",
            ok=False,
            found=f"no interface {site.interface}; there are {', '.join(interfaces)}",
            move="interface in the site's file: write the name of the fast network's interface",
        )
    move = "host_suffix in the site's file: write what must follow a node's name to give its name on the fast network"
    through = site.interface or "any interface"
    return tried("network", lambda: f"{through}, {host} is {socket.gethostbyname(host)}", move)


def _time_zone(site: Site) -> Iterator[Check]:
    now = datetime.now().astimezone()
    there = now.astimezone(ZoneInfo(site.time_zone or "UTC"))
    yield equal("time zone", f"UTC{now:%z}", f"UTC{there:%z}", "time_zone in the site's file")


def _umask(site: Site) -> Iterator[Check]:
    os.umask(mask := os.umask(0o077))
    described = f"{int(site.umask or '0', 8):04o}"
    yield equal("umask", f"{mask:04o}", described, "umask in the site's file, or the umask of jobs")


def _group(site: Site, folder: Path) -> Iterator[Check]:
    state = existing(folder).stat()
    # new files in a folder with the set-group-id bit belong to the folder's group (inode(7))
    number = state.st_gid if state.st_mode & 0o2000 else os.getegid()
    try:
        name = grp.getgrgid(number).gr_name
    except KeyError:
        raise LookupError(f"this machine has no name for group {number}") from None
    key = "group in the site's file, or `chgrp` and `chmod g+s` the folder of how.runs"
    yield equal("group", name, site.group or "", key)


def _quota(site: Site, move: str) -> Iterator[Check]:
    done = subprocess.run(
        site.quota, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=_QUOTA_S, check=False
    )
    printed = " ".join((done.stdout if done.returncode == 0 else done.stderr).split())
    yield Check(
        what="quota",
        ok=done.returncode == 0,
        found=printed or f"exit {done.returncode}",
        move=move if done.returncode else "",
    )


def _trial(site: Site, campaign: Campaign | None) -> Iterator[Check]:
    """Whether Slurm would take the job of a task from here; nothing is submitted."""
    if ANSWER in os.environ:
        said, _, code = os.environ[ANSWER].rpartition("exit ")
    else:
        done = subprocess.run(
            trial_command(campaign, site), capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )
        said, code = done.stderr + done.stdout, f"{done.returncode}"
    words = " ".join(said.split())
    if code == "127":
        raise FileNotFoundError(2, "", "sbatch")
    ok = code == "0"
    move = "correct partition, account, time and GPUs in the site's file; where compute nodes may not submit at all, "
    move += "consolidation cannot submit again what failed, and `embedcube submit` by hand does"
    yield Check(what="sbatch", ok=ok, found=words or f"exit {code}", move="" if ok else move)


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(one for one in (folder, *folder.parents) if one.exists())
