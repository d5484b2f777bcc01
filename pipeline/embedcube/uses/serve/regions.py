"""Routes of regions: the cells in a box as they are stored, and statistics of parcels."""

import io
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import shapely
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, FailFast, Field
from shapely.geometry.base import BaseGeometry

from embedcube.cube.within import Area, area_in, geometry_of
from embedcube.errors import RequestError
from embedcube.uses.serve.answers import bytes_answer, json_answer, unchanged
from embedcube.uses.serve.examples import Polygon, TimeText, geometry
from embedcube.uses.serve.extent import of_polygons, refuse_long_outlines, total
from embedcube.uses.serve.holdings import Holding, NotHere
from embedcube.uses.serve.limits import Limits, refuse_above
from embedcube.uses.serve.points import REFUSED, Time
from embedcube.uses.serve.served import Served

Box = Annotated[
    str,
    Query(
        max_length=200,
        pattern=r"^-?\d{1,3}(\.\d{1,12})?(,-?\d{1,3}(\.\d{1,12})?){3}$",
        description="west,south,east,north in degrees; west above east crosses the antimeridian.",
    ),
]

Statistic = Literal["mean", "std", "count"]


class Parcel(BaseModel):
    """A Feature of GeoJSON with a polygon in degrees; its id or properties come back with the answer."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["Feature"]
    id: str | int | None = None
    geometry: Polygon
    properties: dict[str, Any] | None = None


class Parcels(BaseModel):
    """A FeatureCollection of GeoJSON, and what is asked of each polygon."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["FeatureCollection"]
    features: Annotated[list[Parcel], FailFast(), Field(min_length=1, max_length=Limits.parcels)]
    time: TimeText | None = None
    stats: Annotated[list[Statistic], FailFast(), Field(min_length=1, max_length=8)] = ["mean", "std", "count"]


@dataclass(frozen=True, kw_only=True)
class _Part:
    """What a box holds of one zone."""

    zone: str
    windows: list[int]
    area: Area


def routes(served: Served) -> APIRouter:
    """Routes `box` and `parcels`."""
    router = APIRouter(prefix="/cubes/{cube}/layers/{layer}", responses=REFUSED)

    @router.get("/box", response_class=Response, responses={200: {"content": {"application/octet-stream": {}}}})
    async def box(request: Request, cube: str, layer: str, bbox: Box, time: Time = None) -> Response:
        """Cells in a box as they are stored, as one file for numpy.load (.npz).

        For each zone arrays "<zone>.embedding" (time, y, x, feature), "<zone>.scale", "<zone>.status", "<zone>.n_obs"
        (time, y, x), "<zone>.inside" (y, x), "<zone>.y" and "<zone>.x" (centres), "<zone>.time_bnds" (time, 2).
        A vector of int8 is embedding * scale, + "<zone>.offset" (feature) in a layer that has one.
        """
        holding = served.cube(cube)
        # what is not there is 404, also for a client that has something else of this version
        parts = await served.desk.run(lambda: _parts(holding, layer, bbox, time, served.limits))
        if (same := unchanged(request, holding.etag)) is not None:
            return same
        data = await served.desk.run(lambda: _box(holding, parts))
        return bytes_answer(request, data, {"Type": "npz"}, etag=holding.etag)

    @router.post("/parcels", response_class=Response, responses={200: {"content": {"application/json": {}}}})
    async def parcels(request: Request, cube: str, layer: str, body: Parcels) -> Response:
        """Mean, standard deviation and count of the vectors in each polygon, in each window.

        Cells count whose centre is inside; cells without a vector never do: without any, the mean is a list of null.
        """
        holding = served.cube(cube)
        answer = await served.desk.run(lambda: _parcels(holding, layer, body, served.limits))
        return json_answer(request, answer, etag=holding.etag)

    return router


