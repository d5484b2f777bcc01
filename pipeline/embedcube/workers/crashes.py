"""Crashes: which shards a rank held when a signal killed it, and which of them is the cause.

Any shard may be the cause, or none (memory, a library, an administrator). So every shard that the rank held becomes a
suspect: from then on it is embedded alone, one shard at a time, on another node of the task where there is one. A
suspect that has killed its rank, alone, on two hosts is quarantined: its input is at fault, not a machine. Where there
is one host, three times are enough. A shard that happened to be the only one in hand is no suspect yet: its first crash
does not count. A parent that dies together with its ranks (a power cut, the end of the job's time) writes no crash, so
those never count either.
"""

import logging
import signal
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from embedcube.campaign.parts import CRASH
from embedcube.campaign.plan import Shard
from embedcube.campaign.seals import read_sealed, write_sealed
from embedcube.errors import RequestError
from embedcube.workers.protocol import Place

log = logging.getLogger(__name__)

_HOSTS = 2
"""hosts on which a suspect must have killed its rank before it is quarantined"""

_ON_ONE_HOST = 3
"""times that it must have done so where all were on one host"""


@dataclass(frozen=True, kw_only=True)
class Held:
    """A shard that a rank has drawn and not recorded, as the rank tells its parent."""

    recipe: str
    shard: str
    """layer, window and place, for people"""
    suspect: bool
    """it was drawn as a suspect of an earlier crash, to be embedded alone"""


@dataclass(frozen=True, kw_only=True)
class Crash:
    """A rank was killed by a signal that its parent did not send."""

    host: str
    signal: int
    shards: tuple[str, ...]
    """recipes of the shards that it held"""
    alone: bool
    """it held one shard, a suspect of an earlier crash"""

    @classmethod
    def of(cls, host: str, number: int, held: Sequence[Held]) -> "Crash":
        """The crash of a rank that held these shards when a signal of this number killed it."""
        alone = len(held) == 1 and held[0].suspect
        return cls(host=host, signal=number, shards=tuple(one.recipe for one in held), alone=alone)


def write_crash(part: Path, crash: Crash) -> None:
    """Write a crash beside what the dead rank wrote; its parent does that."""
    part.mkdir(parents=True, exist_ok=True)
    write_sealed(part / CRASH, asdict(crash))


def crashes_by_shard(paths: Iterable[Path], recipes: Iterable[str]) -> dict[str, list[Crash]]:
    """The crashes of each of these recipes that has any, from their files.

    A damaged file is no crash: the next one counts again.
    """
    crashes = defaultdict(list)
    asked = set(recipes)
    for path in paths:
        if (crash := _read_crash(path)) is not None:
            for recipe in asked & set(crash.shards):
                crashes[recipe].append(crash)
    return dict(crashes)


def _read_crash(path: Path) -> Crash | None:
    """The crash of a file; None where the file is damaged: it accuses nobody then."""
    try:
        document = read_sealed(path, "embed")
        return Crash(
            host=document["host"],
            signal=document["signal"],
            shards=tuple(document["shards"]),
            alone=document["alone"],
        )
    except FileNotFoundError:
        return None  # its attempt was removed
    except (RequestError, KeyError) as error:
        log.warning("%s; this crash does not count", error)
        return None


def blame(crashes: Sequence[Crash]) -> str:
    """Why a shard with these crashes must not be read any more; empty while it may be innocent."""
    alone = Counter((crash.host, crash.signal) for crash in crashes if crash.alone)
    if len({host for host, _ in alone}) < _HOSTS and alone.total() < _ON_ONE_HOST:
        return ""
    signals = [
        f"{signal.Signals(number).name} on {host}" + (f", {times} times" if times > 1 else "")
        for (host, number), times in sorted(alone.items())
    ]
    return f"this shard alone killed the rank that read it ({', '.join(signals)})"


@dataclass(frozen=True, kw_only=True)
class CrashHistory:
    """What the crashes of earlier attempts say about the shards of a task."""

    crashes: Mapping[str, Sequence[Crash]]
    """by recipe; shards with a record are left out"""
    refused: Mapping[str, str]
    """why the scenes of a shard are not read any more, by recipe"""

    @classmethod
    def read(cls, paths: Iterable[Path], recipes: Iterable[str], *, retries: bool) -> "CrashHistory":
        """The history of these recipes, from files; where quarantined shards are tried again, none is refused."""
        crashes = crashes_by_shard(paths, recipes)
        reasons = {} if retries else {recipe: blame(several) for recipe, several in crashes.items()}
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
