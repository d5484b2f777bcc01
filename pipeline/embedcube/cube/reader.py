"""Open a cube, find the cell of a place, explain a cell. Needs numpy, zarr and pyproj; neither torch nor GDAL.

`layer.py` has what is asked of one layer: points, windows, parcels.
"""

import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from zarr.abc.store import Store

from embedcube.cube.encoding import (
    FAILED,
    NOT_PROCESSED,
    STATUS_MEANINGS,
    VALID,
    VALID_INCOMPLETE,
    Encoding,
    why_not_held,
)
from embedcube.cube.layer import Layer
from embedcube.cube.listed import is_list
from embedcube.cube.provenance import arrays_in
from embedcube.cube.store import Cell, CubeStore
from embedcube.errors import RequestError
from embedcube.grid import LATLON, to_degrees, unit_of, utm_grid_name, utm_zone_in, utm_zone_of

__all__ = ["Cell", "Cube", "open_cube"]

_MADE = ("host", "device", "attempt", "rank", "started", "finished", "code_version", "job", "container")
"""fields of a record that `explain` repeats"""

_NOTHING = 2
"""rank of a cell that was not processed, among cells of which one with a vector is preferred"""

_NAMED = 3
"""number of windows that an error message lists"""


def open_cube(source: str | Path | Store) -> "Cube":
    """Open a cube: its folder, a link to it (http, https, s3, gs, az), or the STAC Collection that describes it.

    A link needs the extra `remote`. A RequestError says what is there instead of a cube.
    """
    return Cube(source)


