"""`find` and `similar` in a list of samples: examples are ids or vectors, hits are samples. Every one is compared."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from numpy.typing import NDArray

from embedcube.cube.encoding import STATUS_MEANINGS, VALID, VALID_INCOMPLETE
from embedcube.cube.find import Search
from embedcube.cube.listed import NO_MAP
from embedcube.cube.sample import times_of
from embedcube.cube.scan import Statuses
from embedcube.cube.similar import Query
from embedcube.cube.store import Cell, CubeStore, Time
from embedcube.cube.tables import dates_of, rows_of_windows
from embedcube.cube.within import Within, geometry_of
from embedcube.errors import RequestError

if TYPE_CHECKING:
    import xarray
    from geopandas import GeoDataFrame

_BYTES = 64 << 20
"""decoded vectors that are held at once; at least those of one object of the cube"""


@dataclass(frozen=True, kw_only=True)
class SampleHit:
    """A sample that was found, in the window in which it is most like the examples."""

    rank: int
    """from 1"""
    cosine: float
    """with the vector that was searched for"""
    sample: str
    """its id"""
    zone: str
    """path of the group: "<layer>/samples" """
    t: int
    """index of the window"""
    window: str
    """ISO 8601 interval"""
    lon: float | None
    """of the sample's centre, in degrees; None where nobody knows it"""
    lat: float | None
    status: str


@dataclass(frozen=True, kw_only=True)
class FoundSamples:
    """Hits, best first."""

    hits: list[SampleHit]
    samples: int
    """samples that a region left, with a vector or without"""
    exact: bool = True
    """every one of them was compared"""


def find_samples(cube: CubeStore, layer: str, like: Any, unlike: Any, search: Search) -> FoundSamples:
    """The samples most like the examples, each once; those of `like` are no hits.

    Raises:
        RequestError: an example is no id and no vector, or has no vector; or `search` asks for what only maps have.
    """
    if search.apart_m or search.exact is False:
        asked = f"apart_m {search.apart_m:g}" if search.apart_m else "exact=False"
        raise RequestError(
            f"{asked} is for maps: of a list every sample is compared, and each is one hit; leave it out"
        )
    (zone,), statuses = cube.zones_of(layer), Statuses.named(search.status)
    query, own = _wanted(cube, zone, like, unlike, search.time)
    samples, windows = cube.samples(zone), cube.windows_of(zone, search.time)
    inside = _inside(samples.column("lon"), samples.column("lat"), search.within)
    cosines, status = _cosines(cube, zone, query, windows)
    kinds = [kind for kind, wanted in ((VALID, statuses.complete), (VALID_INCOMPLETE, statuses.incomplete)) if wanted]
    allowed = np.isin(status, kinds) & inside & ~np.isin(np.arange(len(samples.ids)), own)
    best = np.where(allowed & np.isfinite(cosines), cosines, -np.inf)
    window = best.argmax(axis=0)
    value = best.max(axis=0)
    order = np.argsort(-value, kind="stable")[: search.k]
    lon, lat = (_known(samples.column(name)[order]) for name in ("lon", "lat"))
    hits = [
        SampleHit(
            rank=rank + 1,
            cosine=round(float(value[i]), 7),
            sample=samples.ids[i],
            zone=zone,
            t=windows[window[i]],
            window=cube.windows(zone)[windows[window[i]]].short,
            lon=lon[rank],
            lat=lat[rank],
            status=STATUS_MEANINGS[int(status[window[i], i])],
        )
        for rank, i in enumerate(order.tolist())
        if value[i] > -np.inf
    ]
    return FoundSamples(hits=hits, samples=int(inside.sum()))


def similar_samples(cube: CubeStore, layer: str, like: Any, unlike: Any, time: Time) -> "xarray.DataArray":
    """Cosine (time, sample) of every sample with the examples; NaN where it has no vector."""
    import xarray

    (zone,) = cube.zones_of(layer)
    query, _ = _wanted(cube, zone, like, unlike, time)
    samples, windows = cube.samples(zone), cube.windows_of(zone, time)
    cosines, _ = _cosines(cube, zone, query, windows)
    coordinates = {
        "time": times_of(cube, zone, windows)[0],
        "sample_id": ("sample", list(samples.ids)),
        "lon": ("sample", samples.column("lon")),
        "lat": ("sample", samples.column("lat")),
        "acquired": (("time", "sample"), dates_of(samples.column("acquired")[windows])),
    }
    about = {"long_name": "cosine with the examples", "units": "1", "valid_range": [-1.0, 1.0]}
    return xarray.DataArray(cosines, coords=coordinates, dims=("time", "sample"), name="cosine", attrs=about)


