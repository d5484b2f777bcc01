"""UTM zones: every place in one of them, southern products copied onto northern grids, and cubes of several zones."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyproj import Transformer
from tests.conftest import Campaign
from tests.edge.scenes import Scene, write_scene

from embedcube.campaign.inventory import read_inventory
from embedcube.campaign.load import load_campaign
from embedcube.campaign.schema import Archive, Region, grid_names, make_grid
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError
from embedcube.grid import Grid, PixelArea, ShardLayout
from embedcube.prepare.shards import cut
from embedcube.sources.reader import RasterReader
from embedcube.sources.sentinel2.source import Sentinel2
from embedcube.windows import Window

steady = settings(deadline=None)

# --- which zone a place is in ---------------------------------------------------------------------

ZONES = [Grid.of_zone(zone, 10, (0.0, 0.0)) for zone in range(1, 61)]
longitudes = st.one_of(st.floats(-180, 180), st.sampled_from([6.0 * k for k in range(-30, 31)]), st.floats(180, 540))


@steady
@given(lon=longitudes, lat=st.floats(-80, 84, exclude_max=True))
def test_every_place_is_in_exactly_one_zone(lon: float, lat: float) -> None:
    owners = [grid.utm_zone for grid in ZONES if grid.owns_degrees(np.array(lon), np.array(lat))]
    west = (lon + 180) % 360
    # counted from 180 W, eastward, a zone for six degrees; its western edge is its own
    assert owners == [k + 1 for k in range(60) if 6 * k <= west < 6 * (k + 1)]


@steady
@given(lon=longitudes, lat=st.one_of(st.floats(-90, -80, exclude_max=True), st.floats(84, 90)))
def test_the_poles_are_in_no_zone(lon: float, lat: float) -> None:
    assert not any(grid.owns_degrees(np.array(lon), np.array(lat)) for grid in ZONES)


@steady
@given(lon=st.floats(-10, 40), lat=st.floats(-79, 83), cell=st.sampled_from([1, 16, 64]))
def test_the_cells_around_a_place_are_owned_as_their_centres_are(lon: float, lat: float, cell: int) -> None:
    for grid in ZONES[28:37]:
        x, y = Transformer.from_crs("EPSG:4326", grid.crs, always_xy=True).transform(lon, lat)
        rows, cols = grid.rows_cols(np.array(x), np.array(y))
        area = PixelArea(row=int(rows) // cell * cell, col=int(cols) // cell * cell, rows=2 * cell, cols=3 * cell)
        left, bottom, right, top = grid.bounds(area)
        owned = grid.owns(area, cell)
        assert owned.shape == (2, 3)
        back = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)
        for i in range(2):
            for j in range(3):
                centre = back.transform(left + (j + 0.5) * (right - left) / 3, top - (i + 0.5) * (top - bottom) / 2)
                if min(centre[0] % 6, 6 - centre[0] % 6) > 1e-6:
                    assert owned[i, j] == (np.floor(centre[0] / 6) + 31 == grid.utm_zone)


# --- southern products ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["nearest", "bilinear"])
def test_a_southern_product_is_copied_onto_the_northern_grid(tmp_path: Path, method: Any) -> None:
    """EPSG:32732 is EPSG:32632 but for 10,000 km of northing: nothing is interpolated, no bit is lost."""
    pixels = np.random.default_rng(1).integers(1, 9000, (96, 80)).astype(np.uint16)
    west, north, shift = 500_000.0, 8_999_680.0, 10_000_000.0
    here = Scene(
        id="south", time="2023-06-05T10:00:00Z", west=west, north=north, bands={"B02": pixels}, crs="EPSG:32732"
    )
    write_scene(tmp_path, here)
    source = Sentinel2("s2", Archive(source="sentinel2", path=tmp_path, bands=("B02",), resampling=method))
    (scene,) = source.scenes(full_digests=False)
    assert scene.bbox[3] < 0, "south of the equator"
    grid = Grid.of_zone(32, 10, (0.0, 0.0))
    assert scene.boxes_in(grid) == ((west, north - 960 - shift, west + 800, north - shift),)
    area = PixelArea(row=round((shift - north) / 10) - 8, col=round(west / 10) - 8, rows=120, cols=100)
    reader = RasterReader(threads=1)
    try:
        seen = source.observe(scene, Window(scene.time, scene.time.replace(month=7)), grid, area, reader)
    finally:
        reader.close()
    expected = np.zeros((area.rows, area.cols), dtype=np.uint16)
    expected[8 : 8 + 96, 8 : 8 + 80] = pixels
    np.testing.assert_array_equal(seen.values_cyx[0], expected)
    np.testing.assert_array_equal(seen.seen_yx, expected != 0)


@pytest.mark.parametrize(("method", "pixel"), [("nearest", 10), ("bilinear", 10), ("bilinear", 20), ("average", 20)])
@pytest.mark.parametrize("off", [5.0, 2.5, 3.3])
def test_a_southern_product_off_the_grid_is_resampled_as_a_northern_one(
    tmp_path: Path, method: Any, pixel: int, off: float
) -> None:
    """The same pixels in both halves of a zone, 10,000 km of northing apart: equal to the last bit, ties included."""
    pixels = np.random.default_rng(2).integers(1, 9000, (96, 80)).astype(np.uint16)
    found = {}
    for name, crs, shift in (("south", "EPSG:32722", 1e7), ("north", "EPSG:32622", 0.0)):
        west, north = 500_000.0 + off, -1_000_320.0 + off
        here = Scene(
            id=name, time="2023-06-05T10:00:00Z", west=west, north=north + shift, bands={"B02": pixels}, crs=crs
        )
        write_scene(tmp_path / name, here)
        wanted = Archive(source="sentinel2", path=tmp_path / name, bands=("B02",), resampling=method)
        source = Sentinel2("s2", wanted)
        (scene,) = source.scenes(full_digests=False)
        area = PixelArea(row=100_032 * 10 // pixel - 2, col=500_000 // pixel - 2, rows=100, cols=90)
        reader = RasterReader(threads=1)
        try:
            window = Window(scene.time, scene.time.replace(month=7))
            grid = Grid(crs="EPSG:32622", pixel=pixel)
            found[name] = source.observe(scene, window, grid, area, reader).values_cyx[0]
        finally:
            reader.close()
    assert (found["north"] > 0).sum() > 1000
    np.testing.assert_array_equal(found["south"], found["north"])
    if method == "bilinear" and off == 5.0 and pixel == 10:
        corners = pixels[:-1, :-1] + pixels[1:, :-1] + pixels[:-1, 1:] + pixels[1:, 1:].astype(np.int64)
        np.testing.assert_array_equal(found["south"][2:97, 3:82], np.rint(corners / 4))


# --- a cube of several zones ----------------------------------------------------------------------

SIDE_PX, CHIP_PX, CELL_PX = 256, 34, 16
LAT = 50.0
BORDER = 12.0
"""degrees east: zone 32 to its west, 33 to its east"""


@dataclass(frozen=True)
class AtTheBorder:
    """A finished campaign over a scene of each zone; both cross the border, and overlap."""

    campaign: Campaign
    archive: Path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> AtTheBorder:
    folder = tmp_path_factory.mktemp("zones")
    rng = np.random.default_rng(0)
    for zone in (32, 33):
        crs = f"EPSG:{32600 + zone}"
        x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(BORDER, LAT)
        corner = {"west": round(x / 10) * 10.0 - SIDE_PX * 5, "north": round(y / 10) * 10.0 + SIDE_PX * 5}
        bands: dict[str, NDArray[Any]] = {
            "B02": rng.integers(500, 3000, (SIDE_PX, SIDE_PX)).astype(np.uint16),
            "SCL": np.full((SIDE_PX // 2, SIDE_PX // 2), 4, dtype=np.uint8),
        }
        write_scene(
            folder / "archive",
            Scene(id=f"z{zone}", time=f"2023-06-0{zone % 10}T10:00:00Z", bands=bands, crs=crs, **corner),
        )
    campaign = Campaign(folder / "campaign.yaml")
    document = {
        "campaign": "zones",
        "archives": {
            "s2": {"source": "sentinel2", "path": "archive", "bands": ["B02"], "mask": {"band": "SCL", "clear": [4]}}
        },
        "grid": {"crs": "utm", "pixel": 10},
        "windows": [["2023-06-01", "2023-07-01"]],
        "layers": {
            "s2": {
                "archives": "s2", "backbone": {"name": "mosaiks", "filters": 4}, "chip_px": CHIP_PX, "halo_px": 1,
                "cell_px": CELL_PX, "shard_chips": 2, "batch": 4,
            }
        },
        "how": {"ranks": 1},
    }  # fmt: skip
    campaign.file.write_text(yaml.safe_dump(document))
    campaign.cli("run")
    return AtTheBorder(campaign, folder / "archive")


def cells_of(cube: Path, zone: str) -> tuple[Any, NDArray[np.float64], NDArray[np.float64]]:
    """The zone's group, and longitude and latitude of its cells."""
    group: Any = zarr.open_group(cube, mode="r")[f"s2/{zone}"]
    crs = f"EPSG:{32600 + int(zone[3:])}"
    x, y = np.meshgrid(group["x"][:], group["y"][:])
    lon, lat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y)
    return group, lon, lat


