"""Runs that have embedded parts of one campaign: whether they make the bytes that one run would make."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from embedcube.campaign.base import Base
from embedcube.campaign.plan import Plan
from embedcube.campaign.reasons import differing
from embedcube.campaign.recipes import planned_facts
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.schema import Campaign
from embedcube.errors import RequestError

_SHOWN = 60
"""most characters of a value in a message"""

_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class PartialRun:
    """A run that has embedded a part of a campaign."""

    base: Base
    run: RunDir
    """the run folder of `base`"""
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
            raise RequestError(
                f"layers.{name}: none of the runs has it: {', '.join(str(run.base.path) for run in runs)}"
            )
        first = having[0]
        expected = planned_facts(whole, name, first.plan.layers[name])
        for run in having:
            found = planned_facts(run.campaign, name, run.plan.layers[name])
            if differs := next(differing(found, expected), None):
                key, one, other = differs
                asked = key.startswith(("layer.", "archives.", "grid.")) and key != "layer.batch"  # the plan's
                raise RequestError(
                    f"{run.base.path}: layer {name} has {key} {_short(one)}, "
                    f"{'the whole campaign' if asked else first.base.path} {_short(other)}; only runs that make the "
                    "same bytes can be merged"
                )
    for name, version in ((name, version) for run in runs for name, version in run.plan.versions.items()):
        for run in runs:
            if run.plan.versions.get(name, version) != version:
                raise RequestError(
                    f"{run.base.path}: made with {name} {run.plan.versions[name]}, another run with {version}; only "
                    "runs that make the same bytes can be merged"
                )


def _short(value: Any) -> str:
    """A value in words, in which two digests can be told apart and paths keep their place in a message."""
    text = str(value)
    if _DIGEST.fullmatch(text):
        return text[:12]
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
