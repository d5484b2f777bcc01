"""Steps of time: what their values are of it, which of them a frame takes, and how much of the frame they fill."""

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
"""What the value of a step is of its time, in the words of CF's `cell_methods`"""

JOIN = {"point": np.add, "mean": np.add, "sum": np.add, "maximum": np.maximum, "minimum": np.minimum}
"""Two steps -> one; of means, their weighed values"""

NOTHING = {"point": 0.0, "mean": 0.0, "sum": 0.0, "maximum": -np.inf, "minimum": np.inf}
"""What leaves any value as it is"""

_STEP_TYPES: dict[str, Method] = {"instant": "point", "accum": "sum", "max": "maximum", "min": "minimum"}
_DAY_S, _MONTH_S, _YEAR_S = 86400, 28 * 86400, 365.25 * 86400

_WHOLE = 1e-6
"""share of a frame by which steps may miss it and still fill it: rounding"""


def method_of(step_type: str) -> Method | None:
    """Of a `stepType` of GRIB; those of averages have many names. None where it says nothing of this."""
    return "mean" if step_type.startswith("avg") else _STEP_TYPES.get(step_type)


def averaged(method: Method) -> bool:
    """Whether the steps of a frame are averaged."""
    return method in ("point", "mean")


def seconds(times: Sequence[datetime]) -> Times:
    """Moments in UTC as datetime64[s]."""
    return np.array([time.astimezone(UTC).replace(tzinfo=None) for time in times], dtype="datetime64[s]")


def spacing(times: Times) -> int:
    """Seconds from a step to the next, where none is missing; 0 for a lone one."""
    return int(np.diff(np.unique(times)).min().astype(int)) if len(times) > 1 else 0


def stamped_at_end(method: Method, step_s: int, said: bool | None) -> bool:
    """Whether a step's time ends at its stamp, else begins there. What the file has `said` counts.

    ERA5's sums, mean rates and extremes are of the hour (three hours for its ensemble) that ends at the stamp; its
    daily statistics and monthly means carry the beginning of their day or month
    (https://confluence.ecmwf.int/x/DI4fDw, https://confluence.ecmwf.int/x/vAegBg).
    """
    if method == "point":
        return False
    return step_s < _DAY_S if said is None else said


def within(times: Times, frame: Window, ends: bool) -> range:
    """The steps whose stamps lie in [start, end) of a frame, or in (start, end] where a step `ends` at its stamp."""
    first, last = np.searchsorted(times, seconds([frame.start, frame.end]), side="right" if ends else "left").tolist()
    return range(first, last)


def share_of(frame: Window, times: Times, step_s: int, ends: bool) -> float:
    """The share of a frame that its steps at `times` fill; a lone step, of unknown length, fills it.

    Steps of 28 days and more are months of the calendar.
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
    """Whether steps that fill a share of a frame make its value: half for a mean, all and no more for the rest."""
    return np.asarray(share >= 0.5 - _WHOLE if averaged(method) else np.abs(share - 1) <= _WHOLE)


def refuse_long_steps(campaign: Campaign, name: str, scenes: Sequence[Scene]) -> None:
    """Raise a RequestError where a step is of more time than any frame: one would be given all, and others nothing.

    Instants within a day are of no time.
    """
    frames = [frame for frames in campaign.frames(name) for frame in frames]
    steps = {(scene.archive, asset.step_s, asset.ends) for scene in scenes for asset in scene.assets}
    for archive, step_s, ends in sorted(steps):
        if not ends and step_s < _DAY_S:
            continue
        shares = (share_of(frame, seconds([frame.end if ends else frame.start]), step_s, ends) for frame in frames)
        if all(share > 1 for share in shares):
            raise RequestError(
                f"layers.{name}: a step of archive {archive} is of {step_s / 3600:g} h, longer than any frame (the "
                f"first is {frames[0]}); write longer windows or frames, or take an archive of shorter steps"
            )
