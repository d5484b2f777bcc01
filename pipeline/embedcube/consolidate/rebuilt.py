"""Campaign and plan of a cube, made again from what the cube says of itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from embedcube.campaign.plan import LayerPlan, Shard
from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Campaign, make_grid
from embedcube.campaign.vectors import CENTRE
from embedcube.campaign.verdicts import Verdict, Verdicts
from embedcube.campaign.zones import layout_of, sample_list
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError
from embedcube.grid import Grid, ShardLayout, ShardRange
from embedcube.zones import SAMPLES, ObjectShape, SampleList


@dataclass(frozen=True, kw_only=True)
class Rebuilt:
    """What a cube says of its making."""

    campaign: Campaign
    """without the paths of archives, which no cube knows"""
    layers: Mapping[str, LayerPlan]
    versions: Mapping[str, str]
    """versions of all software that computed bytes"""
    verdicts: Verdicts
    """the scenes that were out for all shards"""
    scenes: list[Scene]
    """the inventory"""

    def shard(self, place: tuple[str, int, int, int], recipe: NDArray[np.uint8], rows: NDArray[np.int32]) -> Shard:
        """The shard at a place ("<layer>/<zone>", t, iy, ix), as a plan has it; `rows` are of its scenes."""
        (layer, _, zone), (t, iy, ix) = place[0].partition("/"), place[1:]
        origin = self.layers[layer].zones[zone]
        return Shard(
            layer=layer, zone=zone, t=t, row=origin.row + iy, col=origin.col + ix, iy=iy, ix=ix,
            recipe=bytes(recipe).hex(), scenes=tuple(rows.tolist()),
        )  # fmt: skip


def rebuild(cube: Cube) -> Rebuilt:
    """Read all that a cube says of its making.

    Raises:
        RequestError: it was made by an earlier version of embedcube, which did not say so much.
        ValueError, TypeError, KeyError, AttributeError: its metadata are damaged.
    """
    about = cube.provenance.attributes
    if "planned" not in about:
        raise RequestError(
            f"{cube.address}: made by an earlier version of embedcube, which did not say how shards were made"
        )
    campaign = campaign_of(cube)
    scenes = [Scene.from_json(text) for text in cube.provenance.blobs("scene")]
    return Rebuilt(
        campaign=campaign,
        layers={name: _layer(cube, campaign, name, about, scenes) for name in campaign.layers},
        versions=about["versions"],
        verdicts=_verdicts(about["out"], scenes),
        scenes=scenes,
    )


def campaign_of(cube: Cube) -> Campaign:
    """The campaign of a cube, without the paths of archives; errors as `rebuild` has them."""
    name, what = cube.provenance.attributes["campaign"], cube.what
    archives = {archive: block | {"path": "/"} for archive, block in what["archives"].items()}
    windows = [window.split("/") for window in what["windows"]]
    return Campaign.model_validate(what | {"campaign": name, "archives": archives, "windows": windows})


def _layer(cube: Cube, campaign: Campaign, name: str, about: dict[str, Any], scenes: Sequence[Scene]) -> LayerPlan:
    """The plan of a layer, as far as the cube follows from it."""
    layer, planned = campaign.layers[name], about["planned"][name]
    layout = layout_of(campaign, name)
    zones = [zone.split("/")[1] for zone in cube.zones_of(name)]
    samples = sample_list(campaign, name, scenes) if zones == [SAMPLES] else None
    grids = {zone: make_grid(campaign, name, zone) for zone in zones if samples is None}
    first = cube.group(f"{name}/{zones[0]}").attrs
    dimensions = cube.array(f"{name}/{zones[0]}", "embedding").shape[-1]
    return LayerPlan(
        zones={zone: _place(cube, f"{name}/{zone}", samples or grids[zone], layout) for zone in zones},
        grids=grids,
        samples=samples,
        layout=layout,
        encoding=layer.encoding,
        dimensions=dimensions,
        chunk_windows=layer.chunk_windows,
        objects=ObjectShape(**planned["objects"]),
        collections=tuple(first["geoemb:source_data"]),
        counted=tuple(about["counted"][name]),
        weights=about["weights"][name],
        fitted_on=about["fitted_on"][name],
        model=" ".join(first.get("embedcube:models", [first["geoemb:model"]])),
        batch=planned["batch"],
        batch_for="",
        program=about["programs"].get(name, ""),
        compiled_for="",
        versions=planned["versions"],
        plugins=tuple(planned["plugins"]),
        empty=(),
        offset=_offset(cube, name) if layer.centre else (),
    )


def _offset(cube: Cube, name: str) -> tuple[float, ...]:
    """The offset of a centred layer: that of the weights where the cube keeps these, else the cube's own."""
    kept = cube.provenance.weights(name)
    if kept is None:
        stored = cube.offset(cube.zones_of(name)[0])
        return () if stored is None else tuple(stored.tolist())
    return tuple(safetensors.numpy.load(kept)[CENTRE].tolist())


def _place(cube: Cube, zone: str, grid: Grid | SampleList, layout: ShardLayout) -> ShardRange:
    """Rows and columns of the shard lattice that are nearest to where a zone says that it lies."""
    if isinstance(grid, SampleList):
        return ShardRange(row=0, col=0, rows=grid.shards(layout), cols=1)
    _, _, left, _, _, top = cube.group(zone).attrs["spatial:transform"]
    side, (rows, columns) = layout.shard_px * grid.pixel, cube.array(zone, "status").shape[1:]
    return ShardRange(
        row=round((grid.origin_y - top) / side),
        col=round((left - grid.origin_x) / side),
        rows=rows // layout.shard_cells,
        cols=columns // layout.shard_cells,
    )


def _verdicts(out: dict[str, list[int]], scenes: list[Scene]) -> Verdicts:
    found = {}
    for row, instead in out.items():
        scene = scenes[int(row)]
        found[int(row)] = Verdict(
            archive=scene.archive, scene=scene.id, scene_digest=scene.digest, reason="", instead=tuple(instead)
        )
    return Verdicts(scenes=found)
