"""What pixels say against metadata: a number that fills an edge, an offset, a unit or a packing that cannot be."""

import json
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from tests.conftest import Campaign, run_cli
from tests.edge import shim
from tests.sources.rasters import AREA, GRID, S1, S2, SIDE, observed, scenes_of, write, write_item

from embedcube.campaign.parts import scan_records
from embedcube.campaign.scene import Asset, Scene
from embedcube.campaign.schema import Archive
from embedcube.errors import CorruptInput
from embedcube.sources import believed as believed_module
from embedcube.sources.believed import believed_when_seen
from embedcube.sources.evidence import look
from embedcube.sources.fields import Fields
from embedcube.sources.reader import RasterReader
from embedcube.windows import parse_period

MAP = "map_20210607"
RNG_SIDE = 300
"""larger than what is read whole"""


def power(seed: int = 1, side: int = SIDE) -> NDArray[np.float32]:
    return np.random.default_rng(seed).gamma(3, 0.03, (side, side)).astype("f4")


def decibels(seed: int = 1, side: int = SIDE) -> NDArray[np.float32]:
    return (10 * np.log10(power(seed, side))).astype("f4")


def reflectance(low: int = 150, high: int = 900, side: int = SIDE) -> NDArray[np.uint16]:
    return np.random.default_rng(2).integers(low, high, (side, side)).astype(np.uint16)


def only(found: list[Scene]) -> Scene:
    [scene] = found
    assert scene.asks == bool(scene.verdict)
    assert len(scene.verdict) < 300
    return scene


# --- a number that fills an edge ------------------------------------------------------------------------


def triangle(values: NDArray[Any], number: float, size: int = 14) -> NDArray[Any]:
    """The upper left corner filled, as beside a swath."""
    rows, cols = np.indices(values.shape)
    return np.where(rows + cols < size, values.dtype.type(number), values)


def corner(values: NDArray[Any], number: float) -> NDArray[Any]:
    filled = values.copy()
    filled[-8:, -8:] = number
    return filled


@pytest.mark.parametrize(
    ("kind", "product", "band", "values", "number", "options"),
    [
        ("sentinel1", S1, "VV", decibels(), 0, {"values": "db"}),
        ("sentinel1", S1, "VV", decibels(), -99, {"values": "db"}),
        ("sentinel1", S1, "VV", power(), 32767, {}),
        ("sentinel1", S1, "VV", power(), 9.5, {}),
        ("fields", MAP, "cover", power(), 0, {}),
        ("fields", MAP, "cover", power(), -9999, {}),
        ("fields", MAP, "cover", power(), np.finfo("f4").min, {}),
        ("fields", MAP, "cover", power(), 17.25, {}),
        ("sentinel2", S2, "B04", reflectance(), 65535, {}),
        ("sentinel2", S2, "B04", reflectance().astype("i2"), -9999, {}),
        ("sentinel2", S2, "B04", reflectance().astype("i2"), 255, {}),
        ("sentinel2", S2, "B04", reflectance() / np.float32(10_000), 0, {}),
        ("sentinel2", S2, "B04", reflectance().astype("f4"), -9999, {}),
    ],
)
@pytest.mark.parametrize("fill", [triangle, corner])
def test_a_number_that_fills_an_edge_and_is_not_declared_is_asked_about(
    tmp_path: Path, kind: str, product: str, band: str, values: Any, number: float, options: dict[str, Any], fill: Any
) -> None:
    filled = fill(values, number)
    write(tmp_path / "asked" / product / f"{band}.tif", filled)
    assert np.float32(number) == filled.ravel()[np.argmax(np.abs(filled != values))]
    scene = only(scenes_of(kind, tmp_path / "asked", band, options=options))
    assert f"{number:g} fills an edge of {product}/{band}.tif and nobody declares it as no data" in scene.verdict
    assert "options.nodata" in scene.verdict
    # either answer is taken
    for nodata, missing in ((number, filled != values), (-4321.0, np.zeros(values.shape, bool))):
        if np.dtype(values.dtype).kind == "u" and nodata < 0:
            continue
        path = tmp_path / "asked"
        assert not only(scenes_of(kind, path, band, options=options | {"nodata": float(np.float32(nodata))})).verdict
        [one] = observed(kind, path, band, options=options | {"nodata": float(np.float32(nodata))})
        assert not (one.seen_yx & missing).any()
    # and so is what the file declares
    write(tmp_path / "declared" / product / f"{band}.tif", filled, nodata=float(np.float32(number)))
    assert not only(scenes_of(kind, tmp_path / "declared", band, options=options)).verdict
    # numbers that fill nothing are no question
    write(tmp_path / "plain" / product / f"{band}.tif", values)
    assert not only(scenes_of(kind, tmp_path / "plain", band, options=options)).verdict


