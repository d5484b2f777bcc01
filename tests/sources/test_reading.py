"""Reading: every needed block is read and decoded once, and a pixel has the same value in every area."""

import dataclasses
import math
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import rasterio
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.io import DatasetReader, MemoryFile
from rasterio.transform import from_origin
from rasterio.warp import Resampling, reproject
from tests.conftest import Campaign
from tests.edge import scenes, shim

from embedcube.campaign.plan import Shards
from embedcube.campaign.resampling import Method, resampling_in_words
from embedcube.campaign.scene import Asset, Scene
from embedcube.campaign.schema import Archive
from embedcube.grid import Grid, PixelArea, ShardLayout, shards_touching
from embedcube.prepare.draw_groups import ReadCost, draw_groups
from embedcube.prepare.pieces import Pieces
from embedcube.sources.reader import RasterReader
from embedcube.sources.resample import read_onto
from embedcube.sources.sentinel2.source import Sentinel2
from embedcube.windows import Window

pytestmark = pytest.mark.slow

NODATA = 0
JUNE = Window(datetime(2023, 6, 1, tzinfo=UTC), datetime(2023, 7, 1, tzinfo=UTC))
UTM32 = Grid(crs="EPSG:32632", pixel=10.0)


# --- each block once: counted at the process's edge -------------------------------------------------

SIDE_PX, BLOCK_PX = 2048, 256
WEST, NORTH = 400_000.0, 5_600_000.0
LAYOUTS: dict[str, dict[str, Any]] = {
    "deflate": {"compress": "deflate", "zlevel": 1, "predictor": 2},
    "zstd": {"compress": "zstd", "zstd_level": 1},
    "none": {"compress": "none"},
}
CHIP_PX, HALO_PX, CHIPS = 130, 1, 4


