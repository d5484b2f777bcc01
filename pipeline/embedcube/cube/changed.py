"""The places of a map of change with the largest scores."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedcube.cube.drawing import Batch, Drawing
from embedcube.cube.find import default_apart_m
from embedcube.cube.store import CubeStore, Time

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True, kw_only=True)
class Changed:
    """A place that changed."""

    rank: int
    """from 1"""
    score: float
    """distance from its references over the usual one"""
    references: int
    """windows that it was compared with"""
    zone: str
    t: int
    """index of the window"""
    y: int
    x: int
    window: str
    """ISO 8601 interval"""
    lon: float
    """of the cell's centre, in degrees"""
    lat: float


def most_changed(
    cube: CubeStore, layer: str, changed: "xr.Dataset | xr.DataTree", after: Time, count: int = 10
) -> list[Changed]:
    """The places with the largest scores, as far from each other as hits of `find` are."""
    zones = cube.zones_of(layer)
    maps: dict[str, Any] = {zone: changed if len(zones) == 1 else changed[zone.split("/")[1]] for zone in zones}
    drawing = Drawing(cube, zones, default_apart_m(cube, layer))
    batches = []
    for zone in zones:
        scores = np.asarray(maps[zone]["score"])
        for i, t in enumerate(cube.windows_of(zone, after)):
            flat = scores[i].ravel()
            everywhere = {"number": np.arange(len(flat)), "incomplete": np.zeros(len(flat), bool)}
            batches.append(Batch(zone=zone, t=t, y=0, x=0, width=scores.shape[2], cosine=flat, **everywhere))
    places = []
    for rank, one in enumerate(drawing.best(lambda: batches, count), start=1):
        i = cube.windows_of(one.zone, after).index(one.t)
        (lon,), (lat,) = drawing.degrees(zones.index(one.zone), np.array([one.y]), np.array([one.x]))
        places.append(
            Changed(
                rank=rank,
                score=round(one.cosine, 3),
                references=int(np.asarray(maps[one.zone]["references"])[i, one.y, one.x]),
                zone=one.zone,
                t=one.t,
                y=one.y,
                x=one.x,
                window=cube.windows(one.zone)[one.t].short,
                lon=round(float(lon), 7),
                lat=round(float(lat), 7),
            )
        )
    return places
