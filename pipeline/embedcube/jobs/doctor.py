"""doctor: can a compute node do what a campaign needs? Each check says what it found and, if that is wrong, what to do.

With a site, the checks run on one of its compute nodes, by `srun`, and their results come back over the network: so
even a node that cannot write to the run folder can say so. No file is left behind.
"""

import grp
import json
import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from zoneinfo import ZoneInfo

from embedcube.campaign.inventory import read_inventory
from embedcube.campaign.price import size
from embedcube.campaign.run_folder import RunDir, fsync_folder
from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Campaign
from embedcube.campaign.site import Site, load_site
from embedcube.errors import EmbedcubeError
from embedcube.jobs.slurm import run_on_node
from embedcube.jobs.submit import files_needed, planned
from embedcube.machine import cores, memory_bytes

_FILES_READ = 8
"""Number of files of an archive that are opened, spread over its scenes."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """The result of one check."""

    what: str
    """what was checked"""
    ok: bool
    found: str
    """what was found, in words"""
    move: str = ""
    """what to do next; empty if the check passed"""


@dataclass(frozen=True, kw_only=True)
class Examined:
    """The results of all checks on one machine."""

    host: str
    checks: tuple[Check, ...]

    @property
    def wrong(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if not check.ok]


def examine_node(campaign: Campaign, run: RunDir, campaign_file: Path) -> Examined:
    """Run the checks on one node of the campaign's site, in a job of its own, and wait for the results."""
    site = load_site(campaign)
    words = ("doctor", str(campaign_file.absolute()), "--site", str(campaign.how.site), "--here", "--json")
    done = run_on_node(words, campaign, site)
    answers = [line for line in done.stdout.splitlines() if line.startswith('{"host"')]
    if answers:
        answer = json.loads(answers[-1])
        return Examined(host=answer["host"], checks=tuple(Check(**check) for check in answer["checks"]))
    # no result is a result, too: Slurm gave no node, the image does not start, or the node cannot see the campaign file
    errors = [line for line in done.stderr.splitlines() if not line.startswith("srun: job")]
    check = Check(
        what="a job",
        ok=False,
        found=" ".join(errors[:3]) or f"exit {done.returncode} without a message",
        move=f"check account, partition, modules and image in {campaign.how.site}; the campaign, its archives and "
        f"{run.root} must be on a file system that compute nodes have",
    )
    return Examined(host=f"a node of {site.site}", checks=(check,))


def examine(campaign: Campaign, run: RunDir) -> Examined:
    """Run the checks on the machine that this process runs on."""
    site = load_site(campaign) if campaign.how.site else None
    checks: list[Check] = []
    checks += _archives(campaign, run)
    checks += _weights(campaign, run)
    checks.append(_folder(run))
    checks += _space(campaign, run)
    checks.append(_devices(campaign))
    checks += _software(campaign, run)
    if site is not None:
        checks += _as_described(site, run)
    return Examined(host=socket.gethostname(), checks=tuple(checks))


def describe(examined: Examined) -> list[str]:
    """One line for each check; below a check that failed, a second line says what to do."""
    lines = []
    for check in examined.checks:
        lines.append(f"{'ok' if check.ok else 'WRONG':<7}{check.what:<16}{check.found}")
        lines += [f"{'':<23}-> {check.move}"] if check.move else []
    return lines


def _tried(what: str, check: Callable[[], str], move: str) -> Check:
    """The result of calling `check`, which returns what it found and raises an OSError if that is wrong."""
    try:
        return Check(what=what, ok=True, found=check())
    except OSError as error:
        return Check(what=what, ok=False, found=str(error), move=move)


def _archives(campaign: Campaign, run: RunDir) -> Iterator[Check]:
    try:
        scenes = read_inventory(campaign, run)
    except EmbedcubeError:
        scenes = []
    for name, archive in campaign.archives.items():
        of_archive = [scene for scene in scenes if scene.archive == name and scene.assets]
        yield _tried(
            f"archive {name}",
            partial(_read_some, archive.root, archive.path, of_archive),
            "mount the archive on the compute nodes, or correct its permissions; if files were deleted, run "
            "`embedcube index` again",
        )