@dataclass(frozen=True)
class Counted:
    """Bytes that a rank read of one archive, and bytes that it needed."""

    needed_blocks: int
    needed_bytes: int
    """bytes of the needed blocks in the files"""
    block_reads: int
    kernel_bytes: int
    """bytes requested from the operating system, headers included"""
    deflate_decodes: int


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Counted]:
    """One rank embeds the same scene from three archives, 25 shards each, while its reads are counted."""
    folder = tmp_path_factory.mktemp("reading")
    log = folder / "reads"
    environment = shim.counting(log, folder)
    rng = np.random.default_rng(5)
    bands: dict[str, NDArray[Any]] = {
        band: rng.integers(1000, 2024, (SIDE_PX, SIDE_PX)).astype(np.uint16) for band in ("B02", "B03", "B04")
    }
    bands["SCL"] = rng.choice([4, 5], (SIDE_PX // 2, SIDE_PX // 2)).astype(np.uint8)
    scene = scenes.Scene(id="one", time="2023-06-05T10:00:00Z", west=WEST, north=NORTH, bands=bands)
    for name, profile in LAYOUTS.items():
        scenes.write_scene(folder / name, scene, **profile)
    campaign = Campaign(folder / "campaign.yaml")
    layer = {
        "backbone": {"name": "mosaiks", "filters": 2},
        "chip_px": CHIP_PX, "halo_px": HALO_PX, "cell_px": CHIP_PX - 2 * HALO_PX, "shard_chips": CHIPS,
    }  # fmt: skip
    document = {
        "campaign": "reading",
        "archives": {
            name: {
                "source": "sentinel2", "path": name, "bands": ["B02", "B03", "B04"],
                "mask": {"band": "SCL", "clear": [4, 5]},
            }
            for name in LAYOUTS
        },
        "grid": {"crs": "EPSG:32632", "pixel": 10},
        "windows": [["2023-06-01", "2023-07-01"]],
        "layers": {name: {"archives": [name], **layer} for name in LAYOUTS},
        "how": {"ranks": 1, "threads": 2},
    }  # fmt: skip
    campaign.file.write_text(yaml.safe_dump(document))
    for verb in ("index", "fit", "plan"):
        campaign.cli(verb)
    campaign.cli("embed", environment=environment)
    reads = shim.read_log(log)
    return {name: _count(folder / name / "one", reads) for name in LAYOUTS}


def _count(folder: Path, reads: dict[Path, shim.Reads]) -> Counted:
    """A campaign without a region needs every block of its scenes."""
    blocks = sizes = block_reads = context = decodes = 0
    for path in sorted(folder.glob("*.tif")):
        with rasterio.open(path) as dataset:
            assert dataset.block_shapes[0] == (BLOCK_PX, BLOCK_PX)
            places = product(range(-(-dataset.width // BLOCK_PX)), range(-(-dataset.height // BLOCK_PX)))
            lie = {
                int(dataset.get_tag_item(f"BLOCK_OFFSET_{x}_{y}", "TIFF", bidx=1)): int(
                    dataset.get_tag_item(f"BLOCK_SIZE_{x}_{y}", "TIFF", bidx=1)
                )
                for x, y in places
            }
        of = reads[path]
        in_blocks = {at: n for at, n in of.at.items() if at[0] + at[1] > min(lie)}
        assert all(lie.get(offset) == size for offset, size in in_blocks if size > 1024), "blocks are read whole"
        assert {offset for offset, _ in in_blocks} >= set(lie), "every block is read"
        blocks += len(lie)
        sizes += sum(lie.values())
        block_reads += sum(n for (offset, _), n in in_blocks.items() if offset in lie)
        context += of.kernel_bytes
        decodes += of.decodes
    return Counted(blocks, sizes, block_reads, context, decodes)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_needed_block_is_read_and_decoded_once(counted: dict[str, Counted], layout: str) -> None:
    found = counted[layout]
    blocks, read = found.block_reads / found.needed_blocks, found.kernel_bytes / found.needed_bytes
    print(f"{layout}: blocks read {blocks:.3f}, bytes read {read:.3f} times what is needed once")
    assert found.needed_blocks == 3 * 8 * 8 + 4 * 4
    assert 1 <= blocks <= 1.1
    assert 1 <= read <= 1.1
    if layout == "deflate":
        assert found.deflate_decodes == found.block_reads, "a block that is read is decoded, and no other"


@pytest.mark.slow
def test_the_count_sees_what_is_read_twice(tmp_path: Path) -> None:
    """A test of the counter: a process reads two blocks, drops them, and reads them again."""
    scene = scenes.Scene(
        id="one", time="2023-06-05T10:00:00Z", west=WEST, north=NORTH,
        bands={"B02": np.random.default_rng(0).integers(1, 999, (512, 512)).astype(np.uint16)},
    )  # fmt: skip
    path = scenes.write_scene(tmp_path, scene) / "B02.tif"
    script = (
        "import rasterio, sys\nfrom rasterio.windows import Window\n"
        "for _ in range(2):\n"
        "    with rasterio.open(sys.argv[1]) as dataset:\n"
        "        dataset.read(1, window=Window(0, 0, 300, 200))\n"
    )
    environment = shim.counting(tmp_path / "log", tmp_path) | {"EDGE_PROCESS": "-c"}
    python = Path(pytest.__file__).parents[4] / "bin" / "python"
    subprocess.run([python, "-c", script, path], env=environment, check=True)
    reads = shim.read_log(tmp_path / "log")[path]
    assert reads.decodes == 4
    assert sum(n for (_, size), n in reads.at.items() if size > 10_000) == 4
    assert reads.kernel_bytes > path.stat().st_size * 0.9, "half the file, twice"


# --- what the plan foretells ------------------------------------------------------------------------


def asset(band: str, west: float, north: float, pixel: float, side: tuple[int, int], block: int, dtype: str) -> Asset:
    """An asset as the inventory describes it."""
    return Asset(
        band=band, path=band, crs=UTM32.crs, transform=(pixel, 0.0, west, 0.0, -pixel, north), rows=side[0],
        cols=side[1], block_rows=block, block_cols=block, dtype=dtype, nodata=NODATA, size=1, digest="",
    )  # fmt: skip


@dataclass(frozen=True)
class Situation:
    """Scenes, a layout, and the shards that the scenes touch."""

    scenes: list[Scene]
    layout: ShardLayout
    shards: Shards


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    """One to three scenes of one size in one window, on the grid, under a rectangle of shards."""
    count = draw(st.integers(1, 3))
    rows, cols = 2 * draw(st.integers(30, 200)), 2 * draw(st.integers(30, 200))
    block = draw(st.sampled_from([16, 32, 64]))
    found = []
    for i in range(count):
        west, north = 10.0 * draw(st.integers(-100, 100)), 10.0 * draw(st.integers(-100, 100))
        ten, twenty = (rows, cols), (rows // 2, cols // 2)
        assets = (
            asset("B02", west, north, 10, ten, block, "uint16"),
            asset("SCL", west, north, 20, twenty, block, "uint8"),
        )
        found.append(
            Scene(
                id=str(i), archive="a", time=datetime(2023, 6, 1, tzinfo=UTC), acquisition=str(i), bbox=(0, 0, 1, 1),
                assets=assets,
            )
        )  # fmt: skip
    layout = ShardLayout(
        chip_px=draw(st.sampled_from([34, 50, 66])), halo_px=1, cell_px=1, chips=draw(st.integers(1, 2))
    )
    boxes = np.array([scene.boxes_in(UTM32)[0] for scene in found])
    reach = shards_touching(UTM32, layout, boxes, layout.halo_px)
    touched = shards_touching(UTM32, layout, boxes)
    first, last = touched[:, :2].min(axis=0), touched[:, 2:].max(axis=0)
    grid_rows, grid_cols = (a.ravel() for a in np.mgrid[first[0] : last[0], first[1] : last[1]])
    links = [
        [i for i, (r0, c0, r1, c1) in enumerate(reach.tolist()) if r0 <= row < r1 and c0 <= col < c1]
        for row, col in zip(grid_rows.tolist(), grid_cols.tolist(), strict=True)
    ]
    shards = Shards(
        t=np.zeros(len(links), dtype=np.int64),
        row=grid_rows.astype(np.int64),
        col=grid_cols.astype(np.int64),
        first=np.cumsum([0, *map(len, links)]),
        scenes=np.array([i for link in links for i in link], dtype=np.int64),
    )
    return Situation(found, layout, shards)


def blocks_of(situation: Situation, shard: int) -> Iterator[tuple[tuple[int, str, int, int], int]]:
    """(scene, band, block row, block column) and bytes of every block that a shard needs, pixel by pixel."""
    layout, shards = situation.layout, situation.shards
    area = layout.shard_area(int(shards.row[shard]), int(shards.col[shard])).grown(layout.halo_px)
    for i in shards.scenes[shards.first[shard] : shards.first[shard + 1]].tolist():
        for one in situation.scenes[i].assets:
            pixel = one.transform[0]

            def touched(
                start: int, length: int, offset: float, size: int, block: int, pixel: float = pixel
            ) -> set[int]:
                centres = [(start + k) * 10 + 5 - offset for k in range(length)]
                return {int(c // pixel) // block for c in centres if 0 <= c < size * pixel}

            down = touched(area.row, area.rows, -one.transform[5], one.rows, one.block_rows)
            across = touched(area.col, area.cols, one.transform[2], one.cols, one.block_cols)
            for y, x in product(down, across):
                yield (i, one.band, y, x), one.block_rows * one.block_cols * np.dtype(one.dtype).itemsize


def foretold(situation: Situation, ranks: int, cache_bytes: int) -> ReadCost:
    """The cost of reading that `draw_groups` predicts."""
    return draw_groups(
        Pieces.of(situation.shards),
        situation.scenes,
        [JUNE],
        UTM32,
        situation.layout,
        ranks=ranks,
        cache_bytes=cache_bytes,
    )


@settings(max_examples=30, deadline=None)
@given(situations(), st.integers(1, 2), st.sampled_from([1 << 10, 1 << 20]))
def test_the_plan_foretells_the_blocks_that_groups_decode(situation: Situation, ranks: int, cache_bytes: int) -> None:
    cost = foretold(situation, ranks, cache_bytes)
    by_group: dict[int, dict[Any, int]] = {}
    for shard, group in enumerate(cost.group.tolist()):
        by_group.setdefault(group, {}).update(blocks_of(situation, shard))
    needed = {key: size for blocks in by_group.values() for key, size in blocks.items()}
    assert cost.needed_bytes == sum(needed.values())
    decoded = sum(sum(blocks.values()) for blocks in by_group.values())
    assert cost.decoded.sum() == pytest.approx(decoded)
    assert cost.amplification == pytest.approx(decoded / sum(needed.values()))


@settings(max_examples=30, deadline=None)
@given(situations())
def test_the_plan_foretells_the_cache_that_groups_need(situation: Situation) -> None:
    """Between two rows of shards, a group must keep what the upper row decoded: its largest row counts."""
    cost = foretold(situation, 1, 1 << 30)
    rows: dict[tuple[int, int], dict[Any, int]] = {}
    for shard, group in enumerate(cost.group.tolist()):
        rows.setdefault((group, int(situation.shards.row[shard])), {}).update(blocks_of(situation, shard))
    assert cost.cache_bytes >= max(sum(blocks.values()) for blocks in rows.values())


START = datetime(2023, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)

SPANS: dict[str, list[tuple[float, float]]] = {
    "days": [(i, i + 1) for i in range(30)],
    "ten days every five": [(5.0 * i, 5.0 * i + 10) for i in range(5)],
    "apart": [(2, 3), (7, 9.5), (29, 40)],
    "begun before": [(-10, 1), (1, 2.25)],
    "all in one": [(-100, 100)],
    "shorter than a step": [(2 + i / 96, 2 + (i + 1) / 96) for i in range(8)],
}
"""first and last day of each window"""


@pytest.mark.parametrize("spans", SPANS.values(), ids=SPANS)
@pytest.mark.parametrize("hours", [1, 3])
def test_the_plan_foretells_the_steps_that_windows_decode(spans: list[tuple[float, float]], hours: int) -> None:
    """Thirty days of steps, and a single moment: a window reads its own steps, and no step twice."""
    moments = [START + timedelta(hours=hours * i) for i in range(30 * 24 // hours)]
    one = dataclasses.replace(asset("2t", 0, 640, 10, (64, 64), 32, "float64"), steps=len(moments), step_s=3600 * hours)
    series = Scene(
        id="series", archive="a", time=moments[0], end=moments[-1], acquisition="s", bbox=(0, 0, 1, 1), assets=(one,)
    )
    moment = dataclasses.replace(
        series, id="moment", time=START, end=None, assets=(asset("B02", 0, 640, 10, (64, 64), 32, "uint8"),)
    )
    windows = [Window(START + first * DAY, START + last * DAY) for first, last in spans]
    layout = ShardLayout(chip_px=32, halo_px=0, cell_px=1, chips=1)
    places = [(t, row, col) for t in range(len(windows)) for row in (-2, -1) for col in (0, 1)]
    links = [[i for i, scene in enumerate((series, moment)) if scene.meets(windows[t])] for t, _, _ in places]
    t, row, col = np.array(places).T
    shards = Shards(
        t=t, row=row, col=col, first=np.cumsum([0, *map(len, links)]),
        scenes=np.array([i for link in links for i in link]),
    )  # fmt: skip
    cost = draw_groups(Pieces.of(shards), [series, moment], windows, UTM32, layout, ranks=1000, cache_bytes=0)
    inside = [[m for m in moments if m in window] for window in windows]
    field = 32 * 32 * 8
    expected = [
        max(1, len(inside[t])) * field * (0 in link) + 32 * 32 * (1 in link)
        for (t, _, _), link in zip(places, links, strict=True)
    ]
    assert cost.decoded.tolist() == expected
    needed = 4 * field * len({m for found in inside for m in found}) + 4 * 32 * 32 * any(1 in link for link in links)
    assert cost.needed_bytes == needed


def test_the_files_of_a_years_window_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is closed between two shards loses its decoded blocks: 36 dates of 5 bands are 180 files."""
    files = []
    for i in range(180):
        profile = {"driver": "GTiff", "height": 32, "width": 32, "count": 1, "dtype": "uint8", "crs": UTM32.crs}
        with rasterio.open(
            tmp_path / f"{i}.tif", "w", **profile, transform=from_origin(WEST, NORTH, 10, 10), nodata=0
        ) as target:
            target.write(np.full((32, 32), i % 250 + 1, dtype=np.uint8), 1)
        files.append(tmp_path / f"{i}.tif")
    opened_files: list[str] = []

    def noting(name: str, **options: Any) -> Any:
        opened_files.append(name)
        return DatasetReader(name, **options)

    monkeypatch.setattr("embedcube.sources.opening.DatasetReader", noting)
    one = asset("B02", WEST, NORTH, 10, (32, 32), 32, "uint8")
    reader = RasterReader(threads=2)
    try:
        for col in (0, 16):
            area = PixelArea(row=TOP, col=LEFT + col, rows=32, cols=16)
            for i, path in enumerate(files):
                described = dataclasses.replace(one, path=path.name, size=path.stat().st_size)
                found = reader.submit(path, described, UTM32, area, "nearest", lane=i % 5).result()
                assert (found == i % 250 + 1).all()
    finally:
        reader.close()
    assert len(opened_files) == len(files)


# --- what is read is what lies there ----------------------------------------------------------------


@dataclass(frozen=True)
class Opened:
    """An open file in memory, as the reader gets it."""

    dataset: Any
    asset: Asset
    pixels: NDArray[Any]


def opened(
    pixels: NDArray[Any],
    west: float,
    north: float,
    pixel: float = 10.0,
    crs: str = "EPSG:32632",
    nodata: float = NODATA,
) -> Opened:
    """A tiled GeoTIFF of `pixels`."""
    memory = MemoryFile()
    profile = {
        "driver": "GTiff", "height": pixels.shape[0], "width": pixels.shape[1], "count": 1, "nodata": nodata,
        "dtype": pixels.dtype.name, "crs": crs, "transform": from_origin(west, north, pixel, pixel),
        "tiled": True, "blockxsize": 16, "blockysize": 16,
    }  # fmt: skip
    with memory.open(**profile) as target:
        target.write(pixels, 1)
    described = dataclasses.replace(
        asset("B02", west, north, pixel, (pixels.shape[0], pixels.shape[1]), 16, pixels.dtype.name),
        crs=crs,
        nodata=nodata,
    )
    return Opened(memory.open(), described, pixels)


def numbered(rows: int, cols: int) -> NDArray[np.uint16]:
    """Pixels that are all different, none of them nodata."""
    return np.arange(1, rows * cols + 1, dtype=np.uint16).reshape(rows, cols)


TOP, LEFT = -560_000, 40_000
"""of the files below, in pixels of the grid"""

COPIED = opened(numbered(45, 37), LEFT * 10.0, -TOP * 10.0)
NESTED = opened(numbered(23, 19), LEFT * 10.0 + 10, -TOP * 10.0 - 10, pixel=20.0)


@st.composite
def areas(draw: st.DrawFn) -> PixelArea:
    """Rectangles that contain, cross, touch or miss the files."""
    return PixelArea(
        row=TOP + draw(st.integers(-60, 60)),
        col=LEFT + draw(st.integers(-60, 60)),
        rows=draw(st.integers(1, 70)),
        cols=draw(st.integers(1, 70)),
    )


def sliced(canvas: NDArray[Any], area: PixelArea, top: int, left: int) -> NDArray[Any]:
    """`area` of an endless canvas of nodata, with `canvas` at (top, left)."""
    result = np.full((area.rows, area.cols), NODATA, dtype=canvas.dtype)
    for i in range(area.rows):
        for j in range(area.cols):
            row, col = area.row + i - top, area.col + j - left
            if 0 <= row < canvas.shape[0] and 0 <= col < canvas.shape[1]:
                result[i, j] = canvas[row, col]
    return result


@settings(max_examples=60, deadline=None)
@given(areas(), st.sampled_from(["nearest", "bilinear"]))
def test_a_file_on_the_lattice_is_copied(area: PixelArea, method: Literal["nearest", "bilinear"]) -> None:
    found = read_onto(COPIED.dataset, COPIED.asset, UTM32, area, method)
    np.testing.assert_array_equal(found, sliced(COPIED.pixels, area, TOP, LEFT))
    assert found.dtype == np.uint16


@settings(max_examples=60, deadline=None)
@given(areas())
def test_a_coarser_file_that_nests_is_repeated(area: PixelArea) -> None:
    found = read_onto(NESTED.dataset, NESTED.asset, UTM32, area, "nearest")
    repeated = np.repeat(np.repeat(NESTED.pixels, 2, axis=0), 2, axis=1)
    np.testing.assert_array_equal(found, sliced(repeated, area, TOP + 1, LEFT + 1))


@pytest.mark.parametrize(
    ("dtype", "tag", "kept"),
    [
        ("int16", -32768, -32768),
        ("uint16", 65535, 65535),
        ("uint16", None, 0),
        ("float32", -9999, -9999),
        ("float32", None, float("nan")),
    ],
)
def test_a_files_nodata_is_kept_where_its_type_can_hold_it(
    tmp_path: Path, dtype: str, tag: float | None, kept: float
) -> None:
    bands: dict[str, NDArray[Any]] = {"B02": np.full((32, 32), 5, dtype=dtype)}
    bands["B02"][:, 16:] = kept
    scene = scenes.Scene(id="one", time="2023-06-05T10:00:00Z", west=WEST, north=NORTH, bands=bands)
    scenes.write_scene(tmp_path, scene, nodata=tag)
    source = Sentinel2("s2", Archive(source="sentinel2", path=tmp_path, bands=("B02",)))
    (found,) = source.scenes(full_digests=False)
    np.testing.assert_equal(found.assets[0].nodata, kept)
    reader = RasterReader(threads=1)
    try:
        seen = source.observe(found, JUNE, UTM32, PixelArea(row=TOP, col=LEFT - 8, rows=32, cols=48), reader).seen_yx
    finally:
        reader.close()
    np.testing.assert_array_equal(np.flatnonzero(seen.any(axis=0)), np.arange(8, 24))


def test_another_shape_than_when_indexed_is_an_error() -> None:
    other = dataclasses.replace(COPIED.asset, rows=44)
    with pytest.raises(ValueError, match=r"45 x 37 pixels, 44 x 37 when indexed"):
        read_onto(COPIED.dataset, other, UTM32, PixelArea(row=TOP, col=LEFT, rows=2, cols=2), "nearest")


# --- warped -----------------------------------------------------------------------------------------


def _elsewhere(dtype: str, *, holes: bool, side: int = 220, pixel: float = 10.0) -> Opened:
    """A file of the neighbouring zone over the same place."""
    x, y = Transformer.from_crs(UTM32.crs, "EPSG:32633", always_xy=True).transform(LEFT * 10.0, -TOP * 10.0)
    return opened(
        _noise(dtype, side, holes=holes), round(x, -1) - 300, round(y, -1) + 300, pixel=pixel, crs="EPSG:32633"
    )


def _noise(dtype: str, side: int, *, holes: bool) -> NDArray[Any]:
    rng = np.random.default_rng(3)
    pixels = rng.integers(1, 250 if dtype == "uint8" else 5000, (side, side)).astype(dtype)
    if holes:
        pixels[rng.random((side, side)) < 0.02] = NODATA
    return pixels


def _here(pixel: float, shift: float) -> Opened:
    """A file in the grid's CRS that does not lie on the grid."""
    west, north = LEFT * 10.0 + shift, -TOP * 10.0 - shift
    return opened(_noise("uint16", 160, holes=True), west, north, pixel=pixel)


WARPED: dict[str, tuple[Opened, Method]] = {
    "another zone, bilinear": (_elsewhere("uint16", holes=True), "bilinear"),
    "another zone, bilinear, float": (_elsewhere("float32", holes=False), "bilinear"),
    "another zone, nearest": (_elsewhere("uint8", holes=True), "nearest"),
    "half a pixel off": (_here(10.0, 5.0), "bilinear"),
    "half a pixel off, nearest": (_here(10.0, 5.0), "nearest"),
    "a third off": (_here(10.0, 3.3), "bilinear"),
    "20 m that nests": (_here(20.0, 0.0), "bilinear"),
    "60 m that nests": (_here(60.0, 0.0), "bilinear"),
    "15 m": (_here(15.0, 0.0), "bilinear"),
    "finer": (_here(6.0, 2.5), "bilinear"),
    "twice as fine, which is averaged": (_here(5.0, 2.5), "bilinear"),
    "another zone, finer, averaged": (_elsewhere("uint16", holes=True, pixel=2.5, side=700), "average"),
    "coarser, averaged": (_here(15.0, 3.0), "average"),
}


@pytest.mark.parametrize("name", WARPED)
def test_a_warped_pixel_is_the_same_whatever_area_is_asked(name: str) -> None:
    file, method = WARPED[name]
    whole = PixelArea(row=TOP - 6, col=LEFT - 5, rows=150, cols=140)
    at_once = read_onto(file.dataset, file.asset, UTM32, whole, method)
    assert (at_once != NODATA).mean() > 0.2
    rng = np.random.default_rng(0)
    pieces = [(0, 0, 75, 70), (0, 70, 75, 70), (75, 0, 75, 70), (75, 70, 75, 70)]
    pieces += [(int(r), int(c), int(h), int(w)) for r, c, h, w in rng.integers(1, 60, (20, 4))]
    for row, col, rows, cols in pieces:
        area = PixelArea(row=whole.row + row, col=whole.col + col, rows=rows, cols=cols)
        piece = read_onto(file.dataset, file.asset, UTM32, area, method)
        np.testing.assert_array_equal(piece, at_once[row : row + rows, col : col + cols])


def naive_neighbours(file: Opened, area: PixelArea) -> Iterator[tuple[int, int, list[tuple[float, float]]]]:
    """For each pixel of `area`: the values and weights of the four source pixels around its centre."""
    a, _, west, _, _, north = file.asset.transform
    to_file = Transformer.from_crs(UTM32.crs, file.asset.crs, always_xy=True)
    for i, j in product(range(area.rows), range(area.cols)):
        x, y = to_file.transform((area.col + j + 0.5) * 10.0, -(area.row + i + 0.5) * 10.0)
        col, row = (x - west) / a - 0.5, (north - y) / a - 0.5
        around = []
        for r, c in product((math.floor(row), math.floor(row) + 1), (math.floor(col), math.floor(col) + 1)):
            inside = 0 <= r < file.pixels.shape[0] and 0 <= c < file.pixels.shape[1]
            weight = (1 - abs(row - r)) * (1 - abs(col - c))
            around.append((float(file.pixels[r, c]) if inside else NODATA, weight))
        yield i, j, around


@pytest.mark.parametrize(
    "name", [name for name, (_, method) in WARPED.items() if method == "bilinear" and "average" not in name]
)
def test_bilinear_is_what_a_plain_loop_makes(name: str) -> None:
    file, _ = WARPED[name]
    # at a corner of the file, so that both its inside and its edges are seen
    area = PixelArea(row=TOP - 3, col=LEFT - 3, rows=40, cols=40)
    found = read_onto(file.dataset, file.asset, UTM32, area, "bilinear").astype(np.float64)
    rounding = 0.5 + 1e-3 if file.pixels.dtype.kind == "u" else 1e-2
    compared = 0
    for i, j, around in naive_neighbours(file, area):
        valid = [(value, weight) for value, weight in around if value != NODATA and weight > 1e-6]
        if len(valid) == sum(weight > 1e-6 for _, weight in around):
            exact = sum(value * weight for value, weight in valid) / sum(weight for _, weight in valid)
            assert abs(found[i, j] - exact) <= rounding, (i, j)
            compared += 1
        elif not valid:
            assert found[i, j] == NODATA
        elif found[i, j] != NODATA:
            values = [value for value, _ in valid]
            assert min(values) - 1 <= found[i, j] <= max(values) + 1, "made of what has data only"
    assert compared > 500


@pytest.mark.parametrize("method", ["average", "bilinear"])
@pytest.mark.parametrize("dtype", ["float32", "uint16"])
def test_blocks_that_fill_a_pixel_are_their_mean(dtype: str, method: Method) -> None:
    """10 x 10 pixels, some without data: the mean of the others, as NumPy computes it; all without data is nodata."""
    pixels = _noise(dtype, 400, holes=True)
    pixels[100:110, 200:210] = NODATA
    pixels[50:60, 50:60] = NODATA
    pixels[59, 59] = 77
    file = opened(pixels, LEFT * 10.0, -TOP * 10.0, pixel=1.0)
    area = PixelArea(row=TOP - 2, col=LEFT - 3, rows=50, cols=50)
    found = read_onto(file.dataset, file.asset, UTM32, area, method)
    blocks = pixels.reshape(40, 10, 40, 10).swapaxes(1, 2).reshape(40, 40, 100).astype(np.float64)
    count = (blocks != NODATA).sum(axis=2)
    means = np.where(count > 0, blocks.sum(axis=2) / np.maximum(count, 1), NODATA)
    expected = np.rint(means) if dtype == "uint16" else means
    np.testing.assert_allclose(found[2:42, 3:43], expected, rtol=1e-7)
    assert found[12, 23] == NODATA
    assert found[7, 8] == 77
    assert (np.delete(found, np.s_[2:42], axis=0) == NODATA).all()


@pytest.mark.parametrize(
    ("pixel", "shift", "crs"),
    [
        (2.5, 0.0, UTM32.crs),
        (3.0, 1.7, UTM32.crs),
        (4.0, -3.1, UTM32.crs),
        (2.5, 0.0, "EPSG:32633"),
        (3.0, 0.0, "EPSG:3035"),
    ],
)
def test_an_average_is_what_gdal_averages(pixel: float, shift: float, crs: str) -> None:
    """A smooth field, because GDAL averages the box around a rotated pixel, which is a little larger than the pixel."""
    x, y = Transformer.from_crs(UTM32.crs, crs, always_xy=True).transform(LEFT * 10.0, -TOP * 10.0)
    side = 600
    waves = np.sin(np.arange(side) * pixel / 40)[:, None] * np.cos(np.arange(side) * pixel / 30)
    field = (1000 + 300 * waves).astype(np.float32)
    file = opened(field, round(x) - 200 + shift, round(y) + 200 + shift, pixel=pixel, crs=crs)
    area = PixelArea(row=TOP, col=LEFT, rows=80, cols=80)
    found = read_onto(file.dataset, file.asset, UTM32, area, "average")
    expected = np.full((80, 80), NODATA, dtype=np.float32)
    reproject(
        field, expected, src_transform=file.dataset.transform, src_crs=crs, src_nodata=NODATA, dst_nodata=NODATA,
        dst_transform=UTM32.affine(area), dst_crs=UTM32.crs, resampling=Resampling.average, tolerance=0,
    )  # fmt: skip
    assert (found != NODATA).all()
    assert np.abs(found - expected).max() < (1e-3 if crs == UTM32.crs else 1.0)
    one_of_many = read_onto(file.dataset, file.asset, UTM32, area, "nearest")
    assert np.abs(one_of_many - expected).max() > 5, "what is left out counts"


def test_how_a_file_comes_onto_the_grid_is_said() -> None:
    said = {name: resampling_in_words(file.asset, UTM32, method) for name, (file, method) in WARPED.items()}
    assert said["20 m that nests"] == "warped (bilinear)"
    assert said["finer"] == "warped (bilinear)"
    assert said["twice as fine, which is averaged"] == "warped (average)"
    assert said["another zone, nearest"] == "warped (nearest)"
    assert resampling_in_words(COPIED.asset, UTM32, "bilinear") == "copied"
    assert resampling_in_words(NESTED.asset, UTM32, "nearest") == "repeated 2 x 2"
    south = dataclasses.replace(COPIED.asset, crs="EPSG:32732")
    assert resampling_in_words(south, UTM32, "bilinear") == "copied, shifted by -10,000 km to the north"


def test_nearest_is_the_pixel_that_holds_the_centre() -> None:
    file, _ = WARPED["another zone, nearest"]
    area = PixelArea(row=TOP, col=LEFT, rows=50, cols=50)
    found = read_onto(file.dataset, file.asset, UTM32, area, "nearest")
    for i, j, around in naive_neighbours(file, area):
        ordered = sorted(around, key=lambda item: item[1], reverse=True)
        if ordered[0][1] - ordered[1][1] > 0.01:
            assert found[i, j] == ordered[0][0]


def test_a_warped_area_beside_the_file_is_empty() -> None:
    for file, method in WARPED.values():
        area = PixelArea(row=TOP - 4000, col=LEFT, rows=8, cols=8)
        assert (read_onto(file.dataset, file.asset, UTM32, area, method) == NODATA).all()


# --- longitudes -------------------------------------------------------------------------------------

COUNTINGS = {
    f"{crs}, the file from {west:g}": (Grid(crs=crs, pixel=pixel, origin_x=origin), west)
    for crs, pixel, origin in (
        ("EPSG:4326", 0.5, 0.0),
        ("EPSG:4326", 0.5, -180.0),
        ("EPSG:4326", 0.25, 180.0),
        ("EPSG:32601", 25_000.0, 0.0),
        ("EPSG:32660", 25_000.0, 0.0),
    )
    for west in (175.0, -185.0, 535.0)
}


@pytest.mark.parametrize("counting", COUNTINGS)
def test_a_file_across_the_antimeridian_is_read_whatever_its_longitudes_count_from(counting: str) -> None:
    grid, west = COUNTINGS[counting]
    file = opened(numbered(12, 20), west, 20.0, pixel=0.5, crs="EPSG:4326")
    to_degrees = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)
    from_degrees = Transformer.from_crs("EPSG:4326", grid.crs, always_xy=True)
    found_pixels = 0
    for corner in (174.0, 182.0):  # one area holds the antimeridian, one lies beyond it
        x, y = from_degrees.transform(corner, 21.0)
        if grid.geographic:
            x = grid.origin_x + (x - grid.origin_x) % 360
        row, col = (int(at.item()) for at in grid.rows_cols(np.array([x]), np.array([y])))
        side = round((16.0 if grid.geographic else 1_600_000.0) / grid.pixel)
        area = PixelArea(row=row, col=col, rows=side, cols=side)
        found = read_onto(file.dataset, file.asset, grid, area, "nearest")
        left, _, _, top = grid.bounds(area)
        for i, j in product(range(side), range(side)):
            lon, lat = to_degrees.transform(left + (j + 0.5) * grid.pixel, top - (i + 0.5) * grid.pixel)
            down, across = (20.0 - lat) / 0.5, (lon - west) % 360 / 0.5
            inside = 0 <= down < 12 and 0 <= across < 20
            # a centre on the line between two pixels may belong to either
            if min(abs(down - round(down)), abs(across - round(across))) > 1e-6:
                assert found[i, j] == (file.pixels[int(down), int(across)] if inside else NODATA), (i, j)
                found_pixels += inside
    assert found_pixels > 60


def naive_around(pixels: NDArray[Any], west: float, lon: float, lat: float, method: str) -> tuple[float, float]:
    """Value at a location of a global raster in degrees, and the weight of pixels with data, by a scalar loop."""
    x, y = (lon - west) % 360 - 0.5, 90 - lat - 0.5
    if method == "nearest":
        value = float(pixels[math.floor(y + 0.5), math.floor(x + 0.5) % 360])
        return value, float(value != NODATA)
    total = weight = 0.0
    for row, col in product((math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)):
        share = (1 - abs(y - row)) * (1 - abs(x - col))
        if 0 <= row < 180 and (value := float(pixels[row, col % 360])) != NODATA:
            total, weight = total + share * value, weight + share
    return total / weight if weight > 1e-5 else NODATA, weight


GLOBES = {
    "degrees from 0": Grid(crs="EPSG:4326", pixel=0.3, origin_x=0.0, origin_y=90.0),
    "degrees from -180": Grid(crs="EPSG:4326", pixel=0.3, origin_x=-180.0, origin_y=90.0),
    "zone 31": Grid.of_zone(31, 25_000.0, (0.0, 0.0)),
    "zone 30": Grid.of_zone(30, 25_000.0, (0.0, 0.0)),
    "zone 1": Grid.of_zone(1, 25_000.0, (0.0, 0.0)),
}


@pytest.mark.parametrize("method", ["bilinear", "nearest"])
@pytest.mark.parametrize("west", [0.0, -180.0, -0.5, 179.5])
@pytest.mark.parametrize("name", GLOBES)
def test_a_raster_of_the_globe_has_no_seam(name: str, west: float, method: Literal["nearest", "bilinear"]) -> None:
    """Between its last and its first column both count, and no more is read there than elsewhere."""
    grid = GLOBES[name]
    file = opened(_noise("float32", 360, holes=True)[:180], west, 90.0, pixel=1.0, crs="EPSG:4326")
    read: list[int] = []

    class Counted:
        shape = file.dataset.shape

        def read(self, index: int, window: Any) -> NDArray[Any]:
            read.append(int(window.width * window.height))
            return np.asarray(file.dataset.read(index, window=window))

    to_degrees = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)
    from_degrees = Transformer.from_crs("EPSG:4326", grid.crs, always_xy=True)
    compared = 0
    for seam in (west, west + 180):
        if grid.utm_zone and abs((seam - (6 * grid.utm_zone - 183) + 180) % 360 - 180) > 8:
            continue
        x, y = from_degrees.transform((seam + 180) % 360 - 180, 40.0)
        if grid.geographic:
            x = grid.origin_x + (x - grid.origin_x) % 360
        row, col = (int(at.item()) for at in grid.rows_cols(np.array([x]), np.array([y])))
        area = PixelArea(row=row - 9, col=col - 12, rows=18, cols=24)
        read.clear()
        found = read_onto(Counted(), file.asset, grid, area, method)
        assert sum(read) < 40 * 40, "the places lie side by side"
        left, _, _, top = grid.bounds(area)
        for i, j in product(range(area.rows), range(area.cols)):
            lon, lat = to_degrees.transform(left + (j + 0.5) * grid.pixel, top - (i + 0.5) * grid.pixel)
            on_a_line = min(abs(at - round(at)) for at in (lon - west, lat))
            expected, weight = naive_around(file.pixels, west, lon, lat, method)
            if (method == "bilinear" and 0 < weight < 1e-4) or (method == "nearest" and on_a_line < 1e-6):
                continue
            assert found[i, j] == pytest.approx(expected, rel=1e-5), (lon, lat)
            compared += 1
        for cut_area in (replace_cols(area, 0, 5), replace_cols(area, 7, 17), replace_cols(area, 23, 1)):
            start = cut_area.col - area.col
            piece = read_onto(file.dataset, file.asset, grid, cut_area, method)
            np.testing.assert_array_equal(piece, found[:, start : start + cut_area.cols])
    assert compared > 300 or grid.utm_zone


def replace_cols(area: PixelArea, first: int, cols: int) -> PixelArea:
    """Some columns of an area."""
    return dataclasses.replace(area, col=area.col + first, cols=cols)
