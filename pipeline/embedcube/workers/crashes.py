"""Crashes: which shards a rank held when a signal killed it, and which of them is the cause.

Any shard may be the cause, or none (memory, a library, an administrator). So every shard that the rank held becomes a
suspect: from then on it is embedded alone, one shard at a time, on another node of the task where there is one. A shard
that has killed its rank alone on two hosts is quarantined: its input is at fault, not a machine. A parent that dies
together with its ranks (a power cut, the end of the job's time) writes no crash, so those never count.
"""

import json
import signal
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from embedcube.campaign.plan import Shard
from embedcube.campaign.run_folder import RunDir, write_atomically
from embedcube.workers.protocol import Place

_FILE = "crash.json"

_HOSTS = 2
"""hosts on which a shard must have killed its rank, held alone, before it is quarantined"""


@dataclass(frozen=True, kw_only=True)
class Crash:
    """A rank was killed by a signal that its parent did not send."""

    host: str
    signal: int
    shards: tuple[str, ...]
    """recipes of the shards that it held"""


def write_crash(part: Path, crash: Crash) -> None:
    """Write a crash beside what the dead rank wrote; its parent does that."""
    part.mkdir(parents=True, exist_ok=True)
    write_atomically(part / _FILE, json.dumps(asdict(crash)).encode())


def crashes_by_shard(run: RunDir, recipes: Iterable[str]) -> dict[str, list[Crash]]:
    """The crashes of each of these recipes that has any."""
    crashes = defaultdict(list)
    asked = set(recipes)
    for path in sorted(run.parts.glob(f"*/*/*/{_FILE}")):
        document = json.loads(path.read_text())
        crash = Crash(host=document["host"], signal=document["signal"], shards=tuple(document["shards"]))
        for recipe in asked & set(crash.shards):
            crashes[recipe].append(crash)
    return dict(crashes)


def blame(crashes: Sequence[Crash]) -> str:
    """Why a shard with these crashes must not be read any more; empty while it may be innocent."""
    alone = {crash.host: crash.signal for crash in crashes if len(crash.shards) == 1}
    if len(alone) < _HOSTS:
        return ""
    signals = ", ".join(f"{signal.Signals(number).name} on {host}" for host, number in sorted(alone.items()))
    return f"this shard alone killed the rank that read it ({signals})"


@dataclass(frozen=True, kw_only=True)
class CrashHistory:
    """What the crashes of earlier attempts say about the shards of a task."""

    crashes: Mapping[str, Sequence[Crash]]
    """by recipe; shards with a record are left out"""
    refused: Mapping[str, str]
    """why the scenes of a shard are not read any more, by recipe"""

    @classmethod
    def read(cls, run: RunDir, recipes: Iterable[str], *, retry_quarantined: bool) -> "CrashHistory":
        """The history of these recipes; with `retry_quarantined` none is refused."""
        crashes = crashes_by_shard(run, recipes)
        reasons = {} if retry_quarantined else {recipe: blame(several) for recipe, several in crashes.items()}
        return cls(crashes=crashes, refused={recipe: reason for recipe, reason in reasons.items() if reason})

    def suspect(self, shard: Shard) -> bool:
        """The shard may be the cause of a crash, and is embedded alone."""
        return shard.recipe in self.crashes and shard.recipe not in self.refused

    def suspects(self, shards: Iterable[Shard], place: Place, ranks_per_node: int) -> list[Shard]:
        """The suspects assigned to a rank, fewest crashes first; after each crash a shard moves to another node."""
        nodes = place.world // ranks_per_node
        assigned = []
        for shard in filter(self.suspect, shards):
            turn = int(shard.recipe[:8], 16) + len(self.crashes[shard.recipe])
            node, rank = turn % nodes, turn // nodes % ranks_per_node
            if node * ranks_per_node + rank == place.rank:
                assigned.append(shard)
        return sorted(assigned, key=lambda shard: len(self.crashes[shard.recipe]))
