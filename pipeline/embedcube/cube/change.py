"""`Layer.change`: how much each cell differs from its own past, measured by how its past differs from itself.

Each window is compared with earlier windows of the same season only, at least three of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedcube.cube.blocks import tiles
from embedcube.cube.chunks import read_box
from embedcube.cube.encoding import VALID, VALID_INCOMPLETE, directions
from embedcube.cube.likeness import coordinates
from embedcube.cube.store import CubeStore, Time
from embedcube.errors import RequestError
from embedcube.windows import Window

if TYPE_CHECKING:
    import xarray as xr

FEWEST_REFERENCES = 3
"""Windows of the past that are needed: with two there is one difference, and no idea of how differences vary."""

_SEASON_DAYS = 8.0
"""days by which short windows of one season may be apart in the calendar; longer ones by half of their length"""

_LENGTHS = 1.25
"""largest ratio of the lengths of two windows of one season; February and March are 1.11"""

_YEAR_DAYS = 365.2425

_PRIOR = 3
"""References' worth of the area's usual difference in that of a cell: a cell whose few references are equal by chance
would else have any score."""

CHANGED = 3.0
"""score from which a cell counts as changed in the remark about the whole area"""

_MOST = 0.5
"""share of changed cells from which the cause is rather in the input than on the ground"""


_NUMBERS = 1 << 24
"""stored numbers of a window and its references that are held at once, where a chunk does not hold more"""


@dataclass(frozen=True, kw_only=True)
class _Past:
    """The windows of the past, of this cube or of another one on the same lattice."""

    cube: CubeStore
    zone: str
    references: dict[int, list[int]]
    """for each window that is scored the windows that it is compared with"""
    down: int
    """rows of its arrays above row 0 of the cube that is compared"""
    right: int

    def read(self, windows: list[int], y: slice, x: slice) -> "dict[int, _Stored]":
        """Stored vectors of some windows in a rectangle of the cube that is compared; each chunk is decoded once."""
        rows, columns = self.cube.array(self.zone, "status").shape[1:]
        top, left = max(0, y.start + self.down), max(0, x.start + self.right)
        own = (slice(top, min(rows, y.stop + self.down)), slice(left, min(columns, x.stop + self.right)))
        shape = (y.stop - y.start, x.stop - x.start)
        if own[0].start >= own[0].stop or own[1].start >= own[1].stop:
            return {}
        at = tuple(
            slice(part.start - shift - start, part.stop - shift - start)
            for part, shift, start in zip(own, (self.down, self.right), (y.start, x.start), strict=True)
        )
        return {t: held.placed(at, shape) for t, held in _read(self.cube, self.zone, windows, *own).items()}


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """One window in a rectangle, as it is stored: a quarter of the memory of vectors in float32."""

    vectors: NDArray[Any]
    """(y, x, feature)"""
    status: NDArray[np.uint8]
    """(y, x)"""
    scale: NDArray[np.float32] | None
    """(y, x) of a centred layer, whose vectors have no direction without it"""
    offset: NDArray[np.float32] | None
    """(feature) of a centred layer"""

    def placed(self, at: tuple[slice, ...], shape: tuple[int, int]) -> "_Stored":
        """The same in a larger rectangle, with cells that were not processed around it."""
        if self.status.shape == shape:
            return self
        vectors, status = np.zeros((*shape, self.vectors.shape[-1]), self.vectors.dtype), np.zeros(shape, np.uint8)
        vectors[at], status[at] = self.vectors, self.status
        scale = None
        if self.scale is not None:
            scale = np.full(shape, np.nan, np.float32)
            scale[at] = self.scale
        return _Stored(vectors=vectors, status=status, scale=scale, offset=self.offset)

    @property
    def units(self) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Vectors (y, x, feature) of length 1, zero where there is none, and whether there is one."""
        return units_of(directions(self.vectors, self.scale, self.offset), self.status)