@pytest.mark.parametrize("zone", ["utm32", "utm33"])
def test_a_place_has_a_vector_in_its_own_zone_and_no_status_in_the_other(finished: AtTheBorder, zone: str) -> None:
    group, lon, lat = cells_of(finished.campaign.run.newest_cube, zone)
    status = group["status"][0]
    own = lon < BORDER if zone == "utm32" else lon >= BORDER
    np.testing.assert_array_equal(status == 0, ~own)
    assert 0.2 < own.mean() < 0.9, "cells of both sides"
    # seen by the zone's own scene or by the other's: warped onto this grid
    shown = np.zeros(own.shape)
    for path in sorted(finished.archive.glob("*/B02.tif")):
        with rasterio.open(path) as dataset:
            x, y = Transformer.from_crs("EPSG:4326", dataset.crs, always_xy=True).transform(lon, lat)
            inset = CELL_PX * 10
            box = dataset.bounds
            shown += (x > box.left + inset) & (x < box.right - inset) & (y > box.bottom + inset) & (y < box.top - inset)
    assert (status[own & (shown > 0)] == 1).all()
    assert (group["n_obs"][0][own] >= shown[own]).all()
    assert (group["n_obs"][0][own & (shown == 2)] == 2).all()
    assert (own & (shown == 2)).sum() > 20, "both scenes show places of this zone"
    vectors = group["embedding"][0]
    assert (vectors[~own] == 0).all()
    assert np.isnan(group["scale"][0][~own]).all()


