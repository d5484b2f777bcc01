"""doctor: can a compute node do what a campaign needs? Each check says what it found, and what to do where it is wrong.

With a site the checks run on one of its nodes, by `srun`, and come back by the network: a run folder that nodes cannot
write says so. Nothing is left behind.
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

_FILES_TRIED = 8
"""of an archive, spread over its scenes"""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that a campaign needs."""

    what: str
    ok: bool
    found: str
    move: str = ""
    """what to do next, where it is wrong"""


@dataclass(frozen=True, kw_only=True)
class Examined:
    """What one machine was found to be."""

    host: str
    checks: tuple[Check, ...]

    @property
    def wrong(self) -> list[Check]:
        """Those that failed."""
        return [check for check in self.checks if not check.ok]


def examine_node(campaign: Campaign, run: RunDir, campaign_file: Path) -> Examined:
    """Examine one node of the campaign's site, in a job of its own; waits for it."""
    site = load_site(campaign)
    words = ("doctor", str(campaign_file.absolute()), "--site", str(campaign.how.site), "--here", "--json")
    done = run_on_node(words, campaign, site)
    answers = [line for line in done.stdout.splitlines() if line.startswith('{"host"')]
    if answers:
        answer = json.loads(answers[-1])
        return Examined(host=answer["host"], checks=tuple(Check(**check) for check in answer["checks"]))
    # no answer is one, too: the node was not given, the image does not start, the campaign file is not seen there
    said = [line for line in done.stderr.splitlines() if not line.startswith("srun: job")]
    check = Check(
        what="a job",
        ok=False,
        found=" ".join(said[:3]) or f"exit {done.returncode} without a word",
        move=f"account, partition, modules and image are in {campaign.how.site}; the campaign, its archives and "
        f"{run.root} must lie where compute nodes see them",
    )
    return Examined(host=f"a node of {site.site}", checks=(check,))


def examine(campaign: Campaign, run: RunDir) -> Examined:
    """Examine the machine that this process runs on."""
    site = load_site(campaign) if campaign.how.site else None
    found: list[Check] = []
    found += _archives(campaign, run)
    found += _weights(campaign, run)
    found.append(_folder(run))
    found += _room(campaign, run)
    found.append(_devices(campaign))
    found += _software(campaign, run)
    if site is not None:
        found += _as_described(site, run)
    return Examined(host=socket.gethostname(), checks=tuple(found))


def describe(examined: Examined) -> list[str]:
    """One line for each check, and one below it where something is to be done."""
    lines = []
    for check in examined.checks:
        lines.append(f"{'ok' if check.ok else 'WRONG':<7}{check.what:<16}{check.found}")
        lines += [f"{'':<23}-> {check.move}"] if check.move else []
    return lines


def _tried(what: str, look: Callable[[], str], move: str) -> Check:
    """What `look` found; an OSError is what is wrong."""
    try:
        return Check(what=what, ok=True, found=look())
    except OSError as error:
        return Check(what=what, ok=False, found=str(error), move=move)


def _archives(campaign: Campaign, run: RunDir) -> Iterator[Check]:
    try:
        scenes = read_inventory(campaign, run)
    except EmbedcubeError:
        scenes = []
    for name, archive in campaign.archives.items():
        mine = [scene for scene in scenes if scene.archive == name and scene.assets]
        yield _tried(
            f"archive {name}",
            partial(_read_some, archive.root, archive.path, mine),
            "mount it on the compute nodes, or give them the right to read it; if files have gone, `embedcube index`",
        )


