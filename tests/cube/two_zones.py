"""A small cube over the border of two UTM zones, 12 E at 50 N, with three windows, by the product's own writers.

`vectors_at` says what it holds at any place, in float64 and independently of any grid, so that what a reader finds can
be compared with it. The fixture `two_zones` (tests/conftest.py) is the finished cube. No test changes it: copy.

    layer s2, zones utm32 (80 x 80 cells) and utm33 (80 x 80 cells) of 160 m, 16 features, int8, shards of 16 x 16 cells
    windows 2023-06, 2023-07, 2023-08; each has a round cloud at another place
    shard (1, 1) of utm32 has failed in window 1; shard (2, 2) of utm33 is incomplete in window 0
"""

import zlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedcube.campaign.parts import PartWriter, Quarantined, Record
from embedcube.campaign.plan import LayerPlan, Plan, Shard
from embedcube.campaign.price import Price
from embedcube.campaign.recipes import PlannedRecipes
from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Campaign, make_grid, make_layout
from embedcube.consolidate.provenance import Made, write_provenance
from embedcube.consolidate.template import part_specs, write_template
from embedcube.cube.arrays import ShardEncoder, object_key
from embedcube.cube.encoding import FAILED, MASKED, NOT_PROCESSED, STATUS_MEANINGS, VALID, VALID_INCOMPLETE
from embedcube.grid import Grid, ShardRange, to_degrees
from embedcube.zones import ObjectShape

LAYER, BORDER, LAT = "s2", 12.0, 50.0
FEATURES, WINDOWS, SHARDS, SHARD_CELLS = 16, 3, 5, 16

CLOUDS = ((11.97, 50.01), (12.02, 49.99), (12.0, 50.03))
"""centre of the cloud of each window, in degrees"""

CLOUD_DEGREES = 0.012

FAILED_SHARD, INCOMPLETE_SHARD = ("utm32", 1, 1, 1), ("utm33", 0, 2, 2)
"""zone, window, row and column of shards"""

DOCUMENT: dict[str, Any] = {
    "campaign": "two_zones",
    "archives": {"s2": {"source": "sentinel2", "path": "/nowhere", "bands": ["B02", "B03", "B04", "B08"]}},
    "grid": {"crs": "utm", "pixel": 10},
    "region": {"bbox": [11.88, 49.94, 12.12, 50.06]},
    "windows": {"start": "2023-06-01", "end": "2023-09-01", "step": "1 month"},
    "layers": {
        LAYER: {
            "archives": ["s2"],
            "backbone": {"name": "mosaiks", "filters": 8},
            "chip_px": 64,
            "halo_px": 0,
            "cell_px": 16,
            "shard_chips": 4,
        }
    },
}


def vectors_at(lon: NDArray[np.float64], lat: NDArray[np.float64], t: int) -> NDArray[np.float64]:
    """Vectors (..., feature) at places in window `t`: smooth over some kilometres, with a shift for the season."""
    rng = np.random.default_rng(7)
    waves, phases = rng.normal(size=(2, FEATURES)) * 2, rng.uniform(0, 2 * np.pi, FEATURES)
    season = 0.3 * t * rng.normal(size=FEATURES)
    east_km, north_km = (np.asarray(lon) - BORDER) * 71.7, (np.asarray(lat) - LAT) * 111.2
    return np.asarray(np.sin(east_km[..., None] * waves[0] / 3 + north_km[..., None] * waves[1] / 3 + phases) + season)


def cloudy(lon: NDArray[np.float64], lat: NDArray[np.float64], t: int) -> NDArray[np.bool_]:
    """Places under the cloud of window `t`."""
    east, north = CLOUDS[t]
    return np.asarray(((lon - east) * 0.64) ** 2 + (lat - north) ** 2 < CLOUD_DEGREES**2)


def write_two_zones(cube: Path, document: dict[str, Any] = DOCUMENT, without: tuple[int, ...] = ()) -> None:
    """Write the cube, with provenance, to a new folder; of another document, or `without` some of its nine scenes.

    Without a scene, the vectors of its window are others.
    """
    campaign = Campaign.model_validate(document)
    windows = len(campaign.all_windows)
    planned = _planned(campaign)
    plan = Plan(
        campaign=campaign.digest, plan="0" * 64, inventory="0" * 64, versions={"embedcube": "0", "torch": "0"},
        layers={LAYER: planned}, shards=2 * SHARDS**2 * windows, tasks=1, price=_price(), files={},
    )  # fmt: skip
    write_template(campaign, plan.layers, cube)
    times = [datetime(2023, month, day, 10, 30, tzinfo=UTC) for month in (6, 7, 8) for day in (5, 15, 25)]
    scenes = [
        Scene(id=f"scene{i}", archive="s2", time=time, acquisition=f"pass{i}", bbox=(11.8, 49.9, 12.2, 50.1))
        for i, time in enumerate(times)
    ]
    part = cube.with_name(f"{cube.name}.part")
    writer, encoder = PartWriter(part), ShardEncoder(part_specs(planned))
    recipes = PlannedRecipes(campaign, plan, scenes, {LAYER: planned.plugins})
    shards = (
        Shard(
            layer=LAYER, zone=zone, t=t, row=place.row + iy, col=place.col + ix, iy=iy, ix=ix, recipe="",
            scenes=tuple(i for i in range(3 * t, 3 * t + 3) if i not in without),
        )
        for zone, place in planned.zones.items() for t in range(windows) for iy, ix in np.ndindex(SHARDS, SHARDS)
    )  # fmt: skip
    digests = [scene.digest for scene in scenes]
    made = [
        _shard(cube, part, writer, encoder, planned, replace(shard, recipe=recipes.derive(shard)), digests)
        for shard in shards
    ]
    writer.close()
    write_provenance(campaign, plan, scenes, made, cube)


