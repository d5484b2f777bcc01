"""`index`: facts of a file do not depend on which reader reads its header, or in which order; STAC-GeoParquet."""

import json
import os
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pystac
import pytest
import rasterio
import shapely
from rasterio.io import DatasetReader
from rasterio.transform import Affine, from_origin
from stac_geoparquet.arrow import parse_stac_items_to_arrow, stac_table_to_items
from tests.conftest import Campaign

from embedcube.campaign.load import load_campaign
from embedcube.campaign.scene import Asset
from embedcube.errors import StartAgain
from embedcube.prepare.index import index
from embedcube.sources.catalog import pool as spread
from embedcube.sources.catalog.describe import describe
from embedcube.sources.catalog.products import File, Product
from embedcube.sources.catalog.tiff_header import geometry_of
from embedcube.windows import utc

PLAIN: dict[str, Any] = {
    "driver": "GTiff", "height": 64, "width": 48, "count": 1, "dtype": "uint16", "crs": "EPSG:32632", "nodata": 0,
    "transform": from_origin(300_000, 5_900_000, 10, 10),
}  # fmt: skip

# Each differs from all others in what a scene's description holds.
DIFFERENT: dict[str, dict[str, Any]] = {
    "plain": {},
    "type": {"dtype": "int16"},
    "wide type": {"dtype": "float32"},
    "no data": {"nodata": 7},
    "rows": {"height": 65},
    "columns": {"width": 49},
    "zone": {"crs": "EPSG:32633"},
    "degrees": {"crs": "EPSG:4326", "transform": from_origin(7, 51, 0.01, 0.01)},
    "place": {"transform": from_origin(300_010, 5_900_000, 10, 10)},
    "pixel": {"transform": from_origin(300_000, 5_900_000, 20, 20)},
    "turned": {"transform": Affine(10, 1, 300_000, 1, -10, 5_900_000)},
    "tiles": {"tiled": True, "blockxsize": 16, "blockysize": 16},
    "strips": {"blockysize": 8},
}

# Of these the description is that of "plain", whatever their bytes are.
ALIKE: dict[str, dict[str, Any]] = {
    "BigTIFF": {"BIGTIFF": "YES"},
    "big-endian": {"ENDIANNESS": "BIG"},
    "compressed": {"compress": "deflate"},
}


def write(path: Path, profile: dict[str, Any], seed: int = 0) -> Path:
    with rasterio.open(path, "w", **(PLAIN | profile)) as target:
        for band in range(1, target.count + 1):
            target.write(np.random.default_rng(seed).integers(0, 99, target.shape).astype(target.dtypes[0]), band)
        target.update_tags(TIFFTAG_DATETIME=f"2023:06:{seed + 1:02d} 10:00:00", mean=seed * 1.5)
    return path


def by_gdal(path: Path, band: int = 1) -> dict[str, Any]:
    """Facts of a file, as GDAL alone reads them."""
    with rasterio.open(path) as dataset:
        return {
            "crs": dataset.crs.to_string(), "transform": tuple(dataset.transform)[:6], "rows": dataset.height,
            "cols": dataset.width, "block_rows": dataset.block_shapes[0][0], "block_cols": dataset.block_shapes[0][1],
            "dtype": dataset.dtypes[0], "nodata": dataset.nodatavals[0], "size": path.stat().st_size, "index": band,
        }  # fmt: skip


def product(*files: File) -> Product:
    return Product(
        id="any",
        time=utc(pystac.utils.str_to_datetime("2023-06-01T00:00:00Z")),
        files={f"B{i:02d}": file for i, file in enumerate(files, start=1)},
        properties={},
    )


def assets(root: Path, paths: list[Path]) -> list[Asset]:
    """Assets of products with one file each."""
    found = list(describe([product(File(path=path)) for path in paths], root, full_digests=False))
    assert not [fault for _, fault in found if fault]
    return [of_product[0] for of_product, _ in found]


