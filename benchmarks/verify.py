"""What `verify CUBE` costs beyond hashing. `python -m benchmarks.verify`.

A cube of 10,000 small shards, by the product's own writers, is verified. The seconds of CPU are told beside those that
hashing all of its files takes: what is left is what must stay below a minute.
"""

import argparse
import cProfile
import hashlib
import pstats
import tempfile
import time
import zlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedcube.campaign.parts import PartWriter, Record, version_of
from embedcube.campaign.plan import LayerPlan, Plan, Shard
from embedcube.campaign.price import Price
from embedcube.campaign.recipes import PlannedRecipes
from embedcube.campaign.scene import Asset, Scene
from embedcube.campaign.schema import Campaign, make_grid, make_layout
from embedcube.consolidate.provenance import Made, write_provenance
from embedcube.consolidate.template import part_specs, write_template
from embedcube.consolidate.verify import verify_cube
from embedcube.cube.arrays import ShardEncoder, object_key
from embedcube.cube.encoding import STATUS_MEANINGS, VALID
from embedcube.grid import ShardRange
from embedcube.zones import ObjectShape

LAYER, ZONE, FEATURES, SCENES = "s2", "grid", 16, 6
"""of each shard: scenes of one window"""


def main() -> None:
    """Make the cube, and print what hashing and verifying it take."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--profile", action="store_true", help="print what takes longest")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        began_s = time.process_time()
        cube = write_cube(Path(name), round(arguments.shards**0.5))
        print(f"made        {arguments.shards:,} shards, CPU {time.process_time() - began_s:6.1f} s", flush=True)
        began_s = time.process_time()
        size = 0
        for path in cube.rglob("*"):
            if path.is_file():
                data = path.read_bytes()
                size += len(data)
                hashlib.sha256(data).hexdigest()
        hashed_s = time.process_time() - began_s
        print(f"hashed      {size / 1e6:8.1f} MB,     CPU {hashed_s:6.1f} s", flush=True)
        profile = cProfile.Profile() if arguments.profile else None
        began_s, wall_s = time.process_time(), time.perf_counter()
        if profile:
            profile.enable()
        findings = verify_cube(cube, lambda *_: None)
        if profile:
            profile.disable()
        spent_s, waited_s = time.process_time() - began_s, time.perf_counter() - wall_s
        print(f"verified    {len(findings)} findings,     CPU {spent_s:6.1f} s, wall {waited_s:6.1f} s")
        print(f"beyond hashing           CPU {spent_s - hashed_s:6.1f} s (at most 60)")
        for finding in findings[:5]:
            print(finding)
        if profile:
            pstats.Stats(profile).sort_stats("cumulative").print_stats(45)


def write_cube(folder: Path, side: int) -> Path:
    """A cube of side x side shards in one window, each of six scenes; its name is its version."""
    campaign = Campaign.model_validate(
        {
            "campaign": "large",
            "archives": {"s2": {"source": "sentinel2", "path": "/nowhere", "bands": ["B02", "B03"]}},
            "grid": {"crs": "EPSG:32632", "pixel": 10},
            "windows": {"start": "2023-06-01", "end": "2023-07-01", "step": "1 month"},
            "layers": {
                LAYER: {
                    "archives": ["s2"], "backbone": {"name": "mosaiks", "filters": 8}, "chip_px": 64, "halo_px": 0,
                    "cell_px": 16, "shard_chips": 4,
                }
            },
        }
    )  # fmt: skip
    layer, grid = campaign.layers[LAYER], make_grid(campaign, LAYER, ZONE)
    planned = LayerPlan(
        zones={ZONE: ShardRange(row=-2200, col=150, rows=side, cols=side)}, grids={ZONE: grid},
        layout=make_layout(layer), encoding="int8", dimensions=FEATURES, chunk_windows=1,
        objects=ObjectShape(windows=1, rows=1, cols=1), collections=("x:s2",),
        counted=("s2",), weights="1" * 64, fitted_on="", model="x:model", batch=2, batch_for="", program="",
        compiled_for="", versions={"torch": "0"}, plugins=("", ""), empty=(),
    )  # fmt: skip
    price = Price(
        shards=1, cells=1, chips=1, scenes=1, decoded_bytes=1, needed_bytes=1, cube_bytes=1, files=1, folders=1,
        rank_bytes=1, worst_shard="", device_s=1, longest_s=1,
    )  # fmt: skip
    plan = Plan(
        campaign=campaign.digest, plan="0" * 64, inventory="0" * 64, versions={"embedcube": "0", "torch": "0"},
        layers={LAYER: planned}, shards=side**2, tasks=1, price=price, files={},
    )  # fmt: skip
    cube, scenes = folder / "new.zarr", [_scene(i) for i in range(side * SCENES)]
    write_template(campaign, plan.layers, cube)
    recipes = PlannedRecipes(campaign, plan, scenes, {LAYER: planned.plugins})
    maker = _Maker(cube, planned, [scene.digest for scene in scenes])
    place = planned.zones[ZONE]
    made = []
    for iy, ix in np.ndindex(side, side):
        shard = Shard(
            layer=LAYER, zone=ZONE, t=0, row=place.row + iy, col=place.col + ix, iy=iy, ix=ix, recipe="",
            scenes=tuple(range(ix * SCENES, (ix + 1) * SCENES)),
        )  # fmt: skip
        made.append(maker.make(replace(shard, recipe=recipes.derive(shard))))
    write_provenance(campaign, plan, scenes, made, cube)
    return cube.rename(folder / f"{version_of(campaign, plan.layers, [one.record for one in made])}.zarr")


def _scene(number: int) -> Scene:
    time_of = datetime(2023, 6, 1, 10, tzinfo=UTC) + timedelta(hours=number % 700)
    asset = Asset(
        band="B02", path=f"scene{number}/B02.tif", crs="EPSG:32632", transform=(10, 0, 3e5, 0, -10, 5e6), rows=10980,
        cols=10980, block_rows=512, block_cols=512, dtype="uint16", nodata=0, size=1, digest=f"sha256:{number:064x}",
    )  # fmt: skip
    return Scene(
        id=f"scene{number}", archive="s2", time=time_of, acquisition=f"pass{number}", bbox=(6, 50, 12, 52),
        assets=(asset, replace(asset, band="B03")),
    )  # fmt: skip


class _Maker:
    """Writes shards of random vectors."""

    def __init__(self, cube: Path, planned: LayerPlan, digests: list[str]) -> None:
        self._cube, self._digests, self._side = cube, digests, planned.layout.shard_cells
        self._part = cube.with_name("part")
        self._writer, self._encoder = PartWriter(self._part), ShardEncoder(part_specs(planned))
        cells = np.ones((SCENES, self._side**2), bool)
        self._packed = np.packbits(cells, axis=1).tobytes()
        self._shares = zlib.compress(np.full((1, self._side**2), 65535, "<u2").tobytes())

    def _arrays(self, seed: int) -> dict[str, NDArray[Any]]:
        shape = (self._side, self._side)
        stored = np.random.default_rng(seed).integers(-127, 128, (*shape, FEATURES)).astype(np.int8)
        stored[..., 0] = 127
        return {
            "embedding": stored, "scale": np.ones(shape, np.float32), "status": np.full(shape, VALID, np.uint8),
            "n_obs": np.full(shape, SCENES, np.uint16),
        }  # fmt: skip

    def make(self, shard: Shard) -> Made:
        """Write the objects of a shard, and record it."""
        objects = self._encoder.encode(self._arrays(shard.iy * 1000 + shard.ix))
        keys = {name: object_key(name, (shard.t, shard.iy, shard.ix)) for name in objects}
        for name, data in objects.items():
            assert data is not None
            (self._cube / LAYER / ZONE / name / keys[name]).write_bytes(data)
        arrays, fed = self._writer.write_shard(objects, self._packed + self._shares)
        counts = dict.fromkeys(STATUS_MEANINGS, 0) | {"valid": self._side**2, "chips": 16}
        record = Record(
            shard=str(shard), recipe=shard.recipe, arrays=arrays, fed=fed,
            scenes=tuple(self._digests[i] for i in shard.scenes), quarantined=(), refused="",
            contributions_size=len(self._packed), counts=counts,
            seconds={"forward": 0.0}, read_bytes=0, energy_j=None, peak_bytes=0, started="2024-01-01T00:00:00Z",
            finished="2024-01-01T00:00:01Z", host="node1", device="cpu", attempt="1-0", rank=0, code_version="0",
            job="", container="",
        )  # fmt: skip
        return Made(shard=shard, part=self._part, record=record)


if __name__ == "__main__":
    main()