def _planned(campaign: Campaign) -> LayerPlan:
    """Plan of the layer: each zone's shards lie around the border, most of them on its own side."""
    layer = campaign.layers[LAYER]
    layout = make_layout(layer)
    grids = {zone: make_grid(campaign, LAYER, zone) for zone in ("utm32", "utm33")}
    zones = {}
    for zone, before in (("utm32", 4), ("utm33", 1)):
        x, y = to_degrees(grids[zone].crs).transform(BORDER, LAT, direction="INVERSE")
        side = layout.shard_px * 10
        row, col = int(-y // side) - SHARDS // 2, int(x // side) - before
        zones[zone] = ShardRange(row=row, col=col, rows=SHARDS, cols=SHARDS)
    return LayerPlan(
        zones=zones, grids=grids, layout=layout, encoding=layer.encoding, dimensions=FEATURES, chunk_windows=1,
        objects=ObjectShape(windows=1, rows=1, cols=1),
        collections=("https://example.org/s2",), counted=layer.archives, weights="1" * 64, fitted_on="",
        model="https://example.org/model", batch=2, batch_for="", program="", compiled_for="",
        versions={"torch": "0"}, plugins=("", ""), empty=(),
    )  # fmt: skip


def _price() -> Price:
    return Price(
        shards=1, cells=1, chips=1, scenes=1, decoded_bytes=1, needed_bytes=1, cube_bytes=1, files=1, folders=1,
        rank_bytes=1, worst_shard="", device_s=1, longest_s=1,
    )  # fmt: skip


def status_of(grid: Grid, shard: Shard, planned: LayerPlan) -> NDArray[np.uint8]:
    """Status (y, x) of the cells of a shard."""
    area = planned.layout.shard_area(shard.row, shard.col)
    lon, lat = grid.degrees(area, planned.layout.cell_px)
    place = (shard.zone, shard.t, shard.iy, shard.ix)
    status = np.full(lon.shape, VALID_INCOMPLETE if place == INCOMPLETE_SHARD else VALID, np.uint8)
    status[cloudy(lon, lat, shard.t)] = MASKED
    if place == FAILED_SHARD:
        status[:] = FAILED
    status[~grid.owns(area, planned.layout.cell_px)] = NOT_PROCESSED
    return status


def _shard(
    cube: Path, part: Path, writer: PartWriter, encoder: ShardEncoder, planned: LayerPlan, shard: Shard,
    digests: list[str],
) -> Made:  # fmt: skip
    """Encode a shard, put its arrays into the part and the cube, whose objects hold one shard each, and record it."""
    grid, layout = planned.grids[shard.zone], planned.layout
    status = status_of(grid, shard, planned)
    empty = ~np.isin(status, (VALID, VALID_INCOMPLETE))
    vectors = vectors_at(*grid.degrees(layout.shard_area(shard.row, shard.col), layout.cell_px), shard.t)
    vectors[..., 0] += 3 - len(shard.scenes)
    scale = np.abs(vectors).max(axis=-1).astype(np.float32) / np.float32(127)
    stored = np.rint(vectors / scale[..., None]).astype(np.int8)
    stored[empty], scale[empty] = 0, np.nan
    count = len(shard.scenes)
    n_obs = np.where(status == NOT_PROCESSED, 0, np.where(status == MASKED, 0, count)).astype(np.uint16)
    objects = encoder.encode({"embedding": stored, "scale": scale, "status": status, "n_obs": n_obs})
    zone = f"{LAYER}/{shard.zone}"
    keys = {name: object_key(name, (shard.t, shard.iy, shard.ix)) for name in objects}
    for name, data in objects.items():
        if data is not None:
            (cube / zone / name / keys[name]).write_bytes(data)
    seen = (n_obs > 0).reshape(1, -1)
    packed = np.packbits(np.repeat(seen, count, axis=0), axis=1).tobytes()
    shares = zlib.compress((seen * 65535).astype("<u2").tobytes())
    arrays, fed = writer.write_shard(objects, packed + shares)
    unread = (
        (Quarantined(scene="scene0", archive="s2", scene_digest=digests[shard.scenes[0]], reason="torn"),)
        if (shard.zone, shard.t, shard.iy, shard.ix) in (FAILED_SHARD, INCOMPLETE_SHARD)
        else ()
    )
    record = Record(
        shard=str(shard), recipe=shard.recipe, arrays=arrays, fed=fed, scenes=tuple(digests[i] for i in shard.scenes),
        quarantined=unread, refused="", contributions_size=len(packed),
        counts={name: int((status == value).sum()) for value, name in enumerate(STATUS_MEANINGS)},
        seconds={"forward": 0.0}, read_bytes=0, energy_j=None, peak_bytes=0, started="2024-01-01T00:00:00Z",
        finished="2024-01-01T00:00:01Z", host="node1", device="cpu", attempt="1-0", rank=0, code_version="0",
        job="", container="",
    )  # fmt: skip
    writer.write_records([record])
    return Made(shard=shard, part=part, record=record)