def test_every_place_of_the_border_is_valid_in_one_zone(finished: AtTheBorder) -> None:
    """A naive walk over points: the cell that holds it, in each of the two zones."""
    cube = finished.campaign.run.newest_cube
    groups = {zone: cells_of(cube, zone)[0] for zone in ("utm32", "utm33")}
    found = {"utm32": 0, "utm33": 0}
    for lon, lat in np.random.default_rng(2).uniform(
        (BORDER - 0.01, LAT - 0.006), (BORDER + 0.01, LAT + 0.006), (200, 2)
    ):
        valid = []
        for zone, group in groups.items():
            crs = f"EPSG:{32600 + int(zone[3:])}"
            x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(lon, lat)
            col, row = (int(np.abs(group[axis][:] - at).argmin()) for axis, at in (("x", x), ("y", y)))
            centre = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(group["x"][col], group["y"][row])
            if abs(centre[0] - BORDER) < 0.002 or abs(lon - BORDER) < 0.002:
                break  # the cell lies on the border
            valid.append((zone, int(group["status"][0, row, col])))
        else:
            assert sorted(status for _, status in valid) == [0, 1], (lon, lat, valid)
            found[next(zone for zone, status in valid if status)] += 1
    assert min(found.values()) > 20


def test_the_pixels_of_a_zones_own_scene_are_copied(finished: AtTheBorder) -> None:
    """Where only the zone's own scene shows a place, its vectors are as in a campaign of that zone alone."""
    campaign = load_campaign(finished.campaign.file)
    scenes = read_inventory(campaign, finished.campaign.run)
    for zone, scene in zip((32, 33), scenes, strict=True):
        (asset, _) = scene.assets
        area = PixelArea(
            row=-round(asset.transform[5] / 10), col=round(asset.transform[2] / 10), rows=SIDE_PX, cols=SIDE_PX
        )
        source = Sentinel2("s2", campaign.archives["s2"])
        reader = RasterReader(threads=1)
        try:
            seen = source.observe(scene, campaign.all_windows[0], make_grid(campaign, "s2", f"utm{zone}"), area, reader)
        finally:
            reader.close()
        with rasterio.open(finished.archive / scene.id / "B02.tif") as dataset:
            np.testing.assert_array_equal(seen.values_cyx[0], dataset.read(1))