def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts how often each file is opened from now on."""
    count: Counter[str] = Counter()

    def noting(name: str, **options: Any) -> Any:
        count[Path(name).name] += 1
        return DatasetReader(name, **options)

    monkeypatch.setattr("embedcube.sources.opening.DatasetReader", noting)
    return count


def test_every_file_is_described_as_gdal_reads_it_alone(tmp_path: Path) -> None:
    profiles = DIFFERENT | ALIKE
    paths = [write(tmp_path / f"{name}-{seed}.tif", profiles[name], seed) for seed in range(3) for name in profiles]
    found = assets(tmp_path, paths)
    for path, asset in zip(paths, found, strict=True):
        expected = by_gdal(path)
        assert {key: getattr(asset, key) for key in expected} == expected, path.name
        assert asset.path == path.name
    assert len({asset.digest for asset in found}) == len(found), "each has pixels of its own"
    said = [geometry_of(path.read_bytes()) for path in paths]
    assert None not in said
    assert len(set(said[: len(DIFFERENT)])) == len(DIFFERENT)


def test_the_dates_of_a_tile_are_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = {"transform": from_origin(312_340, 5_900_000, 10, 10)}  # no other test has it
    paths = [write(tmp_path / f"{seed}.tif", place, seed) for seed in range(100)]
    count = opened(monkeypatch)
    assets(tmp_path, paths[:1])
    assets(tmp_path, paths)
    assert count == {"0.tif": 1}


def test_bands_of_one_file_and_options_are_told_apart(tmp_path: Path) -> None:
    path = write(tmp_path / "three.tif", {"count": 3})
    files = [File(path=path, index=i) for i in (1, 2, 3)]
    [(found, _)] = describe([product(*files)], tmp_path, full_digests=False)
    assert [(asset.band, asset.index) for asset in found] == [("B01", 1), ("B02", 2), ("B03", 3)]
    [([other], _)] = describe([product(files[0])], tmp_path, full_digests=False, nodata=55)
    assert (found[0].nodata, other.nodata) == (0, 55)


def test_what_lies_beside_a_file_counts(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{i}.tif", {}, i) for i in range(3)]
    with rasterio.open(tmp_path / "moved.tif", "w", **(PLAIN | {"crs": "EPSG:32640"})) as other:
        crs = other.crs.to_wkt()
    (tmp_path / "1.tif.aux.xml").write_text(f"<PAMDataset><SRS>{crs}</SRS></PAMDataset>")
    found = assets(tmp_path, paths)
    assert [asset.crs for asset in found] == [by_gdal(path)["crs"] for path in paths]
    assert [asset.crs for asset in found] == ["EPSG:32632", "EPSG:32640", "EPSG:32632"]


def test_a_header_that_is_torn_is_left_to_gdal(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.tif", {}).read_bytes()
    assert geometry_of(whole) is not None
    with rasterio.open(tmp_path / "whole.tif") as dataset:
        assert dataset.tags()["mean"] == "0.0"
    for length in (0, 1, 4, 7, 8, 10, 50, 200):
        assert geometry_of(whole[:length]) is None
    assert geometry_of(b"\xff\x4f\xff\x51" + whole) is None
    beyond = bytearray(whole)
    beyond[4:8] = (1 << 31).to_bytes(4, "little")
    assert geometry_of(bytes(beyond)) is None
    (tmp_path / "whole.tif").write_bytes(whole[:100])
    [(found, fault)] = describe([product(File(path=tmp_path / "whole.tif"))], tmp_path, full_digests=False)
    assert not found
    assert "B01: whole.tif does not decode" in fault


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_place_that_the_header_lacks_is_looked_for_beside_it(tmp_path: Path) -> None:
    profile = {key: value for key, value in PLAIN.items() if key != "transform"}
    for i in (1, 2):
        with rasterio.open(tmp_path / f"{i}.tif", "w", **profile) as target:
            target.write(np.ones((1, 64, 48), dtype=np.uint16))
        (tmp_path / f"{i}.tfw").write_text(f"10\n0\n0\n-10\n{i}00005\n5899995\n")
    found = assets(tmp_path, [tmp_path / "1.tif", tmp_path / "2.tif"])
    assert [asset.transform[2] for asset in found] == [100_000, 200_000]


def test_the_order_of_many_products_is_kept(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{name}.tif", profile) for name, profile in DIFFERENT.items()]
    wanted = [paths[i % len(paths)] for i in range(700)]
    assert [asset.path for asset in assets(tmp_path, wanted)] == [path.name for path in wanted]


def test_the_inventory_is_the_table_that_stac_geoparquet_makes(demo: Campaign) -> None:
    campaign = load_campaign(demo.file)
    demo.run.root.mkdir(parents=True)
    scenes = index(campaign, demo.run)
    table = pyarrow.parquet.read_table(demo.run.inventory)
    items = list(stac_table_to_items(table))
    assert [pystac.Item.from_dict(item).id for item in items] == [scene.id for scene in scenes]
    again = parse_stac_items_to_arrow(items).read_all()
    assert table.select(again.column_names).equals(again)
    for name in again.column_names:
        mine, theirs = (one.schema.field(name) for one in (table, again))
        assert mine.type == theirs.type
        assert {key: _parsed(value) for key, value in (mine.metadata or {}).items()} == {
            key: _parsed(value) for key, value in (theirs.metadata or {}).items()
        }
    west, south, east, north = items[0]["bbox"]
    ring = items[0]["geometry"]["coordinates"][0]
    assert {tuple(corner) for corner in ring} == {(west, south), (east, south), (east, north), (west, north)}
    assert items[0]["assets"] == {asset.band: {"href": asset.path} for asset in scenes[0].assets}
    assert len({scene.verdict for scene in scenes}) == 1, "all are good"


@pytest.mark.parametrize("west", [179.5, -180.5, 539.5], ids=str)
def test_what_crosses_the_antimeridian_or_lasts_is_valid_stac(demo: Campaign, west: float) -> None:
    """For longitudes from 0 or from -180: two polygons, and a start and an end instead of one moment."""
    folder = demo.file.parent / "dem"
    folder.mkdir()
    profile = {"crs": "EPSG:4326", "transform": from_origin(west, 10, 0.02, 0.02), "height": 50, "width": 50}
    write(folder / "elevation.tif", profile | {"nodata": 9999})
    options = {"static": True}
    terrain = {"source": "fields", "path": "dem", "bands": ["elevation"], "options": options}
    demo.change(lambda document: document["archives"].update(dem=terrain))
    demo.run.root.mkdir(parents=True)
    scenes = index(load_campaign(demo.file), demo.run)
    items = list(stac_table_to_items(pyarrow.parquet.read_table(demo.run.inventory)))
    field, acquired = items[-1], items[0]
    assert scenes[-1].archive == field["collection"] == "dem"
    shape = shapely.geometry.shape(field["geometry"])
    assert shape.is_valid
    assert [part.bounds for part in shapely.get_parts(shape)] == [
        pytest.approx((179.5, 9.0, 180.0, 10.0)), pytest.approx((-180.0, 9.0, -179.5, 10.0)),
    ]  # fmt: skip
    assert field["bbox"] == pytest.approx([179.5, 9.0, -179.5, 10.0])
    assert field["properties"]["datetime"] is None
    assert (field["properties"]["start_datetime"][:4], field["properties"]["end_datetime"][:4]) == ("1678", "2262")
    assert acquired["properties"]["datetime"] is not None
    for item in (field, acquired):
        pystac.Item.from_dict(item)


def _parsed(value: bytes) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def test_processes_of_a_large_archive_find_what_threads_of_a_small_one_find(
    demo: Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign = load_campaign(demo.file)
    demo.run.root.mkdir(parents=True)
    small, table = index(campaign, demo.run), demo.run.inventory.read_bytes()
    monkeypatch.setattr(spread, "_MANY", 1)
    monkeypatch.setattr(spread, "cores", lambda: 3)
    monkeypatch.setitem(spread.spread.__kwdefaults__ or {}, "at_once", 2)
    assert index(campaign, demo.run) == small
    assert demo.run.inventory.read_bytes() == table


def half(numbers: Sequence[int]) -> list[float]:
    """Work that one item crashes, and another one ends, as the kernel ends what takes too much memory."""
    for number, signal_ in ((3, signal.SIGSEGV), (-1, signal.SIGKILL)):
        if number in numbers:
            os.kill(os.getpid(), signal_)
    return [number / 2 for number in numbers]


def test_an_item_that_crashes_its_process_costs_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spread, "_MANY", 1)
    lost: list[tuple[int, str]] = []

    def noted(item: int, words: str) -> float:
        lost.append((item, words))
        return -1.0

    found = spread.spread(half, range(9), at_once=2, lost=noted, name=str)
    assert list(found) == [0, 0.5, 1, -1, 2, 2.5, 3, 3.5, 4]
    assert lost == [(3, "its decoder crashed (SIGSEGV)")]


def test_a_process_killed_from_outside_is_told_with_the_next_move(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spread, "_MANY", 1)
    with pytest.raises(StartAgain, match=r"^-1: a process that opens files ended early \(SIGKILL\), .*memory; start"):
        list(spread.spread(half, [4, 5, -1, 7], at_once=2, lost=lambda *_: 0.0, name=str))


def test_what_fails_in_a_process_is_told_as_in_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.tif", {})
    (tmp_path / "torn.tif").write_bytes(path.read_bytes()[:100])
    lost = [product(File(path=tmp_path / name)) for name in ("torn.tif", "gone.tif")]
    threads = list(describe(lost, tmp_path, full_digests=False))
    monkeypatch.setattr(spread, "_MANY", 1)
    assert list(describe(lost, tmp_path, full_digests=False)) == threads
    assert [faults.startswith("B01: ") for _, faults in threads] == [True, True]
