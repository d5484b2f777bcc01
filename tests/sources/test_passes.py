"""Which pass a product shows: in the words of many catalogues, and however a pass is cut into products."""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.transform import from_origin
from tests.sources.samples import sample_of_layer_x

from embedcube.campaign.baselines import Use, uses
from embedcube.campaign.scene import Asset, Scene
from embedcube.kernel.sample import Sample
from embedcube.sources.catalog.products import Product
from embedcube.sources.passes import Clues, acquisitions
from embedcube.sources.sentinel1.names import clues_of
from embedcube.sources.sentinel2.names import identify

WEST, NORTH, SIDE_PX, CELL_PX = 600_000.0, 5_100_000.0, 64, 8
TIME = datetime(2023, 6, 2, 10, 3, 21, tzinfo=UTC)
STAMP, ORBIT = "20230602T095031", "041483"

# --- what names tell --------------------------------------------------------------------------------------


def product(id: str, seconds: float = 0, names: Sequence[str] = (), **properties: Any) -> Product:
    """A product sensed some seconds after TIME; `__` in the name of a property stands for a colon."""
    words = {key.replace("__", ":"): value for key, value in properties.items()}
    time = TIME + timedelta(seconds=seconds)
    return Product(id=id, time=time, files={}, properties=words, names=tuple(names))


def passes(*products: Product) -> list[str]:
    return acquisitions("S2", [identify(product).clues for product in products])


TITLE = f"S2A_MSIL2A_{STAMP}_N0509_R079_T33TWL_20230602T125701"
GRANULE = f"S2A_OPER_MSI_L2A_TL_2APS_20230602T125701_A{ORBIT}_T33TWL_N05.09"
WORDS = {
    "a datatake": product("x", s2__datatake_id=f"GS2A_{STAMP}_{ORBIT}_N05.09"),
    "another baseline": product("x", DATATAKE_IDENTIFIER=f"GS2A_{STAMP}_{ORBIT}_N02.09"),
    "eopf": product("x", eopf__datatake_id=f"GS2A_{STAMP}_{ORBIT}_N05.10", platform="sentinel-2a"),
    "product_uri": product("x", s2__product_uri=f"{TITLE}.SAFE"),
    "product_title": product(GRANULE, s2__product_title=TITLE),
    "older Earth Search": product("S2A_33TWL_20230602_0_L2A", sentinel__product_id=TITLE),
    "Earth Engine": product("x", PRODUCT_ID=TITLE),
    "CDSE, OData": product("x", Name=f"{TITLE}.SAFE", platformShortName="SENTINEL-2", platformSerialIdentifier="A"),
    "any other word": product("x", dias__productIdentifier=f"/eodata/Sentinel-2/MSI/L2A/2023/06/02/{TITLE}.SAFE"),
    "an id": product(TITLE),
    "an id without a baseline": product(f"S2A_MSIL2A_{STAMP}_R079_T33TWL_20230603T011501"),
    "the naming before 2016": product(f"S2A_OPER_PRD_MSIL1C_PDMC_20230603T181818_R079_V{STAMP}_20230602T100559_T33TWM"),
    "a link": product("x", names=[f"{TITLE}.SAFE"]),
    "an image and a platform": product("T33TWM_20230602T095031", platform="Sentinel-2A"),
}


@pytest.mark.parametrize("one", WORDS.values(), ids=WORDS)
def test_a_pass_is_known_in_the_words_of_any_catalogue(one: Product) -> None:
    """Beside a tile of the same pass that another catalogue describes, and one of the next revolution."""
    (alone,) = passes(one)
    assert alone in (f"GS2A_{STAMP}_{ORBIT}", f"S2A_{STAMP}")
    for other in WORDS.values():
        far = replace(other, time=TIME + timedelta(seconds=900))
        first, second, next_orbit = passes(one, far, product("S2A_33TWL_later", 6042))
        assert first == second != next_orbit
    twin = product(TITLE.replace("S2A_", "S2B_"))
    assert len({*passes(one, twin)}) == 2, "another satellite"