class Cube(CubeStore):
    """One version of a cube. `print(cube)` shows its layers, zones, windows and shares of status.

    `cube["s2_mosaiks"]` is a layer; `cube.layer` is the only one of a cube that has one.
    """

    def __getitem__(self, name: str) -> Layer:
        """The layer with this name; a RequestError lists the names where there is none."""
        if name not in self.layers:
            raise RequestError(f"{self.address}: no layer {name}; it has {', '.join(self.layers)}")
        return Layer(self, name)

    @property
    def layer(self) -> Layer:
        """The only layer; a RequestError lists the names where there are several."""
        if len(self.layers) != 1:
            raise RequestError(f"{self.address}: which layer? It has {', '.join(self.layers)}; write cube[name]")
        return self[self.layers[0]]

    def status_shares(self, layer: str) -> dict[str, float]:
        """Share of the cells of a layer's shards that have each status, of the statuses that occur.

        Counted from the records of the shards; in a layer of many shards from a sample of them. Cells beside the shards
        do not count: arrays begin on the border of a block of shards.
        """
        counts = self.provenance.status_counts(self.zones_of(layer))
        counted = sum(counts.values())
        return {name: count / counted for name, count in counts.items() if count}

    def _cells_of_shards(self, zone: str) -> int:
        """Cells of the shards of a zone, in each window."""
        return self.provenance.shards_in(zone) * self.shard_cells(zone) ** 2 // len(self.windows(zone))

    def __repr__(self) -> str:
        count = f"{len(self.layers)} layer{'s' if len(self.layers) > 1 else ''}"
        lines = [f"Cube {self.address}", f"  version {self.version}, campaign {self.campaign}, {count}"]
        return "\n".join([*lines, *(line for layer in self.layers for line in self._described(layer))])

    def _described(self, layer: str) -> list[str]:
        """The lines of `repr` about a layer."""
        zones = self.zones_of(layer)
        group, embedding = self.group(zones[0]), self.array(zones[0], "embedding")
        windows, centred = self.windows(zones[0]), "" if self.offset(zones[0]) is None else " + offset"
        named = zones[0].split("/")[1] if len(zones) == 1 else f"{len(zones)}, from {zones[0]} to {zones[-1]}"
        if is_list(zones[0]):
            counts = f"{len(self.samples(zones[0]).ids):,} samples"
            where = (
                f"{named}; {len(group.attrs['embedcube:sample_crs'])} CRS, pixels of {group.attrs['embedcube:pixel']:g}"
            )
        else:
            crs = group.attrs.get("proj:code", "a CRS without a code")
            size = f"{group.attrs['spatial:transform'][0]:g} {unit_of(group.attrs['proj:wkt2'])}"
            where = f"{named}; {crs}, cells of {size}"
            counts = f"{sum(math.prod(self.array(zone, 'status').shape[1:]) for zone in zones):,}"
        spans = windows[0].days if len(windows) == 1 else f"{windows[0].days} ... {windows[-1].days}"
        try:
            shares = ", ".join(f"{name} {share:.1%}" for name, share in self.status_shares(layer).items())
            if not is_list(zones[0]):
                counts = f"{sum(self._cells_of_shards(zone) for zone in zones):,}"
        except RequestError:
            shares = "unknown, as the cube has no provenance"
        return [
            f"  {layer}: {embedding.shape[-1]} features as {embedding.dtype}{centred}, model {self.model(zones[0])}",
            f"    zones     {where}",
            f"    windows   {len(windows)}: {spans}",
            f"    cells     {counts} in each window",
            f"    status    {shares}",
        ]

    def cell_of(self, sample: str, time: str | None = None, layer: str | None = None) -> Cell:
        """The first cell of a sample in one window; `time` and `layer` as in `cell_at`.

        Raises:
            RequestError: there is no such sample, or several windows or layers match.
        """
        zones = [zone for zone in self.zones if layer in (None, zone.split("/")[0])]
        if len(zones) != 1:
            listed = ", ".join(self.layers)
            raise RequestError(f"{self.address}: which layer? It has {listed}; name one with --layer")
        y, x = self.array(zones[0], "status").place(self.samples(zones[0]).number(sample))
        return Cell(zone=zones[0], t=self._window_at(zones[0], time), y=y, x=x)

    def _place_of(self, cell: Cell) -> dict[str, Any]:
        """Where a cell lies; of a list also which sample it is of, and the date of that."""
        group = self.group(cell.zone)
        if not is_list(cell.zone):
            return {
                "crs": group.attrs.get("proj:code"),
                "centre": [float(self.array(cell.zone, axis)[getattr(cell, axis)]) for axis in ("x", "y")],
                "size": group.attrs["spatial:transform"][0],
            }
        samples, number = self.samples(cell.zone), self.array(cell.zone, "status").sample(cell.y, cell.x)
        return samples.described(number, cell.t) | {"size": group.attrs["embedcube:pixel"]}

    def cell_at(self, lon: float, lat: float, time: str | None = None, layer: str | None = None) -> Cell:
        """The cell that holds a point in one window.

        `time` is a moment ("2023-06-15T12:00"), a day, a month, a year or an interval ("2023-06-01/2023-07-01"). It may
        be left out where the layer has one window, and `layer` where the cube has one layer. Of several windows that
        contain the time, which campaigns with overlapping windows have, it is the first; an interval names another.
        Near the border of two UTM zones it is the cell with a vector, that of the place's own zone before the other.

        Raises:
            RequestError: the place or the time lies outside of the cube, or several windows or layers match.
        """
        zones = self._zones_at(lon, lat, layer)
        cells: list[Cell] = []
        problems: list[RequestError] = []
        for zone in zones:
            try:
                cells.append(self._cell_in(zone, lon, lat, time))
            except RequestError as problem:
                problems.append(problem)
        best = min(cells, key=self._emptiness, default=None)
        if best is None or (best.zone != zones[0] and self._emptiness(best) == _NOTHING):
            raise problems[0]
        return best

    def _zones_at(self, lon: float, lat: float, layer: str | None) -> tuple[str, ...]:
        """Zones that may hold a place: the only one of the layer, or the UTM zone of its longitude and those beside it.

        The zone of the longitude is named whether the layer has it or not.
        """
        zones = [zone for zone in self.zones if layer in (None, zone.split("/")[0])]
        layers = sorted({zone.split("/")[0] for zone in zones})
        if not zones:
            raise RequestError(f"{self.address}: no layer {layer}; it has {', '.join(self.zones)}")
        if len(layers) > 1:
            raise RequestError(f"{self.address}: which layer? It has {', '.join(layers)}; name one with --layer")
        if utm_zone_in(zones[0].split("/")[1]) is None:
            return (zones[0],)
        own = int(utm_zone_of(np.array(lon)))
        wanted, *beside = (f"{layers[0]}/{utm_grid_name((own + step - 1) % 60 + 1)}" for step in (0, -1, 1))
        return wanted, *(zone for zone in beside if zone in zones)

    def _cell_in(self, zone: str, lon: float, lat: float, time: str | None) -> Cell:
        """The cell of a zone that holds a place, with or without a vector."""
        if zone not in self.zones:
            listed = ", ".join(self.zones_of(zone.partition("/")[0]))
            raise RequestError(f"{self.address}: ({lon}, {lat}) is in {zone}, the layer has {listed}")
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

    def _emptiness(self, cell: Cell) -> int:
        """0 for a cell with a vector, 1 for one without, 2 (`_NOTHING`) for one that was not processed."""
        status = int(self.array(cell.zone, "status")[cell.t, cell.y, cell.x])
        return 0 if status in (VALID, VALID_INCOMPLETE) else 1 if status != NOT_PROCESSED else _NOTHING

    def _window_at(self, zone: str, time: str | None) -> int:
        """The only window of a zone that a time selects; a RequestError lists several."""
        windows, chosen = self.windows(zone), self.windows_of(zone, time)
        if len(chosen) == 1:
            return chosen[0]
        problem = (
            f"{zone} has {len(windows)} windows" if time is None else f"{zone}: {len(chosen)} windows match {time}"
        )
        listed = ", ".join(windows[t].short for t in chosen[:_NAMED])
        more = f" and {len(chosen) - _NAMED} more" if len(chosen) > _NAMED else ""
        example = windows[chosen[0]].short
        raise RequestError(f"{problem}: {listed}{more}; choose one with --time, for example --time {example}")

    def explain(
        self,
        cell: Cell | None = None,
        *,
        lon: float | None = None,
        lat: float | None = None,
        time: str | None = None,
        layer: str | None = None,
        sample: str | None = None,
    ) -> dict[str, Any]:
        """All that the cube holds about a cell: status, scenes with digests, preprocessing, weights, record.

        Give a cell, or a place and time as in `cell_at`; in a list of samples the id of a `sample`, and a time.
        `scenes` gave at least one pixel to the footprint of the cell. `scenes_not_used` were planned for its shard too,
        each with the reason why it gave none. `shares_of_frames` has for each archive the share of each frame of the
        window that was observed in the cell: of its pixels, and for weather of its time, too.
        `scenes_withdrawn` are those of the window around the cell that the campaign withdraws.
        `reasons` say why a failed cell may have no vector: those of its shard.
        """
        if sample is not None:
            cell = self.cell_of(sample, time, layer)
        if cell is None:
            if lon is None or lat is None:
                raise RequestError("explain needs a cell, lon= and lat=, or sample=")
            cell = self.cell_at(lon, lat, time, layer)
        return self._explained(cell)

    def _explained(self, cell: Cell) -> dict[str, Any]:
        layer = cell.zone.split("/")[0]
        at = (cell.t, cell.y, cell.x)
        side = self.shard_cells(cell.zone)
        provenance = self.provenance
        shard = provenance.shard(cell.zone, cell.t, cell.y // side, cell.x // side)
        within = (cell.y % side) * side + cell.x % side
        used, others = provenance.scenes_of(shard, within)
        record = provenance.record(shard)
        vector = self.vectors(cell.zone, cell.t, slice(cell.y, cell.y + 1), slice(cell.x, cell.x + 1))[0, 0]
        bounds = self.array(cell.zone, "time_bnds")[cell.t]
        start, end = (str(np.datetime64(int(moment), "s")) + "Z" for moment in bounds)
        what = self.what
        layer_what = what["layers"][layer]
        status = int(self.array(cell.zone, "status")[at])
        shares = provenance.shares(shard, len(layer_what["archives"]), side * side, within)
        return {
            "cell": {
                "layer": layer, "t": cell.t, "y": cell.y, "x": cell.x, "window": [start, end], **self._place_of(cell),
            },
            "status": STATUS_MEANINGS[status],
            "reasons": _why_failed(record, layer_what["encoding"]) if status == FAILED else [],
            "n_obs": int(self.array(cell.zone, "n_obs")[at]),
            "norm": float(np.linalg.norm(vector)) if np.isfinite(vector).all() else None,
            "scenes": used,
            "scenes_not_used": others,
            "shares_of_frames": {
                archive: [round(float(share), 4) for share in shares[:, s]]
                for s, archive in enumerate(layer_what["archives"])
            } if len(shares) else {},
            "scenes_withdrawn": self._withdrawn(cell, layer_what["archives"]),
            "missing_steps": provenance.attributes.get("gaps", {}).get(layer, {}).get(str(cell.t), []),
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
            "arrays": {one["array"]: one["sha256"] for one in arrays_in(record)},
            "campaign_digest": provenance.attributes["campaign_digest"],
        }  # fmt: skip

    def _withdrawn(self, cell: Cell, archives: Sequence[str]) -> list[str]:
        """Ids of the scenes around a cell, in its window, that the campaign withdraws."""
        entries = self.what.get("withdraw", ())
        if not entries:
            return []
        window, (lon, lat) = self.windows(cell.zone)[cell.t], self._degrees_of(cell)
        found = []
        for scene in self.provenance.withdrawn(entries, archives):
            west, south, east, north = scene["bbox"]
            first, last = (datetime.fromisoformat(scene[key] or scene["time"]) for key in ("time", "end"))
            if window.overlaps(first, last) and south <= lat <= north and (lon - west) % 360 <= east - west:
                found.append(scene["id"])
        return found

    def _degrees_of(self, cell: Cell) -> tuple[float, float]:
        """Longitude and latitude of a cell, of a list those of its sample; NaN where nobody knows them."""
        if is_list(cell.zone):
            number = self.array(cell.zone, "status").sample(cell.y, cell.x)
            samples = self.samples(cell.zone)
            return float(samples.column("lon")[number]), float(samples.column("lat")[number])
        x, y = (float(self.array(cell.zone, axis)[getattr(cell, axis)]) for axis in ("x", "y"))
        lon, lat = to_degrees(self.group(cell.zone).attrs["proj:wkt2"]).transform(x, y)
        return float(lon), float(lat)


def _why_failed(record: dict[str, Any], encoding: Encoding) -> list[str]:
    """Why cells of a shard are `failed`: its scenes that could not be read, and vectors that cannot be stored."""
    unread = [f"{one['archive']}: {one['scene']} could not be read: {one['reason']}" for one in record["quarantined"]]
    return [*unread, *(why_not_held(encoding)[reason] for reason in record.get("not_held", {}))]


def _project(lon: float, lat: float, wkt: str) -> tuple[float, float]:
    from pyproj.enums import TransformDirection

    x, y = to_degrees(wkt).transform(lon, lat, direction=TransformDirection.INVERSE)
    return float(x), float(y)
