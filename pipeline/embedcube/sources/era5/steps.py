"""What a step's value says of its time, how long a step is, and how many of them a frame needs."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Campaign
from embedcube.errors import RequestError
from embedcube.sources.era5.timeline import (
    DAY_S,
    MONTH_S,
    Floats,
    Timeline,
    Times,
    midnight_before,
    months_after,
    read_timeline,
)

Method = Literal["point", "mean", "sum", "maximum", "minimum"]
"""What a step's value says of its time interval, in the words of CF's `cell_methods`"""

Accumulated = Literal["each_step", "per_day", "since_midnight"]
"""What a sum counts: what came in its step, in a day (on average of its step), or since the midnight before"""

JOIN = {"point": np.add, "mean": np.add, "sum": np.add, "maximum": np.maximum, "minimum": np.minimum}
"""Reduction that joins two steps; means are weighted before"""

NOTHING = {"point": 0.0, "mean": 0.0, "sum": 0.0, "maximum": -np.inf, "minimum": np.inf}
"""Identity element of each reduction"""

_STEP_TYPES: dict[str, Method] = {"instant": "point", "accum": "sum", "max": "maximum", "min": "minimum"}

MONTHLY = frozenset(("avgua", "avgia", "avgas", "avgid", "avgfc", "avgad"))
"""step types of GRIB that are means over a month"""

PER_DAY = "avgad"
"""step type of GRIB: the mean over a month of the sums of its days"""

_WHOLE = 1e-6
"""tolerance (share of a frame) within which steps fill a frame: rounding"""


def method_of(step_type: str) -> Method | None:
    """The method of a `stepType` of GRIB, where averages have several names; None for other types."""
    if step_type == PER_DAY:
        return "sum"
    return "mean" if step_type.startswith("avg") else _STEP_TYPES.get(step_type)


def averaged(method: Method) -> bool:
    """Whether the steps of a frame are averaged."""
    return method in ("point", "mean")


def spacing(times: Times) -> int:
    """Smallest number of seconds between two steps; 0 for a single step."""
    return int(np.diff(np.unique(times)).min().astype(int)) if len(times) > 1 else 0


def months_of(times: Times) -> NDArray[np.datetime64]:
    """The calendar month of each stamp, as begin and end (step, 2)."""
    month = times.astype("datetime64[M]")
    return np.stack([month.astype("datetime64[s]"), (month + 1).astype("datetime64[s]")], axis=1)


def timeline_of(
    stamps: Times, spans: NDArray[np.datetime64] | None, method: Method, step_s: int, *, stated: bool, running: bool
) -> Timeline:
    """The time that each step stands for: what the file states (`spans`), else what follows from the stamps.

    `stated` says whether the file itself calls its values what `method` says, `running` that sums count from midnight.
    ERA5's sums, mean rates and extremes are of the hour (three hours for its ensemble) that ends at the stamp; its
    daily statistics and monthly means carry the beginning of their day or month
    (https://confluence.ecmwf.int/x/DI4fDw, https://confluence.ecmwf.int/x/vAegBg).

    Raises:
        ValueError: the stamps do not tell how long a step is.
    """

    def intervals(begins: Times, ends: Times, *, instants: bool = False, running: bool = False) -> Timeline:
        return Timeline(begins=begins, ends=ends, instants=instants, running=running, step_s=step_s)

    if running:
        return intervals(midnight_before(stamps), stamps, running=True)
    if spans is not None:
        return intervals(spans[:, 0], spans[:, 1])
    if step_s < DAY_S and method != "point":
        return intervals(stamps - np.timedelta64(step_s, "s"), stamps)
    if _a_month(stamps, step_s):
        return intervals(stamps, months_after(stamps, 1))
    daily = step_s == DAY_S and bool((stamps == stamps.astype("datetime64[D]")).all())
    if method == "point" and (stated or not daily):
        return intervals(stamps, stamps, instants=True)
    if not daily:
        raise ValueError(
            f"its stamps are {step_s / 3600:g} h apart, and it does not say how long a step is: add time bounds (CF) "
            "to the file"
        )
    return intervals(stamps, stamps + np.timedelta64(DAY_S, "s"))


def _a_month(stamps: Times, step_s: int) -> bool:
    """Whether stamps are a month apart, at one place in each month."""
    into = np.unique(stamps - stamps.astype("datetime64[M]"))
    return MONTH_S <= step_s <= 31 * DAY_S and (len(into) == 1 or len(stamps) == 1)


def enough(method: Method, share: Floats) -> NDArray[np.bool_]:
    """Whether steps that fill a share of a frame suffice for its value: half for means, exactly all for others."""
    return np.asarray(share >= 0.5 - _WHOLE if averaged(method) else np.abs(share - 1) <= _WHOLE)


def incomplete(share: Floats) -> NDArray[np.bool_]:
    """Whether steps fill less than all of a frame."""
    return np.asarray(share < 1 - _WHOLE)


def refuse_long_steps(campaign: Campaign, name: str, scenes: Sequence[Scene]) -> None:
    """Refuse steps that are longer than every frame: one frame would get the whole step, and others none.

    Instants have no length.

    Raises:
        RequestError: an archive of the layer has such steps.
    """
    frames = [frame for frames in campaign.frames(name) for frame in frames]
    longest_s = max((frame.end - frame.start).total_seconds() for frame in frames)
    texts = {(scene.archive, asset.timeline, asset.step_s) for scene in scenes for asset in scene.assets}
    for archive, text, step_s in sorted(texts):
        if not text or (timeline := read_timeline(text, step_s)).instants or timeline.running:
            continue
        shortest_s = float((timeline.ends - timeline.begins).astype(np.int64).min())
        if shortest_s > longest_s:
            raise RequestError(
                f"layers.{name}: a step of archive {archive} is {shortest_s / 3600:g} h long, longer than any frame "
                f"(the first is {frames[0]}); write longer windows or frames, or use an archive with shorter steps"
            )
