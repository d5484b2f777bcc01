"""From a longitude and latitude to a cell, fast enough for each request. `Cube.cell_at` says the same for one point."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from pyproj import Transformer
from pyproj.enums import TransformDirection

from embedcube.cube.drawing import Place
from embedcube.cube.reader import Cube
from embedcube.grid import LATLON, to_degrees, utm_grid_name, utm_zone_in


@dataclass(frozen=True, kw_only=True)
class Spot:
    """A cell of a zone, in all windows."""

    zone: str
    """path of the group: "<layer>/<zone>" """
    y: int
    x: int


@dataclass(frozen=True, kw_only=True)
class _Raster:
    """What leads from degrees to the cells of a zone."""

    zone: str
    transformer: Transformer
    transform: tuple[float, ...]
    shape: tuple[int, int]
    wraps: bool
    """longitudes are counted from the left edge on, all around the globe"""

    def spot(self, lon: float, lat: float) -> Spot | None:
        """The cell that holds a place; None where it is outside."""
        x, y = self.transformer.transform(lon, lat, direction=TransformDirection.INVERSE)
        a, _, left, _, e, top = self.transform
        if self.wraps:
            x = left + (x - left) % 360
        if not (math.isfinite(x) and math.isfinite(y)):
            return None
        row, column = int((y - top) // e), int((x - left) // a)
        if not (0 <= row < self.shape[0] and 0 <= column < self.shape[1]):
            return None
        return Spot(zone=self.zone, y=row, x=column)

    def centre(self, y: int, x: int) -> tuple[float, float]:
        """Centre of a cell, in the CRS of the zone."""
        a, _, left, _, e, top = self.transform
        return left + (x + 0.5) * a, top + (y + 0.5) * e


class Places:
    """The cells of a layer by place."""

    def __init__(self, cube: Cube, layer: str) -> None:
        """Prepare all zones of the layer."""
        self._layer = layer
        self._rasters = {zone: _raster(cube, zone) for zone in cube.zones_of(layer)}
        self._utm = all(utm_zone_in(zone.partition("/")[2]) is not None for zone in self._rasters)

    def spots(self, lon: float, lat: float) -> list[Spot]:
        """Cells that hold a place: of its own UTM zone first, then of the zones beside it, which overlap it."""
        names = list(self._rasters)
        if self._utm:
            own = math.floor((lon + 180) / 6) % 60 + 1
            beside = (f"{self._layer}/{utm_grid_name((own + step - 1) % 60 + 1)}" for step in (0, -1, 1))
            names = [name for name in beside if name in self._rasters]
        found = (self._rasters[name].spot(lon, lat) for name in names)
        return [spot for spot in found if spot is not None]

    def centre(self, spot: Spot) -> tuple[float, float]:
        """Centre of a cell, in the CRS of its zone."""
        return self._rasters[spot.zone].centre(spot.y, spot.x)

    def centres(self, cells: Iterable[Place]) -> list[tuple[float, float]]:
        """Longitude and latitude of the centres of some cells, each once."""
        return list(dict.fromkeys(self.degrees(Spot(zone=one.zone, y=one.y, x=one.x)) for one in cells))

    def degrees(self, spot: Spot) -> tuple[float, float]:
        """Longitude and latitude of the centre of a cell."""
        lon, lat = self._rasters[spot.zone].transformer.transform(*self.centre(spot))
        return float(lon), float(lat)


def _raster(cube: Cube, zone: str) -> _Raster:
    attributes = cube.group(zone).attrs
    rows, columns = attributes["spatial:shape"]
    return _Raster(
        zone=zone,
        transformer=to_degrees(attributes["proj:wkt2"]),
        transform=tuple(attributes["spatial:transform"]),
        shape=(rows, columns),
        wraps=zone.partition("/")[2] == LATLON,
    )
