"""UTM zones: no place without a cell, southern products copied onto northern grids, and cubes of several zones."""

import shutil
from dataclasses import dataclass, replace
from functools import cache
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
from pyproj.enums import TransformDirection
from tests.conftest import Campaign, cells_of_shards, in_shards
from tests.edge.scenes import Scene, write_scene

from embedcube.campaign.inventory import read_inventory
from embedcube.campaign.load import load_campaign
from embedcube.campaign.schema import Archive, Region, grid_names, make_grid, make_layout
from embedcube.consolidate.soundness import examine
from embedcube.consolidate.verify import verify_cube
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError
from embedcube.grid import Grid, PixelArea, ShardLayout, ShardRange
from embedcube.prepare.shards import cut
from embedcube.sources.reader import RasterReader
from embedcube.sources.sentinel2.source import Sentinel2
from embedcube.windows import Window

steady = settings(deadline=None, max_examples=50)

# --- which cells a zone owns ----------------------------------------------------------------------

WEST_ENDS = [6.0 * k for k in range(-30, 30)]
"""longitudes of the western borders of zones 1 to 60"""

near_borders = st.tuples(st.sampled_from(WEST_ENDS), st.floats(-1e-3, 1e-3)).map(sum)
longitudes = st.one_of(st.floats(-180, 540), near_borders, st.sampled_from(WEST_ENDS))
latitudes = st.one_of(
    st.floats(-80, 84, exclude_max=True), st.floats(-1e-3, 1e-3), st.floats(83.99, 84, exclude_max=True)
)
sizes_px = st.sampled_from([1, 16, 64, 1000])
origins = st.sampled_from([(0.0, 0.0), (-3.0, 47.0), (500_000.0, 5_000_000.0)])