def _box(holding: Holding, parts: list[_Part]) -> bytes:
    arrays: dict[str, NDArray[Any]] = {}
    for part in parts:
        name, group = part.zone.partition("/")[2], holding.cube.group(part.zone)
        y, x = part.area.y, part.area.x
        stored = holding.reader.box(part.zone, part.windows, y, x)
        arrays |= {
            f"{name}.embedding": stored.embedding,
            f"{name}.status": stored.status,
            f"{name}.n_obs": stored.n_obs,
        }
        if stored.scale is not None:
            arrays[f"{name}.scale"] = stored.scale
        if (offset := holding.cube.offset(part.zone)) is not None:
            arrays[f"{name}.offset"] = offset
        a, _, left, _, e, top = group.attrs["spatial:transform"]
        arrays |= {
            f"{name}.inside": part.area.cut(y, x),
            f"{name}.y": top + (np.arange(y.start, y.stop) + 0.5) * e,
            f"{name}.x": left + (np.arange(x.start, x.stop) + 0.5) * a,
            f"{name}.time_bnds": np.asarray(group["time_bnds"][...])[part.windows],
        }
    out = io.BytesIO()
    np.savez(out, allow_pickle=False, **arrays)
    return out.getvalue()


def _parts(holding: Holding, layer: str, bbox: str, time: str | None, limits: Limits) -> list[_Part]:
    west, south, east, north = (float(edge) for edge in bbox.split(","))
    region, zones = geometry_of((west, south, east, north)), holding.layer(layer).zones
    windows = {zone: holding.windows(zone, time) for zone in zones}
    cost = total(of_polygons(holding.cube, zone, windows[zone], [region]) for zone in zones)
    refuse_above("MB of vectors to decode", cost.decoded >> 20, limits.decoded_mb)
    parts, numbers = [], 0
    for zone in zones:
        area = area_in(holding.cube, zone, region)
        if area is None:
            continue
        parts.append(_Part(zone=zone, windows=windows[zone], area=area))
        around = (area.y.stop - area.y.start) * (area.x.stop - area.x.start)
        numbers += around * len(parts[-1].windows) * int(holding.cube.array(zone, "embedding").shape[-1])
    refuse_above("numbers of vectors", numbers, limits.box_numbers)
    if not parts:
        raise NotHere(f"no cell of layer {layer} has its centre in this box")
    return parts


def _parcels(holding: Holding, layer: str, body: Parcels, limits: Limits) -> dict[str, Any]:
    refuse_above("polygons", len(body.features), limits.parcels)
    polygons = [_polygon(i, one, limits) for i, one in enumerate(body.features)]
    refuse_above("vertices", sum(int(shapely.get_num_coordinates(one)) for one in polygons), limits.vertices)
    _refuse_large(holding, layer, polygons, body.time, limits)
    found = _statistics(holding, layer, polygons, body)
    features = [
        {"type": "Feature", "id": one.id, "geometry": None, "properties": (one.properties or {}) | found[i]}
        for i, one in enumerate(body.features)
    ]
    return {"type": "FeatureCollection", "layer": layer, "version": holding.cube.version, "features": features}


def _polygon(number: int, parcel: Parcel, limits: Limits) -> BaseGeometry:
    try:
        return geometry(parcel.geometry, limits)
    except RequestError as error:
        raise RequestError(f"feature {number}, counted from 0: {error}") from None


def _statistics(holding: Holding, layer: str, polygons: list[BaseGeometry], body: Parcels) -> list[dict[str, Any]]:
    """For each polygon its cells, and for each window count, share, mean and standard deviation."""
    import geopandas

    table = geopandas.GeoDataFrame(geometry=polygons, crs="EPSG:4326")
    found = holding.layer(layer).parcels(table, body.time, tuple(body.stats))
    names = [name for name in ("count", "valid_share", "mean", "std") if name in found]
    values = {name: found[name].values for name in names}
    windows = holding.cube.windows(holding.layer(layer).zones[0])
    chosen = [windows[t].short for t in found["t"].values.tolist()]
    return [
        {
            "cells": cells,
            "windows": [
                {"window": window} | {name: values[name][parcel, i] for name in names}
                for i, window in enumerate(chosen)
            ],
        }
        for parcel, cells in enumerate(found["cells"].values.tolist())
    ]


def _refuse_large(holding: Holding, layer: str, polygons: list[BaseGeometry], time: str | None, limits: Limits) -> None:
    zones = holding.layer(layer).zones
    features = int(holding.cube.array(zones[0], "embedding").shape[-1])
    numbers = len(polygons) * len(holding.windows(zones[0], time)) * features * 2
    refuse_above("numbers in the answer", numbers, limits.parcel_numbers)
    cost = total(of_polygons(holding.cube, zone, holding.windows(zone, time), polygons) for zone in zones)
    cost.refuse("cells in and around the polygons", limits)
    refuse_long_outlines(holding.cube, zones, polygons, limits)
