"""A table of labelled points or polygons: CSV, Parquet, GeoParquet or GeoJSON, with positions in degrees."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from embedcube.campaign.readable import readable
from embedcube.cube.within import STEP_DEGREES
from embedcube.errors import RequestError
from embedcube.grid import is_geographic, same_crs, to_degrees

DEGREES = "EPSG:4326"

_WGS84 = {"WGS 84", "WGS 84 (CRS84)"}

_X, _Y = ("lon", "longitude", "x"), ("lat", "latitude", "y")
"""names of the columns of positions, in any case"""


_WRONG = (
    OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, shapely.errors.ShapelyError,
)  # fmt: skip
"""errors that readers of a damaged table raise"""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Geometries in degrees, and the columns beside them."""

    path: Path
    geometry: NDArray[Any]
    """points or polygons (shapely), in degrees"""
    columns: dict[str, list[Any]]

    @property
    def of_points(self) -> bool:
        """Whether the geometries are points, not polygons."""
        return bool((shapely.get_type_id(self.geometry) == shapely.GeometryType.POINT).all())

    def column(self, name: str) -> list[Any]:
        """The values of a column; a RequestError lists the columns where there is none of this name."""
        if name not in self.columns:
            raise RequestError(f"{self.path.name}: no column {name}; it has {', '.join(list(self.columns)[:20])}")
        return self.columns[name]

    def ids(self) -> list[str]:
        """The ids of samples, in the column `id`."""
        return [str(one) for one in self.column("id")]


def read_table(path: Path, crs: str | None) -> Table:
    """The labels of a file. `crs` is that of its positions where it is said; by default they are degrees.

    Raises:
        RequestError: the file cannot be read, has no positions, states another CRS, or the positions are none of it.
    """
    columns, geometry, stated = _read(path)
    said = crs or DEGREES
    if stated and not _same(stated, said):
        raise RequestError(
            f"{path.name} says that its CRS is {_short(stated)}, the request says {said}; write --crs {_short(stated)}"
        )
    if geometry is None:
        geometry = _points(path, columns)
    return Table(path=path, geometry=_in_degrees(path, geometry, said), columns=columns)


def read_columns(path: Path) -> Table:
    """The labels of a file for samples with ids; positions are not looked at, and need not be there.

    Raises:
        RequestError: the file cannot be read.
    """
    return Table(path=path, geometry=np.empty(0, object), columns=_read(path)[0])


def _read(path: Path) -> tuple[dict[str, list[Any]], NDArray[Any] | None, str]:
    """Columns, geometries where the file has some, and the CRS that it states, or nothing."""
    readers = {".csv": _csv, ".parquet": _parquet, ".geoparquet": _parquet, ".geojson": _geojson, ".json": _geojson}
    if path.suffix.lower() not in readers:
        known = ", ".join(readers)
        raise RequestError(f"{path}: labels are a table ({known}) or a GeoTIFF (.tif); convert this file to one")
    readable(path)
    try:
        return readers[path.suffix.lower()](path)
    except _WRONG as error:
        reason = " ".join(str(error).split())[:200]
        raise RequestError(f"{path}: cannot be read as {path.suffix}: {type(error).__name__}: {reason}") from None


def _same(stated: str, said: str) -> bool:
    """Whether two CRS are one; those of GeoParquet and GeoJSON have longitude first, and are WGS 84 all the same."""
    from pyproj import CRS

    return same_crs(stated, said) or {CRS.from_user_input(crs).name for crs in (stated, said)} <= _WGS84


def _short(crs: str) -> str:
    from pyproj import CRS

    authority = CRS.from_user_input(crs).to_authority()
    return ":".join(authority) if authority else f"{CRS.from_user_input(crs).name!r}"


def _csv(path: Path) -> tuple[dict[str, list[Any]], None, str]:
    import pyarrow
    import pyarrow.csv

    # an id keeps its zeros
    types = pyarrow.csv.ConvertOptions(column_types={"id": pyarrow.string()})
    return pyarrow.csv.read_csv(path, convert_options=types).to_pydict(), None, ""


def _parquet(path: Path) -> tuple[dict[str, list[Any]], NDArray[Any] | None, str]:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    described = (table.schema.metadata or {}).get(b"geo")
    if described is None:
        return table.to_pydict(), None, ""
    geo = json.loads(described)
    name = geo["primary_column"]
    geometry = shapely.from_wkb(table[name].to_numpy(zero_copy_only=False))
    crs = geo["columns"][name].get("crs")
    return table.drop_columns([name]).to_pydict(), geometry, json.dumps(crs) if crs else ""


def _geojson(path: Path) -> tuple[dict[str, list[Any]], NDArray[Any], str]:
    document = json.loads(path.read_text())
    features = document["features"]
    geometry = shapely.from_geojson([json.dumps(feature["geometry"]) for feature in features])
    rows = [feature.get("properties") or {} for feature in features]
    names = dict.fromkeys(name for row in rows for name in row)
    stated = document.get("crs", {}).get("properties", {}).get("name", "")
    stated = "" if stated.endswith("CRS84") else stated
    return {name: [row.get(name) for row in rows] for name in names}, geometry, stated


def _points(path: Path, columns: dict[str, list[Any]]) -> NDArray[Any]:
    """Points from the columns of positions."""
    lowered = {name.lower(): name for name in columns}
    x = next((lowered[name] for name in _X if name in lowered), None)
    y = next((lowered[name] for name in _Y if name in lowered), None)
    if x is None or y is None:
        raise RequestError(f"{path.name}: no columns lon and lat; it has {', '.join(list(columns)[:20])}")
    try:
        places = np.array([columns[x], columns[y]], np.float64)
    except (TypeError, ValueError):
        raise RequestError(f"{path.name}: the columns {x} and {y} are not all numbers; they are positions") from None
    return np.asarray(shapely.points(*places))


def _in_degrees(path: Path, geometry: NDArray[Any], crs: str) -> NDArray[Any]:
    kinds = set(shapely.get_type_id(geometry).tolist())
    point, polygons = {int(shapely.GeometryType.POINT)}, {
        int(shapely.GeometryType.POLYGON), int(shapely.GeometryType.MULTIPOLYGON)
    }  # fmt: skip
    if not kinds or not (kinds <= point or kinds <= polygons) or shapely.is_empty(geometry).any():
        raise RequestError(f"{path.name}: labels are points or polygons, all of one kind, at least one, none empty")
    if not is_geographic(crs):
        transformer = to_degrees(crs)
        west, south, east, north = transformer.transform_bounds(*shapely.total_bounds(geometry))
        if np.isfinite([west, south, east, north]).all():
            size_m = STEP_DEGREES * 111_320
            cut = geometry if kinds <= point else shapely.segmentize(geometry, size_m)
            geometry = shapely.transform(cut, lambda xy: np.stack(transformer.transform(*xy.T), axis=1))
    bounds = shapely.bounds(geometry)
    wrong = ~(
        np.isfinite(bounds).all(axis=1) & (bounds[:, [0, 2]] >= -360).all(axis=1) & (bounds[:, 0] <= 360)
        & (bounds[:, 1] >= -90) & (bounds[:, 3] <= 90)
    )  # fmt: skip
    if wrong.any():
        first = int(wrong.argmax())
        x, y = (f"{number:g}" for number in bounds[first, :2])
        raise RequestError(
            f"{path.name}: {int(wrong.sum())} of {len(wrong)} labels are no places in {crs}, the first in row "
            f"{first + 1}: x {x}, y {y}; say the CRS of the labels with --crs EPSG:n"
        )
    return geometry