def zone_of(lon: float) -> int:
    """Zones are counted from 180 W, eastward, each six degrees wide; its western border is its own."""
    return int((lon + 180) % 360 // 6) % 60 + 1


@cache
def to_zone(zone: int) -> Transformer:
    return Transformer.from_crs("EPSG:4326", f"EPSG:{32600 + zone}", always_xy=True)


def cell_around(grid: Grid, cell_px: int, lon: float, lat: float) -> PixelArea:
    """The cell that holds a place, by pyproj alone."""
    assert grid.utm_zone is not None
    x, y = to_zone(grid.utm_zone).transform(lon, lat)
    side = cell_px * grid.pixel
    row, col = np.floor((grid.origin_y - y) / side), np.floor((x - grid.origin_x) / side)
    return PixelArea(row=int(row) * cell_px, col=int(col) * cell_px, rows=cell_px, cols=cell_px)


@steady
@given(lon=longitudes, lat=latitudes, cell_px=sizes_px, origin=origins)
def test_the_cell_of_every_place_belongs_to_its_zone(
    lon: float, lat: float, cell_px: int, origin: tuple[float, float]
) -> None:
    grid = Grid.of_zone(zone_of(lon), 10, origin)
    assert grid.owns(cell_around(grid, cell_px, lon, lat), cell_px).all()


def offsets_of(grid: Grid, area: PixelArea) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Degrees east of the zone's middle, and latitudes, of 21 x 21 points of a square, its corners among them."""
    left, bottom, right, top = grid.bounds(area)
    x, y = np.meshgrid(np.linspace(left, right, 21), np.linspace(bottom, top, 21))
    zone = grid.utm_zone or 0
    lon, lat = to_zone(zone).transform(x, y, direction=TransformDirection.INVERSE)
    middle = 6 * zone - 183
    return (lon - middle + 180) % 360 - 180, lat


@steady
@given(border=st.sampled_from(WEST_ENDS), lat=latitudes, cell_px=sizes_px, side=st.sampled_from([-1, 0]))
def test_a_zone_owns_the_cells_that_touch_it_and_no_others(border: float, lat: float, cell_px: int, side: int) -> None:
    """Against many points of each cell; seen from the zone to the west and from the one to the east of a border."""
    grid = Grid.of_zone(zone_of(border + side), 10, (0.0, 0.0))
    at = cell_around(grid, cell_px, border, lat)
    area = PixelArea(row=at.row - cell_px, col=at.col - 2 * cell_px, rows=3 * cell_px, cols=5 * cell_px)
    owned = grid.owns(area, cell_px)
    assert owned.shape == (3, 5)
    for i, j in np.ndindex(3, 5):
        cell = PixelArea(row=area.row + i * cell_px, col=area.col + j * cell_px, rows=cell_px, cols=cell_px)
        east, north = offsets_of(grid, cell)
        # a cell may touch the zone by less than there is between two points
        step = max(np.ptp(east), np.ptp(north)) / 20
        touching, near = (
            ((east >= -3 - more) & (east < 3 + more)).any() & ((north >= -80 - more) & (north < 84 + more)).any()
            for more in (0, step)
        )
        assert touching <= owned[i, j] <= near


@pytest.mark.parametrize("zone", [17, 31])
def test_a_cell_across_the_equator_touches_the_border_between_its_corners(zone: int) -> None:
    """The border is furthest from the middle on the equator: a cell whose corners lie beyond it reaches it there."""
    middle = 6 * zone - 183
    border, _ = to_zone(zone).transform(middle + 3, 0.0)
    corner, _ = to_zone(zone).transform(middle + 3, 0.45)
    left = (border + corner) / 2
    assert corner < left < border
    grid = Grid.of_zone(zone, 1000, (left, 50_000.0))
    area = PixelArea(row=0, col=0, rows=100, cols=100)
    east, _ = offsets_of(grid, area)
    assert (east[[0, -1], 0] > 3).all()
    assert east[10, 0] < 3
    assert grid.owns(area, 100).all()


@steady
@given(lon=st.floats(-180, 180), lat=st.one_of(st.floats(-89, -80.1), st.floats(84.1, 89)), cell_px=sizes_px)
def test_the_poles_are_in_no_zone(lon: float, lat: float, cell_px: int) -> None:
    grid = Grid.of_zone(zone_of(lon), 10, (0.0, 0.0))
    assert not grid.owns(cell_around(grid, cell_px, lon, lat), cell_px).any()


@steady
@given(border=st.sampled_from(WEST_ENDS), lat=latitudes, cell_px=st.sampled_from([1, 8, 32]))
def test_a_shard_belongs_to_a_zone_where_one_of_its_cells_does(border: float, lat: float, cell_px: int) -> None:
    grid = Grid.of_zone(zone_of(border), 10, (0.0, 0.0))
    layout = ShardLayout(chip_px=32, halo_px=0, cell_px=cell_px, chips=2)
    at = cell_around(grid, layout.shard_px, border, lat)
    place = ShardRange(row=at.row // layout.shard_px - 1, col=at.col // layout.shard_px - 2, rows=3, cols=4)
    shards = [
        [grid.owns(layout.shard_area(row, col), cell_px).any() for col in range(place.col, place.col + 4)]
        for row in range(place.row, place.row + 3)
    ]
    np.testing.assert_array_equal(grid.owns_shards(layout, place), shards)


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


CELLS_PX = {"s2": CELL_PX, "fine": 1, "coarse": 64}
"""side of a cell, by layer"""


def run_at(folder: Path, place: tuple[float, float], codes: dict[str, str], layers: list[str]) -> AtTheBorder:
    """Run a campaign over scenes whose middle is `place` (lon, lat); `codes` are their CRS, by id."""
    rng = np.random.default_rng(0)
    for day, (name, crs) in enumerate(codes.items(), start=1):
        x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(*place)
        corner = {"west": round(x / 10) * 10.0 - SIDE_PX * 5, "north": round(y / 10) * 10.0 + SIDE_PX * 5}
        bands: dict[str, NDArray[Any]] = {
            "B02": rng.integers(500, 3000, (SIDE_PX, SIDE_PX)).astype(np.uint16),
            "SCL": np.full((SIDE_PX // 2, SIDE_PX // 2), 4, dtype=np.uint8),
        }
        write_scene(
            folder / "archive", Scene(id=name, time=f"2023-06-0{day}T10:00:00Z", bands=bands, crs=crs, **corner)
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
            layer: {
                "archives": "s2", "backbone": {"name": "mosaiks", "filters": 4}, "halo_px": 1, "shard_chips": 2,
                "chip_px": 2 + max(32, CELLS_PX[layer]), "cell_px": CELLS_PX[layer], "batch": 4,
            }
            for layer in layers
        },
        "how": {"ranks": 1},
    }  # fmt: skip
    campaign.file.write_text(yaml.safe_dump(document))
    campaign.cli("run")
    return AtTheBorder(campaign, folder / "archive")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> AtTheBorder:
    folder = tmp_path_factory.mktemp("zones")
    return run_at(folder, (BORDER, LAT), {"z32": "EPSG:32632", "z33": "EPSG:32633"}, list(CELLS_PX))


def cells_of(cube: Path, zone: str) -> tuple[dict[str, NDArray[Any]], NDArray[np.float64], NDArray[np.float64]]:
    """The arrays of the zone in the layer `s2`, in its shards, and longitude and latitude of their cells."""
    found = in_shards(cube, f"s2/{zone}")
    group = {str(name): array.values for name, array in found.variables.items()}
    crs = f"EPSG:{32600 + int(zone[3:])}"
    x, y = np.meshgrid(group["x"], group["y"])
    lon, lat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y)
    return group, lon, lat


@pytest.mark.parametrize("zone", ["utm32", "utm33"])
def test_a_zone_has_vectors_up_to_its_border_and_no_status_beyond(finished: AtTheBorder, zone: str) -> None:
    group, lon, lat = cells_of(finished.campaign.run.newest_cube, zone)
    status, n_obs = group["status"][0], group["n_obs"][0]
    half = CELL_PX * 5
    corners = [
        Transformer.from_crs(f"EPSG:{32600 + int(zone[3:])}", "EPSG:4326", always_xy=True).transform(
            *np.meshgrid(group["x"] + dx, group["y"] + dy)
        )[0]
        for dx in (-half, half)
        for dy in (-half, half)
    ]
    own = np.min(corners, axis=0) < BORDER if zone == "utm32" else np.max(corners, axis=0) >= BORDER
    np.testing.assert_array_equal(status == 0, ~own)
    assert 0.2 < own.mean() < 0.95, "cells of both sides"
    # seen by the zone's own scene or by the other's: warped onto this grid
    shown, whole = np.zeros(own.shape), np.zeros(own.shape)
    for path in sorted(finished.archive.glob("*/B02.tif")):
        with rasterio.open(path) as dataset:
            x, y = Transformer.from_crs("EPSG:4326", dataset.crs, always_xy=True).transform(lon, lat)
            box = dataset.bounds
            for counted, inset in ((shown, -2 * half), (whole, 2 * half)):
                across = (x > box.left + inset) & (x < box.right - inset)
                counted += across & (y > box.bottom + inset) & (y < box.top - inset)
    assert (status[own & (whole > 0)] == 1).all()
    assert (n_obs[own] >= whole[own]).all()
    assert (n_obs <= shown).all()
    assert (n_obs[own & (whole == 2)] == 2).all()
    assert (own & (whole == 2)).sum() > 20, "both scenes show places of this zone"
    assert (~own & (shown > 0)).any(), "scenes show places beyond the zone"
    assert (n_obs[~own] == 0).all()
    vectors = group["embedding"][0]
    assert (vectors[~own] == 0).all()
    assert np.isnan(group["scale"][0][~own]).all()


def holds_vector(cube: Path, layer: str, zone: int, places: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether the cell of a zone that holds each place has a vector, by zarr and pyproj alone."""
    group: Any = zarr.open_group(cube, mode="r")[f"{layer}/utm{zone:02d}"]
    x, y = to_zone(zone).transform(*places.T)
    side = 10 * CELLS_PX[layer]
    col = np.floor((x - group["x"][0]) / side + 0.5).astype(int)
    row = np.floor((group["y"][0] - y) / side + 0.5).astype(int)
    inside = (row >= 0) & (row < group["y"].size) & (col >= 0) & (col < group["x"].size)
    found = np.zeros(len(places), dtype=bool)
    found[inside] = np.isfinite(group["scale"][0][row[inside], col[inside]])
    return found


@pytest.mark.parametrize("layer", CELLS_PX)
def test_every_place_near_the_border_has_a_vector_and_is_explained(finished: AtTheBorder, layer: str) -> None:
    """A thousand places within 80 m of the border, on both sides of it; `explain` is asked for each tenth."""
    path = finished.campaign.run.newest_cube
    metres = 111_320 * np.cos(np.radians(LAT))
    reach = (80 / metres, 0.005)
    places = np.random.default_rng(2).uniform(-1, 1, (1000, 2)) * reach + (BORDER, LAT)
    held = {zone: holds_vector(path, layer, zone, places) for zone in (32, 33)}
    assert (held[32] | held[33]).all()
    own = np.where(places[:, 0] < BORDER, held[32], held[33])
    assert own.all()
    assert (held[32] & held[33]).any(), "the zones overlap by the cells on the border"
    cube = Cube(path)
    for i, (lon, lat) in enumerate(places[::10].tolist()):
        cell = cube.cell_at(lon, lat, "2023-06-15", layer)
        assert held[int(cell.zone[-2:])][i * 10]
        explained = cube.explain(cell)
        assert explained["status"] == "valid"
        assert explained["scenes"]


def test_explain_answers_with_the_zone_that_has_the_vector(finished: AtTheBorder, tmp_path: Path) -> None:
    """Where the cell of the place's own zone is empty, with that of the zone beside it; else with its own."""
    copy = tmp_path / "cube.zarr"
    shutil.copytree(finished.campaign.run.newest_cube, copy)
    lon = BORDER - 1e-6
    own, other = (f"coarse/utm{zone}" for zone in (32, 33))
    assert Cube(copy).cell_at(lon, LAT, layer="coarse").zone == own
    (copy / own / "status").chmod(0o755)
    for file in (copy / own / "status").glob("c.*"):
        file.unlink()
    cell = Cube(copy).cell_at(lon, LAT, layer="coarse")
    assert cell.zone == other
    assert Cube(copy).explain(cell)["status"] == "valid"
    far = Cube(copy).cell_at(BORDER - 0.012, LAT, layer="coarse")
    assert far.zone == own, "no cell of the other zone there was processed"


@pytest.mark.slow
def test_verify_knows_which_cells_belong_to_a_zone(
    finished: AtTheBorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "cube.zarr"
    shutil.copytree(finished.campaign.run.newest_cube, copy)
    assert verify_cube(copy, lambda *_: None) == []
    status, n_obs = (zarr.open_array(copy / "s2" / "utm33" / name, mode="r+") for name in ("status", "n_obs"))
    (copy / "s2" / "utm33").chmod(0o755)
    rows, cols = cells_of_shards(copy, "s2/utm33")
    y, x = (np.argwhere(np.asarray(status[0, rows, cols]) == 0)[0] + (rows.start, cols.start)).tolist()
    # the digests of shards are not looked at, as in a cube of several windows in a chunk
    monkeypatch.setattr(Cube, "as_recorded", lambda *_: False)
    n_obs[0, y, x] = 1
    expected = {finding.expected for finding in verify_cube(copy, lambda *_: None) if finding.check == "n_obs"}
    assert expected == {"no acquisition where nothing was processed"}
    n_obs[0, y, x] = 0
    status[0, y, x] = 2
    expected = {finding.expected for finding in verify_cube(copy, lambda *_: None) if finding.check == "status"}
    assert expected == {"every cell of a shard processed that is the grid's own"}


@pytest.fixture(scope="module")
def at_the_antimeridian(tmp_path_factory: pytest.TempPathFactory) -> AtTheBorder:
    """Where the equator meets the antimeridian, in products of the north and of the south."""
    codes = {"west": "EPSG:32660", "east": "EPSG:32701"}
    return run_at(tmp_path_factory.mktemp("antimeridian"), (180.0, 0.0), codes, ["s2"])


def test_no_place_at_the_antimeridian_and_the_equator_is_without_a_vector(at_the_antimeridian: AtTheBorder) -> None:
    path = at_the_antimeridian.campaign.run.newest_cube
    places = np.random.default_rng(3).uniform(-1, 1, (1000, 2)) * (80 / 111_320, 0.005) + (180.0, 0.0)
    held = {zone: holds_vector(path, "s2", zone, places) for zone in (60, 1)}
    assert np.where(places[:, 0] < 180, held[60], held[1]).all()
    cube = Cube(path)
    for i, (lon, lat) in enumerate(places[::20].tolist()):
        for turned in (lon, lon - 360):
            cell = cube.cell_at(turned, lat, "2023-06-15")
            assert held[int(cell.zone[-2:])][i * 20]
            assert cube.explain(cell)["status"] == "valid"
    assert cube.explain(cube.cell_at(-180.0, 0.0))["status"] == "valid"


def test_verify_looks_at_the_seam_at_the_antimeridian(at_the_antimeridian: AtTheBorder, finished: AtTheBorder) -> None:
    """Zone 60 and zone 1 are neighbours like any others."""
    for world in (at_the_antimeridian, finished):
        zone = examine(Cube(world.campaign.run.newest_cube), "s2").figures()["seams"]["zone"]
        assert zone["lines"] > 0, zone


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
    assert cube.zones_of("s2") == ("s2/utm32", "s2/utm33")
    for lon, zone in ((BORDER - 0.004, "utm32"), (BORDER + 0.004, "utm33")):
        cell = cube.cell_at(lon, LAT, "2023-06-15", "s2")
        assert cell.zone == f"s2/{zone}"
        explained = cube.explain(cell)
        assert explained["status"] == "valid"
        x, y = explained["cell"]["centre"]
        at = Transformer.from_crs(explained["cell"]["crs"], "EPSG:4326", always_xy=True).transform(x, y)
        np.testing.assert_allclose(at, (lon, LAT), atol=0.002)
        assert {scene["id"] for scene in explained["scenes"]} == {"z32", "z33"}
    with pytest.raises(RequestError, match=r"\(60\.0, 50\.0\) is in s2/utm41, the layer has s2/utm32, s2/utm33"):
        cube.cell_at(60.0, LAT, "2023-06-15", "s2")


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
@pytest.mark.parametrize("lon", [-0.03, 5.97, 11.8], ids=str)
def test_the_shards_of_a_zone_are_those_that_hold_its_places(finished: AtTheBorder, lon: float, lat: float) -> None:
    campaign = load_campaign(finished.campaign.file)
    scene = read_inventory(campaign, finished.campaign.run)[0]
    here = replace(scene, assets=(), bbox=(lon - 0.06, lat - 0.04, lon + 0.06, lat + 0.04))
    layout = ShardLayout(chip_px=CHIP_PX, halo_px=1, cell_px=CELL_PX, chips=2)
    some = 0
    for zone in (30, 31, 32, 33):
        grid = make_grid(campaign, "s2", f"utm{zone}")
        expected = naive_shards(grid, layout, list(here.boxes_in(grid)))
        found = cut(campaign, "s2", grid, [here])
        shards = set() if found is None else set(zip(found[0].row.tolist(), found[0].col.tolist(), strict=True))
        assert shards == expected
        some += len(shards) > 0
    assert some == (2 if lon != 11.8 else 1)


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


REGIONS = {
    "border": (11.9, 49.9, 12.2, 50.1), "equator": (11.9, -0.2, 12.1, 0.2), "north": (5.0, 83.8, 13.0, 84.5),
    "south": (5.5, -80.5, 6.5, -79.5), "two borders": (5.9, 60.0, 12.1, 60.2), "inside": (8.0, 50.0, 8.2, 50.1),
}  # fmt: skip


@pytest.mark.parametrize("bbox", REGIONS.values(), ids=REGIONS)
def test_the_shards_of_a_region_hold_all_of_its_places(
    finished: AtTheBorder, bbox: tuple[float, float, float, float]
) -> None:
    campaign = load_campaign(finished.campaign.file).model_copy(update={"region": Region(bbox=bbox)})
    globe = replace(
        read_inventory(campaign, finished.campaign.run)[0], assets=(), bbox=(bbox[0] - 1, -85.0, bbox[2] + 1, 85.0)
    )
    layout = make_layout(campaign.layers["s2"])
    places = np.random.default_rng(5).uniform(bbox[:2], bbox[2:], (500, 2))
    places = places[(places[:, 1] >= -80) & (places[:, 1] < 84)]
    for zone in {zone_of(lon) for lon in places[:, 0]}:
        found = cut(campaign, "s2", make_grid(campaign, "s2", f"utm{zone}"), [globe])
        assert found is not None
        shards = set(zip(found[0].row.tolist(), found[0].col.tolist(), strict=True))
        for lon, lat in places[[zone_of(lon) == zone for lon in places[:, 0]]]:
            at = cell_around(Grid.of_zone(zone, 10, (0.0, 0.0)), layout.shard_px, lon, lat)
            assert (at.row // layout.shard_px, at.col // layout.shard_px) in shards


@pytest.mark.parametrize(("west", "east", "zones"), [(11.9, 12.0, ["utm32"]), (12.0, 12.1, ["utm33"])], ids=str)
def test_a_region_that_ends_at_a_border_has_no_shard_of_the_zone_behind(
    finished: AtTheBorder, west: float, east: float, zones: list[str]
) -> None:
    campaign = load_campaign(finished.campaign.file)
    campaign = campaign.model_copy(update={"region": Region(bbox=(west, LAT, east, LAT + 0.1))})
    globe = replace(read_inventory(campaign, finished.campaign.run)[0], assets=(), bbox=(11.0, 49.0, 13.0, 51.0))
    cuts = {zone: cut(campaign, "s2", make_grid(campaign, "s2", zone), [globe]) for zone in ("utm32", "utm33")}
    assert [zone for zone, found in cuts.items() if found] == zones


def test_a_region_in_metres_across_the_antimeridian_is_one_place(at_the_antimeridian: AtTheBorder) -> None:
    campaign = load_campaign(at_the_antimeridian.campaign.file)
    x, y = to_zone(60).transform(180.0, -17.0)
    box = (round(x) - 3000.0, round(y) - 3000.0, round(x) + 3000.0, round(y) + 3000.0)
    campaign = campaign.model_copy(update={"region": Region(bbox=box, crs="EPSG:32660")})
    seen = replace(
        read_inventory(campaign, at_the_antimeridian.campaign.run)[0], assets=(), bbox=(179.0, -18.0, -179.0, -16.0)
    )
    side = make_layout(campaign.layers["s2"]).shard_px * 10
    for zone in (60, 1):
        found = cut(campaign, "s2", make_grid(campaign, "s2", f"utm{zone:02d}"), [seen])
        assert found is not None
        # about half of the square, and at most one shard more on each side
        assert 3000 < found[1].cols * side < 3000 + 3 * side + 500
        assert 6000 < found[1].rows * side < 6000 + 3 * side + 500


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
@pytest.mark.slow
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
