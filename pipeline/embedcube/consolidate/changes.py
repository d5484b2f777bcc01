"""The table of `plan`: shards by the reason why they differ from those of an earlier run, and what they cost."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any

from embedcube.campaign.plan import Plan
from embedcube.campaign.price import duration, size
from embedcube.campaign.reasons import KINDS, Compared, Kind, Reason
from embedcube.campaign.scene import Scene

_RECORDS = 20_000
"""records from which rates are taken, at most"""

_NAMED = 3
"""scenes that a line names"""


@dataclass(kw_only=True)
class Change:
    """The shards of one layer that differ for one reason."""

    layer: str
    kind: Kind
    keys: tuple[str, ...]
    """keys of *what* that changed their recipes, and weights, versions, ..."""
    shards: int = 0
    embed: int = 0
    """of these, shards that have no record: they are embedded"""
    cells: int = 0
    """cells of the shards that are embedded"""
    input_bytes: int = 0
    """bytes of the files of all scenes that these read, each file once"""
    rank_s: float | None = None
    """seconds of one rank for them, about, from shards of the layer that were embedded before; None where none was"""
    scenes: list[str] = field(default_factory=list)
    """scenes that came, went, changed or have another verdict: "with s2/...", "without s2/..." """

    @property
    def reason(self) -> str:
        """The reason in words."""
        return Reason(kind=self.kind, keys=self.keys).label

    def document(self) -> dict[str, Any]:
        """The change as JSON."""
        return asdict(self) | {"keys": list(self.keys), "reason": self.reason}


def changes(
    found: Iterable[Compared],
    plan: Plan,
    scenes: Sequence[Scene],
    done: Collection[str],
    records: Iterable[Mapping[str, Any]],
) -> list[Change]:
    """The shards by layer and reason; those whose recipe is in `done` cost nothing.

    `scenes` is the inventory of the plan; `records` are those of which rates are taken.
    In the order of layers, then of `KINDS`.
    """
    groups: dict[tuple[str, Kind, tuple[str, ...]], Change] = {}
    inputs: dict[int, set[int]] = defaultdict(set)
    layer_of: dict[str, str] = {}
    for one in found:
        shard = one.later or one.earlier
        assert shard is not None
        reason = one.reason
        key = (shard.layer, reason.kind, reason.keys)
        change = groups.setdefault(key, Change(layer=shard.layer, kind=reason.kind, keys=reason.keys))
        change.shards += 1
        layer_of |= {side.recipe: shard.layer for side in (one.earlier, one.later) if side is not None}
        change.scenes += [name for name in _scenes(reason) if name not in change.scenes]
        if one.later is not None and one.later.recipe not in done:
            change.embed += 1
            change.cells += plan.layers[one.later.layer].layout.shard_cells ** 2
            inputs[id(change)].update(one.later.scenes)
    rates = _rank_seconds(records, layer_of) if any(change.embed for change in groups.values()) else {}
    for change in groups.values():
        change.input_bytes = sum(asset.size for row in inputs[id(change)] for asset in scenes[row].assets)
        if change.layer in rates:
            change.rank_s = round(rates[change.layer] * change.embed, 3)
    order = [*plan.layers]
    return sorted(
        groups.values(),
        key=lambda one: (order.index(one.layer) if one.layer in order else len(order), KINDS.index(one.kind), one.keys),
    )


def _scenes(reason: Reason) -> list[str]:
    lists = {
        "with": reason.added, "without": reason.removed, "changed": reason.changed, "verdict on": reason.verdicts,
    }  # fmt: skip
    return [f"{word} {name}" for word, names in lists.items() for name in names]


def _rank_seconds(records: Iterable[Mapping[str, Any]], layer_of: Mapping[str, str]) -> Mapping[str, float]:
    """For each layer that has records, the seconds that a rank takes for a shard, about.

    `layer_of` has the layer of a recipe: a record names its layer as it was called when the shard was embedded.
    Steps of several shards overlap, so their sum is scaled to the time that ranks were at work.
    """
    steps: dict[str, list[float]] = defaultdict(list)
    spans: dict[tuple[str, str, int], tuple[datetime, datetime]] = {}
    for record in islice(records, _RECORDS):
        layer = layer_of.get(record["recipe"], record["shard"].partition("/")[0])
        steps[layer].append(sum(record["seconds"].values()))
        start, end = (datetime.fromisoformat(record[name]) for name in ("started", "finished"))
        rank = (record["host"], record["attempt"], record["rank"])
        first, last = spans.get(rank, (start, end))
        spans[rank] = (min(first, start), max(last, end))
    worked = sum((last - first).total_seconds() for first, last in spans.values())
    total = sum(sum(of_layer) for of_layer in steps.values())
    scale = min(1.0, worked / total) if total else 0.0
    return {layer: scale * sum(of_layer) / len(of_layer) for layer, of_layer in steps.items() if total}


def table(rows: Sequence[Change], ranks: int) -> list[str]:
    """The table as lines of text; times are those of so many ranks."""
    if not rows:
        return []
    lines = [("layer", "why", "shards", "embed", "cells", "input", "time")]
    for row in rows:
        time = "" if row.rank_s is None or not row.embed else f"about {duration(row.rank_s / ranks)}"
        cost = (f"{row.embed}", f"{row.cells:,}", size(row.input_bytes)) if row.embed else ("0", "", "")
        lines.append((row.layer, row.reason, f"{row.shards}", *cost, time))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return [text for line, row in zip(lines, [None, *rows], strict=True) for text in _row(line, widths, row)]


def _row(line: Sequence[str], widths: Sequence[int], row: Change | None) -> Iterator[str]:
    """A line of the table, and below it the scenes that are the reason."""
    cells = zip(line, widths, (str.ljust, str.ljust, *[str.rjust] * (len(line) - 2)), strict=True)
    yield "  ".join(pad(cell, width) for cell, width, pad in cells).rstrip()
    if row is not None and row.scenes:
        more = f" and {len(row.scenes) - _NAMED} more" if len(row.scenes) > _NAMED else ""
        yield f"  {', '.join(row.scenes[:_NAMED])}{more}"
