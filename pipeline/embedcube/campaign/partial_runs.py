"""Runs that have embedded parts of one campaign: whether they make the bytes that one run would make."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedcube.campaign.plan import LayerPlan, Plan
from embedcube.campaign.recipes import layer_facts
from embedcube.campaign.schema import Campaign
from embedcube.errors import RequestError

_SHOWN = 60
"""most characters of a value in a message"""

_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class PartialRun:
    """A run that has embedded a part of a campaign."""

    path: Path
    """as it is named"""
    campaign: Campaign
    """the campaign of the run, a part of the whole"""
    plan: Plan


def refuse_unlike(whole: Campaign, runs: Sequence[PartialRun]) -> None:
    """Refuse runs that would not make the same bytes as one run of the whole campaign.

    Raises:
        RequestError: a layer of one of them differs from the whole campaign, or from another run in batch, weights,
            software or plugins; or no run has a layer.
    """
    for name in whole.layers:
        having = [run for run in runs if name in run.plan.layers]
        if not having:
            raise RequestError(f"layers.{name}: none of the runs has it: {', '.join(str(run.path) for run in runs)}")
        first = having[0]
        expected = dict(_facts(whole, name, first.plan.layers[name]))
        for run in having:
            found = dict(_facts(run.campaign, name, run.plan.layers[name]))
            for key in sorted(expected.keys() | found.keys()):
                if found.get(key) != expected.get(key):
                    other = "the whole campaign" if key in _asked(whole, name) else str(first.path)
                    raise RequestError(
                        f"{run.path}: layer {name} has {key} {_short(found.get(key))}, {other} "
                        f"{_short(expected.get(key))}; only runs that make the same bytes can be merged"
                    )
    for name, version in ((name, version) for run in runs for name, version in run.plan.versions.items()):
        for run in runs:
            if run.plan.versions.get(name, version) != version:
                raise RequestError(
                    f"{run.path}: made with {name} {run.plan.versions[name]}, another run with {version}; only runs "
                    "that make the same bytes can be merged"
                )


def _short(value: Any) -> str:
    """A value in words, in which two digests can be told apart and paths keep their place in a message."""
    text = str(value)
    if _DIGEST.fullmatch(text):
        return text[:12]
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _asked(whole: Campaign, name: str) -> set[str]:
    """Keys of the facts of a layer that the campaign file says."""
    layer = {key: value for key, value in whole.what["layers"][name].items() if key != "batch"}  # the plan's
    archives = {archive: whole.what["archives"][archive] for archive in layer["archives"]}
    grid = whole.grid_of(name).model_dump(mode="json")
    return {key for key, _ in _flat({"layer": layer, "archives": archives, "grid": grid})}


def _facts(campaign: Campaign, name: str, planned: LayerPlan) -> Iterator[tuple[str, Any]]:
    """All that decides the bytes of a layer's shards, by dotted keys."""
    facts = layer_facts(
        campaign, name, batch=planned.batch, weights=planned.weights, program=planned.program,
        versions=planned.versions, plugins=planned.plugins,
    )  # fmt: skip
    archives = dict(zip(facts["layer"]["archives"], facts["archives"], strict=True))
    return _flat(facts | {"archives": archives})


def _flat(document: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{within}{key}.")
        else:
            yield within + key, value