def _read(cube: CubeStore, zone: str, windows: list[int], y: slice, x: slice) -> dict[int, _Stored]:
    """Some windows in a rectangle; those that share chunks are read together."""
    depth, offset = cube.array(zone, "embedding").chunks[0], cube.offset(zone)
    found: dict[int, _Stored] = {}
    for group in sorted({t // depth for t in windows}):
        chosen = [t for t in windows if t // depth == group]
        times = slice(min(chosen), max(chosen) + 1)
        vectors, status = (read_box(cube, zone, name, times, y, x) for name in ("embedding", "status"))
        scale = None if offset is None else read_box(cube, zone, "scale", times, y, x)
        for t in chosen:
            at = t - times.start
            own = None if scale is None else scale[at]
            found[t] = _Stored(vectors=vectors[at], status=status[at], scale=own, offset=offset)
    return found


def change(
    cube: CubeStore, layer: str, before: Time, after: Time, history: CubeStore | None = None
) -> "xr.Dataset | xr.DataTree":
    """Scores of change of the windows `after` against those `before`: see `Layer.change`.

    Raises:
        RequestError: a window has fewer than three windows of its season before it; or `history` has vectors of other
            weights, or lies on another lattice.
    """
    import xarray as xr

    past = cube if history is None else history
    if history is not None:
        _refuse_other_encoder(cube, history, layer)
    # what is refused is refused before the first zone is computed
    compared = {zone: _past(cube, past, zone, before, after) for zone in cube.zones_of(layer)}
    results = {zone: _compared(cube, zone, own, after) for zone, own in compared.items()}
    if len(results) == 1:
        return next(iter(results.values()))
    tree = xr.DataTree.from_dict({zone.split("/")[1]: one for zone, one in results.items()})
    tree.attrs["remarks"] = [remark for one in results.values() for remark in one.attrs["remarks"]]
    return tree


def change_of_zone(cube: CubeStore, zone: str, before: Time, after: Time) -> "xr.Dataset":
    """Scores of change of one zone, against its own past: see `Layer.change`."""
    return _compared(cube, zone, _past(cube, cube, zone, before, after), after)


def same_season(one: Window, other: Window) -> bool:
    """Whether two windows are of about one length and lie at about one time of the year."""
    lengths = [(window.end - window.start).total_seconds() / 86400 for window in (one, other)]
    shorter, longer = sorted(lengths)
    apart = abs(((one.start - other.start) + (one.end - other.end)).total_seconds()) / 2 / 86400 % _YEAR_DAYS
    return longer <= _LENGTHS * shorter and min(apart, _YEAR_DAYS - apart) <= max(_SEASON_DAYS, shorter / 2)


def _refuse_other_encoder(cube: CubeStore, history: CubeStore, layer: str) -> None:
    digests = []
    for one in (cube, history):
        if layer not in one.layers:
            raise RequestError(f"{one.address}: no layer {layer}; it has {', '.join(one.layers)}")
        digests.append(str(one.provenance.attributes["weights"][layer]))
    if digests[0] != digests[1]:
        raise RequestError(
            f"layer {layer} has the weights {digests[0][:12]} in {cube.address} and {digests[1][:12]} in "
            f"{history.address}: vectors of two encoders cannot be compared; embed both times with one"
        )


def _past(cube: CubeStore, past: CubeStore, zone: str, before: Time, after: Time) -> _Past:
    """The windows `before` that are of the season of each window `after`."""
    if zone not in past.zones:
        raise RequestError(f"{past.address}: no zone {zone}; it has {', '.join(past.zones)}")
    down, right = _offset(cube, past, zone)
    later, earlier = cube.windows_of(zone, after), past.windows_of(zone, before)
    found: dict[int, list[int]] = {}
    for t in later:
        window = cube.windows(zone)[t]
        others = [
            r
            for r in earlier
            if not (past is cube and r in later)
            and past.windows(zone)[r].end <= window.start
            and same_season(past.windows(zone)[r], window)
        ]
        if len(others) < FEWEST_REFERENCES:
            listed = ", ".join(past.windows(zone)[r].short for r in others)
            raise RequestError(
                f"{zone}: window {window.short} has {len(others)} reference{'' if len(others) == 1 else 's'} of its "
                f"season before it{f' ({listed})' if listed else ''}; at least {FEWEST_REFERENCES} are needed to tell "
                "a change from what is usual there: begin earlier (--from), or embed more years"
            )
        found[t] = others
    return _Past(cube=past, zone=zone, references=found, down=down, right=right)


def _offset(cube: CubeStore, past: CubeStore, zone: str) -> tuple[int, int]:
    """Rows and columns by which the arrays of another cube begin earlier."""
    one, other = (held.group(zone).attrs for held in (cube, past))
    a, b, c, d, e, f = one["spatial:transform"]
    a2, b2, c2, d2, e2, f2 = other["spatial:transform"]
    right, down = (c - c2) / a, (f - f2) / e
    whole = abs(right - round(right)) < 1e-6 and abs(down - round(down)) < 1e-6
    if (a, b, d, e) != (a2, b2, d2, e2) or not whole or one["proj:wkt2"] != other["proj:wkt2"]:
        raise RequestError(
            f"{zone}: the cells of {past.address} are not those of {cube.address}; one campaign's grid is needed"
        )
    return round(down), round(right)


def units_of(stored: NDArray[Any], status: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Stored vectors brought to length 1 (..., feature), zero where there is none, and whether there is one."""
    valid = (status == VALID) | (status == VALID_INCOMPLETE)
    units = np.where(valid[..., None], stored, 0).astype(np.float32)
    length = np.sqrt(np.einsum("...f,...f->...", units, units))
    valid = valid & (length > 0)
    units /= np.where(valid, length, 1)[..., None]
    return units, valid


def _compared(cube: CubeStore, zone: str, past: _Past, after: Time) -> "xr.Dataset":
    """Scores of one zone: rectangle by rectangle, so that beside the maps little is held."""
    import xarray as xr

    later = sorted(past.references)
    array = cube.array(zone, "embedding")
    shape = (len(later), *array.shape[1:3])
    distance, usual = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    count = np.zeros(shape, np.uint16)
    everywhere = (slice(0, shape[1]), slice(0, shape[2]))
    # windows that share chunks are compared together, so that each chunk is decoded once for them
    for group in sorted({t // array.chunks[0] for t in later}):
        own = [t for t in later if t // array.chunks[0] == group]
        others = sorted({r for t in own for r in past.references[t]})
        for y, x in tiles(everywhere, array.chunks[1], _NUMBERS // (array.shape[3] * (len(own) + len(others)))):
            scored, held = _read(cube, zone, own, y, x), past.read(others, y, x)
            for t in own:
                at = (later.index(t), y, x)
                references = [held[r] for r in past.references[t] if r in held]
                distance[at], usual[at], count[at] = _differences(scored[t], references)
    score = np.full(shape, np.nan, np.float32)
    remarks = []
    for i, t in enumerate(later):
        scored = np.isfinite(distance[i]) & np.isfinite(usual[i])
        if scored.any():
            of_area = max(float(np.median(usual[i][scored])), float(np.finfo(np.float32).tiny))
            n = count[i][scored]
            expected = (n * usual[i][scored] + _PRIOR * of_area) / (n + _PRIOR)
            score[i][scored] = distance[i][scored] / expected
            remarks += _remarks(score[i][scored], cube.windows(zone)[t])
    dims, mapping = ("time", "y", "x"), {"grid_mapping": "spatial_ref", "units": "1"}
    return xr.Dataset(
        {
            "score": (dims, score, mapping | {"long_name": "difference from the references over the usual one"}),
            "distance": (dims, distance, mapping | {"long_name": "1 - cosine with the mean of the references"}),
            "usual": (dims, usual, mapping | {"long_name": "mean of 1 - cosine of each reference with the others"}),
            "references": (dims, count, mapping | {"long_name": "references with a vector"}),
        },
        coords=coordinates(cube, zone, after),
        attrs={"remarks": remarks},
    )


def _differences(
    scored: _Stored, references: Sequence[_Stored]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint16]]:
    """Distance from the mean of the references, that of each from the others, and their number: each (y, x)."""
    units, valid = scored.units
    total, count = np.zeros_like(units), np.zeros(valid.shape, np.uint16)
    # one at a time in float32, twice: all of them at once would be many times the memory
    for reference in references:
        one, held = reference.units
        total += one
        count += held
    enough = valid & (count >= FEWEST_REFERENCES)
    summed = np.zeros(valid.shape, np.float32)
    for reference in references:
        one, held = reference.units
        summed += np.where(held, _distance(one, total - one), 0)
    distance = np.where(enough, _distance(units, total), np.nan).astype(np.float32)
    usual = np.where(enough, summed / np.maximum(count, 1), np.nan).astype(np.float32)
    return distance, usual, count


def _distance(units: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 - cosine of vectors of length 1 with vectors of any length; never below 0 by rounding."""
    length = np.sqrt(np.einsum("...f,...f->...", others, others))
    along = np.einsum("...f,...f->...", units, others)
    return np.asarray(np.maximum(1 - np.divide(along, length, out=np.zeros_like(along), where=length > 0), 0))


def _remarks(scores: NDArray[np.float32], window: Window) -> list[str]:
    share = float((scores >= CHANGED).mean())
    if share < _MOST:
        return []
    return [
        f"window {window.short}: {share:.0%} of the cells changed at once, by {CHANGED:g} times the usual "
        "difference or more; look at the input first (another processing baseline, an offset, another sensor), then "
        "at the ground"
    ]