@pytest.mark.parametrize(
    ("options", "values"),
    [({}, np.where(np.indices((SIDE, SIDE))[0] < 8, 0, power()).astype("f4")),
     ({}, np.where(np.indices((SIDE, SIDE))[0] < 8, -9999, power()).astype("f4")),
     ({"values": "db"}, np.where(np.indices((SIDE, SIDE))[0] < 8, -9999, decibels()).astype("f4")),
     ({"values": "amplitude"}, np.where(np.indices((SIDE, SIDE))[0] < 8, 0, np.sqrt(power())).astype("f4"))],
)  # fmt: skip
def test_what_is_no_power_is_no_data_and_no_question(tmp_path: Path, options: dict[str, Any], values: Any) -> None:
    write(tmp_path / S1 / "VV.tif", values)
    assert not only(scenes_of("sentinel1", tmp_path, "VV", options=options)).verdict
    [one] = observed("sentinel1", tmp_path, "VV", options=options)
    np.testing.assert_array_equal(one.seen_yx, np.arange(SIDE)[:, None] * np.ones(SIDE) >= 8)


def test_zeros_of_decibels_are_asked_about_beside_another_declared_number_and_inside(tmp_path: Path) -> None:
    """A warped image has its declared number at the edge, and what was its border further inside."""
    values = decibels(side=RNG_SIDE)
    values[: RNG_SIDE // 2 + 8] = 0
    values[:130] = np.nan
    write(tmp_path / S1 / "VV.tif", values, nodata=float("nan"))
    assert "0 fills an edge" in only(scenes_of("sentinel1", tmp_path, "VV", options={"values": "db"})).verdict


def test_plain_water_and_classes_are_no_question(tmp_path: Path) -> None:
    """A lake of one height, a land cover of few classes: equal numbers among others are values."""
    height = (400 + 50 * power()).astype("f4")
    height[:10, :10] = height.min() - 1
    write(tmp_path / "dem_20210607" / "cover.tif", height)
    classes = np.random.default_rng(0).choice([10.0, 20, 30, 80], (SIDE // 8, SIDE // 8)).repeat(8, 0).repeat(8, 1)
    write(tmp_path / "map_20210608" / "cover.tif", classes.astype("f4"))
    assert [scene.verdict for scene in scenes_of("fields", tmp_path, "cover")] == ["", ""]


# --- offset -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "share"),
    [(reflectance(), "100%"), (reflectance(150, 1350), "7[0-2]%"), (reflectance() / np.float32(10_000), "100%"),
     (reflectance(1, 200), "100%"), (reflectance(side=RNG_SIDE), "100%")],
    ids=["land", "bright land", "floats", "water", "a large image"],
)  # fmt: skip
def test_an_offset_that_is_not_in_the_pixels_is_a_verdict(tmp_path: Path, values: NDArray[Any], share: str) -> None:
    nodata = float("nan") if values.dtype.kind == "f" else 0
    for name, told in (("told", {"s2__processing_baseline": "05.09"}), ("stated", {"s2__add_offset": -1000})):
        write(tmp_path / name / "x" / "B04.tif", values, nodata=nodata)
        asset = {"red": {"href": "./B04.tif"}}
        write_item(tmp_path / name / "x", "x", asset, datetime="2022-01-26T10:30:00Z", **told)
        scene = only(scenes_of("sentinel2", tmp_path / name, "B04"))
        assert scene.verdict.startswith("B04: the offset -1000: ")
        assert f"leaves nothing of {share}" in scene.verdict or __import__("re").search(share, scene.verdict)
        assert 'write "offset: 0"' in scene.verdict
        assert not only(scenes_of("sentinel2", tmp_path / name, "B04", offset=0)).verdict


@pytest.mark.parametrize(
    "values",
    [reflectance(1150, 1900), reflectance(960, 1060), reflectance(2000, 3000)],
    ids=["with the offset", "dark water with the offset", "bright, which cannot be told"],
)
def test_an_offset_that_may_be_in_the_pixels_is_applied(tmp_path: Path, values: NDArray[Any]) -> None:
    write(tmp_path / S2.replace("N0300", "N0509") / "B04.tif", values, nodata=0)
    assert not only(scenes_of("sentinel2", tmp_path, "B04")).verdict
    [one] = observed("sentinel2", tmp_path, "B04")
    np.testing.assert_array_equal(one.values_cyx[0], np.maximum(values.astype(int) - 1000, 1))


def test_the_darkest_band_is_looked_at(tmp_path: Path) -> None:
    folder = tmp_path / S2.replace("N0300", "N0400")
    write(folder / "B08.tif", reflectance(2500, 4000), nodata=0)
    write(folder / "B04.tif", reflectance(), nodata=0)
    assert only(scenes_of("sentinel2", tmp_path, "B08", "B04")).verdict.startswith("B04: the offset")
    assert not only(scenes_of("sentinel2", tmp_path, "B08")).verdict, "vegetation is bright with and without it"


# --- units --------------------------------------------------------------------------------------------

NUMBERS = {"linear": power(), "db": decibels(), "worldcereal": np.rint(10 ** ((decibels() + 83) / 20)).astype("u2")}


@pytest.mark.parametrize("said", ["linear", "amplitude", "db", "worldcereal"])
@pytest.mark.parametrize("are", NUMBERS)
def test_numbers_of_another_unit_are_a_verdict(tmp_path: Path, are: str, said: str) -> None:
    write(tmp_path / S1 / "VV.tif", NUMBERS[are], nodata=-1 if are != "worldcereal" else 0)
    verdict = only(scenes_of("sentinel1", tmp_path, "VV", options={"values": said})).verdict
    if said == are or (are, said) == ("linear", "amplitude"):  # the square of power is power, too
        assert not verdict
        return
    assert verdict.startswith(f"VV: as options.values: {said} the numbers of {S1}/VV.tif")
    assert "is no backscatter" in verdict
    assert are in verdict.partition("; options.values: ")[2].partition(" would fit")[0].split(" or ")


def test_a_scale_that_is_missing_is_a_verdict(tmp_path: Path) -> None:
    """dB = 0.01 x DN - 60, and neither the file nor the campaign says so."""
    write(tmp_path / S1 / "VV.tif", np.rint((decibels() + 60) * 100).astype("u2"), nodata=0)
    verdict = only(scenes_of("sentinel1", tmp_path, "VV", options={"values": "db"})).verdict
    assert "is no backscatter" in verdict
    assert "or they need options.scale and options.add" in verdict
    options = {"values": "db", "scale": {"VV": 0.01}, "add": {"VV": -60}}
    assert not only(scenes_of("sentinel1", tmp_path, "VV", options=options)).verdict


# --- packing ------------------------------------------------------------------------------------------


def packed(root: Path, values: NDArray[Any], raster: dict[str, Any], *, scale: float = 1.0, add: float = 0.0) -> None:
    write(root / "x" / "cover.tif", values, nodata=9999, scale=scale, add=add)
    asset = {"cover": {"href": "./cover.tif"} | raster}
    write_item(root / "x", "x", asset, datetime="2021-06-07T00:00:00Z")


@pytest.mark.parametrize(
    "raster",
    [
        {"raster:bands": [{"scale": 0.01, "offset": -5}]},
        {"bands": [{"name": "cover", "raster:scale": 0.01, "raster:offset": -5}]},
        {"raster:scale": 0.01, "raster:offset": -5},
        {},
    ],
    ids=["1.0", "1.1 of a band", "1.1 of an asset", "the file alone"],
)
@pytest.mark.parametrize("in_file", [True, False])
def test_a_packing_counts_once_whoever_states_it(tmp_path: Path, raster: dict[str, Any], in_file: bool) -> None:
    values = np.random.default_rng(0).integers(0, 1000, (SIDE, SIDE)).astype("i2")
    packed(tmp_path, values, raster, **({"scale": 0.01, "add": -5.0} if in_file else {}))
    [one] = observed("fields", tmp_path, "cover")
    expected = values * 0.01 - 5 if raster or in_file else values
    np.testing.assert_allclose(one.values_cyx[0], expected, rtol=1e-6, atol=1e-6)
    [one] = observed("fields", tmp_path, "cover", options={"packing": "ignored"})
    np.testing.assert_array_equal(one.values_cyx[0], values)


def test_two_packings_that_differ_are_a_verdict(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 1000, (SIDE, SIDE)).astype("i2")
    packed(tmp_path, values, {"raster:bands": [{"scale": 0.1}]}, scale=0.01)
    [scene] = scenes_of("fields", tmp_path, "cover")
    assert (
        "cover.tif declares DN * 0.01 + 0, its catalogue DN * 0.1 + 0; write options.packing: ignored" in scene.verdict
    )
    [scene] = scenes_of("fields", tmp_path, "cover", options={"packing": "ignored"})
    assert not scene.verdict


@pytest.mark.parametrize("by", ["file", "item"])
def test_a_packing_of_numbers_that_are_unpacked_is_asked_about(tmp_path: Path, by: str) -> None:
    celsius = (power() * 20).astype("f4")
    raster = {"raster:bands": [{"scale": 0.01}]} if by == "item" else {}
    packed(tmp_path, celsius, raster, **({"scale": 0.01} if by == "file" else {}))
    verdict = only(scenes_of("fields", tmp_path, "cover")).verdict
    assert "holds fractions" in verdict
    assert "DN * 0.01 + 0; write options.packing: ignored" in verdict
    for packing, factor in (("ignored", 1.0), ("declared", 0.01)):
        [one] = observed("fields", tmp_path, "cover", options={"packing": packing})
        np.testing.assert_allclose(one.values_cyx[0], celsius * factor, rtol=1e-6)


@pytest.mark.parametrize(
    ("scale", "words"), [({"cover": 0.0}, "one and the same number of 100%"), ({"cover": 1e300}, "no number of 100%")]
)
def test_a_scale_that_leaves_nothing_is_a_verdict(tmp_path: Path, scale: dict[str, float], words: str) -> None:
    write(tmp_path / MAP / "cover.tif", power() + 1, nodata=-1)
    verdict = only(scenes_of("fields", tmp_path, "cover", options={"scale": scale})).verdict
    assert f"cover: scale and offset make {words} of {MAP}/cover.tif" in verdict


# --- how much is looked at ----------------------------------------------------------------------------


def wrong_maps(root: Path, days: range) -> None:
    for day in days:
        write(root / f"map_202106{day:02d}" / "cover.tif", triangle(power(), 0))


def test_what_is_found_does_not_depend_on_what_else_an_archive_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Maps with an edge of zeros are all found, though few are looked at first and right ones come before them."""
    monkeypatch.setattr(believed_module, "_FIRST", 2)
    wrong_maps(tmp_path / "alone", range(20, 26))
    alone = {scene.id: scene.verdict for scene in scenes_of("fields", tmp_path / "alone", "cover")}
    assert len(alone) == 6
    assert all(alone.values())
    wrong_maps(tmp_path / "many", range(20, 26))
    for day in range(1, 20):
        # another type of numbers: these maps are right or wrong for reasons of their own
        write(tmp_path / "many" / f"map_202106{day:02d}" / "cover.tif", power().astype("f8"), nodata=-1)
    many = {scene.id: scene.verdict for scene in scenes_of("fields", tmp_path / "many", "cover")}
    assert {id: verdict for id, verdict in many.items() if verdict} == alone


def test_a_scene_that_index_has_not_looked_at_is_looked_at_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a small archive `index` finds the one wrong map; in a large one nobody may have looked at it."""
    wrong_maps(tmp_path, range(3, 4))
    for day in (1, 2, 4, 5):
        write(tmp_path / f"map_2021060{day}" / "cover.tif", power(day) + 1)
    source = Fields("a", Archive(source="fields", path=tmp_path, bands=("cover",)))
    of_small = {scene.id: scene for scene in source.scenes(full_digests=False)}
    [wrong] = [id for id, scene in of_small.items() if scene.verdict]
    monkeypatch.setattr(believed_module, "_FIRST", 1)
    monkeypatch.setattr(believed_module, "_SHARE", 1 << 64)
    of_large = {scene.id: scene for scene in source.scenes(full_digests=False)}
    assert not of_large[wrong].verdict
    assert sum(scene.seen for scene in of_large.values()) == 1, "else the test shows nothing"
    always, reader = parse_period("1990/2100"), RasterReader(2, attempts=1)
    try:
        looks: list[Any] = []

        def counted(path: Path, asset: Asset) -> Any:
            looks.append(path)
            return look(path, asset)

        monkeypatch.setattr(believed_module, "look", counted)
        for _ in range(2):
            for id, scene in of_large.items():
                if id == wrong:
                    with pytest.raises(CorruptInput, match=re.escape(of_small[wrong].verdict)) as refused:
                        source.observe(scene, always, GRID, AREA, reader)
                    assert refused.value.asks == of_small[wrong].asks is True
                else:
                    source.observe(scene, always, GRID, AREA, reader)
        assert len(looks) == 4, "each scene once, but for the one that `index` has looked at"
    finally:
        reader.close()


@pytest.mark.parametrize("first", ["index", "rank"])
def test_a_question_is_in_no_error_budget_whoever_asks_it_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """One of two maps asks; nothing may be unreadable. A rank finds it where `index` has not looked."""
    wrong_maps(tmp_path / "archive", range(3, 4))
    write(tmp_path / "archive" / "map_20210604" / "cover.tif", power() + 1)
    if first == "rank":
        monkeypatch.setattr(believed_module, "_chosen", lambda *_: set())
    campaign = Campaign(tmp_path / "campaign.yaml")
    document = {
        "campaign": "c", "archives": {"a": {"source": "fields", "path": "archive", "bands": ["cover"]}},
        "grid": {"crs": GRID.crs, "pixel": GRID.pixel}, "windows": [["2021-06-01", "2021-07-01"]],
        "layers": {
            "l": {"archives": ["a"], "backbone": {"name": "mosaiks", "filters": 2}, "chip_px": 34, "halo_px": 1,
                  "cell_px": 16, "shard_chips": 1, "batch": 2}
        },
        "how": {"ranks": 1, "threads": 1, "error_budget": 0},
    }  # fmt: skip
    campaign.file.write_text(yaml.safe_dump(document))
    indexed = json.loads(campaign.cli("index", "--json"))
    assert len(indexed["unusable"]) == (first == "index"), "else the test shows nothing"
    campaign.cli("fit")
    assert json.loads(campaign.cli("plan", "--json"))["over_budget"] == ""
    assert list(json.loads(campaign.cli("embed", "--json"))["quarantined"]) == ["map_20210603"]
    asked = [one.asks for _, record in scan_records(campaign.run) for one in record.quarantined]
    assert asked == [True] * (2 if first == "rank" else 1), "in both rounds"
    campaign.cli("consolidate")
    assert json.loads(campaign.cli("verify", "--json"))["findings"] == []


def test_of_a_large_series_a_share_is_looked_at_and_each_place_and_year(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scene that the hash of its id chooses is chosen in an archive of any size; so is the first of its place."""
    asset = an_asset()
    scenes = [
        Scene(
            id=f"scene {number}",
            archive="a",
            time=datetime(2000 + number % 5, 6, 7, tzinfo=UTC),
            acquisition="",
            bbox=(10.0 + number % 7, 50.0, 10.5 + number % 7, 50.5),
            assets=(asset,),
        )
        for number in range(20_000)
    ]
    assert 512 <= len(seen_of(scenes, monkeypatch)) < 512 + 35
    monkeypatch.setattr(believed_module, "_FIRST", 64)
    seen = seen_of(scenes, monkeypatch)
    assert 20_000 / 128 * 0.7 < len(seen) < 35 + 20_000 / 128 * 1.3
    assert len({(scene.bbox, scene.time.year) for scene in seen}) == 35
    half = seen_of(scenes[:10_000], monkeypatch)
    by_share = {scene.id for scene in seen if believed_module._hash(scene.id) < (1 << 64) // 128}
    assert len(by_share) > 100
    assert {scene.id for scene in scenes[:10_000]} & by_share <= {scene.id for scene in half}
    # a series of few scenes is looked at whole, whatever others there are
    few = [replace(scene, id=f"{scene.id} b", assets=(replace(asset, dtype="f8"),)) for scene in scenes[:60]]
    assert {scene.id for scene in few} <= {scene.id for scene in seen_of([*scenes, *few], monkeypatch)}
    # of SAFE products nothing is asked; they are a series of their own
    safe = replace(scenes[0], id="safe", assets=(replace(asset, path="x.SAFE/a.tif"),))
    assert scenes[1] in seen_of([safe, scenes[1]], monkeypatch)
    # wavelets take longer
    waves = [replace(scene, assets=(replace(asset, path="a.jp2"),)) for scene in scenes]
    assert len(seen_of(waves, monkeypatch)) < len(seen) / 3


def seen_of(scenes: list[Scene], monkeypatch: pytest.MonkeyPatch) -> list[Scene]:
    """The scenes that are looked at."""
    seen: list[Scene] = []

    def nothing_found(found: Sequence[Scene], **_: Any) -> Any:
        seen.extend(found)
        return [believed_module._Answer(words="") for _ in found]

    monkeypatch.setattr(believed_module, "_seen", nothing_found)
    asked = list(believed_when_seen(scenes, Path("/nowhere"), _asked_of))
    chosen = {scene.id for scene in seen}
    assert asked == [replace(scene, seen=scene.id in chosen) for scene in scenes]
    return sorted(seen, key=lambda scene: scene.id)


def _asked_of(scene: Scene) -> list[tuple[Asset, Any]]:
    return [] if "SAFE" in scene.assets[0].path else [(scene.assets[0], lambda _: "")]


def an_asset() -> Asset:
    return Asset(
        band="b", path="a.tif", crs="EPSG:32632", transform=(10, 0, 0, 0, -10, 0), rows=8, cols=8, block_rows=8,
        block_cols=8, dtype="f4", nodata=0.0, size=1, digest="weak:0",
    )  # fmt: skip


# --- files that cannot be looked at -------------------------------------------------------------------


def test_a_file_that_is_not_given_for_the_moment_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive that is not mounted any more, seen while pixels are looked at."""
    monkeypatch.setattr(time, "sleep", lambda _: None)
    root = tmp_path / "archive"
    write(root / MAP / "cover.tif", power())
    source = Fields("a", Archive(source="fields", path=root, bands=("cover",)))
    found = list(source.scenes(full_digests=False))
    root.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError):
        list(believed_when_seen(found, root, source._questions))
    # the mount point
    root.mkdir()
    with pytest.raises(FileNotFoundError):
        list(believed_when_seen(found, root, source._questions))


def test_a_file_that_the_file_system_does_not_give_is_a_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / MAP / "cover.tif", power())
    source = Fields("a", Archive(source="fields", path=tmp_path, bands=("cover",)))
    found = list(source.scenes(full_digests=False))
    (tmp_path / MAP / "cover.tif").unlink()
    (tmp_path / MAP / "cover.tif").symlink_to("cover.tif")
    [scene] = believed_when_seen(found, tmp_path, source._questions)
    assert scene.verdict == f"cover: {MAP}/cover.tif is a link that leads back to itself"
    assert not scene.asks, "this is no question about numbers"


@pytest.mark.chaos
def test_an_error_of_the_disk_while_pixels_are_looked_at_stops_index(tmp_path: Path) -> None:
    """The header is cached by its bytes, so that the second file is opened only to be looked at."""
    for day in (7, 8):
        write(tmp_path / "archive" / f"map_2021060{day}" / "cover.tif", power(day))
    file = tmp_path / "campaign.yaml"
    document = {
        "campaign": "c", "archives": {"a": {"source": "fields", "path": "archive", "bands": ["cover"]}},
        "grid": {"crs": "EPSG:32632", "pixel": 10}, "windows": [["2021-06-01", "2021-07-01"]],
        "layers": {"l": {"archives": ["a"], "backbone": {"name": "mosaiks"}, "chip_px": 64}},
    }  # fmt: skip
    file.write_text(yaml.safe_dump(document))
    failed = tmp_path / "failed"
    environment = shim.failing("all", tmp_path / "archive" / "map_20210608", failed, call="fread", process="index")
    done = run_cli("index", file, environment=environment)
    assert done.returncode == 75, done.stderr
    assert failed.read_text()
    assert "could not be read whole, though its bytes are right; start again" in done.stderr


@pytest.mark.parametrize("tiled", [True, False])
def test_nine_windows_of_a_large_image_are_read(tmp_path: Path, tiled: bool) -> None:
    values = reflectance(side=1000)
    blocks: dict[str, Any] = {"tiled": True, "blockxsize": 256, "blockysize": 256} if tiled else {}
    write(tmp_path / S2 / "B04.tif", values, nodata=0, **blocks)
    [asset] = only(scenes_of("sentinel2", tmp_path, "B04")).assets
    found = look(tmp_path / asset.path, asset)
    expected = [values[r : r + 64, c : c + 64] for r in (0, 468, 936) for c in (0, 468, 936)]
    np.testing.assert_array_equal(found.values, np.concatenate([one.ravel() for one in expected]))


def test_a_jpeg_2000_is_looked_at_at_a_coarse_resolution(tmp_path: Path) -> None:
    values = reflectance(side=1024)
    path = tmp_path / S2.replace("N0300", "N0400") / "B04.jp2"
    write(path, values, driver="JP2OpenJPEG", photometric=None, reversible="yes", quality=100)
    scene = only(scenes_of("sentinel2", tmp_path, "B04"))
    assert "leaves nothing of 100%" in scene.verdict
    assert look(path, scene.assets[0]).values.size == 32 * 32
