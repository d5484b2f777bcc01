"""Vectors of samples: by id, and as a table."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from embedcube.cube.arrays import VECTORS
from embedcube.cube.encoding import (
    FAILED,
    MASKED,
    NO_DATA,
    NOT_PROCESSED,
    STATUS_MEANINGS,
    VALID,
    VALID_INCOMPLETE,
    decode,
)
from embedcube.cube.sample import times_of
from embedcube.cube.store import CubeStore, Time
from embedcube.zones import UNDATED

if TYPE_CHECKING:
    import pandas
    import xarray


def vector(cube: CubeStore, zone: str, sample: str, time: Time) -> "xarray.DataArray":
    """Decoded vectors of a sample in some windows, with the dates of its acquisitions."""
    import xarray

    samples, windows = cube.samples(zone), cube.windows_of(zone, time)
    number = samples.number(sample)
    # all windows at once: several may be in one chunk
    read = _decoded(cube, zone, slice(windows[0], windows[-1] + 1), number)
    vectors = read[np.subtract(windows, windows[0])]
    dimensions = ("time", "feature") if vectors.ndim == 2 else ("time", "y", "x", "feature")
    starts, _ = times_of(cube, zone, windows)
    acquired = dates_of(samples.column("acquired")[windows, number])
    return xarray.DataArray(
        vectors, dims=dimensions, coords={"time": starts, "acquired": ("time", acquired), "sample_id": sample}
    )


def table(cube: CubeStore, zone: str, time: Time) -> "pandas.DataFrame":
    """One row for each window and sample."""
    import pandas

    samples, frames = cube.samples(zone), []
    columns = {name: samples.column(name) for name in ("lon", "lat", "acquired")}
    windows = cube.windows_of(zone, time)
    for t, start in zip(windows, times_of(cube, zone, windows)[0], strict=True):
        vectors, status = rows_of(cube, zone, t, slice(None))
        facts = {
            "id": samples.ids,
            "time": start,
            "status": [STATUS_MEANINGS[one] for one in status.tolist()],
            "lon": columns["lon"],
            "lat": columns["lat"],
            "acquired": dates_of(columns["acquired"][t]),
        }
        about = pandas.DataFrame(facts)
        frames.append(pandas.concat([about, pandas.DataFrame(vectors, index=about.index)], axis=1))
    return pandas.concat(frames, ignore_index=True)


def rows_of(cube: CubeStore, zone: str, t: int, samples: slice) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Vector (sample, feature) and status (sample) of some samples in a window.

    Of samples with several cells it is the mean of those with a vector, and the status of the best cell.
    """
    vectors, status = rows_of_windows(cube, zone, slice(t, t + 1), samples)
    return vectors[0], status[0]


def rows_of_windows(
    cube: CubeStore, zone: str, windows: slice, samples: slice
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Vector (window, sample, feature) and status (window, sample): `rows_of` for several windows, read at once."""
    vectors, status = _decoded(cube, zone, windows, samples), np.asarray(cube.group(zone)["status"][windows, samples])
    if status.ndim == len(VECTORS):
        return vectors, status
    means = np.stack([_mean(one) for one in vectors])
    return means, np.stack([_best(one.reshape(len(one), -1)) for one in status])


def _decoded(cube: CubeStore, zone: str, t: int | slice, samples: int | slice) -> NDArray[np.float32]:
    """Vectors ([time, ][sample, ][y, x, ]feature) of some samples in some windows, or of one."""
    group = cube.group(zone)
    scale = group["scale"][t, samples] if "scale" in group else None
    return decode(group["embedding"][t, samples], scale, cube.offset(zone))


def _mean(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean over the cells of each sample that have a vector; NaN where none has."""
    cells = vectors.reshape(len(vectors), -1, vectors.shape[-1])
    there = np.isfinite(cells[..., 0])
    total = np.where(there[..., None], cells, 0).sum(axis=1, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(total / there.sum(axis=1)[:, None], dtype=np.float32)


def _best(status: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The status (sample) of the cell of each sample (sample, cell) that is nearest to a whole vector."""
    rank = np.argsort(_BEST_FIRST)
    return np.take_along_axis(status, rank[status].argmin(axis=1)[:, None], axis=1)[:, 0]


_BEST_FIRST = np.array([VALID, VALID_INCOMPLETE, FAILED, MASKED, NO_DATA, NOT_PROCESSED])
"""values of `status`; a cell that failed may have one when it is made again"""


def dates_of(seconds: NDArray[np.int64]) -> NDArray[np.datetime64]:
    """Dates; NaT where a date is unknown."""
    known = seconds != UNDATED
    dates = np.where(known, seconds, 0).astype("datetime64[s]").astype("datetime64[ns]")
    dates[~known] = np.datetime64("NaT")
    return dates
