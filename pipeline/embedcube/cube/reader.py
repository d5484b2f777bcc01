"""Open a cube, select from it, explain a cell. Needs numpy, zarr and xarray only; no torch, no GDAL.

A cube is plain Zarr v3: `xarray.open_datatree` reads it without this module, which adds decoding and provenance.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from embedcube.cube.encoding import STATUS_MEANINGS, VALID, VALID_INCOMPLETE, decode
from embedcube.cube.provenance import Provenance
from embedcube.errors import RequestError
from embedcube.grid import LATLON, utm_grid_name, utm_zone_in, utm_zone_of

_MADE = ("host", "device", "attempt", "rank", "started", "finished", "code_version", "job", "container")
"""What `explain` repeats of a record."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of a layer."""

    zone: str
    """path of the group: "<layer>/<zone>" """
    t: int
    y: int
    x: int


class Cube:
    """One version of a cube."""

    def __init__(self, path: Path) -> None:
        """Opens the store; a RequestError says what `path` is instead of a cube."""
        self.path = path
        try:
            self._root: Any = zarr.open_group(path, mode="r", zarr_format=3, use_consolidated=False)
        except (FileNotFoundError, zarr.errors.GroupNotFoundError, zarr.errors.NodeTypeValidationError):
            raise RequestError(f"{path}: not a cube (no Zarr v3 group there)") from None
        self._arrays: dict[tuple[str, str], Any] = {}
        if "embedcube:what" not in self._root.attrs:
            raise RequestError(f"{path}: a Zarr group, but not a cube of embedcube")

    @cached_property
    def zones(self) -> tuple[str, ...]:
        """Paths of the groups that hold arrays, "<layer>/<zone>"."""
        layers = [(name, group) for name, group in self._root.groups() if name != "provenance"]
        return tuple(sorted(f"{name}/{zone}" for name, group in layers for zone, _ in group.groups()))

    @property
    def what(self) -> dict[str, Any]:
        """What the campaign asked for."""
        return dict(self._root.attrs["embedcube:what"])

    def group(self, zone: str) -> Any:
        """The Zarr group of a zone."""
        return self._root[zone]

    def array(self, zone: str, name: str) -> Any:
        """One of a zone's arrays; its metadata is read once."""
        if (zone, name) not in self._arrays:
            self._arrays[zone, name] = self._root[f"{zone}/{name}"]
        return self._arrays[zone, name]

    def has_scale(self, zone: str) -> bool:
        """Whether the vectors are int8 with a scale each."""
        return bool(self.array(zone, "embedding").dtype == np.int8)

    def adopted(self, zone: str) -> bool:
        """Whether its objects are those that the ranks wrote; else several windows were put into one."""
        return bool(self.array(zone, "embedding").shards[0] == 1)

    def vectors(self, zone: str, t: int, y: slice, x: slice) -> NDArray[np.float32]:
        """Decoded vectors (y, x, feature) of one window; NaN where there is none."""
        scale = self.array(zone, "scale")[t, y, x] if self.has_scale(zone) else None
        return decode(self.array(zone, "embedding")[t, y, x], scale)

    def valid(self, zone: str, t: int, y: slice, x: slice) -> NDArray[np.bool_]:
        """Which cells hold a vector."""
        status = self.array(zone, "status")[t, y, x]
        return np.asarray((status == VALID) | (status == VALID_INCOMPLETE))

    def cell_at(self, lon: float, lat: float, time: str, layer: str | None = None) -> Cell:
        """The cell that holds a point at a moment.

        Raises:
            RequestError: the place or the time lies outside of the cube, or there are several layers to choose from.
        """
        zone = self._zone_at(lon, lat, layer)
        attributes = self.group(zone).attrs
        x, y = _project(lon, lat, attributes["proj:wkt2"])
        if zone.split("/")[1] == LATLON:
            first = attributes["spatial:bbox"][0]
            x = first + (x - first) % 360
        if not (np.isfinite(x) and np.isfinite(y)):
            raise RequestError(
                f"{zone}: ({lon}, {lat}) has no place in {attributes.get('proj:code', 'its projection')}"
            )
        a, _, c, _, e, f = attributes["spatial:transform"]
        column, row = int((x - c) // a), int((y - f) // e)
        rows, columns = attributes["spatial:shape"]
        if not (0 <= row < rows and 0 <= column < columns):
            xmin, ymin, xmax, ymax = attributes["spatial:bbox"]
            raise RequestError(
                f"{zone}: ({lon}, {lat}) is x {x:.1f}, y {y:.1f}, outside of x {xmin} to {xmax}, y {ymin} to {ymax}"
            )
        return Cell(zone=zone, t=self._window_at(zone, time), y=row, x=column)

    def _zone_at(self, lon: float, lat: float, layer: str | None) -> str:
        """The only zone of a layer, or the UTM zone that a place is in."""
        zones = [zone for zone in self.zones if layer in (None, zone.split("/")[0])]
        layers = sorted({zone.split("/")[0] for zone in zones})
        if not zones:
            raise RequestError(f"{self.path}: no layer {layer}; it has {', '.join(self.zones)}")
        if len(layers) > 1:
            raise RequestError(f"{self.path}: which layer? It has {', '.join(layers)}; name one with --layer")
        if utm_zone_in(zones[0].split("/")[1]) is None:
            return zones[0]
        wanted = f"{layers[0]}/{utm_grid_name(int(utm_zone_of(np.array(lon))))}"
        if wanted not in zones:
            raise RequestError(f"{self.path}: ({lon}, {lat}) is in {wanted}, the layer has {', '.join(zones)}")
        return wanted

    def _window_at(self, zone: str, time: str) -> int:
        try:
            moment = np.datetime64(time.removesuffix("Z"), "s").astype(np.int64)
        except ValueError:
            raise RequestError(f'"{time}" is not a time; write for example 2023-06-15') from None
        bounds = self.group(zone)["time_bnds"][:]
        inside = np.nonzero((bounds[:, 0] <= moment) & (moment < bounds[:, 1]))[0]
        if not len(inside):
            first, last = (np.datetime64(int(b), "s") for b in (bounds.min(), bounds.max()))
            raise RequestError(f"{zone}: no window holds {time}; the windows lie between {first} and {last}")
        return int(inside[0])

    @cached_property
    def provenance(self) -> "Provenance":
        """Who made which shard of what."""
        return Provenance(self.path / "provenance")

    def explain(self, cell: Cell) -> dict[str, Any]:
        """All that the cube knows of a cell: value, scenes with digests, preprocessing, weights, record.

        `scenes` are those that gave at least one pixel to the cell's own footprint; `scenes_not_used` are the others
        that were planned for its shard, with the reason where one could not be read.
        """
        group = self.group(cell.zone)
        layer = cell.zone.split("/")[0]
        at = (cell.t, cell.y, cell.x)
        side = group["embedding"].shards[1]
        provenance = self.provenance
        shard = provenance.shard(cell.zone, cell.t, cell.y // side, cell.x // side)
        within = (cell.y % side) * side + cell.x % side
        used, others = provenance.scenes_of(shard, within)
        record = provenance.record(shard)
        vector = self.vectors(cell.zone, cell.t, slice(cell.y, cell.y + 1), slice(cell.x, cell.x + 1))[0, 0]
        start, end = (str(np.datetime64(int(b), "s")) + "Z" for b in group["time_bnds"][cell.t])
        what = self.what
        layer_what = what["layers"][layer]
        return {
            "cell": {
                "layer": layer, "t": cell.t, "y": cell.y, "x": cell.x, "crs": group.attrs.get("proj:code"),
                "centre": [float(group["x"][cell.x]), float(group["y"][cell.y])],
                "size": group.attrs["spatial:transform"][0], "window": [start, end],
            },
            "status": STATUS_MEANINGS[int(group["status"][at])],
            "n_obs": int(group["n_obs"][at]),
            "norm": float(np.linalg.norm(vector)) if np.isfinite(vector).all() else None,
            "scenes": used,
            "scenes_not_used": others,
            "preprocessing": {
                "archives": {name: what["archives"][name] for name in layer_what["archives"]},
                "frames": layer_what["frames"],
                "min_valid": layer_what["min_valid"],
                "chip_px": layer_what["chip_px"],
                "halo_px": layer_what["halo_px"],
            },
            "backbone": layer_what["backbone"],
            "weights_sha256": provenance.attributes["weights"][layer],
            "weights_fitted_on": provenance.attributes.get("fitted_on", {}).get(layer, ""),
            "program_sha256": provenance.attributes.get("programs", {}).get(layer, ""),
            "encoding": layer_what["encoding"],
            "recipe": record["recipe"],
            "made": {key: record[key] for key in _MADE},
            "versions": provenance.attributes["versions"],
            "objects": {o["array"]: o["sha256"] for o in record["objects"]},
            "campaign_digest": provenance.attributes["campaign_digest"],
        }  # fmt: skip


def _project(lon: float, lat: float, wkt: str) -> tuple[float, float]:
    from pyproj import CRS, Transformer

    x, y = Transformer.from_crs("EPSG:4326", CRS.from_wkt(wkt), always_xy=True).transform(lon, lat)
    return float(x), float(y)