def _read_some(root: Path, path: Path, scenes: list[Scene]) -> str:
    if not scenes:
        if path.is_dir():
            next(path.iterdir(), None)
        else:
            _opened(path)
        return f"{path}: no inventory names its files yet"
    some = scenes[:: -(-len(scenes) // _FILES_TRIED)]
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
            yield _tried(f"weights {name}", partial(_opened, path), "put them where compute nodes can read them")


def _folder(run: RunDir) -> Check:
    """What every shard needs: a file that is written, synced, renamed and linked."""

    def look() -> str:
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
                return f"{run.root}: no links ({error.strerror}): objects are copied, the disk holds them twice"
        finally:
            shutil.rmtree(folder)
        return f"{run.root}: files can be written, synced, renamed and linked"

    return _tried("run folder", look, "how.runs: choose a folder that compute nodes may write")


def _room(campaign: Campaign, run: RunDir) -> Iterator[Check]:
    there = next(folder for folder in (run.root, *run.root.parents) if folder.exists())
    free = os.statvfs(there)
    plan = planned(campaign, run)
    files, bytes_needed = (files_needed(plan.price, campaign), plan.price.cube_bytes) if plan else (0, 0.0)
    bytes_free = free.f_bavail * free.f_frsize
    wanted = f", {size(bytes_needed)} needed at most" if plan else ""
    yield Check(
        what="space",
        ok=bytes_free >= bytes_needed,
        found=f"{size(bytes_free)} left{wanted}",
        move="" if bytes_free >= bytes_needed else "make room, or choose another how.runs",
    )
    # file systems that make inodes as they need them count none
    enough = not free.f_files or free.f_favail >= files
    left = f"{free.f_favail:,} left" if free.f_files else "not counted"
    yield Check(
        what="inodes",
        ok=enough,
        found=left + (f", {files:,} needed at most" if plan else ""),
        move="" if enough else "make room, or shards larger (layers.*.shard_chips)",
    )


def _devices(campaign: Campaign) -> Check:
    how = campaign.how
    if how.device == "cuda":
        import torch

        seen = torch.cuda.device_count()
        names = ", ".join(sorted({torch.cuda.get_device_name(i) for i in range(seen)}))
        return Check(
            what="GPUs",
            ok=seen >= how.ranks,
            found=f"{seen} {names}".strip() + f" for {how.ranks} ranks",
            move="" if seen >= how.ranks else "gpus_per_node and gpu_option of the site; container.nvidia; modules",
        )
    needed, memory = how.ranks * how.threads_per_rank, memory_bytes()
    ok = cores() >= needed and memory >= how.ranks * how.mem_bytes_per_rank
    return Check(
        what="cores, memory",
        ok=ok,
        found=f"{cores()} cores for {how.ranks} ranks with {how.threads_per_rank} threads, {size(memory)} for "
        f"{size(how.ranks * how.mem_bytes_per_rank)}",
        move="" if ok else "cpus_per_node and mem_gb_per_node of the site, or how.ranks, threads and mem_gb",
    )


def _software(campaign: Campaign, run: RunDir) -> Iterator[Check]:
    """A rank whose versions are not the plan's refuses to start."""
    if plan := planned(campaign, run):
        import torch

        from embedcube.kernel.versions import versions_here

        here = versions_here(plan, torch.device(campaign.how.device))
        other = [f"{name} {here[name]}, planned {is_}" for name, is_ in plan.versions.items() if here[name] != is_]
        yield Check(
            what="software",
            ok=not other,
            found="; ".join(other) or "as the plan was made with",
            move="make the plan where the ranks will run (prepare_in_job), or install the same there" if other else "",
        )


def _as_described(site: Site, run: RunDir) -> Iterator[Check]:
    """What the site's file says of its nodes."""
    if site.container is not None:
        image, inside = Path(site.container.image), "APPTAINER_CONTAINER" in os.environ
        yield Check(
            what="image",
            ok=inside or os.access(image, os.R_OK),
            found="this is running in it" if inside else f"{image}",
            move="" if inside or os.access(image, os.R_OK) else "container.image: it must be readable from the nodes",
        )
    yield _network(site)
    if site.time_zone:
        now = datetime.now().astimezone()
        yield _equal("time zone", f"UTC{now:%z}", f"UTC{now.astimezone(ZoneInfo(site.time_zone)):%z}", "time_zone")
    if site.umask:
        os.umask(mask := os.umask(0o077))
        yield _equal("umask", f"{mask:04o}", f"{int(site.umask, 8):04o}", "umask, or how jobs set it")
    if site.group:
        there = next(folder for folder in (run.root, *run.root.parents) if folder.exists())
        # below a folder with the set-group-id bit, files belong to its group (inode(7))
        number = there.stat().st_gid if there.stat().st_mode & 0o2000 else os.getegid()
        yield _equal("group", grp.getgrgid(number).gr_name, site.group, "group, or `chgrp` and `chmod g+s` how.runs")
    if site.quota:
        done = subprocess.run(site.quota, capture_output=True, text=True, check=False)
        said = " ".join((done.stdout if done.returncode == 0 else done.stderr).split())
        yield Check(
            what="quota",
            ok=done.returncode == 0,
            found=said or f"exit {done.returncode}",
            move="quota of the site: what prints it on a compute node?" if done.returncode else "",
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
            move="interface of the site: that of the fast network",
        )
    move = "host_suffix of the site: what makes a node's name that of its fast network"
    through = site.interface or "any interface"
    return _tried("network", lambda: f"{through}, {host} is {socket.gethostbyname(host)}", move)


def _equal(what: str, found: str, described: str, key: str) -> Check:
    same = found == described
    return Check(
        what=what,
        ok=same,
        found=found if same else f"{found}, the site's file says {described}",
        move="" if same else f"{key} of the site",
    )
