"""doctor: can a compute node do what a campaign needs? Each check says what it found and, if that is wrong, what to do.

With a site, the checks run on one of its compute nodes, by `srun`, and their results come back over the network: so
even a node that cannot write to the run folder can say so. No file is left behind.
"""

import json
import os
import secrets
import shlex
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from embedcube.campaign.backbone_parts import parts_of
from embedcube.campaign.inventory import read_inventory
from embedcube.campaign.plugins import refuse_unknown_plugins
from embedcube.campaign.price import size
from embedcube.campaign.run_folder import RunDir, fsync_folder
from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Campaign
from embedcube.campaign.site import Site, load_site
from embedcube.errors import EmbedcubeError, RequestError
from embedcube.jobs.check import Check, looked, tried
from embedcube.jobs.site_checks import ANSWER, commands_check, existing, gpu_check, node_checks, site_checks
from embedcube.jobs.slurm import run_on_node, trial_command
from embedcube.jobs.submit import files_needed, planned
from embedcube.machine import cores, memory_bytes

_FILES_READ = 8
"""Number of files of an archive that are opened, spread over its scenes."""


@dataclass(frozen=True, kw_only=True)
class Examined:
    """The results of all checks on one machine."""

    host: str
    checks: tuple[Check, ...]

    @property
    def wrong(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if not check.ok]


def examine_node(site: Site, words: tuple[str, ...], campaign: Campaign | None, run: RunDir | None) -> Examined:
    """Run `embedcube doctor WORDS` on one node of a site, in a job of its own, and wait for the results."""
    asked = shlex.join(trial_command(campaign, site))
    try:
        done = run_on_node(
            ("doctor", *words), site, campaign=campaign, before=(f'export {ANSWER}="$({asked} 2>&1; echo exit $?)"',)
        )
    except OSError as error:
        move = "run this on a machine of the cluster, such as a login node; with --here it checks this machine"
        no_job = Check(
            what="a job", ok=False, found=f"cannot be looked at: {error.filename}: {error.strerror}", move=move
        )
        return Examined(host=socket.gethostname(), checks=(no_job, commands_check()))
    answers = [line for line in done.stdout.splitlines() if line.startswith('{"host"')]
    if answers:
        answer = json.loads(answers[-1])
        return Examined(host=answer["host"], checks=tuple(Check(**check) for check in answer["checks"]))
    # no result is a result, too: Slurm gave no node, the image does not start, or the node cannot see the campaign file
    errors = [line for line in done.stderr.splitlines() if not line.startswith("srun: job")]
    move = f"check account, partition, modules and image in the file of site {site.site}"
    if run is not None:
        move += f"; the campaign, its archives and {run.root} must be on a file system that compute nodes have"
    found = " ".join(errors[:3]) or f"exit {done.returncode} without a message"
    check = Check(what="a job", ok=False, found=found, move=move)
    return Examined(host=f"a node of {site.site}", checks=(check,))


def examine_site(site: Site) -> Examined:
    """Run the checks that need no campaign on the machine that this process runs on."""
    return Examined(host=socket.gethostname(), checks=(*node_checks(site), *site_checks(site, Path.cwd(), None)))


def examine(campaign: Campaign, run: RunDir) -> Examined:
    """Run the checks on the machine that this process runs on; each of them, whatever another finds."""
    site = load_site(campaign) if campaign.how.site else None
    checks: list[Check] = []
    checks += looked("plugins", lambda: _plugins(campaign), "install the package that has it where jobs run")
    checks += looked("archives", lambda: _archives(campaign, run), "run `embedcube index` again")
    checks += looked("weights", lambda: _weights(campaign, run), "run `embedcube weights`, or correct the path")
    checks += looked("run folder", lambda: [_folder(run)], "how.runs: choose a folder that compute nodes may write")
    checks += looked("space", lambda: _space(campaign, run), "how.runs: choose a folder that compute nodes have")
    checks += looked("devices", lambda: [_devices(campaign)], "install torch, for GPUs with CUDA, where jobs run")
    checks += looked("software", lambda: _software(campaign, run), "install embedcube and torch where jobs run")
    if site is not None:
        checks += site_checks(site, run.root, campaign)
    return Examined(host=socket.gethostname(), checks=tuple(checks))


def describe(examined: Examined) -> list[str]:
    """One line for each check; below a check that failed, a second line says what to do."""
    lines = []
    width = max((len(check.what) for check in examined.checks), default=0) + 2
    for check in examined.checks:
        lines.append(f"{'ok' if check.ok else 'WRONG':<7}{check.what:<{width}}{check.found}")
        lines += [f"{'':<{7 + width}}-> {check.move}"] if check.move else []
    return lines


def _plugins(campaign: Campaign) -> Iterator[Check]:
    """A check only if a plugin is missing."""
    try:
        refuse_unknown_plugins(campaign)
    except RequestError as error:
        move = "correct the name, or install the package that has it where jobs run"
        yield Check(what="plugins", ok=False, found=str(error), move=move)


def _archives(campaign: Campaign, run: RunDir) -> Iterator[Check]:
    scenes: Sequence[Scene] = []
    with suppress(EmbedcubeError):
        scenes = read_inventory(campaign, run)
    for name, archive in campaign.archives.items():
        of_archive = [scene for scene in scenes if scene.archive == name and scene.assets]
        yield tried(
            f"archive {name}",
            partial(_read_some, archive.root, archive.path, of_archive),
            "mount the archive on the compute nodes, or correct its permissions; if files were deleted, run "
            "`embedcube index` again",
        )


def _read_some(root: Path, path: Path, scenes: Sequence[Scene]) -> str:
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
        named = [layer.weights, *(part.get("weights") for part in parts_of(layer.backbone))]
        for path in [run.weights(name)] if run.weights(name).exists() else filter(None, named):
            move = "put the file on a file system that compute nodes can read"
            yield tried(f"weights {name}", partial(_opened, Path(path)), move)


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

    return tried("run folder", try_all, "how.runs: choose a folder that compute nodes may write")


def _space(campaign: Campaign, run: RunDir) -> Iterator[Check]:
    free = os.statvfs(existing(run.root))
    plan = planned(campaign, run)
    # the packs of ranks hold as much as the cube
    files, bytes_needed = (files_needed(plan.price, campaign), 2 * plan.price.cube_bytes) if plan else (0, 0.0)
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
        return gpu_check(count, names, how.ranks)
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
