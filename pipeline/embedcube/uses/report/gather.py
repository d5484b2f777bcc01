"""What the report of a campaign says, from the files of its run folder. Nothing is changed, and no job is asked."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from embedcube.campaign.inventory import read_inventory
from embedcube.campaign.plan import Plan, read_plan, read_plan_columns
from embedcube.campaign.recorded import best_documents
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.schema import Campaign
from embedcube.consolidate.findings import Finding
from embedcube.cube.encoding import STATUS_MEANINGS
from embedcube.errors import RequestError
from embedcube.jobs.profile import Profile, profile
from embedcube.printable import printable

_FIELDS = ("counts", "quarantined", "host", "device", "job", "container", "code_version", "energy_j", "peak_bytes")

_FINDING = 1000
"""most characters of a finding"""


@dataclass(frozen=True, kw_only=True)
class WindowCoverage:
    """The cells of one window of a layer."""

    days: str
    cells: int
    """cells of its shards that are done"""
    shares: dict[str, float]
    """share of these cells that have each status, of the statuses that occur"""


@dataclass(frozen=True, kw_only=True)
class Quarantine:
    """Scenes that could not be used for one reason."""

    kind: str
    """the reason without names and numbers"""
    scenes: tuple[str, ...]
    """archive/id, in order"""
    example: str
    """the reason of the first of them, in full"""


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What `verify` said of the newest cube."""

    findings: tuple[str, ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What embedding took."""

    rank_s: float
    """seconds of all ranks together"""
    nodes: tuple[str, ...]
    devices: tuple[str, ...]
    jobs: tuple[str, ...]
    containers: tuple[str, ...]
    versions: tuple[str, ...]
    """versions of embedcube that made records"""
    energy_kwh: float | None
    """of the GPUs; None where no meter was read"""
    metered: float
    """share of the shards whose energy was measured"""
    peak_bytes: int
    """largest memory of any rank"""


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """All that the report says but pictures."""

    campaign: Campaign
    plan: Plan
    done: int
    """number of shards with a record"""
    coverage: dict[str, list[WindowCoverage]]
    """by layer"""
    profile: Profile
    quarantine: tuple[Quarantine, ...]
    verified: Verified | None
    """None where the newest cube was not verified"""
    cost: Cost
    cube: str
    """name of the newest version; empty before there is one"""


def gather(campaign: Campaign, run: RunDir) -> Gathered:
    """Read the plan, the records and the findings.

    Raises:
        RequestError: there is no plan, or it was made for another campaign.
    """
    plan = read_plan(campaign, run)
    rows = read_plan_columns(run, plan, ("recipe", "layer", "t"))
    recipes, layers, windows = (rows[name].to_pylist() for name in ("recipe", "layer", "t"))
    places = dict(zip(recipes, zip(layers, windows, strict=True), strict=True))
    records = best_documents(run, places, _FIELDS)
    spent = profile(campaign, run)
    cube = run.newest_cube.resolve().name if run.newest_cube.exists() else ""
    return Gathered(
        campaign=campaign,
        plan=plan,
        done=len(records),
        coverage=_coverage(campaign, places, records),
        profile=spent,
        quarantine=by_reason(_unusable(campaign, run, plan, records.values())),
        verified=_verified(run, cube),
        cost=_cost(spent.all.wall_s, records.values()),
        cube=cube,
    )


def _coverage(
    campaign: Campaign, places: Mapping[str, tuple[str, int]], records: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[WindowCoverage]]:
    counts: dict[tuple[str, int], Counter[str]] = defaultdict(Counter)
    for recipe, record in records.items():
        counts[places[recipe]].update({name: record["counts"].get(name, 0) for name in STATUS_MEANINGS})
    coverage = {}
    for layer in campaign.layers:
        windows = []
        for t, window in enumerate(campaign.all_windows):
            cells = counts[layer, t].total()
            shares = {name: count / cells for name, count in counts[layer, t].items() if count}
            windows.append(WindowCoverage(days=window.days, cells=cells, shares=shares))
        coverage[layer] = windows
    return coverage


def _unusable(
    campaign: Campaign, run: RunDir, plan: Plan, records: Iterable[Mapping[str, Any]]
) -> dict[tuple[str, str], str]:
    """Archive, id and reason of the scenes that `index` or a shard could not read."""
    found: dict[tuple[str, str], str] = {}
    # indexed anew since the plan was made: what shards have found is told all the same
    with suppress(RequestError):
        scenes = read_inventory(campaign, run)
        found |= {(one.archive, one.id): one.verdict for one in scenes if one.verdict and not one.superseded_by}
    for verdict in plan.verdicts.scenes.values():
        found.setdefault((verdict.archive, verdict.scene), verdict.reason)
    for record in records:
        for one in record["quarantined"]:
            found.setdefault((one["archive"], one["scene"]), one["reason"])
    return found


def by_reason(unusable: Mapping[tuple[str, str], str]) -> tuple[Quarantine, ...]:
    """Scenes grouped by the kind of their reason, the most frequent first."""
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for scene, reason in sorted(unusable.items()):
        groups[_kind(reason)].append(scene)
    return tuple(
        Quarantine(
            kind=kind,
            scenes=tuple(printable(f"{archive}/{scene}") for archive, scene in scenes),
            example=printable(unusable[scenes[0]]),
        )
        for kind, scenes in sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
    )


def _kind(reason: str) -> str:
    """A reason in which each run of words with a digit, a dot inside or a slash, such as names, is one ellipsis."""
    kept = ["…" if re.search(r"\d|/|\w\.\w", word) else word for word in printable(reason).split()]
    words = [word for i, word in enumerate(kept) if word != "…" or i == 0 or kept[i - 1] != "…"]
    return " ".join(words)


def _verified(run: RunDir, cube: str) -> Verified | None:
    try:
        found = json.loads((run.report / "verify.json").read_bytes())
        lines = {
            name: tuple(printable(Finding(**one), _FINDING) for one in found[name]) for name in ("findings", "remarks")
        }
        return Verified(**lines) if cube and found["cube"] == cube else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _cost(rank_s: float, records: Iterable[Mapping[str, Any]]) -> Cost:
    records = list(records)
    metered = [record["energy_j"] for record in records if record["energy_j"] is not None]

    def known(name: str) -> tuple[str, ...]:
        return tuple(sorted({printable(record[name]) for record in records if record[name]}))

    return Cost(
        rank_s=rank_s,
        nodes=known("host"),
        devices=known("device"),
        jobs=known("job"),
        containers=known("container"),
        versions=known("code_version"),
        energy_kwh=sum(metered) / 3.6e6 if metered else None,
        metered=len(metered) / len(records) if records else 0.0,
        peak_bytes=max((record["peak_bytes"] for record in records), default=0),
    )
