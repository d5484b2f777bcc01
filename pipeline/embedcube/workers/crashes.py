"""Crashes: which shards a rank had in hand when it was killed, and which of them is to blame.

A rank that a signal ends may be any shard's fault or none's (memory, a library, an administrator). So what it had in
hand is suspect, and is embedded alone from then on, one shard at a time, on another node of the task where there is
one. A shard that has killed its rank alone on two hosts is quarantined: its input is at fault, not a machine. A parent
that dies with its ranks (a power cut, the end of the time) leaves no crash, so those never count.
"""

import json
import signal
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from embedcube.campaign.run_folder import RunDir, write_atomically

_FILE = "crash.json"

_HOSTS = 2
"""on so many a shard must have killed its rank, alone in its hands"""


@dataclass(frozen=True, kw_only=True)
class Crash:
    """A rank was killed by a signal that its parent did not send."""

    host: str
    signal: int
    shards: tuple[str, ...]
    """recipes that it had in hand"""


def write_crash(part: Path, crash: Crash) -> None:
    """Beside what the dead rank wrote; by its parent."""
    part.mkdir(parents=True, exist_ok=True)
    write_atomically(part / _FILE, json.dumps(asdict(crash)).encode())


def crashes_by_shard(run: RunDir, wanted: Iterable[str]) -> dict[str, list[Crash]]:
    """Of the wanted recipes those that were in hand when a rank was killed, each with its crashs."""
    found = defaultdict(list)
    known = set(wanted)
    for path in sorted(run.parts.glob(f"*/*/*/{_FILE}")):
        document = json.loads(path.read_text())
        crash = Crash(host=document["host"], signal=document["signal"], shards=tuple(document["shards"]))
        for recipe in known & set(crash.shards):
            found[recipe].append(crash)
    return dict(found)


def blame(crashs: list[Crash]) -> str:
    """Why a shard with these crashs is not to be read any more; empty while it may be innocent."""
    alone = {crash.host: crash.signal for crash in crashs if len(crash.shards) == 1}
    if len(alone) < _HOSTS:
        return ""
    told = ", ".join(f"{signal.Signals(number).name} on {host}" for host, number in sorted(alone.items()))
    return f"its shard killed the rank that had nothing else in hand ({told})"