def test_explain_finds_the_zone_of_a_place(finished: AtTheBorder) -> None:
    cube = Cube(finished.campaign.run.newest_cube)
    assert cube.zones == ("s2/utm32", "s2/utm33")
    for lon, zone in ((BORDER - 0.004, "utm32"), (BORDER + 0.004, "utm33")):
        cell = cube.cell_at(lon, LAT, "2023-06-15")
        assert cell.zone == f"s2/{zone}"
        explained = cube.explain(cell)
        assert explained["status"] == "valid"
        x, y = explained["cell"]["centre"]
        at = Transformer.from_crs(explained["cell"]["crs"], "EPSG:4326", always_xy=True).transform(x, y)
        np.testing.assert_allclose(at, (lon, LAT), atol=0.002)
        assert {scene["id"] for scene in explained["scenes"]} == {"z32", "z33"}
    with pytest.raises(RequestError, match=r"\(60\.0, 50\.0\) is in s2/utm41, the layer has s2/utm32, s2/utm33"):
        cube.cell_at(60.0, LAT, "2023-06-15")


def naive_shards(
    grid: Grid, layout: ShardLayout, boxes: list[tuple[float, float, float, float]]
) -> set[tuple[int, int]]:
    """The shards that a box touches and that hold a cell of the grid's own, one by one."""
    side = layout.shard_px * grid.pixel
    found = set()
    for xmin, ymin, xmax, ymax in boxes:
        for row in range(int(-ymax // side) - 1, int(-ymin // side) + 2):
            for col in range(int(xmin // side) - 1, int(xmax // side) + 2):
                touches = (
                    col * side < xmax and (col + 1) * side > xmin and -row * side > ymin and -(row + 1) * side < ymax
                )
                if touches and grid.owns(layout.shard_area(row, col), layout.cell_px).any():
                    found.add((row, col))
    return found


@pytest.mark.parametrize("lat", [-0.2, 50.0, -62.0, 83.5], ids=str)
@pytest.mark.parametrize("lon", [-0.1, 5.9, 11.7], ids=str)
def test_the_shards_of_a_zone_are_those_that_hold_its_places(finished: AtTheBorder, lon: float, lat: float) -> None:
    campaign = load_campaign(finished.campaign.file)
    scene = read_inventory(campaign, finished.campaign.run)[0]
    here = replace(scene, assets=(), bbox=(lon - 0.2, lat - 0.1, lon + 0.2, lat + 0.1))
    layout = ShardLayout(chip_px=CHIP_PX, halo_px=1, cell_px=CELL_PX, chips=2)
    some = 0
    for zone in (30, 31, 32, 33):
        grid = make_grid(campaign, "s2", f"utm{zone}")
        expected = naive_shards(grid, layout, list(here.boxes_in(grid)))
        found = cut(campaign, "s2", grid, [here])
        shards = set() if found is None else set(zip(found[0].row.tolist(), found[0].col.tolist(), strict=True))
        assert shards == expected
        some += len(shards) > 0
    assert some == (2 if lon != 11.7 else 1)


def test_a_region_around_the_globe_is_cut_zone_by_zone(finished: AtTheBorder) -> None:
    """No zone loses a shard that it has without a region."""
    campaign = load_campaign(finished.campaign.file)
    world = campaign.model_copy(update={"region": Region(bbox=(-180, LAT - 0.1, 180, LAT + 0.1))})
    scenes = read_inventory(campaign, finished.campaign.run)
    for zone in ("utm32", "utm33"):
        alone, within = (cut(one, "s2", make_grid(one, "s2", zone), scenes) for one in (campaign, world))
        assert alone is not None
        assert within is not None
        shown = np.diff(within[0].first) > 0
        places = set(zip(within[0].row[shown].tolist(), within[0].col[shown].tolist(), strict=True))
        assert places >= set(zip(alone[0].row.tolist(), alone[0].col.tolist(), strict=True))


def test_a_scene_around_the_globe_touches_every_zone(finished: AtTheBorder) -> None:
    campaign = load_campaign(finished.campaign.file)
    scene = read_inventory(campaign, finished.campaign.run)[0]
    globe = replace(scene, bbox=(-180.0, -90.0, 180.0, 90.0))
    assert grid_names(campaign, "s2", [globe]) == tuple(f"utm{zone:02d}" for zone in range(1, 61))
    assert grid_names(campaign, "s2", [replace(globe, bbox=(178.0, -1.0, -178.0, 1.0))]) == ("utm01", "utm60")


@pytest.mark.parametrize(
    ("south", "north", "instead"), [(84.5, 86.0, "EPSG:3413"), (-86.0, -80.5, "EPSG:3031")], ids=["north", "south"]
)
def test_a_region_or_scenes_beyond_the_zones_are_told_so(
    finished: AtTheBorder, south: float, north: float, instead: str
) -> None:
    campaign = load_campaign(finished.campaign.file)
    scene = read_inventory(campaign, finished.campaign.run)[0]
    grid = make_grid(campaign, "s2", "utm32")
    said = rf"lie.* from {south:.2f} to {north:.2f} .*UTM is used from -80 to 84; write {instead} .*EPSG:4326"
    polar = campaign.model_copy(update={"region": Region(bbox=(5.0, south, 9.0, north))})
    with pytest.raises(RequestError, match=f"the region {said}"):
        cut(polar, "s2", grid, [scene])
    with pytest.raises(RequestError, match=f"the scenes {said}"):
        cut(campaign, "s2", grid, [replace(scene, bbox=(5.0, south, 9.0, north))])


def test_an_archive_without_a_scene_near_the_region_is_refused(finished: AtTheBorder, tmp_path: Path) -> None:
    campaign = load_campaign(finished.campaign.file)
    scene = replace(read_inventory(campaign, finished.campaign.run)[0], assets=(), bbox=(100.0, 1.0, 101.0, 2.0))
    single = campaign.model_copy(update={"grid": campaign.grid.model_copy(update={"crs": "EPSG:32632"})})
    with pytest.raises(RequestError, match="no scene shows any of it"):
        cut(single, "s2", make_grid(single, "s2", "grid"), [scene])
    assert cut(campaign, "s2", make_grid(campaign, "s2", "utm32"), [scene]) is None


# --- longitudes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", [0.0, -180.0, 180.0])
def test_a_cube_of_longitudes_holds_a_place_once_whatever_it_counts_from(tmp_path: Path, origin: float) -> None:
    """A scene and a region across the meridian where the grid begins, or ends, or neither."""
    pixel, west, north = 0.001, -0.128, 50.128
    pixels = np.random.default_rng(4).integers(1, 9000, (256, 256)).astype(np.uint16)
    write_scene(
        tmp_path / "archive",
        Scene(id="one", time="2023-06-05T10:00:00Z", west=west, north=north, bands={"B02": pixels}, pixel=pixel,
              crs="EPSG:4326"),
    )  # fmt: skip
    campaign = Campaign(tmp_path / "campaign.yaml")
    document = {
        "campaign": "longitudes",
        "archives": {"s2": {"source": "sentinel2", "path": "archive", "bands": ["B02"]}},
        "grid": {"crs": "EPSG:4326", "pixel": pixel, "origin": [origin, 90]},
        "region": {"bbox": [-0.1, 49.9, 0.1, 50.1]},
        "windows": [["2023-06-01", "2023-07-01"]],
        "layers": {
            "s2": {
                "archives": "s2", "backbone": {"name": "mosaiks", "filters": 4}, "chip_px": 34, "halo_px": 1,
                "cell_px": 16, "shard_chips": 2, "batch": 4,
            }
        },
        "how": {"ranks": 1},
    }  # fmt: skip
    campaign.file.write_text(yaml.safe_dump(document))
    campaign.cli("run")
    cube = Cube(campaign.run.newest_cube)
    group = cube.group("s2/latlon")
    status = group["status"][0]
    x, y = np.meshgrid(group["x"][:], group["y"][:])
    assert ((origin <= x) & (x < origin + 360)).all() or (status[(x < origin) | (x >= origin + 360)] == 0).all()
    turned = (x + 180) % 360 - 180
    half = 8 * pixel
    covered = (turned - half > west) & (turned + half < -west) & (y + half < north) & (y - half > north - 0.256)
    assert (status[covered] == 1).all()
    assert 100 < (status == 1).sum() <= 18 * 18
    assert len(np.unique(turned[status == 1].round(6))) * len(np.unique(y[status == 1])) == (status == 1).sum(), "once"
    for lon in (-0.05, 0.05, 359.95):
        cell = cube.cell_at(lon, 50.0, "2023-06-15")
        assert cube.explain(cell)["status"] == "valid"
