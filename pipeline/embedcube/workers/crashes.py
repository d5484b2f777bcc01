"""Deaths: which shards a rank had in hand when it was killed, and which of them is to blame.

A rank that a signal ends may be any shard's fault or none's (memory, a library, an administrator). So what it had in
hand is suspect, and is embedded alone from then on, one shard at a time, on another node of the task where there is
one. A shard that has killed its rank alone on two hosts is quarantined: its input is at fault, not a machine. A parent
that dies with its ranks (a power cut, the end of the time) leaves no death, so those never count.
"""

import json
import signal
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from embedcube.campaign.run_folder import RunDir, write_atomically

_FILE = "death.json"

_HOSTS = 2
"""on so many a shard must have killed its rank, alone in its hands"""


@dataclass(frozen=True, kw_only=True)
class Death:
    """A rank was killed by a signal that its parent did not send."""

    host: str
    signal: int
    shards: tuple[str, ...]
    """recipes that it had in hand"""


def write_death(part: Path, death: Death) -> None:
    """Beside what the dead rank wrote; by its parent."""
    part.mkdir(parents=True, exist_ok=True)
    write_atomically(part / _FILE, json.dumps(asdict(death)).encode())


def deaths_by_shard(run: RunDir, wanted: Iterable[str]) -> dict[str, list[Death]]:
    """Of the wanted recipes those that were in hand when a rank was killed, each with its deaths."""
    found = defaultdict(list)
    known = set(wanted)
    for path in sorted(run.parts.glob(f"*/*/*/{_FILE}")):
        document = json.loads(path.read_text())
        death = Death(host=document["host"], signal=document["signal"], shards=tuple(document["shards"]))
        for recipe in known & set(death.shards):
            found[recipe].append(death)
    return dict(found)


def blame(deaths: list[Death]) -> str:
    """Why a shard with these deaths is not to be read any more; empty while it may be innocent."""
    alone = {death.host: death.signal for death in deaths if len(death.shards) == 1}
    if len(alone) < _HOSTS:
        return ""
    told = ", ".join(f"{signal.Signals(number).name} on {host}" for host, number in sorted(alone.items()))
    return f"its shard killed the rank that had nothing else in hand ({told})"