def test_without_a_datatake_the_orbit_of_the_granule_tells() -> None:
    one = product(GRANULE)
    other = product(GRANULE.replace("T33TWL", "T33TWM").replace("N05.09", "N04.00"), seconds=700)
    new = product("L2A_T33TXL_A041483_20230602T095630", seconds=800, platform="sentinel-2a")
    third = product(GRANULE.replace(ORBIT, "041484"), seconds=6042)
    assert passes(one) == ["S2A_A041483"]
    assert passes(one, other, new, third) == ["S2A_A041483"] * 3 + ["S2A_A041484"]
    years_apart = [product(f"L2A_T33TXL_A041483_{year}0602T095630", seconds=s) for year, s in ((2023, 0), (2025, 7e7))]
    assert len({*passes(*years_apart)}) == 2, "orbits of two satellites, of which nobody says which is which"
    named = product("x", seconds=300, s2__datatake_id=f"GS2A_{STAMP}_{ORBIT}")
    assert set(passes(one, other, new, named)) == {f"GS2A_{STAMP}_{ORBIT}"}


def tile(name: str, seconds: float) -> Product:
    return product(f"S2A_{name}_20230602_0_L2A", seconds)


def test_without_names_satellite_and_time_tell() -> None:
    one, near, far = tile("33TWL", 0), tile("33TWM", 90), tile("33TWN", 180)
    assert len({*passes(one, near)}) == 1
    assert len({*passes(one, near, far)}) == 1, "each within 100 s of the next"
    assert len({*passes(one, product("S2B_33TWM_20230602_0_L2A", 5))}) == 2
    assert len({*passes(one, tile("33TWM", 6042))}) == 2, "the next revolution"
    assert len({*passes(one, tile("33TWL", 200))}) == 2, "the same place again cannot be the same pass"
    assert len({*passes(tile("33TWL", 0), product("T33TWM", 12))}) == 1, "whose satellite is unknown"
    assert len({*passes(product("a", 0), product("b", 12))}) == 1
    assert len({*passes(product("a", 0), product("b", 120))}) == 2


def test_the_name_of_a_pass_does_not_depend_on_what_else_is_there() -> None:
    every = [tile(f"33T{a}{b}", 14.0 * i) for a in "UVWX" for i, b in enumerate("MLKJHG")]
    (name,) = {*passes(*every)}
    assert [passes(one) for one in every] == [[name]] * len(every)
    assert set(passes(every[0], every[-1], tile("34TCM", 300))) == {name}, "parts of a pass that lie apart"


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_the_order_of_products_does_not_matter(data: st.DataObject) -> None:
    kinds = [tile, lambda n, s: replace(WORDS["an id"], id=f"{TITLE}{n}", time=TIME + timedelta(seconds=s))]
    kinds.append(lambda n, s: product(GRANULE.replace("33TWL", n), s))
    drawn = st.tuples(st.sampled_from(kinds), st.sampled_from(("33TWL", "33TWM", "33TXL")), st.integers(-400, 7000))
    products = [kind(name, second) for kind, name, second in data.draw(st.lists(drawn, min_size=1, max_size=12))]
    found = dict(zip(map(id, products), passes(*products), strict=True))
    shuffled = data.draw(st.permutations(products))
    assert [found[id(one)] for one in shuffled] == passes(*shuffled)


def test_slices_and_bursts_of_sentinel_1_are_one_pass() -> None:
    def radar(*products: Product) -> list[str]:
        return acquisitions("S1", [clues_of(product) for product in products])

    slices = [product(f"S1A_IW_GRDH_1SDV_20200607T0108{s:02d}_20200607T010850_032904_03CFBA_D4{s}", s) for s in (0, 25)]
    assert radar(*slices) == ["S1A_032904_03CFBA"] * 2
    bursts = [
        product(f"OPERA_L2_RTC-S1_T044-09301{i}-IW2_20230602T1003{i:02d}Z_x_S1A_30_v1.0", 2.8 * i) for i in range(9)
    ]
    (name,) = {*radar(*bursts)}
    assert radar(bursts[4]) == [name]
    assert len({*radar(bursts[0], product("OPERA_L2_RTC-S1_T044-093019-IW2_x_S1B_30", 3))}) == 2
    by_orbit = [product(f"b{i}", 700.0 * i, platform="SENTINEL-1A", sat__absolute_orbit=32904) for i in range(2)]
    assert radar(*by_orbit) == ["S1A_A032904"] * 2
    over_the_equator = replace(
        by_orbit[1], time=TIME + timedelta(seconds=20), properties={"platform": "S1A", "orbitNumber": 32905}
    )
    assert radar(by_orbit[0], over_the_equator) == ["S1A_A032904"] * 2
    # so does a datatake, whose slices then name two orbits
    north = [
        product(f"S1C_IW_GRDH_1SDV_20250607T01080{s}_20250607T01083{s}_00{orbit}_00A1F3_D4B{s}", 25.0 * s)
        for s, orbit in enumerate((2679, 2680))
    ]
    north += [product("x", 50, platform="sentinel-1c", sat__absolute_orbit=2680, s1__datatake_id=str(0xA1F3))]
    north += [product("y", 75, platform="sentinel-1c", sat__absolute_orbit=2680)]
    assert radar(*north) == ["S1C_002679_00A1F3"] * 4
    # the same number years later, or in orbits that do not follow each other, is none of that datatake
    later = product("S1C_IW_GRDH_1SDV_20280607T010800_20280607T010825_019000_00A1F3_D4B1", 8e7)
    other = product("S1C_IW_GRDH_1SDV_20250607T010800_20250607T010825_002700_00A1F3_D4B1", 30)
    assert len({*radar(north[0], later)}) == len({*radar(north[0], other)}) == 2


