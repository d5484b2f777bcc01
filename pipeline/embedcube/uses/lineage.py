"""`lineage`: what a scene fed, of a cube or of a plan, as lines, JSON and tables."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedcube.cube.lineage import NO_BOUNDS, Fed, KnownScene, ShardAt, chosen, fed_by, scene_in
from embedcube.errors import RequestError
from embedcube.grid import to_degrees
from embedcube.printable import listed

if TYPE_CHECKING:
    import geopandas

    from embedcube.campaign.plan import Plan
    from embedcube.campaign.run_folder import RunDir
    from embedcube.campaign.schema import Campaign
    from embedcube.cube.reader import Cube

MOST_CELLS = 5_000_000
"""rows of a table of cells"""


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """What a scene fed."""

    of: str
    """the cube, or the plan"""
    scene: KnownScene
    fed: tuple[Fed, ...]

    @property
    def cells(self) -> int | None:
        """Cells that got a pixel of the scene, over all layers and windows; None for a plan."""
        counts = [one.count for one in self.fed]
        return None if None in counts else sum(count for count in counts if count is not None)

    def document(self) -> dict[str, Any]:
        """What `lineage --json` prints."""
        shards = [one.facts() for one in self.fed]
        return {"of": self.of, "scene": asdict(self.scene), "cells": self.cells, "shards": shards}

    def lines(self) -> Iterator[str]:
        """What `lineage` prints."""
        scene = self.scene
        yield f"scene       {scene.name}, {scene.time}, SHA-256 {scene.digest[:12]}"
        if scene.verdict:
            yield f"            cannot be used: {scene.verdict}"
        if scene.superseded_by:
            yield f"            superseded by {scene.superseded_by}"
        yield f"of          {self.of}"
        for layer in dict.fromkeys(one.at.layer for one in self.fed):
            own = [one for one in self.fed if one.at.layer == layer]
            cells = "" if self.cells is None else f", {sum(one.count or 0 for one in own):,} cells"
            yield f"{layer}: {len(own)} shards{cells}"
            for one in own[:_SHOWN]:
                count = "not embedded yet" if one.count is None else f"{one.count} of {one.of_cells} cells"
                ids = list(dict.fromkeys(sample.id for sample in one.samples))
                of = f", samples {listed(ids, _NAMED)}" if ids else ""
                yield f"  {one.at!s:<28}  {one.at.window:<22}  {'could not be read' if one.unread else count}{of}"
            if len(own) > _SHOWN:
                yield f"  ... and {len(own) - _SHOWN} more: -o FILE.csv lists them"
        if not self.fed:
            yield "it is in no shard"


_SHOWN = 20
"""shards of a layer that are printed"""

_NAMED = 4
"""samples of a shard that are printed"""


def lineage_in_cube(cube: "Cube", asked: str) -> Lineage:
    """What a scene fed, from the provenance of a cube; a RequestError lists scenes where none or several match."""
    scene = scene_in(cube, asked)
    return Lineage(of=cube.address, scene=scene, fed=tuple(fed_by(cube, scene.row)))


def lineage_in_plan(campaign: "Campaign", run: "RunDir", asked: str) -> Lineage:
    """What a scene is to feed, from the plan of a campaign; a RequestError lists scenes where none or several match."""
    from embedcube.campaign.plan import read_plan, read_shards

    plan = read_plan(campaign, run)
    scene = _planned_scene(campaign, run, plan, asked)
    windows = [window.short for window in campaign.all_windows]
    fed = []
    for shard in (shard for group in read_shards(run, plan) for shard in group if scene.row in shard.scenes):
        layer = plan.layers[shard.layer]
        grid, layout = layer.grids.get(shard.zone), layer.layout
        at = ShardAt(
            layer=shard.layer, zone=shard.zone, t=shard.t, iy=shard.iy, ix=shard.ix, window=windows[shard.t],
            bounds=grid.bounds(layout.shard_area(shard.row, shard.col)) if grid else NO_BOUNDS,
            crs=grid.crs if grid else "",
        )  # fmt: skip
        unread = scene.row in plan.verdicts.scenes
        fed.append(Fed(at=at, recipe=shard.recipe, unread=unread, of_cells=layout.shard_cells**2, cells=None))
    return Lineage(of=f"the plan {run.plan}", scene=scene, fed=tuple(sorted(fed, key=_order)))


def _order(one: Fed) -> tuple[str, str, int, int, int]:
    return one.at.layer, one.at.zone, one.at.t, one.at.iy, one.at.ix


def _planned_scene(campaign: "Campaign", run: "RunDir", plan: "Plan", asked: str) -> KnownScene:
    from embedcube.campaign.inventory import scenes_as_planned
    from embedcube.campaign.tables import read_columns

    scenes = scenes_as_planned(campaign, run, plan)
    table = read_columns(run.inventory, plan.inventory, ("embedcube:archive", "id"), "index")
    names = zip(table["embedcube:archive"].to_pylist(), table["id"].to_pylist(), strict=True)
    rows = [row for row, (archive, name) in enumerate(names) if asked in f"{archive}/{name}"]
    found = (
        KnownScene(
            row=row, archive=scenes[row].archive, id=scenes[row].id, time=scenes[row].time.isoformat(),
            digest=scenes[row].digest, verdict=scenes[row].verdict, superseded_by=scenes[row].superseded_by,
        )
        for row in rows
    )  # fmt: skip
    return chosen(found, asked, str(run.inventory))


def shards_table(fed: Sequence[Fed]) -> "geopandas.GeoDataFrame":
    """One row for each shard, with its square."""
    import geopandas

    rows = [
        {name: ", ".join(value) if isinstance(value, list) else value for name, value in one.facts().items()}
        for one in fed
    ]
    nothing = dict.fromkeys(("shard", "layer", "zone", "t", "iy", "ix", "window", "cells"))
    names = [*dict.fromkeys(name for row in rows or [nothing] for name in row)]
    columns = {name: [row.get(name, "") for row in rows] for name in names}
    geometry = [square(one.at.bounds, one.at.crs) for one in fed]
    return geopandas.GeoDataFrame(columns, geometry=geometry, crs="EPSG:4326")


def square(bounds: tuple[float, float, float, float], crs: str) -> Any:
    """A box (xmin, ymin, xmax, ymax) of a CRS as a polygon in degrees; across the antimeridian, in two parts.

    None where there is no CRS, as for samples.
    """
    import shapely

    from embedcube.campaign.boxes import footprint, in_range

    if not crs:
        return None
    west, south, east, north = bounds
    transformer = to_degrees(crs)
    if transformer.source_crs is not None and transformer.source_crs.is_geographic:
        return footprint(in_range(bounds))
    lon, lat = transformer.transform([west, east, east, west], [south, south, north, north])
    if max(lon) - min(lon) > 180:
        return footprint(transformer.transform_bounds(*bounds))
    return shapely.Polygon(list(zip(lon, lat, strict=True)))


def cells_table(fed: Sequence[Fed]) -> "geopandas.GeoDataFrame":
    """One row for each cell that got a pixel, as a point at its centre.

    Raises:
        RequestError: the shards are not embedded yet, or there are more cells than `MOST_CELLS`.
    """
    import geopandas

    if any(one.cells is None for one in fed):
        raise RequestError("--cells: the shards are not embedded yet; without it the file lists shards")
    if (count := sum(one.count or 0 for one in fed)) > MOST_CELLS:
        raise RequestError(f"--cells: {count:,} cells are more than {MOST_CELLS:,}; without it the file lists shards")
    parts = [_cells(one) for one in fed]
    names = ["layer", "zone", "t", "y", "x", "window", "lon", "lat"]
    if any(one.samples for one in fed):
        names.append("sample")
    columns = {name: np.concatenate([part[name] for part in parts]) if parts else np.zeros(0) for name in names}
    geometry = geopandas.points_from_xy(columns["lon"], columns["lat"])
    return geopandas.GeoDataFrame(columns, geometry=geometry, crs="EPSG:4326")


def _cells(one: Fed) -> dict[str, Any]:
    """The cells of a shard that got a pixel; `y` and `x` count in the arrays of the zone.

    Cells of a list have the id and the place of their sample.
    """
    assert one.cells is not None
    side = one.cells.shape[0]
    row, col = np.nonzero(one.cells)
    xmin, _, xmax, ymax = one.at.bounds
    cell = (xmax - xmin) / side
    lon, lat = xmin + (col + 0.5) * cell, ymax - (row + 0.5) * cell
    if one.at.crs:
        lon, lat = to_degrees(one.at.crs).transform(lon, lat)
    if one.samples:
        lon, lat = (np.array([getattr(sample, name) for sample in one.samples]) for name in ("lon", "lat"))
    ids = np.array([sample.id for sample in one.samples] or [""] * len(row), dtype=object)
    same = {name: np.full(len(row), getattr(one.at, name)) for name in ("layer", "zone", "t", "window")}
    return {**same, "y": one.at.iy * side + row, "x": one.at.ix * side + col, "lon": lon, "lat": lat, "sample": ids}


def write_lineage(found: Lineage, path: Path, *, cells: bool) -> None:
    """Write a table named by its suffix, of shards, or with `cells` of cells.

    Raises:
        RequestError: the suffix is unknown, or `cells_table` refuses.
    """
    from embedcube.uses.tables import write_table

    write_table(cells_table(found.fed) if cells else shards_table(found.fed), path)