def table_of_samples(found: FoundSamples) -> "GeoDataFrame":
    """Hits as a table with points; a sample without a place has none."""
    import geopandas

    columns: dict[str, Any] = {
        name: [getattr(hit, name) for hit in found.hits] for name in SampleHit.__dataclass_fields__
    }
    points = [None if hit.lon is None or hit.lat is None else shapely.Point(hit.lon, hit.lat) for hit in found.hits]
    table = geopandas.GeoDataFrame(columns, geometry=geopandas.GeoSeries(points, crs="EPSG:4326"))
    table.attrs = {"exact": found.exact, "samples": found.samples}
    return table


def _wanted(cube: CubeStore, zone: str, like: Any, unlike: Any, time: Time) -> tuple[Query, list[int]]:
    """The vector that the examples stand for (`Query.by_examples`), and the numbers of the samples of `like`."""
    own: list[int] = []
    vectors = [_vector(cube, zone, one, time, own) for one in _several(like)]
    against = [_vector(cube, zone, one, time, []) for one in ([] if unlike is None else _several(unlike))]
    return Query.by_examples(vectors, against), own


def _several(examples: Any) -> list[Any]:
    """Examples one by one; a pair of numbers is a place, which is refused later."""
    if isinstance(examples, np.ndarray):
        return [examples] if examples.ndim == 1 else list(examples)
    several = isinstance(examples, list | tuple) and not all(isinstance(one, int | float) for one in examples)
    return list(examples) if several else [examples]


def _vector(cube: CubeStore, zone: str, one: Any, time: Time, own: list[int]) -> NDArray[Any]:
    """The vector of one example; the number of its sample is added to `own`."""
    if isinstance(one, np.ndarray):
        return one
    if isinstance(one, Cell) and one.zone == zone:
        own.append(int(cube.array(zone, "status").sample(one.y, one.x)))
        return np.asarray(cube.vectors(zone, one.t, slice(one.y, one.y + 1), slice(one.x, one.x + 1))[0, 0])
    if not isinstance(one, str):
        raise RequestError(f"{cube.address}: {zone} {NO_MAP}; not {one!r}")
    number, windows = cube.samples(zone).number(one), cube.windows_of(zone, time)
    own.append(number)
    vectors, status = rows_of_windows(cube, zone, slice(windows[0], windows[-1] + 1), slice(number, number + 1))
    chosen = np.subtract(windows, windows[0])
    vectors, status = vectors[chosen, 0], status[chosen, 0]
    found = list(vectors[np.isin(status, (VALID, VALID_INCOMPLETE))])
    if not found:
        statuses = " or ".join(sorted({STATUS_MEANINGS[kind] for kind in status.tolist()}))
        raise RequestError(f"sample {one}: no vector, its status is {statuses}; choose another sample or --time")
    return Query.by_examples(found).vector if len(found) > 1 else found[0]


def _known(degrees: NDArray[np.float64]) -> list[float | None]:
    """Degrees as in tables and JSON; None where nobody knows them."""
    return [None if np.isnan(one) else round(one, 7) for one in degrees.tolist()]


def _inside(lon: NDArray[np.float64], lat: NDArray[np.float64], within: Within | None) -> NDArray[np.bool_]:
    """Which samples lie in a region; one without a place lies in none."""
    if within is None:
        return np.ones(len(lon), bool)
    region = geometry_of(within)
    turned = [shapely.contains_xy(region, lon + turn, lat) for turn in (-360, 0, 360)]
    return np.asarray(np.logical_or.reduce(turned))


def _cosines(
    cube: CubeStore, zone: str, query: Query, windows: list[int]
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Cosine and status (window, sample); the cosine is NaN where a sample has no vector."""
    count = len(cube.samples(zone).ids)
    cosines, status = np.full((len(windows), count), np.nan, np.float32), np.zeros((len(windows), count), np.uint8)
    for part in _parts(cube, zone, windows, count):
        vectors, kinds = rows_of_windows(cube, zone, slice(windows[0], windows[-1] + 1), part)
        for i, t in enumerate(windows):
            own, status[i, part] = vectors[t - windows[0]], kinds[t - windows[0]]
            valid = np.isin(status[i, part], (VALID, VALID_INCOMPLETE))
            cosines[i, part][valid] = query.cosines(own[valid])
    return cosines, status


def _parts(cube: CubeStore, zone: str, windows: list[int], count: int) -> Iterator[slice]:
    """Samples of some whole objects of the cube at a time."""
    embedding = cube.group(zone)["embedding"]
    slots, each = int(embedding.shards[1]), 4 * int(np.prod(embedding.shape[2:])) * (windows[-1] - windows[0] + 1)
    step = slots * max(1, _BYTES // (slots * each))
    yield from (slice(first, min(first + step, count)) for first in range(0, count, step))
