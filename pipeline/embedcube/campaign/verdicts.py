"""verdicts.json: scenes that were found broken while they were read, and the recipes of the shards without them.

`workers/rounds.py` makes it, between two rounds of `embed`. A scene that one shard finds broken is out for all.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from embedcube.campaign.how import How
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.seals import read_sealed, refused, write_sealed
from embedcube.errors import RequestError

MOST_ROUNDS = 3
"""Rounds of `embed` of one plan, at most. The first one has read every scene: a later one finds a new verdict only
where files have changed since."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reason:
    """Why a scene is not used."""

    words: str
    asks: bool = False
    """whether that is a question about its numbers, which an option of the archive answers, and no damage"""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A scene that was found broken while it was read."""

    archive: str
    scene: str
    """id of the scene within the archive"""
    scene_digest: str
    """digest of the scene in the inventory"""
    reason: str
    """why, in words; in no recipe"""
    instead: tuple[int, ...] = ()
    """rows of the inventory of the older versions that are used instead; empty where there is none"""
    instead_digests: tuple[str, ...] = ()
    """the digests of these scenes, as they are used"""
    filling: tuple[int, ...] = ()
    """rows of `instead` that only fill what newer scenes of their acquisition do not show"""
    asks: bool = False
    """as `Reason.asks`"""


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """The scenes that are out for all shards of a plan."""

    round: int = 1
    """round of `embed` that works without these scenes; the first one works with all"""
    scenes: Mapping[int, Verdict] = field(default_factory=dict)
    """by row of the inventory"""

    def reasons(self, rows: Iterable[int]) -> dict[int, Reason]:
        """Why some of these scenes, given as rows of the inventory, are out; by row."""
        out = {row: self.scenes[row] for row in rows if row in self.scenes}
        return {row: Reason(words=one.reason, asks=one.asks) for row, one in out.items()}

    def recipe(self, planned: str, rows: Sequence[int]) -> str:
        """Recipe of a shard with these planned scenes, from its recipe in plan.parquet."""
        out = [self.scenes[row] for row in self.rows(rows) if row in self.scenes]
        return recipe_without(
            planned,
            [verdict.scene_digest for verdict in out],
            [digest for verdict in out for digest in verdict.instead_digests],
        )

    def rows(self, planned: Iterable[int]) -> list[int]:
        """The scenes of a shard, as rows: those of its plan, each that is out followed by what is used instead."""
        found: dict[int, None] = {}
        for row in planned:
            found[row] = None
            if row in self.scenes:
                found |= dict.fromkeys(self.rows(self.scenes[row].instead))
        return list(found)

    @property
    def instead(self) -> frozenset[int]:
        """Rows of the scenes that are used instead of others; none of them is in plan.parquet."""
        return frozenset(row for verdict in self.scenes.values() for row in verdict.instead)

    @property
    def filling(self) -> frozenset[int]:
        """Rows of the scenes of `instead` that only fill what newer scenes of their acquisition do not show."""
        return frozenset(row for verdict in self.scenes.values() for row in verdict.filling)

    def retries(self, how: How) -> bool:
        """Whether shards whose scenes could not be read count as not embedded: in the first round, if that is asked.

        In a later round every shard has been tried again already.
        """
        return how.retry_quarantined and self.round == 1


def recipe_without(recipe: str, out: Sequence[str], instead: Sequence[str] = ()) -> str:
    """Recipe of a shard some of whose scenes are out; `out` are their digests, in the order of the shard's scenes.

    `instead` are the digests of the scenes that are used instead.
    """
    text = f"{recipe} without {' '.join(out)}" + (f" with {' '.join(instead)}" if instead else "")
    return hashlib.sha256(text.encode()).hexdigest() if out else recipe


def read_verdicts(run: RunDir, digests: Mapping[str, str]) -> Verdicts:
    """The scenes that are out of the plan with these digests (`Plan.digests`); none where nothing was found yet.

    The digest of the campaign is among them: what is used instead of a broken scene depends on `withdraw`, and a scene
    that is used nowhere so far is in no recipe.

    Raises:
        RequestError: the file is damaged, or of another version of embedcube.
    """
    try:
        document = read_sealed(run.verdicts, "plan")
    except FileNotFoundError:
        return Verdicts()
    try:
        if {name: document[name] for name in digests} != digests:
            return Verdicts()  # of another plan; after this one's first round it is written anew
        return Verdicts(round=document["round"], scenes=dict(map(_scene, document["scenes"])))
    except (TypeError, KeyError, AttributeError) as error:
        raise refused(run.verdicts, error, "plan") from None


def write_verdicts(run: RunDir, digests: Mapping[str, str], verdicts: Verdicts) -> None:
    """Write the scenes that are out of a plan, whole or not at all; the digests are those of `read_verdicts`."""
    scenes = [{"row": row} | asdict(verdict) for row, verdict in sorted(verdicts.scenes.items())]
    write_sealed(run.verdicts, {**digests, "round": verdicts.round, "scenes": scenes})


def forget_verdicts(run: RunDir) -> None:
    """Begin again with the first round, in which all scenes are read."""
    run.verdicts.unlink(missing_ok=True)


def keep_verdicts(run: RunDir, digests: Mapping[str, str]) -> Verdicts:
    """The verdicts that are there of the plan with these digests; a file that is damaged or of another is removed."""
    try:
        kept = read_verdicts(run, digests)
    except RequestError:
        kept = Verdicts()  # damaged: the first round finds them again
    if not kept.scenes:
        forget_verdicts(run)
    return kept


def _scene(document: dict[str, Any]) -> tuple[int, Verdict]:
    row: int = document.pop("row")
    document |= {name: tuple(document[name]) for name in ("instead", "instead_digests", "filling")}
    return row, Verdict(**document)
