"""Who works on a run folder without Slurm: a process of this machine, or somebody whose files change."""

import os
import pwd
import time
from collections.abc import Iterator
from pathlib import Path

from embedcube.campaign.parts import RECORDS
from embedcube.campaign.run_folder import TEMPORARY_PREFIX, RunDir

_RECENT_S = 60.0
"""Seconds since the last change of a file within which somebody is taken to be at work."""

_VERBS = ("run", "index", "fit", "plan", "embed", "consolidate", "verify", "submit")
"""Verbs that work on a run folder."""

_RANK = "embedcube.workers.forkserver"
"""In the command line of every rank."""


def process_here(run: RunDir, campaign_file: Path, processes: Path = Path("/proc")) -> int | None:
    """Number of a process of this machine that works on the campaign; None where there is none, or no /proc."""
    files = {path.resolve() for path in (campaign_file, run.campaign)}
    for folder in processes.glob("[0-9]*"):
        if int(folder.name) == os.getpid():
            continue
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            where = (folder / "cwd").readlink()
        except OSError:
            continue  # it has ended, or is another user's
        if _RANK in words and _log(folder).parent == run.logs:
            return int(folder.name)
        if _verb(words) in _VERBS and any((where / word).resolve() in files for word in words if word):
            return int(folder.name)
    return None


def _log(process: Path) -> Path:
    """Where a process writes what it has to say."""
    try:
        return (process / "fd" / "2").readlink()
    except OSError:
        return Path()


def files_change(run: RunDir) -> bool:
    """Whether a record, a log or a cube under construction was written within the last minute."""
    since = time.time() - _RECENT_S
    return any(_changed(path) > since for path in _written(run))


def another_user(run: RunDir) -> str:
    """Which other user has written a record, a log or a cube under construction within the last minute; or nothing.

    Processes of other users do not tell on what they work, nor do those of other machines.
    """
    since, own = time.time() - _RECENT_S, os.geteuid()
    for path in _written(run):
        try:
            facts = path.stat()
        except OSError:
            continue
        if facts.st_mtime > since and facts.st_uid != own:
            return f"user {_name(facts.st_uid)}"
    return ""


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"{user}"


def _written(run: RunDir) -> Iterator[Path]:
    yield from run.parts.glob(f"*/*/*/{RECORDS}")
    yield from run.logs.glob("*.log")
    yield from run.job_logs.glob("*.out")
    for building in run.cubes.glob(f"{TEMPORARY_PREFIX}*"):
        yield building
        yield from building.glob("*/*/*")


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _verb(words: list[str]) -> str:
    """The verb of a command line of embedcube; empty for any other."""
    for place, word in enumerate(words[:-1]):
        if Path(word).name == "embedcube" or (word == "embedcube" and words[place - 1] == "-m"):
            return next((option for option in words[place + 1 :] if not option.startswith("-")), "")
    return ""