def _read_some(root: Path, path: Path, scenes: list[Scene]) -> str:
    if not scenes:
        if path.is_dir():
            next(path.iterdir(), None)
        else:
            _opened(path)
        return f"{path}: can be read; which files are needed is known after `embedcube index`"
    some = scenes[:: -(-len(scenes) // _FILES_READ)]
    for scene in some:
        _opened(root / scene.assets[0].path)
    return f"files of {len(some)} of {len(scenes)} scenes can be read"


def _opened(path: Path) -> str:
    with path.open("rb") as file:
        file.read(1)
    return str(path)


def _weights(campaign: Campaign, run: RunDir) -> Iterator[Check]:
    for name, layer in campaign.layers.items():
        path = run.weights(name) if run.weights(name).exists() else layer.weights
        if path is not None:
            move = "put the file on a file system that compute nodes can read"
            yield _tried(f"weights {name}", partial(_opened, path), move)


def _folder(run: RunDir) -> Check:
    """Whether the run folder can do what every shard needs: write, sync, rename and link a file."""

    def try_all() -> str:
        run.root.mkdir(parents=True, exist_ok=True)
        folder = run.root / f".doctor-{secrets.token_hex(4)}"
        folder.mkdir()
        try:
            written, renamed = folder / "written", folder / "renamed"
            with written.open("wb") as file:
                file.write(b"x" * 4096)
                os.fsync(file.fileno())
            renamed.write_bytes(b"older")
            written.replace(renamed)
            fsync_folder(folder)
            if renamed.read_bytes() != b"x" * 4096:
                raise OSError(f"{renamed}: a file was not replaced by rename")
            (folder / "symlink").symlink_to("renamed")
            try:
                os.link(renamed, folder / "linked")
            except OSError as error:
                return f"{run.root}: no hard links ({error.strerror}), so objects are copied and need twice the space"
        finally:
            shutil.rmtree(folder)
        return f"{run.root}: files can be written, synced, renamed and linked"

    return _tried("run folder", try_all, "how.runs: choose a folder that compute nodes may write")


def _space(campaign: Campaign, run: RunDir) -> Iterator[Check]:
    free = os.statvfs(_existing(run.root))
    plan = planned(campaign, run)
    files, bytes_needed = (files_needed(plan.price, campaign), plan.price.cube_bytes) if plan else (0, 0.0)
    bytes_free = free.f_bavail * free.f_frsize
    needed = f", {size(bytes_needed)} needed at most" if plan else ""
    yield Check(
        what="space",
        ok=bytes_free >= bytes_needed,
        found=f"{size(bytes_free)} left{needed}",
        move="" if bytes_free >= bytes_needed else "delete files, or choose another folder (how.runs)",
    )
    # file systems that create inodes on demand report 0
    enough = not free.f_files or free.f_favail >= files
    left = f"{free.f_favail:,} left" if free.f_files else "not counted"
    yield Check(
        what="inodes",
        ok=enough,
        found=left + (f", {files:,} needed at most" if plan else ""),
        move="" if enough else "delete files, or make shards larger (layers.*.shard_chips)",
    )


def _devices(campaign: Campaign) -> Check:
    how = campaign.how
    if how.device == "cuda":
        import torch

        count = torch.cuda.device_count()
        names = ", ".join(sorted({torch.cuda.get_device_name(i) for i in range(count)}))
        move = "check gpus_per_node, gpu_option, container.nvidia and modules in the site's file"
        return Check(
            what="GPUs",
            ok=count >= how.ranks,
            found=f"{count} {names}".strip() + f" for {how.ranks} ranks",
            move="" if count >= how.ranks else move,
        )
    needed, memory = how.ranks * how.threads_per_rank, memory_bytes()
    ok = cores() >= needed and memory >= how.ranks * how.mem_bytes_per_rank
    return Check(
        what="cores, memory",
        ok=ok,
        found=f"{cores()} cores for {how.ranks} ranks with {how.threads_per_rank} threads, {size(memory)} for "
        f"{size(how.ranks * how.mem_bytes_per_rank)}",
        move=""
        if ok
        else "correct cpus_per_node and mem_gb_per_node in the site's file, or lower how.ranks, "
        "how.threads or how.mem_gb",
    )


def _software(campaign: Campaign, run: RunDir) -> Iterator[Check]:
    """Whether versions are those of the plan; a rank with other versions refuses to start."""
    if plan := planned(campaign, run):
        import torch

        from embedcube.kernel.versions import versions_here

        here = versions_here(plan, torch.device(campaign.how.device))
        other = [f"{name} {here[name]}, planned {old}" for name, old in plan.versions.items() if here[name] != old]
        yield Check(
            what="software",
            ok=not other,
            found="; ".join(other) or "the versions of the plan",
            move="make the plan on a compute node (prepare_in_job), or install the same versions there"
            if other
            else "",
        )


def _as_described(site: Site, run: RunDir) -> Iterator[Check]:
    """Whether the node is as the site's file says."""
    if site.container is not None:
        image, inside = Path(site.container.image), "APPTAINER_CONTAINER" in os.environ
        yield Check(
            what="image",
            ok=inside or os.access(image, os.R_OK),
            found="this check runs in it" if inside else f"{image}",
            move="" if inside or os.access(image, os.R_OK) else "container.image: choose a file that nodes can read",
        )
    yield _network(site)
    if site.time_zone:
        now = datetime.now().astimezone()
        yield _equal(
            "time zone",
            f"UTC{now:%z}",
            f"UTC{now.astimezone(ZoneInfo(site.time_zone)):%z}",
            "time_zone in the site's file",
        )
    if site.umask:
        os.umask(mask := os.umask(0o077))
        yield _equal(
            "umask", f"{mask:04o}", f"{int(site.umask, 8):04o}", "umask in the site's file, or the umask of jobs"
        )
    if site.group:
        folder = _existing(run.root).stat()
        # new files in a folder with the set-group-id bit belong to the folder's group (inode(7))
        number = folder.st_gid if folder.st_mode & 0o2000 else os.getegid()
        yield _equal(
            "group",
            grp.getgrgid(number).gr_name,
            site.group,
            "group in the site's file, or `chgrp` and `chmod g+s` the folder of how.runs",
        )
    if site.quota:
        done = subprocess.run(site.quota, capture_output=True, text=True, check=False)
        printed = " ".join((done.stdout if done.returncode == 0 else done.stderr).split())
        yield Check(
            what="quota",
            ok=done.returncode == 0,
            found=printed or f"exit {done.returncode}",
            move="quota in the site's file: name a command that works on a compute node" if done.returncode else "",
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
    return _tried("network", lambda: f"{through}, {host} is {socket.gethostbyname(host)}", move)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(one for one in (folder, *folder.parents) if one.exists())


def _equal(what: str, found: str, described: str, key: str) -> Check:
    """Whether what was found equals what the site's file says under `key`."""
    same = found == described
    return Check(
        what=what,
        ok=same,
        found=found if same else f"{found}, the site's file says {described}",
        move="" if same else f"correct {key}",
    )
