"""profile: the seconds of the steps, measured by the ranks, add up to the wall time."""

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import zarr
from rasterio.transform import from_origin
from tests.conftest import Campaign, planned_records

from embedcube.campaign.load import load_campaign
from embedcube.campaign.parts import Record, scan_records
from embedcube.campaign.scene import Asset
from embedcube.consolidate.receipt import receipt
from embedcube.cube.arrays import ARRAYS
from embedcube.cube.reader import Cube
from embedcube.grid import Grid, PixelArea
from embedcube.jobs.profile import Spent, profile, table
from embedcube.sources.reader import RasterReader
from embedcube.timings import DEVICE, READING, WITHIN_READ, WRITING


def spent(**seconds: float) -> Spent:
    return Spent(name="a", shards=1, wall_s=10.0, seconds=seconds, read_bytes=0, written_bytes=0)


def test_the_steps_of_the_device_fill_the_wall_of_every_rank(finished_demo: Campaign) -> None:
    made = profile(load_campaign(finished_demo.file), finished_demo.run)
    records = planned_records(finished_demo)
    assert sum(one.shards for one in made.ranks) == len(records) == made.all.shards
    every = [record for _, record in scan_records(finished_demo.run)]
    for one in made.ranks:
        whole = [record for record in every if one.name.startswith(f"{record.attempt}/{record.rank} ")]
        own = [record for record in whole if record in records]
        assert one.wall_s == pytest.approx(_seconds(own))
        on_device = sum(one.seconds[step] for step in DEVICE)
        # it may have embedded shards before a scene was found broken, which are not counted
        on_device += sum(record.seconds[step] for record in whole if record not in own for step in DEVICE)
        last = max(whole, key=lambda record: record.finished)
        after = sum(last.seconds[step] for step in WRITING)
        assert on_device + after == pytest.approx(_seconds(whole), rel=0.05, abs=0.2)
        assert one.seconds.keys() == {*DEVICE, *READING, *WITHIN_READ, *WRITING}


def _seconds(records: list[Record]) -> float:
    """From the first start to the last end."""
    last = max(datetime.fromisoformat(record.finished) for record in records)
    return (last - min(datetime.fromisoformat(record.started) for record in records)).total_seconds()


def test_what_the_reading_threads_do_is_told_apart(finished_demo: Campaign) -> None:
    """The reading thread waits for the threads that decode and warp, and does little else."""
    threads = load_campaign(finished_demo.file).how.threads_per_rank
    seconds = profile(load_campaign(finished_demo.file), finished_demo.run).all.seconds
    assert 0 < seconds["decode"] + seconds["warp"] <= threads * seconds["read"]


@pytest.mark.parametrize(("pixel", "warped"), [(10.0, False), (7.0, True)])
def test_a_file_on_the_grid_costs_no_warp(tmp_path: Path, pixel: float, *, warped: bool) -> None:
    side = 2048
    transform = from_origin(300_000, 5_900_000, pixel, pixel)
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", height=side, width=side, count=1, dtype="uint16", nodata=0,
        crs="EPSG:32632", transform=transform, compress="deflate",
    ) as file:  # fmt: skip
        file.write(np.random.default_rng(0).integers(1, 9999, (side, side)).astype(np.uint16), 1)
    with rasterio.open(tmp_path / "a.tif") as file:
        block_rows, block_cols = file.block_shapes[0]
    asset = Asset(
        band="B02", path="a.tif", crs="EPSG:32632", transform=tuple(transform)[:6], rows=side, cols=side,
        block_rows=block_rows, block_cols=block_cols, dtype="uint16", nodata=0,
        size=(tmp_path / "a.tif").stat().st_size, digest="",
    )  # fmt: skip
    grid = Grid(crs="EPSG:32632", pixel=10.0, origin_x=300_000.0, origin_y=5_900_000.0)
    reader = RasterReader(threads=2)
    try:
        reader.submit(
            tmp_path / "a.tif", asset, grid, PixelArea(row=0, col=0, rows=1024, cols=1024), "bilinear", lane=1
        ).result()
        first = reader.spent()
        again = reader.spent()
    finally:
        reader.close()
    assert first["decode"] > 0
    assert (first["warp"] > first["decode"]) is warped
    assert set(again.values()) == {0.0}


