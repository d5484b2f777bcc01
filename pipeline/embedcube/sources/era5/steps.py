"""Time steps of a series: the method of their values, which steps belong to a frame, and how much of it they fill."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Campaign
from embedcube.errors import RequestError
from embedcube.windows import Duration, Window

Floats = NDArray[np.float64]

Times = NDArray[np.datetime64]
"""datetime64[s], UTC"""

Method = Literal["point", "mean", "sum", "maximum", "minimum"]
"""What a step's value says of its time interval, in the words of CF's `cell_methods`"""

JOIN = {"point": np.add, "mean": np.add, "sum": np.add, "maximum": np.maximum, "minimum": np.minimum}
"""Reduction that joins two steps; means are weighted before"""

NOTHING = {"point": 0.0, "mean": 0.0, "sum": 0.0, "maximum": -np.inf, "minimum": np.inf}
"""Identity element of each reduction"""

_STEP_TYPES: dict[str, Method] = {"instant": "point", "accum": "sum", "max": "maximum", "min": "minimum"}
_DAY_S, _MONTH_S, _YEAR_S = 86400, 28 * 86400, 365.25 * 86400

_WHOLE = 1e-6
"""tolerance (share of a frame) within which steps fill a frame: rounding"""


def method_of(step_type: str) -> Method | None:
    """The method of a `stepType` of GRIB, where averages have several names; None for other types."""
    return "mean" if step_type.startswith("avg") else _STEP_TYPES.get(step_type)


def averaged(method: Method) -> bool:
    """Whether the steps of a frame are averaged."""
    return method in ("point", "mean")


def seconds(times: Sequence[datetime]) -> Times:
    """Moments in UTC as datetime64[s]."""
    return np.array([time.astimezone(UTC).replace(tzinfo=None) for time in times], dtype="datetime64[s]")


def spacing(times: Times) -> int:
    """Smallest number of seconds between two steps; 0 for a single step."""
    return int(np.diff(np.unique(times)).min().astype(int)) if len(times) > 1 else 0


def stamped_at_end(method: Method, step_s: int, stated: bool | None) -> bool:
    """Whether a step's interval ends at its stamp, instead of beginning there. `stated` by the file takes precedence.

    ERA5's sums, mean rates and extremes are of the hour (three hours for its ensemble) that ends at the stamp; its
    daily statistics and monthly means carry the beginning of their day or month
    (https://confluence.ecmwf.int/x/DI4fDw, https://confluence.ecmwf.int/x/vAegBg).
    """
    if method == "point":
        return False
    return step_s < _DAY_S if stated is None else stated


def within(times: Times, frame: Window, ends: bool) -> range:
    """The steps whose stamps lie in [start, end) of a frame, or in (start, end] where a step `ends` at its stamp."""
    first, last = np.searchsorted(times, seconds([frame.start, frame.end]), side="right" if ends else "left").tolist()
    return range(first, last)


def share_of(frame: Window, times: Times, step_s: int, ends: bool) -> float:
    """Share of a frame that the steps at `times` fill; a single step, whose length is unknown, fills it.

    Steps of 28 days or more are calendar months.
    """
    if not step_s or not len(times):
        return float(len(times))
    if step_s < _MONTH_S:
        filled_s = float(len(times) * step_s)
    else:
        month, turns = Duration(months=round(12 * step_s / _YEAR_S), hours=0), -1 if ends else 1
        filled_s = sum(abs((month.after(time, turns) - time).total_seconds()) for time in times.tolist())
    return filled_s / (frame.end - frame.start).total_seconds()


def enough(method: Method, share: Floats) -> NDArray[np.bool_]:
    """Whether steps that fill a share of a frame suffice for its value: half for means, exactly all for others."""
    return np.asarray(share >= 0.5 - _WHOLE if averaged(method) else np.abs(share - 1) <= _WHOLE)


def refuse_long_steps(campaign: Campaign, name: str, scenes: Sequence[Scene]) -> None:
    """Refuse steps that are longer than every frame: one frame would get the whole step, and others none.

    Instants that are less than a day apart have no length.

    Raises:
        RequestError: an archive of the layer has such steps.
    """
    frames = [frame for frames in campaign.frames(name) for frame in frames]
    steps = {(scene.archive, asset.step_s, asset.ends) for scene in scenes for asset in scene.assets}
    for archive, step_s, ends in sorted(steps):
        if not ends and step_s < _DAY_S:
            continue
        shares = (share_of(frame, seconds([frame.end if ends else frame.start]), step_s, ends) for frame in frames)
        if all(share > 1 for share in shares):
            raise RequestError(
                f"layers.{name}: a step of archive {archive} is {step_s / 3600:g} h long, longer than any frame (the "
                f"first is {frames[0]}); write longer windows or frames, or use an archive with shorter steps"
            )
