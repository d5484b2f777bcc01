"""The lock of `submit`: while one call submits the jobs of a campaign, any other is refused and told who it is.

The lock is a file made with O_EXCL, which is exclusive on parallel file systems too, where `flock` holds for one node.
"""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from embedcube.campaign.run_folder import RunDir
from embedcube.errors import RequestError

_OLD = timedelta(hours=24)
"""Age from which a lock of another machine is called old; only a pilot that waits in the queue is at work so long."""

_WRITTEN = timedelta(seconds=10)
"""Time after which a lock without readable text was left by a process that was killed before it wrote the text."""

_ENDED = "ended"


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who holds the lock."""

    at_work: bool
    """whether it may still be at work; if not, it was killed and left the lock"""
    words: str
    """who, since when, and what to do"""


@contextmanager
def only_submit(run: RunDir) -> Iterator[None]:
    """Hold the lock of a campaign for the block; the lock is removed however the block ends.

    Raises:
        RequestError: another `submit` holds it, or was killed and left it; the message says which, and what to do.
    """
    run.root.mkdir(parents=True, exist_ok=True)
    path = run.submit_lock
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        holder = held_by(path)
        raise RequestError(
            holder.words if holder else f"{path} was there a moment ago: start the same command again"
        ) from None
    # open until the end: while it is, no other file gets its number
    with os.fdopen(descriptor, "w") as file:
        try:
            json.dump(_own(), file)
            file.flush()
            yield
        finally:
            # a person may have deleted it meanwhile, and another call made a new one
            if path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor)):
                path.unlink(missing_ok=True)


def held_by(path: Path) -> Holder | None:
    """Who holds a lock; None where nobody does."""
    try:
        made = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return None
    owner = _owner(text)
    if owner is None:
        if datetime.now(UTC) - made < _WRITTEN:
            return Holder(at_work=True, words=f"another `submit` has just begun ({path}): wait until it has ended")
        since = f"{made:%Y-%m-%dT%H:%M:%SZ}"
        return Holder(
            at_work=False,
            words=f"{path} does not say whose it is: its `submit` was killed at {since}, or the disk was full. "
            + _delete(path),
        )
    host, pid, since = owner["host"], owner["pid"], owner["time"]
    who = f"process {pid} on {host}, since {since}"
    at_work = f"another `submit` of this campaign is at work ({who}): wait until it has ended"
    look = f"`ssh {host} ps -p {pid}` shows whether it still runs. If not: {_delete(path)}"
    if host == socket.gethostname():
        if owner["processes"] in (None, _processes()):
            return _of_this_machine(path, owner, who, at_work)
        look = (
            f"Its container or session on {host} has process numbers of its own: `ps -p {pid}` shows there whether it "
            f"still runs. If not: {_delete(path)}"
        )
    if datetime.now(UTC) - datetime.fromisoformat(since).astimezone(UTC) > _OLD:
        return Holder(at_work=False, words=f"{path} is old ({who}): {look}")
    return Holder(at_work=True, words=f"{at_work}. {look}")


def _of_this_machine(path: Path, owner: dict[str, Any], who: str, at_work: str) -> Holder:
    """Who holds a lock that was made here, where its process can be looked for."""
    pid, started = owner["pid"], _started(owner["pid"])
    if not _is_there(pid) or (started is not None and (started == _ENDED or owner["started"] not in (None, started))):
        gone = f"{path} was left by a `submit` that was killed ({who}; it runs no more). {_delete(path)}"
        return Holder(at_work=False, words=gone)
    if started is None:
        asked = f"there is a process {pid}, but /proc hides from you whether it is that one: its user can say"
        return Holder(at_work=True, words=f"{at_work}; {asked}. If it is not: {_delete(path)}")
    return Holder(at_work=True, words=f"{at_work}, or stop it")


def _delete(path: Path) -> str:
    return f"Delete it (rm {path}), look with `embedcube status` at the jobs that it submitted, then submit again"


def _own() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "started": _started(os.getpid()),
        "processes": _processes(),
    }


def _owner(text: str) -> dict[str, Any] | None:
    """What a lock says; None where it cannot be read."""
    try:
        owner = json.loads(text)
        datetime.fromisoformat(owner["time"]).astimezone(UTC)
        whole = "host" in owner and type(owner["pid"]) is int and owner["pid"] > 0
        return {"started": None, "processes": None} | owner if whole else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _is_there(pid: int) -> bool:
    """Whether this machine has a process of this number, ended ones that are not yet collected included."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True  # that of another user
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _processes() -> str | None:
    """In which namespace the process numbers that this process sees are counted; None if Linux does not say it."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """When a process of this machine began, in clock ticks since the boot; _ENDED for one that has ended.

    None if there is no such process, or /proc hides it (`hidepid`).

    With it, a later process that was given the same number is told from the first.
    """
    try:
        # the name of the program comes before, in brackets, and may hold anything (proc(5))
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return _ENDED if state in "ZX" else fields[18]