def test_what_was_read_and_written_is_counted(finished_demo: Campaign) -> None:
    made = profile(load_campaign(finished_demo.file), finished_demo.run).all
    cube = Cube(finished_demo.run.newest_cube)
    arrays = [
        cube.objects(zone, name).member((t, iy, ix)) for zone, t, iy, ix in cube.provenance.places for name in ARRAYS
    ]
    assert made.written_bytes == sum(len(data) for data in arrays if data is not None)
    # every scene was read, most of them by both ranks
    archive = load_campaign(finished_demo.file).archives["s2"].path
    assert made.read_bytes > 0.5 * sum(path.stat().st_size for path in Path(archive).rglob("*.tif"))


def test_the_core_is_named_where_all_is_done_in_turn() -> None:
    steps = {"forward": 6.0, "wait": 3.0, "held": 1.0, "read": 2.5, "composite": 0.4, "encode": 0.6, "write": 0.3}
    words = "the core, which does one step after the other: forward passes take 60% of the time, reading 30%, "
    assert spent(**steps).bottleneck == words + "writing 10%"
    assert not spent(**steps | {"read": 4.0}).bottleneck.startswith("the core"), "some was read ahead"
    assert not spent(**steps | {"held": 0.0}).bottleneck.startswith("the core"), "the writer had a thread"


@pytest.mark.parametrize(
    ("seconds", "named"),
    [
        ({"forward": 9.0, "copy": 0.5, "wait": 0.5}, "the device: it works 95% of the time, 90% in forward passes"),
        ({"forward": 5.0, "wait": 4.0, "held": 1.0}, "reading: the device waits for it 40% of the time"),
        ({"forward": 5.0, "wait": 1.0, "held": 4.0}, "writing: the device waits for it 40% of the time"),
    ],
)
def test_what_all_else_waits_for_is_named(seconds: dict[str, float], named: str) -> None:
    assert spent(**seconds).bottleneck.startswith(named)


def test_the_table_has_a_line_for_each_rank(finished_demo: Campaign, capsys: pytest.CaptureFixture[str]) -> None:
    made = profile(load_campaign(finished_demo.file), finished_demo.run)
    lines = finished_demo.cli("status", "--profile").splitlines()
    assert lines == table(made)
    assert [line.split()[0] for line in lines[1:-1]] == [*(one.name.split()[0] for one in made.ranks), "all"]
    assert lines[-1].endswith(f"the bottleneck is {made.all.bottleneck}")
    assert json.loads(finished_demo.cli("status", "--profile", "--json"))["bottleneck"] == made.all.bottleneck


def test_a_cube_says_what_it_cost(finished_demo: Campaign) -> None:
    records = planned_records(finished_demo)
    receipt = zarr.open_group(finished_demo.run.newest_cube / "provenance", mode="r").attrs["receipt"]
    assert receipt == {
        "devices": ["cpu-" + torch.backends.cpu.get_cpu_capability().lower()],
        "device_s": pytest.approx(sum(record.seconds["forward"] for record in records), abs=1e-3),
        "read_bytes": sum(record.read_bytes for record in records),
        "written_bytes": sum(stored.size for record in records for stored in record.arrays),
        "energy_kwh": None,  # a CPU has no energy counter that a user may read
    }


def test_energy_is_summed_where_every_device_had_a_meter(finished_demo: Campaign) -> None:
    records = [record for _, record in scan_records(finished_demo.run)][:3]
    metered = [replace(record, energy_j=3.6e6 * kwh) for record, kwh in zip(records, (0.25, 0.5, 1.0), strict=True)]
    assert receipt(metered)["energy_kwh"] == 1.75
    assert receipt([*metered, records[0]])["energy_kwh"] is None
