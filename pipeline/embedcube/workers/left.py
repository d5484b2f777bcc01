"""What an attempt of a task has to do: parent 0 reads the records of all others once, and its ranks read the answer."""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from embedcube.campaign.seals import read_sealed, write_sealed
from embedcube.workers.crashes import Crash, CrashHistory


@dataclass(frozen=True, kw_only=True)
class Left:
    """The shards of a task that are to be embedded, and what earlier crashes say of them."""

    recipes: frozenset[str]
    history: CrashHistory


def write_left(path: Path, recipes: Collection[str], history: CrashHistory) -> None:
    """Write it, before any rank is started."""
    path.parent.mkdir(parents=True, exist_ok=True)
    crashes = {recipe: [asdict(crash) for crash in several] for recipe, several in history.crashes.items()}
    write_sealed(path, {"recipes": sorted(recipes), "crashes": crashes, "refused": dict(history.refused)})


def read_left(path: Path) -> Left:
    """Read it.

    Raises:
        RequestError: the file is damaged.
    """
    document = read_sealed(path, "embed")
    crashes = {
        recipe: [Crash(**crash | {"shards": tuple(crash["shards"])}) for crash in several]
        for recipe, several in document["crashes"].items()
    }
    history = CrashHistory(crashes=crashes, refused=document["refused"])
    return Left(recipes=frozenset(document["recipes"]), history=history)
