"""Stores as the publishers of SSL4EO-S12 v1.1 and -downstream print theirs, with few and small samples."""

import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import xarray
from numpy.typing import NDArray

S2_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")


def write_store(
    path: Path,
    ids: list[str],
    bands: NDArray[Any],
    *,
    names: tuple[str, ...] = S2_BANDS,
    systems: list[int] | None = None,
    dates: NDArray[Any] | None = None,
    clouds: NDArray[np.uint8] | None = None,
    consolidated: bool = True,
) -> None:
    """Write a zip file with a Zarr store of format 2; `bands` is (sample, time, band, y, x).

    Without `systems` (an EPSG number for each sample) it is one of -downstream: it has `bands` and `time` alone.
    """
    count, steps, channels, side, _ = bands.shape
    variables: dict[str, Any] = {"bands": (("sample", "time", "band", "y", "x"), bands)}
    coords: dict[str, Any] = {"time": np.arange(steps)}
    if systems is not None:
        lefts, tops = 500_000.0 + 10_000 * np.arange(count), np.array([5e6 if s < 32700 else 8e6 for s in systems])
        pixels = 10.0 * np.arange(side)
        coords |= {"band": np.array(names, "<U3"), "sample": np.array(ids, "<U7"), "y": np.arange(side)}
        coords["x"] = np.arange(side)
        variables |= {
            "crs": ("sample", np.array(systems, np.int64)),
            "center_lat": ("sample", np.zeros(count)),
            "center_lon": ("sample", np.zeros(count)),
            "x_": (("sample", "x"), lefts[:, None] + pixels + 5),
            "y_": (("sample", "y"), tops[:, None] - pixels - 5),
            "time_": (("sample", "time"), dates),
            "file_id": (("sample", "time"), np.full((count, steps), "S2A_MSIL2A", "<U38")),
        }
    if clouds is not None:
        variables["cloud_mask"] = (("sample", "time", "y", "x"), clouds)
    folder = path.parent / f"{path.name}.folder"
    chunks = {"bands": {"chunks": (count, 1, channels, side, side)}}
    dataset = xarray.Dataset(variables, coords=coords)
    dataset.to_zarr(folder, zarr_format=2, consolidated=consolidated, encoding=chunks)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for one in sorted(folder.rglob("*")):
            if one.is_file():
                archive.write(one, one.relative_to(folder))
    shutil.rmtree(folder)


def dates_of(count: int, steps: int, year: int) -> NDArray[Any]:
    """A date in each season for each sample, of years that differ from sample to sample."""
    months = (3, 6, 9, 12)
    texts = [[f"{year + i % 2}-{months[k]:02d}-{10 + i % 5}T10:00" for k in range(steps)] for i in range(count)]
    return np.array(texts, dtype="datetime64[ns]")
