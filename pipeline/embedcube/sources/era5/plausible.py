"""Whether the numbers of a file can be what its units say: no air has 20 K, no rain is 30 m an hour.

The bounds are far outside of all that ERA5 holds, and what is outside of them is asked about only where other units
would make it right. A few whole fields at fixed steps are looked at, so a file has one answer, whatever is read of it.
Wrong units are a question about the archive and no verdict of a file: the same units may look right in another file (a
day of frost, a day without rain), and a cube would mix both. So they are refused until the campaign states them.
Units that the campaign states are not questioned, nor those of GRIB, which follow from the number of the parameter;
those of whole numbers neither, if the file states any.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import PurePosixPath

import numpy as np

from embedcube.campaign.scene import Asset, Scene
from embedcube.errors import CorruptInput, RequestError
from embedcube.printable import printable
from embedcube.sources.era5.apart import SeriesApart
from embedcube.sources.era5.archive import match
from embedcube.sources.era5.files import GRIB
from embedcube.sources.era5.parameters import Parameter, parameter
from embedcube.sources.era5.scenes import Request, is_static, stamps
from embedcube.sources.era5.series import Series, Variable
from embedcube.sources.era5.steps import Method
from embedcube.sources.era5.timeline import DAY_S, MONTH_S, Floats, read_timeline
from embedcube.sources.era5.units import UNIT_OF, conversion

_LOOKS = 64
"""scenes that `index` looks at, spread over the archive; of the others, whoever reads one looks at it first"""

_WORDS = 1000
"""most characters of a refusal, which quotes data"""

_STEPS = 12
"""steps of a file that are looked at, from the first to the last"""

_FIELD_BYTES = 1 << 26
"""where to decode a field takes more, because a block holds many steps, one block of it is looked at"""

_WITHIN: dict[str, tuple[float, float]] = {
    "K": (150.0, 360.0),
    "Pa": (20_000.0, 120_000.0),
    "W m-2": (-3_000.0, 3_000.0),
    "(0 - 1)": (-0.5, 1.6),
    "kg m-2 s-1": (-0.2, 0.2),
    "%": (-50.0, 300.0),
}
"""Smallest and largest value of a parameter with a unit"""

_WITHIN_OF: dict[str, tuple[float, float]] = {
    "sp": (40_000.0, 120_000.0),
    "msl": (80_000.0, 120_000.0),
    "sd": (-0.1, 60.0),
    "tcwv": (-1.0, 200.0),
    "tcw": (-1.0, 300.0),
    "z": (-20_000.0, 900_000.0),
}
"""The same of single parameters"""

_STRAYS = (-99.0, -999.0, 999.0, -9999.0, 9999.0, -99999.0, 99999.0, -32767.0, -32768.0, 32767.0, 65535.0)
"""numbers that programs write where there is nothing, beside huge ones"""

_HUGE = 1e19

_LEAST: dict[str, float] = {"K": 3.0}
"""Size of the median of numbers that are asked about: about 0 may lie anomalies and standardised numbers"""

_DRY = 0.05
"""Share of the most rain or snow in the least of it: among a few whole fields some place is dry"""

_BARE = ("K", "Pa")
"""Units of which whole numbers are asked about, too, if the file states none"""

_WATER = frozenset(
    {"tp", "cp", "lsp", "sf", "csf", "lsf", "smlt", "es", "e", "pev", "ro", "sro", "ssro"}
    | {"evatc", "evabs", "evaow", "evavt"}
)
"""Sums of water (m)"""

_USUAL: dict[str, tuple[str, ...]] = {
    "K": ("degC", "degF"),
    "Pa": ("hPa", "kPa"),
    "m": ("mm", "cm"),
    "J m-2": ("kJ m-2", "MJ m-2"),
    "(0 - 1)": ("percent",),
}
"""The units in which files hold parameters of a unit, the most usual first"""


@dataclass(frozen=True, kw_only=True)
class _Bounds:
    """What values of a parameter can be."""

    low: float
    high: float

    def hold(self, values: Floats) -> bool:
        return bool(self.low <= values.min() and values.max() <= self.high)


def _bounds_of(known: Parameter, unit: str, length_s: int) -> _Bounds | None:
    """The bounds of a parameter whose steps have a length; None where there are none."""
    if known.short in _WATER and known.method == "sum":
        # 1 m in an hour, 5 m in a day, 27 m in a month: above what was ever measured
        most = (max(length_s, 3600) / 3600) ** 0.5
        return _Bounds(low=-most, high=most)
    if unit == "J m-2" and known.method == "sum":
        most = 3_000.0 * max(length_s, 3600)
        return _Bounds(low=-most, high=most)
    within = _WITHIN_OF.get(known.short) or _WITHIN.get(unit)
    if within is None:
        return None
    return _Bounds(low=within[0], high=within[1])


def believed(request: Request, scenes: Sequence[Scene]) -> Iterator[Scene]:
    """The scenes in their order; those with undeclared numbers for what is missing have that as their verdict.

    Of many scenes some are looked at, and all where one of these has such numbers; those that were are `seen`.

    Raises:
        RequestError: the numbers of a file contradict its units, see `undeclared`.
    """
    usable = [place for place, scene in enumerate(scenes) if not scene.verdict]
    # behind a pattern no more files are opened than must be
    most = 1 if request.pattern else _LOOKS
    evenly = np.linspace(0, len(usable) - 1, min(len(usable), most)).astype(int)
    answers = {usable[i]: _of_scene(request, scenes[usable[i]]) for i in np.unique(evenly).tolist()}
    if any(answers.values()):
        answers |= {place: _of_scene(request, scenes[place]) for place in usable if place not in answers}
    for place, scene in enumerate(scenes):
        words = answers.get(place)
        yield scene if words is None else replace(scene, verdict=words, asks=bool(words), seen=True)


def _of_scene(request: Request, scene: Scene) -> str | None:
    """Which numbers of a scene are no values; empty if all are, None if they cannot be read."""
    asked = [asset for asset in scene.assets if _may_be_asked(request, asset)]
    found = []
    for path, assets in groupby(asked, key=lambda asset: request.root / asset.path):
        try:
            series = SeriesApart(path, request.select)
            try:
                for asset in assets:
                    if (variable := match(series, asset.band)) is not None:
                        found.append(undeclared(request, asset, variable, _first_step(variable, scene), series))
            finally:
                series.close()
        except (ValueError, OSError, CorruptInput):
            return None  # what cannot be read gets its verdict when it is read for a frame
    return "; ".join(filter(None, found))


def _may_be_asked(request: Request, asset: Asset) -> bool:
    return asset.band not in request.units and PurePosixPath(asset.path).suffix.lower() not in GRIB


def _first_step(variable: Variable, scene: Scene) -> int:
    """The number of the first step of a file that a scene uses."""
    return 0 if is_static(scene) else int(np.searchsorted(variable.times, stamps(scene)[0]))


def undeclared(request: Request, asset: Asset, variable: Variable, first: int, series: Series) -> str:
    """Which numbers of a band in a file stand for what is missing, though it does not say so; empty if none do.

    `first` is the number of the first step of the file that is used.

    Raises:
        RequestError: the numbers contradict their units, and others would fit; whichever file shows it first.
        ValueError, OSError: they cannot be read.
    """
    known = next((p for p in map(parameter, (asset.band, *sorted(variable.names))) if p), None)
    if known is None or not _may_be_asked(request, asset) or (wanted := UNIT_OF.get(known.short)) is None:
        return ""
    method: Method = request.methods[request.bands.index(asset.band)]
    bounds = _bounds_of(replace(known, method=method), wanted, _length_s(request, asset, variable, method))
    if bounds is None:
        return ""
    values = _looked_at(asset, variable, first, series)
    factor, term = request.conversion_of(asset.band, variable)
    if not values.size or bounds.hold(values * factor + term):
        return ""
    if words := _stray(asset, bounds, values, values * factor + term):
        return words
    if abs(np.median(values)) < _LEAST.get(wanted, 0.0) or (wanted == "m" and values.min() > _DRY * values.max()):
        return ""
    if (variable.header.units or wanted not in _BARE) and np.array_equal(values, np.rint(values)):
        return ""
    fits = [
        other
        for other in (*_USUAL.get(wanted, ()), wanted)
        if (by := conversion(other, wanted)) is not None and bounds.hold(values * by[0] + by[1])
    ]
    if not fits:
        return ""
    unit = variable.header.units
    held = f"{values.min():.4g} to {values.max():.4g}" + (f" in {unit}" if unit else ", and no unit")
    words = (
        f"archives.{request.archive}: {asset.band}: {asset.path} holds {held}: no {known.long.replace('_', ' ')} is so "
        f"in {wanted}; {' or '.join(fits)} would fit. Write options.units: {_stated(asset.band, fits[0])}, or "
        f"{_stated(asset.band, unit or wanted)} if it is so; it holds for all files of the archive: convert or remove "
        "those that are otherwise"
    )
    raise RequestError(printable(words, _WORDS))


def _stated(band: str, unit: str) -> str:
    """The option that says which units a band has, as YAML takes it."""
    return json.dumps({band: unit}, ensure_ascii=False)


def _stray(asset: Asset, bounds: _Bounds, stored: Floats, values: Floats) -> str:
    """Which few numbers are no values where all others are, in words: those for what is missing; empty if none are."""
    outside = (values < bounds.low) | (values > bounds.high)
    numbers = np.unique(stored[outside])
    inside = values[~outside]
    known = np.isin(numbers, np.array(_STRAYS)) | (np.abs(numbers) > _HUGE)
    if not (numbers.size and known.all() and inside.size and bounds.hold(inside)):
        return ""
    return (
        f"{asset.band}: {asset.path} holds {' and '.join(f'{number:g}' for number in numbers)} in "
        f"{outside.mean():.0%} of what was looked at, and does not declare it as missing; write it into the file, as "
        f"`ncatted -a _FillValue,{asset.inner},o,f,{numbers[0]:g} FILE` does"
    )


def _length_s(request: Request, asset: Asset, variable: Variable, method: Method) -> int:
    """Longest time that a value of a sum counts."""
    if method != "sum":
        return 0
    if request.static or request.counts_of(asset.band, variable) in ("per_day", "since_midnight"):
        return DAY_S
    timeline = read_timeline(asset.timeline, asset.step_s)
    longest_s = int((timeline.ends - timeline.begins).astype(np.int64).max())
    return max(longest_s, DAY_S if timeline.running else 0) or MONTH_S


def _looked_at(asset: Asset, variable: Variable, first: int, series: Series) -> Floats:
    """The numbers of some steps that are not missing."""
    rows, cols = variable.points.shape
    high, wide = variable.block
    across = -(-rows // max(1, high)) * -(-cols // max(1, wide))
    window = slice(0, rows), slice(0, cols)
    if variable.block_bytes * across > _FIELD_BYTES:
        top, left = rows // 2 // high * high, cols // 2 // wide * wide
        window = slice(top, min(rows, top + high)), slice(left, min(cols, left + wide))
    found: list[Floats] = []
    for step in np.unique(np.linspace(0, asset.steps - 1, _STEPS).astype(int)).tolist():
        for field in series.fields(variable, range(first + step, first + step + 1), window[0], [window[1]]):
            found.append(field[np.isfinite(field)])
    return np.concatenate(found) if found else np.empty(0)