def test_a_product_of_which_nothing_is_known_is_an_acquisition_of_its_own() -> None:
    from embedcube.campaign.scene import UNKNOWN_TIME

    assert acquisitions("S2", [Clues(id=id, time=UNKNOWN_TIME) for id in "ab"]) == ["a", "b"]


@pytest.mark.parametrize("word", ["earthsearch", "sentinel", "s2"])
@pytest.mark.parametrize(("value", "applied"), [(True, True), ("true", True), (False, False), ("False", False)])
def test_an_offset_that_was_applied_is_read_in_older_words(word: str, value: object, applied: bool) -> None:
    assert identify(product("x", 0, (), **{f"{word}__boa_offset_applied": value})).offset_applied is applied


@pytest.mark.parametrize(
    "word", ["s2__processing_baseline", "sentinel__processing_baseline", "processing__version", "processingBaseline"]
)
def test_a_baseline_is_read_in_older_words(word: str) -> None:
    assert identify(product("x", 0, (), **{word: "05.09"})).baseline == 5.09


def test_a_name_in_small_letters_is_the_same_product() -> None:
    small, large = identify(product(TITLE.lower())), identify(product(TITLE))
    assert (small.level, small.tile, small.baseline, small.clues.start) == ("2A", "33TWL", 5.09, large.clues.start)
    assert passes(product(TITLE.lower()), product(TITLE.replace("33TWL", "33TWM")))[0].startswith("S2A_20230602T095031")
    # a latitude in another name is no baseline
    assert identify(product("map_n0509_e011")).baseline is None


def test_a_link_to_what_a_product_was_made_from_tells_its_pass_and_not_its_baseline() -> None:
    found = identify(
        product("S2A_33TWL_20230602_0_L2A", names=[TITLE.replace("L2A_2", "L1C_2").replace("0509", "0205")])
    )
    assert (found.clues.satellite, found.clues.start, found.level, found.baseline) == (
        "S2A", datetime(2023, 6, 2, 9, 50, 31, tzinfo=UTC), "2A", None
    )  # fmt: skip


