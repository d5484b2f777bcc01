"""Points and parcels as tables: read from files, and written to files, by their suffix."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedcube.campaign.readable import readable
from embedcube.campaign.run_folder import replacing, write_atomically
from embedcube.errors import RequestError
from embedcube.printable import listed, printable

if TYPE_CHECKING:
    import geopandas
    import xarray

SUFFIXES = (".csv", ".parquet", ".geojson")
"""of tables that are written"""

_BINARY = (b"SQLite format 3\0", b"\0\0\x27\x0a")
"""beginnings of a GeoPackage and of a Shapefile"""

_HEAD = 1 << 20
"""bytes in which GDAL looks for what a file is, and more"""

_COMMAND = b"gdal_streamed_alg"
"""type of a JSON file that is a command of GDAL"""

_PLACE = (("lon", "lat"), ("longitude", "latitude"), ("x", "y"))
"""names of the columns of a CSV that hold places in degrees"""


def read_places(path: Path) -> "geopandas.GeoDataFrame":
    """Features of a file: GeoJSON, GeoPackage, Shapefile, GeoParquet, or a CSV with columns lon and lat in degrees.

    Raises:
        RequestError: it cannot be read, or has no places.
    """
    import geopandas

    readable(path)
    try:
        if path.suffix == ".csv":
            return _read_csv(path)
        if path.suffix == ".parquet":
            found = geopandas.read_parquet(path)
        else:
            _refuse_references(path)
            found = geopandas.read_file(path)
        if not hasattr(found, "geometry"):
            raise RequestError(f"{path}: a table without places")
        return found
    except RequestError:
        raise
    except Exception as error:
        raise RequestError(f"{path}: not a file of places ({printable(error, 120)})") from None


def _refuse_references(path: Path) -> None:
    """Refuse what GDAL, which opens by content, would take for a list of other files, servers or commands.

    Raises:
        RequestError: it begins neither as GeoJSON nor as a GeoPackage or Shapefile.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(_BINARY) or (text.startswith(b"{") and _COMMAND not in head):
        return
    raise RequestError(f"{path}: neither GeoJSON, GeoPackage, Shapefile, GeoParquet (.parquet) nor CSV (.csv)")


def _read_csv(path: Path) -> "geopandas.GeoDataFrame":
    """The rows of a CSV as points."""
    import geopandas

    with path.open(newline="", encoding="utf-8-sig") as file:
        table = csv.DictReader(file)
        columns, rows = table.fieldnames or [], list(table)
    names = next((pair for pair in _PLACE if set(pair) <= set(columns)), None)
    if names is None:
        there = f"it has {listed(columns)}" if columns else "it is empty"
        raise RequestError(f"{path}: a CSV of points needs the columns lon and lat, in degrees; {there}")
    if not rows:
        raise RequestError(f"{path}: has no line below that of the names of its columns")
    lon, lat = ([_degrees(path, i, name, row) for i, row in enumerate(rows, start=2)] for name in names)
    return geopandas.GeoDataFrame(rows, geometry=geopandas.points_from_xy(lon, lat, crs="EPSG:4326"))


def _degrees(path: Path, line: int, name: str, row: dict[str, Any]) -> float:
    """A number of a CSV; a RequestError says where there is none."""
    try:
        return float(row[name])
    except (TypeError, ValueError):
        raise RequestError(f'{path}: line {line} has "{printable(row[name], 40)}" as {name}, not a number') from None


def check_suffix(path: Path | None) -> None:
    """Refuse a file that no table can be written to, before anything is computed."""
    if path is not None and path.suffix not in SUFFIXES:
        raise RequestError(f"{path}: a table is written as {', '.join(SUFFIXES)}; give the file such a name")


def sampled_table(sampled: "xarray.Dataset") -> "geopandas.GeoDataFrame":
    """One row for each point and window: names of window and status, the cell, the numbers f0, f1 ... of the vector."""
    import geopandas

    points, windows = sampled.sizes["point"], sampled.sizes["time"]
    vectors = sampled["vector"].values.reshape(points * windows, -1)
    columns: dict[str, Any] = {
        "point": np.repeat(sampled["point"].values, windows),
        "window": np.tile(window_names(sampled), points),
        "status": status_names(sampled).ravel(),
        "n_obs": sampled["n_obs"].values.ravel(),
    }
    for name in ("zone", "y", "x", "lon", "lat"):
        columns[name] = np.repeat(sampled[name].values, windows)
    columns["t"] = np.tile(sampled["t"].values, points)
    columns |= {f"f{i}": column for i, column in enumerate(vectors.T)}
    geometry = geopandas.points_from_xy(columns["lon"], columns["lat"], crs="EPSG:4326")
    return geopandas.GeoDataFrame(columns, geometry=geometry)


def parcels_table(found: "xarray.Dataset", parcels: "geopandas.GeoDataFrame") -> "geopandas.GeoDataFrame":
    """One row for each parcel and window: count, valid_share, and the numbers mean0, mean1 ..., std0, std1 ..."""
    import geopandas

    count, windows = found.sizes["parcel"], found.sizes["time"]
    columns: dict[str, Any] = {
        "parcel": np.repeat(found["parcel"].values, windows),
        "window": np.tile(window_names(found), count),
        "cells": np.repeat(found["cells"].values, windows),
        "count": found["count"].values.ravel(),
        "valid_share": found["valid_share"].values.ravel(),
    }
    for name in ("mean", "std"):
        if name in found:
            numbers = found[name].values.reshape(count * windows, -1)
            columns |= {f"{name}{i}": column for i, column in enumerate(numbers.T)}
    geometry = np.repeat(np.asarray(parcels.geometry.values), windows)
    return geopandas.GeoDataFrame(columns, geometry=geometry, crs=parcels.crs)


def write_table(table: "geopandas.GeoDataFrame", path: Path) -> None:
    """Write a table with places, whole or not at all: GeoParquet, GeoJSON (in degrees), or CSV without geometries."""
    check_suffix(path)
    if path.suffix == ".parquet":
        with replacing(path) as temporary:
            table.to_parquet(temporary, index=False)
    elif path.suffix == ".csv":
        write_atomically(path, table.drop(columns="geometry").to_csv(index=False).encode())
    else:
        write_atomically(path, table.to_json(drop_id=True, to_wgs84=True).encode())


def window_names(dataset: "xarray.Dataset") -> list[str]:
    """The windows as ISO 8601 intervals, "2023-06-01/2023-07-01", as `time` takes them."""
    ends = (dataset[name].values.astype("datetime64[s]") for name in ("time", "time_end"))
    shown = ([str(moment).removesuffix("T00:00:00") for moment in moments] for moments in ends)
    return [f"{start}/{end}" for start, end in zip(*shown, strict=True)]


def status_names(dataset: "xarray.Dataset") -> np.ndarray[Any, Any]:
    """The names of a status, in the shape of the status."""
    status = dataset["status"]
    values, names = np.asarray(status.attrs["flag_values"]), np.array(status.attrs["flag_meanings"].split())
    return np.asarray(names[np.searchsorted(values, status.values)])