# --- what a shard sees ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Read:
    """The only shard of an archive, as a rank reads it."""

    scenes: list[Scene]
    sample: Sample

    @property
    def facts(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """What must not depend on how a pass is cut: values, counts, status."""
        return self.sample.x_tcyx, self.sample.n_obs_yx, self.sample.status_yx


def read(folder: Path, archive: dict[str, Any], window: tuple[str, str] = ("2023-06-01", "2023-07-01")) -> Read:
    """Index `folder`/archive, and read the shard of 64 x 64 pixels whose corner is (WEST, NORTH)."""
    document = {
        "campaign": "passes",
        "archives": {"a": {"path": "archive"} | archive},
        "grid": {"crs": "EPSG:32633", "pixel": 10, "origin": [WEST, NORTH]},
        "region": {"bbox": [WEST, NORTH - 640, WEST + 640, NORTH], "crs": "EPSG:32633"},
        "windows": [list(window)],
        "layers": {
            "x": {
                "archives": "a", "backbone": {"name": "mosaiks", "filters": 4}, "chip_px": SIDE_PX + 2, "halo_px": 1,
                "cell_px": CELL_PX, "shard_chips": 1, "batch": 2,
            }
        },
        "how": {"ranks": 1, "threads": 1},
    }  # fmt: skip
    scenes, sample = sample_of_layer_x(folder, document)
    return Read(scenes=scenes, sample=sample)


def write(path: Path, pixels: NDArray[Any], row: float = 0, col: float = 0, **profile: Any) -> None:
    """A raster of (bands,) rows, columns whose corner is so many pixels from that of the shard."""
    stack = pixels if pixels.ndim == 3 else pixels[None]
    path.parent.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {"driver": "GTiff", "crs": "EPSG:32633", "nodata": 0} | profile
    with rasterio.open(
        path, "w", count=len(stack), height=stack.shape[1], width=stack.shape[2], dtype=stack.dtype,
        transform=from_origin(WEST + 10 * col, NORTH - 10 * row, 10, 10), **settings,
    ) as dataset:  # fmt: skip
        dataset.write(stack)


def write_item(folder: Path, id: str, time: datetime, assets: dict[str, Any], **properties: Any) -> None:
    words = {key.replace("__", ":"): value for key, value in properties.items()}
    document = {
        "type": "Feature", "stac_version": "1.0.0", "id": id, "assets": assets, "links": [],
        "properties": {"datetime": time.isoformat()} | words,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{id}.json").write_text(json.dumps(document))


SENTINEL2 = {"source": "sentinel2", "bands": ["B04", "B08"], "mask": {"band": "SCL", "clear": [4]}, "offset": 0}
STYLES = ("datatake", "title", "older words", "safe names", "time alone", "date alone")


def write_tile(
    root: Path,
    style: str,
    satellite: str,
    number: int,
    box: tuple[int, int, int, int],
    bands: NDArray[Any],
    *,
    stacked: bool,
) -> None:
    """One tile of a pass of the 2nd of June (S2A) or the 12th (S2B), known by what `style` says."""
    row, col, row1, col1 = box
    day, name = {"A": "02", "B": "12"}[satellite], f"33T{'UVWX'[number // 4]}{'JKLM'[number % 4]}"
    safe = f"S2{satellite}_MSIL2A_202306{day}T095031_N0509_R079_T{name}_202306{day}T{125700 + number}"
    granule = f"S2{satellite}_OPER_MSI_L2A_TL_2APS_202306{day}T125701_A04148{satellite == 'B':d}_T{name}_N05.09"
    short = f"S2{satellite}_{name}_202306{day}_0_L2A"
    id = {"safe names": safe, "title": granule}.get(style, short)
    folder, part = root / id, bands[:, row:row1, col:col1]
    if stacked and style not in ("safe names", "date alone"):
        write(folder / "stack.tif", part, row, col)
        names = [{"name": band} for band in ("B04", "B08", "SCL")]
        assets: dict[str, Any] = {"stack": {"href": "./stack.tif", "bands": names}}
    else:
        for band, pixels in zip(("B04", "B08", "SCL"), part, strict=True):
            write(folder / f"{band}.tif", pixels, row, col)
        assets = {band: {"href": f"./{band}.tif"} for band in ("B04", "B08", "SCL")}
    time = TIME.replace(day=int(day)) + timedelta(seconds=13 * number)
    facts = {
        "datatake": {"s2:datatake_id": f"GS2{satellite}_202306{day}T095031_041483_N05.09"},
        "title": {"s2:product_title": safe},
        "older words": {"sentinel:product_id": safe},
        "time alone": {},
    }
    if style in facts:
        write_item(folder, id, time, assets, **facts[style])


def boxes(data: st.DataObject) -> list[tuple[int, int, int, int]]:
    """Rectangles that cover the shard together, and may overlap."""
    edges = [sorted({0, SIDE_PX, *data.draw(st.lists(st.integers(1, SIDE_PX - 1), max_size=2))}) for _ in "yx"]
    over = data.draw(st.integers(0, 9))
    (rows, cols) = ([*pairwise(edge)] for edge in edges)
    grow = [
        (max(0, a - over), max(0, c - over), min(b + over, SIDE_PX), min(d + over, SIDE_PX))
        for a, b in rows
        for c, d in cols
    ]
    return grow


def optics(seed: int) -> NDArray[Any]:
    """Two bands and a classification with clouds and holes."""
    rng = np.random.default_rng(seed)
    classes = np.kron(rng.choice([4, 4, 9], (16, 16)), np.ones((4, 4), int))
    classes[rng.random(classes.shape) < 0.02] = 0
    return np.stack([*rng.integers(1, 9000, (2, SIDE_PX, SIDE_PX)), classes]).astype(np.uint16)


@given(data=st.data())
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_pass_of_sentinel_2_is_the_same_however_it_is_cut(data: st.DataObject, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path, ignore_errors=True)
    for satellite, seed in (("A", 1), ("B", 2)):
        write_tile(
            tmp_path / "whole" / "archive",
            "datatake",
            satellite,
            0,
            (0, 0, SIDE_PX, SIDE_PX),
            optics(seed),
            stacked=False,
        )
        style = data.draw(st.sampled_from(STYLES))
        for number, box in enumerate(boxes(data)):
            stacked = data.draw(st.booleans())
            write_tile(tmp_path / "cut" / "archive", style, satellite, number, box, optics(seed), stacked=stacked)
    whole, parts = (read(tmp_path / name, SENTINEL2) for name in ("whole", "cut"))
    assert len({scene.acquisition for scene in parts.scenes}) == 2
    assert whole.sample.n_obs_yx.max() == 2
    for found, expected in zip(parts.facts, whole.facts, strict=True):
        np.testing.assert_array_equal(found, expected)


@given(data=st.data())
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_pass_of_sentinel_1_is_the_same_however_it_is_cut(data: st.DataObject, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path, ignore_errors=True)
    archive = {"source": "sentinel1", "bands": ["VV"], "options": {"values": "linear"}}
    for day, orbit in ((2, 41483), (14, 41658)):
        power = np.random.default_rng(day).gamma(3, 0.03, (SIDE_PX, SIDE_PX)).astype(np.float32)
        power[:5] = 0
        write(
            tmp_path
            / "whole"
            / "archive"
            / f"S1A_IW_GRDH_1SDV_202306{day:02d}T100321_x_{orbit:06d}_03CFBA_D457"
            / "VV.tif",
            power,
        )
        style = data.draw(st.sampled_from(["slices", "bursts", "orbit"]))
        for number, (row, col, row1, col1) in enumerate(boxes(data)):
            time = TIME.replace(day=day) + timedelta(seconds=int(2.76 * number))
            id = {
                "slices": f"S1A_IW_GRDH_1SDV_{time:%Y%m%dT%H%M%S}_x_{orbit:06d}_03CFBA_D4{number:02d}",
                "bursts": f"OPERA_L2_RTC-S1_T044-0930{number:02d}-IW2_{time:%Y%m%dT%H%M%S}Z_20231202T123456Z_S1A_30",
                "orbit": f"burst-{number}-{day}",
            }[style]
            folder = tmp_path / "cut" / "archive" / id
            write(folder / f"{id}_VV.tif", power[row:row1, col:col1], row, col)
            if style == "orbit":
                asset = {"vv": {"href": f"./{id}_VV.tif"}}
                write_item(folder, id, time, asset, platform="sentinel-1a", sat__absolute_orbit=orbit)
    whole, parts = (read(tmp_path / name, archive) for name in ("whole", "cut"))
    assert len({scene.acquisition for scene in parts.scenes}) == 2
    for found, expected in zip(parts.facts, whole.facts, strict=True):
        np.testing.assert_array_equal(found, expected)


# --- versions of one tile ---------------------------------------------------------------------------------

PLAIN = {"source": "sentinel2", "bands": ["B04"], "offset": 0}


def version(
    root: Path, baseline: str, value: int, rows: slice = slice(0, SIDE_PX), made: int = 0, **properties: Any
) -> str:
    """A version of tile 33TWL with a value in some rows, and no data in the others."""
    id = f"S2A_MSIL2A_{STAMP}_N{baseline}_R079_T33TWL_202306{made + 3:02d}T125701"
    pixels = np.zeros((SIDE_PX, SIDE_PX), np.uint16)
    pixels[rows] = value
    write(root / "archive" / id / "B04.tif", pixels)
    write_item(root / "archive" / id, id, TIME, {"B04": {"href": "./B04.tif"}}, **properties)
    return id


def used(read_: Read) -> dict[str, str]:
    return {scene.id: scene.superseded_by for scene in read_.scenes}


def break_header(root: Path, id: str) -> None:
    path = root / "archive" / id / "B04.tif"
    path.write_bytes(path.read_bytes()[:100])


def test_a_newer_version_that_cannot_be_used_replaces_none(tmp_path: Path) -> None:
    older, newer = version(tmp_path, "0400", 1000), version(tmp_path, "0509", 2000)
    assert used(read(tmp_path, PLAIN)) == {older: newer, newer: ""}
    break_header(tmp_path, newer)
    broken = read(tmp_path, PLAIN)
    assert used(broken) == {older: "", newer: ""}
    assert (broken.sample.x_tcyx[..., 1:-1, 1:-1] == 1000).all()
    assert (broken.sample.n_obs_yx == 1).all()


def test_a_version_that_its_pixels_contradict_replaces_none(tmp_path: Path) -> None:
    """The newest has lost its offset: the one before is used, not the oldest."""
    oldest, older = version(tmp_path, "0205", 500), version(tmp_path, "0400", 2500)
    newer = version(tmp_path, "0509", 300)
    asked = read(tmp_path, PLAIN | {"offset": "auto"})
    verdicts = {scene.id: scene.verdict for scene in asked.scenes}
    assert "leaves nothing of 100%" in verdicts[newer]
    assert used(asked) == {oldest: older, older: "", newer: ""}
    assert (asked.sample.x_tcyx[..., 1:-1, 1:-1] == 1500).all()
    assert (asked.sample.n_obs_yx == 1).all()


OPENED = Asset(
    band="B04", path="a.tif", crs="EPSG:32632", transform=(10, 0, 0, 0, -10, 0), rows=8, cols=8, block_rows=8,
    block_cols=8, dtype="uint16", nodata=0.0, size=1, digest="weak:0",
)  # fmt: skip


def place(product: str, west: float, version: float, *, side: float = 1.0) -> Scene:
    """A product of a place."""
    return Scene(
        id=product, archive="a", time=datetime(2023, 6, 2, tzinfo=UTC), acquisition="A", version=version,
        subject="A/2A/33TWL/", bbox=(west, 50.0, west + side, 50.0 + side), assets=(OPENED,),
    )  # fmt: skip


def test_clips_of_two_places_of_one_tile_replace_each_other_nowhere() -> None:
    """Two clips of one name; a newer one of the first place, a little other at its edge; and one that overlaps both."""
    apart = [place("a", 10.0, 4.0), place("a", 12.0, 4.0)]
    scenes = [*apart, place("b", 10.02, 5.09), place("c", 10.6, 5.1, side=2.0)]
    assert uses(scenes) == [Use(instead=2), Use(fills=True), Use(fills=True), Use()]
    assert uses(apart) == [Use(), Use()]
    # the same place, given twice
    assert uses([apart[0], apart[0]]) == [Use(), Use(instead=0)]
    assert uses([apart[0], replace(apart[0], id="a (2)", product="a")]) == [Use(), Use(instead=0)]


def test_the_time_to_decide_about_versions_grows_with_their_number() -> None:
    """Products of one subject, whatever their places and baselines."""

    def seconds(count: int) -> float:
        scenes = [place(f"{number // 2}", number % 50 * 3.0, 2.0 + number % 7, side=0.001) for number in range(count)]
        started = time.process_time()
        assert len(uses(scenes)) == count
        return time.process_time() - started

    seconds(500)
    assert seconds(8000) < 8 * 4 * max(seconds(1000), 0.002)


def test_a_version_whose_offset_is_unknown_replaces_none(tmp_path: Path) -> None:
    older = version(tmp_path, "0205", 1000)
    newer = version(tmp_path, "0509", 2000, s2__add_offset="none")
    assert used(read(tmp_path, PLAIN | {"offset": "auto"})) == {older: "", newer: ""}


@pytest.mark.parametrize("strips", [False, True], ids=["by the names", "by the datastrips"])
def test_an_older_version_fills_what_a_split_newer_one_does_not_show(tmp_path: Path, strips: bool) -> None:
    """The newest is split in two, and one half is broken: the whole one before it fills, the oldest is not used."""
    strip = (
        [{"s2__datastrip_id": f"S2A_OPER_MSI_L2A_DS_2APS_x_S20230602T0956{i}"} for i in (10, 40)]
        if strips
        else [{}, {}]
    )
    oldest, whole = version(tmp_path, "0205", 500), version(tmp_path, "0400", 1000)
    upper = version(tmp_path, "0509", 2000, slice(0, 30), made=1, **strip[0])
    lower = version(tmp_path, "0509", 3000, slice(30, SIDE_PX), made=2, **strip[1])
    both = read(tmp_path, PLAIN)
    assert {id for id, by in used(both).items() if not by} == {upper, lower}
    np.testing.assert_array_equal(np.unique(both.sample.x_tcyx[..., 1:-1, 1:-1]), [2000, 3000])
    break_header(tmp_path, lower)
    found = read(tmp_path, PLAIN)
    assert {id for id, by in used(found).items() if not by} >= {whole, upper}
    assert used(found)[oldest] == whole
    inner = found.sample.x_tcyx[0, 0, 1:-1, 1:-1]
    assert (inner[:30] == 2000).all()
    assert (inner[30:] == 1000).all()
    assert (found.sample.n_obs_yx == 1).all()
