"""The plan: its shards, their scenes, recipes and tasks; and what it refuses."""

import dataclasses
import hashlib
import json
import math
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import shapely
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer
from tests.conftest import Campaign, call_cli

from embedcube.campaign.inventory import read_inventory
from embedcube.campaign.load import load_campaign
from embedcube.campaign.plan import Plan, Shards, planned_scenes, read_plan, read_recipes, read_shards
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Campaign as Document
from embedcube.campaign.schema import make_grid
from embedcube.cli.verbs import app
from embedcube.errors import RequestError
from embedcube.grid import ShardRange
from embedcube.kernel import versions
from embedcube.kernel.embed import KERNEL_VERSION
from embedcube.prepare import plan as prepare_plan
from embedcube.prepare.draw_groups import assign
from embedcube.prepare.fit import fit
from embedcube.prepare.index import index
from embedcube.prepare.plan import plan
from embedcube.prepare.shards import cut

LAYER = "s2_mosaiks"
Place = tuple[str, int, int]
"""Window, row and column of a shard."""


@dataclass(frozen=True)
class Prepared:
    """An indexed and fitted campaign. No test changes it."""

    campaign: Campaign
    scenes: list[Scene]

    def copy(self, folder: Path) -> Campaign:
        """The same campaign in a folder of its own."""
        mine = Campaign(folder / "campaign.yaml")
        shutil.copy(self.campaign.file, mine.file)
        shutil.copytree(self.campaign.run.root, mine.run.root)
        return mine


@pytest.fixture(scope="module")
def prepared(demo_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The demo, indexed and fitted."""
    campaign = Campaign(tmp_path_factory.mktemp("prepared") / "campaign.yaml")
    shutil.copy(demo_archive / "campaign.yaml", campaign.file)
    campaign.change(
        lambda document: document["archives"]["s2"].update(path=str(demo_archive / "archive" / "sentinel2"))
    )
    campaign.change(lambda document: document["how"].update(threads=1, ranks=1))
    campaign.run.root.mkdir(parents=True)
    loaded = load_campaign(campaign.file)
    scenes = index(loaded, campaign.run)
    fit(loaded, campaign.run)
    return Prepared(campaign, scenes)


@pytest.fixture
def mine(prepared: Prepared, tmp_path: Path) -> Campaign:
    """A copy of `prepared` to change."""
    return prepared.copy(tmp_path)


def put(campaign: Campaign, values: dict[str, Any]) -> None:
    """Set dotted keys of a campaign file."""

    def change(document: dict[str, Any]) -> None:
        for place, value in values.items():
            block = document
            *blocks, key = place.replace("LAYER", f"layers.{LAYER}").split(".")
            for name in blocks:
                block = block.setdefault(name, {})
            block[key] = value

    campaign.change(change)


def planned(campaign: Campaign) -> Plan:
    """Make the plan in this process."""
    return plan(load_campaign(campaign.file), campaign.run)


def cut_whole(campaign: Document, scenes: list[Scene]) -> tuple[Shards, ShardRange]:
    """Shards of the layer on its only grid, and the rectangle that they span."""
    found = cut(campaign, LAYER, make_grid(campaign, LAYER, "grid"), scenes)
    assert found is not None
    return found


def recipes(campaign: Campaign, layer: str = LAYER) -> dict[Place, str]:
    """Make the plan, and give the recipe of every shard by its window and place on the lattice."""
    planned(campaign)
    windows = [str(window) for window in load_campaign(campaign.file).all_windows]
    rows = pyarrow.parquet.read_table(campaign.run.plan).to_pylist()
    found = {(windows[row["t"]], row["row"], row["col"]): row["recipe"] for row in rows if row["layer"] == layer}
    assert len(set(found.values())) == len(found)
    return found


def changed(before: dict[Place, str], after: dict[Place, str]) -> set[Place]:
    """Shards that are in both, with different recipes."""
    return {place for place in before.keys() & after.keys() if before[place] != after[place]}


# --- which shards ---------------------------------------------------------------------------------

FINE = {"LAYER.shard_chips": 1}
"""Shards of 1,280 m, so that the 18 km of the demo hold many."""

U_SHAPE = [
    [7.48, 50.83], [7.71, 50.83], [7.71, 50.9], [7.66, 50.9],
    [7.66, 50.855], [7.55, 50.855], [7.55, 50.9], [7.48, 50.9],
]  # fmt: skip
"""Concave: its middle is open to the north."""


def to_grid(shape: Any, crs: str = "EPSG:4326") -> Any:
    """A shape in the CRS of the demo's grid, computed otherwise than in the package: from dense points."""
    transformer = Transformer.from_crs(crs, "EPSG:32632", always_xy=True)
    dense = shapely.segmentize(shape, 0.0005 if crs == "EPSG:4326" else 100.0)
    return shapely.transform(dense, lambda xy: np.stack(transformer.transform(xy[:, 0], xy[:, 1]), axis=1))


def boxes(side: float, origin: tuple[float, float] = (0.0, 0.0)) -> dict[tuple[int, int], Any]:
    """Boxes of all shards in a wide area around the demo."""
    x0, y0 = origin
    rows = range(math.floor((y0 - 5_660_000) / side), math.ceil((y0 - 5_610_000) / side))
    cols = range(math.floor((370_000 - x0) / side), math.ceil((430_000 - x0) / side))
    return {
        (row, col): shapely.box(x0 + col * side, y0 - (row + 1) * side, x0 + (col + 1) * side, y0 - row * side)
        for row in rows
        for col in cols
    }


def touched(shape: Any, shards: dict[tuple[int, int], Any]) -> set[tuple[int, int]]:
    """Shards that share an area with a shape; two metres more or less give the same ones."""
    sets = [
        {place for place, box in shards.items() if box.intersection(near).area > 0}
        for near in (shape, shape.buffer(2.0, join_style="mitre"), shape.buffer(-2.0, join_style="mitre"))
    ]
    assert sets[0] == sets[1] == sets[2], "the region is not fit for a test: it nearly touches a shard's edge"
    return sets[0]


REGIONS: dict[str, tuple[dict[str, Any], Any, str]] = {
    "box in degrees": ({"bbox": [7.5, 50.84, 7.6, 50.88]}, shapely.box(7.5, 50.84, 7.6, 50.88), "EPSG:4326"),
    "box on the grid": (
        {"bbox": [395_100, 5_633_300, 401_900, 5_636_200], "crs": "EPSG:32632"},
        shapely.box(395_100, 5_633_300, 401_900, 5_636_200),
        "EPSG:32632",
    ),
    "box in a third system": (
        {"bbox": [4_143_000, 3_083_000, 4_151_000, 3_088_000], "crs": "EPSG:3035"},
        shapely.box(4_143_000, 3_083_000, 4_151_000, 3_088_000),
        "EPSG:3035",
    ),
    "concave polygon": (
        {"geometry": {"type": "Polygon", "coordinates": [[*U_SHAPE, U_SHAPE[0]]]}},
        shapely.Polygon(U_SHAPE),
        "EPSG:4326",
    ),
    "two places": (
        {
            "geometry": {
                "type": "MultiPolygon",
                "coordinates": [
                    [[[7.5, 50.84], [7.51, 50.84], [7.51, 50.85], [7.5, 50.84]]],
                    [[[7.6, 50.87], [7.64, 50.87], [7.64, 50.89], [7.6, 50.87]]],
                ],
            }
        },
        shapely.MultiPolygon(
            [
                shapely.Polygon([(7.5, 50.84), (7.51, 50.84), (7.51, 50.85)]),
                shapely.Polygon([(7.6, 50.87), (7.64, 50.87), (7.64, 50.89)]),
            ]
        ),
        "EPSG:4326",
    ),
}


@pytest.mark.parametrize("name", REGIONS)
def test_only_shards_that_touch_the_region(mine: Campaign, prepared: Prepared, name: str) -> None:
    region, shape, crs = REGIONS[name]
    put(mine, FINE | {"region": region})
    campaign = load_campaign(mine.file)
    shards, place = cut_whole(campaign, prepared.scenes)
    wanted = touched(to_grid(shape, crs), boxes(1280.0))
    assert wanted
    for t in range(len(campaign.all_windows)):
        here = shards.t == t
        assert sorted(zip(shards.row[here].tolist(), shards.col[here].tolist(), strict=True)) == sorted(wanted)
    rows, cols = zip(*wanted, strict=True)
    assert (place.row, place.col) == (min(rows), min(cols))
    assert (place.row + place.rows, place.col + place.cols) == (max(rows) + 1, max(cols) + 1)
    if name in ("concave polygon", "two places"):
        assert len(wanted) < place.rows * place.cols, "the test must see a difference"


def test_geojson_features_are_one_region(mine: Campaign, prepared: Prepared) -> None:
    two = REGIONS["two places"][0]["geometry"]
    features = [
        {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": polygon}}
        for polygon in two["coordinates"]
    ]
    (mine.file.parent / "region.json").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    put(mine, FINE | {"region": {"geojson": "region.json"}})
    collection, _ = cut_whole(load_campaign(mine.file), prepared.scenes)
    put(mine, {"region": {"geometry": two}})
    multi, _ = cut_whole(load_campaign(mine.file), prepared.scenes)
    for one, other in ((collection.row, multi.row), (collection.col, multi.col), (collection.scenes, multi.scenes)):
        np.testing.assert_array_equal(one, other)


def test_a_region_across_the_antimeridian_is_one_place(mine: Campaign, prepared: Prepared) -> None:
    def ring(west: float, east: float) -> list[list[list[float]]]:
        return [[[west, -17.1], [east, -17.1], [east, -17.0], [west, -17.0], [west, -17.1]]]

    geometry = {"type": "MultiPolygon", "coordinates": [ring(179.9, 180.0), ring(-180.0, -179.9)]}
    put(mine, {"grid.crs": "EPSG:32701", "region": {"geometry": geometry}})
    here = dataclasses.replace(prepared.scenes[0], assets=(), bbox=(-179.95, -17.08, -179.92, -17.02))
    shards, place = cut_whole(load_campaign(mine.file), [here])
    assert place.cols * 3840 < 40_000, "0.2 degrees at 17 degrees south are 21 km"
    assert len(shards.row) == 2 * place.rows * place.cols


def header_box(scene: Scene) -> Any:
    """Footprint of a scene from the header of its first file."""
    asset = scene.assets[0]
    a, _, c, _, e, f = asset.transform
    return shapely.box(c, f + e * asset.rows, c + a * asset.cols, f)


def test_without_a_region_all_that_the_archive_shows(mine: Campaign, prepared: Prepared) -> None:
    put(mine, FINE)
    shards, _ = cut_whole(load_campaign(mine.file), prepared.scenes)
    shown = shapely.union_all([header_box(scene) for scene in prepared.scenes])
    wanted = {place for place, box in boxes(1280.0).items() if box.intersection(shown).area > 0}
    assert set(zip(shards.row.tolist(), shards.col.tolist(), strict=True)) == wanted
    assert len(shards.row) == 2 * len(wanted)


# --- which scenes ---------------------------------------------------------------------------------


def test_scenes_of_a_shard_are_those_that_reach_it_or_its_halo(mine: Campaign, prepared: Prepared) -> None:
    # shards end 50 m before the tiles' edges: without the halo of 160 m they would not reach them
    origin = (399_910.0, 5_640_050.0)
    put(
        mine,
        FINE
        | {"LAYER.chip_px": 160, "LAYER.halo_px": 16, "grid.origin": list(origin)}
        | {"region": {"bbox": [390_000, 5_628_000, 413_000, 5_642_000], "crs": "EPSG:32632"}}
        | {"windows": {"start": "2023-06-06", "end": "2023-07-14", "step": "20 days"}},
    )
    campaign = load_campaign(mine.file)
    # the order of the inventory must not matter
    scenes = prepared.scenes[::-1]
    shards, _ = cut_whole(campaign, scenes)
    lattice = boxes(1280.0, origin)
    by_halo_only = 0
    for i in range(len(shards.row)):
        window = campaign.all_windows[shards.t[i]]
        box = lattice[int(shards.row[i]), int(shards.col[i])]
        expected = [
            k
            for k, scene in enumerate(scenes)
            if window.start <= scene.time < window.end
            and header_box(scene).intersection(box.buffer(160.0, join_style="mitre")).area > 0
        ]
        by_halo_only += sum(header_box(scenes[k]).intersection(box).area == 0 for k in expected)
        found = shards.scenes[shards.first[i] : shards.first[i + 1]].tolist()
        assert found == sorted(found, key=lambda k: (scenes[k].acquisition, scenes[k].time, scenes[k].id))
        assert sorted(found) == expected
    assert by_halo_only > 20, "the test must see a difference"
    outside = [scene for scene in scenes if not any(scene.time in window for window in campaign.all_windows)]
    assert 0 < len(outside) < len(scenes), "some scenes lie before or after all windows"


def test_scenes_of_another_archive_do_not_count(mine: Campaign, prepared: Prepared) -> None:
    put(mine, FINE)
    others = [dataclasses.replace(scene, archive="other") for scene in prepared.scenes]
    both, _ = cut_whole(load_campaign(mine.file), [*others, *prepared.scenes])
    alone, _ = cut_whole(load_campaign(mine.file), prepared.scenes)
    np.testing.assert_array_equal(both.scenes, alone.scenes + len(others))


# --- recipes --------------------------------------------------------------------------------------


@pytest.fixture
def base(mine: Campaign) -> dict[Place, str]:
    """Recipes of the campaign `mine` before a test changes it."""
    return recipes(mine)


WHAT: list[dict[str, Any]] = [
    {"archives.s2.mask.clear": [4, 5, 6]},
    {"archives.s2.offset": 0},
    {"archives.s2.resampling": "nearest"},
    {"archives.s2.composite": "mean"},
    {"LAYER.batch": 8},
    {"LAYER.min_valid": 0.25},
    {"LAYER.encoding": "float16"},
    {"LAYER.halo_px": 17},
    {"LAYER.cell_px": 8},
    {"grid.origin": [10, 0]},
]


@pytest.mark.parametrize("values", WHAT, ids=str)
def test_what_is_asked_is_in_every_recipe(mine: Campaign, base: dict[Place, str], values: dict[str, Any]) -> None:
    put(mine, values)
    if any(place.startswith("archives.") for place in values):
        index(load_campaign(mine.file), mine.run)
    after = recipes(mine)
    assert not set(base.values()) & set(after.values())


HOW: list[dict[str, Any]] = [
    {"campaign": "other"},
    {"how.runs": "elsewhere"},
    {"how.executor": "slurm"},
    {"how.tasks": 4},
    {"how.ranks": 3},
    {"how.threads": 2},
    {"how.mem_gb": 64},
    {"how.cache_mb": 1},
    {"how.error_budget": 1.0},
    {"how.read_attempts": 1},
    {"env": ["HOME"]},
]


@pytest.mark.parametrize("values", HOW, ids=str)
def test_how_it_is_computed_is_in_no_recipe(mine: Campaign, base: dict[Place, str], values: dict[str, Any]) -> None:
    old = mine.run.root
    put(mine, values)
    root = load_campaign(mine.file).run_folder
    if root != old:
        shutil.copytree(old, root)
    plan(load_campaign(mine.file), RunDir(root))
    rows = pyarrow.parquet.read_table(RunDir(root).plan)["recipe"].to_pylist()
    assert sorted(rows) == sorted(base.values())


def test_a_moved_archive_is_in_no_recipe(mine: Campaign, base: dict[Place, str], tmp_path: Path) -> None:
    archive = Path(yaml.safe_load(mine.file.read_text())["archives"]["s2"]["path"])
    shutil.copytree(archive, tmp_path / "moved" / "here", copy_function=os.link)
    put(mine, {"archives.s2.path": "moved/here"})
    index(load_campaign(mine.file), mine.run)
    assert recipes(mine) == base


def with_scenes(monkeypatch: pytest.MonkeyPatch, scenes: Iterable[Scene]) -> None:
    """Make `plan` read these scenes instead of those of the inventory."""
    found = list(scenes)
    monkeypatch.setattr(prepare_plan, "read_inventory", lambda *_: found)


@pytest.mark.parametrize(
    "change",
    [
        {"offset": -1000.0},
        {"verdict": "B02: does not decode"},
        {"digest": "sha256:" + "0" * 64},
        {"nodata": 7.0},
        {"size": 1},
    ],
    ids=str,
)
def test_a_changed_scene_changes_the_recipes_of_its_shards(
    mine: Campaign, prepared: Prepared, base: dict[Place, str], monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    scene = prepared.scenes[2]
    if change.keys() & {"offset", "verdict"}:
        other = dataclasses.replace(scene, **change)
    else:
        other = dataclasses.replace(scene, assets=(dataclasses.replace(scene.assets[0], **change), *scene.assets[1:]))
    assert other != scene
    with_scenes(monkeypatch, [*prepared.scenes[:2], other, *prepared.scenes[3:]])
    after = recipes(mine)
    assert after.keys() == base.keys()
    side = 3840.0
    june = str(load_campaign(mine.file).all_windows[0])
    reached = {
        (june, row, col)
        for (row, col), box in boxes(side).items()
        if header_box(scene).intersection(box.buffer(10.0, join_style="mitre")).area > 0
    }
    assert changed(base, after) == reached & base.keys()
    assert 0 < len(reached & base.keys()) < len(base)


def test_where_a_scene_lies_and_its_place_in_the_inventory_are_in_no_recipe(
    mine: Campaign, prepared: Prepared, base: dict[Place, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = [
        dataclasses.replace(
            scene,
            assets=tuple(dataclasses.replace(asset, path=f"moved/{asset.path}") for asset in scene.assets),
        )
        for scene in prepared.scenes[::-1]
    ]
    with_scenes(monkeypatch, moved)
    assert recipes(mine) == base


def test_a_new_scene_changes_the_recipes_of_its_window_only(
    mine: Campaign, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_scenes(monkeypatch, prepared.scenes[:-1])
    before = recipes(mine)
    with_scenes(monkeypatch, prepared.scenes)
    after = recipes(mine)
    _, july = (str(window) for window in load_campaign(mine.file).all_windows)
    assert after.keys() == before.keys()
    assert {window for window, _, _ in changed(before, after)} == {july}


@pytest.mark.parametrize("name", ["KERNEL_VERSION", "device_class", "torch", "gdal", "zarr", "numcodecs", "numpy"])
def test_code_that_computes_bytes_is_in_every_recipe(
    mine: Campaign, base: dict[Place, str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name == "KERNEL_VERSION":
        monkeypatch.setattr(versions, name, KERNEL_VERSION + 1)
    elif name == "device_class":
        monkeypatch.setattr(versions, name, lambda _: "cuda-sm80")
    else:
        module = {"gdal": "rasterio.__gdal_version__"}.get(name, f"{name}.__version__")
        monkeypatch.setattr(module, "0.0")
    after = recipes(mine)
    assert after.keys() == base.keys()
    assert changed(base, after) == base.keys()


def test_what_decodes_a_scene_is_in_the_recipes_of_its_shards_alone(
    mine: Campaign, prepared: Prepared, base: dict[Place, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One scene names a package that no other needs; its version changes, then it is not installed."""
    scene = prepared.scenes[2]
    one = dataclasses.replace(scene, software=("affine", "no-such-package"))
    with_scenes(monkeypatch, [*prepared.scenes[:2], one, *prepared.scenes[3:]])
    first = recipes(mine)
    assert json.loads(mine.run.plan_summary.read_text())["versions"]["no-such-package"] == "none"
    real = metadata.version
    assert json.loads(mine.run.plan_summary.read_text())["versions"]["affine"] == real("affine")
    monkeypatch.setattr(metadata, "version", lambda name: "0.0" if name == "affine" else real(name))
    second = recipes(mine)
    assert changed(base, first) == changed(first, second) == changed(base, second)
    assert 0 < len(changed(first, second)) < len(base)
    untouched = base.keys() - changed(base, first)
    assert all(second[place] == base[place] for place in untouched)


def test_other_weights_are_in_every_recipe(mine: Campaign, base: dict[Place, str]) -> None:
    path = mine.run.weights(LAYER)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(RequestError, match=r"weights/s2_mosaiks\.safetensors: damaged or replaced, its SHA-256 is"):
        recipes(mine)
    # as somebody puts weights there on purpose
    mine.run.weights_seal(LAYER).unlink()
    assert changed(base, recipes(mine)) == base.keys()


def test_more_windows_and_more_places_keep_the_old_recipes(mine: Campaign, base: dict[Place, str]) -> None:
    put(mine, {"windows": [["2023-05-01", "2023-06-01"], ["2023-06-01", "2023-07-01"], ["2023-07-01", "2023-08-01"]]})
    longer = recipes(mine)
    assert base.items() < longer.items()
    assert {window[:10] for window, _, _ in longer.keys() - base.keys()} == {"2023-05-01"}
    put(mine, {"region": {"bbox": [385_000, 5_625_000, 415_000, 5_645_000], "crs": "EPSG:32632"}})
    wider = recipes(mine)
    assert longer.items() < wider.items()
    put(mine, {"region": {"bbox": [395_000, 5_635_000, 396_000, 5_636_000], "crs": "EPSG:32632"}})
    assert recipes(mine).items() < longer.items()


def test_a_second_layer_or_archive_keeps_the_recipes_of_the_first(mine: Campaign, base: dict[Place, str]) -> None:
    def second(document: dict[str, Any]) -> None:
        document["archives"]["more"] = document["archives"]["s2"]
        document["archives"]["averaged"] = document["archives"]["s2"] | {"composite": "mean"}
        document["layers"]["mean"] = document["layers"][LAYER] | {"archives": ["averaged"]}

    mine.change(second)
    index(load_campaign(mine.file), mine.run)
    shutil.copy(mine.run.weights(LAYER), mine.run.weights("mean"))
    assert recipes(mine) == base
    assert not set(recipes(mine, "mean").values()) & set(base.values())


# --- tasks ----------------------------------------------------------------------------------------


def test_every_shard_is_in_one_task_and_tasks_are_even(mine: Campaign) -> None:
    put(mine, FINE | {"how.tasks": 3, "how.ranks": 2})
    made = planned(mine)
    assert made.tasks == 3
    everything = [shard for group in read_shards(mine.run, made) for shard in group]
    by_task = [[shard for group in read_shards(mine.run, made, task) for shard in group] for task in range(3)]
    assert sorted(shard.recipe for task in by_task for shard in task) == sorted(shard.recipe for shard in everything)
    assert len({(shard.t, shard.row, shard.col) for shard in everything}) == len(everything) == made.shards
    table = pyarrow.parquet.read_table(mine.run.plan).to_pylist()
    load: dict[int, float] = defaultdict(float)
    groups: dict[int, set[tuple[int, int]]] = defaultdict(set)
    draws: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for row in table:
        load[row["task"]] += row["cost"]
        groups[row["group"]].add((row["task"], row["draw"]))
        draws[row["task"]][row["draw"]] += row["cost"]
    assert max(load.values()) / (sum(load.values()) / 3) < 1.15
    assert all(len(places) == 1 for places in groups.values()), "a group is not torn"
    for task in draws.values():
        costs = [task[draw] for draw in range(len(task))]
        assert all(one >= other - 1e-9 for one, other in pairwise(costs)), "largest first"
    assert len(groups) >= 3 * 2 * 4, "enough groups for every rank to draw several"


def test_who_only_counts_reads_the_same_plan(mine: Campaign, prepared: Prepared) -> None:
    put(mine, FINE | {"how.tasks": 3, "how.ranks": 2, "windows": [["2023-06-01", "2023-07-01"]]})
    made = planned(mine)
    for task in (None, 0, 1, 2):
        shards = [shard for group in read_shards(mine.run, made, task) for shard in group]
        assert read_recipes(mine.run, made, task) == [shard.recipe for shard in shards]
        needed = {i for shard in shards for i in shard.scenes}
        found = [scene.id for scene in planned_scenes(mine.run, made, prepared.scenes, task)]
        assert found == [prepared.scenes[i].id for i in sorted(needed)]
        assert 0 < len(found) < len(prepared.scenes), "those of July are not needed"


steady = settings(deadline=None)


@steady
@given(
    costs=st.lists(st.floats(0, 1000), min_size=1, max_size=60),
    members=st.lists(st.integers(1, 4), min_size=60, max_size=60),
    tasks=st.integers(1, 9),
)
def test_tasks_keep_grahams_bound(costs: list[float], members: list[int], tasks: int) -> None:
    group = np.repeat(np.arange(len(costs)) * 3 + 5, members[: len(costs)])
    cost = np.repeat(np.array(costs) / members[: len(costs)], members[: len(costs)])
    totals = np.bincount(group // 3 - 1, cost).astype(float)
    task, draw = (each[group // 3 - 1] for each in assign(totals, tasks))
    place_of: dict[int, set[tuple[int, int]]] = defaultdict(set)
    for label, number, turn in zip(group.tolist(), task.tolist(), draw.tolist(), strict=True):
        place_of[label].add((number, turn))
    assert all(len(places) == 1 for places in place_of.values()), "a group is not torn"
    cost_at = {places.pop(): float(cost[group == label].sum()) for label, places in place_of.items()}
    assert len(cost_at) == len(costs), "no two groups have one place"
    load = np.bincount(task, cost, minlength=tasks)
    assert len(load) == tasks
    # any list schedule ends before the mean plus the largest piece (Graham 1966)
    assert load.max() <= sum(costs) / tasks + max(costs) * (1 - 1 / tasks) + 1e-6
    for number in range(tasks):
        turns = sorted(turn for owner, turn in cost_at if owner == number)
        assert turns == list(range(len(turns))), "draws are counted from 0 without a gap"
        assert all(cost_at[number, one] >= cost_at[number, other] - 1e-6 for one, other in pairwise(turns))


def test_the_price_counts_what_is_there(mine: Campaign, prepared: Prepared) -> None:
    # a thousand ranks: no two shards in one group, so that each decodes its blocks alone
    put(mine, FINE | {"how.tasks": 1, "how.ranks": 1000, "how.mem_gb": 10})
    made = planned(mine)
    shards, _ = cut_whole(load_campaign(mine.file), prepared.scenes)
    assert made.price.shards == made.shards == len(shards.row)
    assert made.price.cells == made.shards * 64
    assert made.price.chips == made.shards
    objects = made.layers[LAYER].objects
    along = (objects.windows, objects.rows, objects.cols)
    places = zip(shards.t.tolist(), np.asarray(shards.row).tolist(), np.asarray(shards.col).tolist(), strict=True)
    assert made.price.files == 4 * len({tuple(map(int.__floordiv__, place, along)) for place in places}), "of 4 arrays"
    assert made.price.scenes == len(shards.scenes)
    used = [prepared.scenes[k] for k in shards.scenes.tolist()]
    assert made.price.reads == sum(len(scene.assets) for scene in used)
    archive = load_campaign(mine.file).archives["s2"].path
    files = {archive / asset.path for scene in used for asset in scene.assets}
    assert made.price.input_bytes == sum(path.stat().st_size for path in files)
    assert made.price.cube_bytes == made.price.cells * (64 + 4 + 1 + 2)
    decoded, blocks = 0, set()
    for i in range(len(shards.row)):
        x, y = int(shards.col[i]) * 1280.0, -int(shards.row[i]) * 1280.0
        for k in shards.scenes[shards.first[i] : shards.first[i + 1]].tolist():
            for asset in prepared.scenes[k].assets:
                size, _, c, _, _, f = asset.transform
                first_col, last_col = max((x - 10 - c) / size, 0), min((x + 1290 - c) / size, asset.cols)
                first_row, last_row = max((f - y - 10) / size, 0), min((f - y + 1290) / size, asset.rows)
                block_bytes = asset.block_rows * asset.block_cols * np.dtype(asset.dtype).itemsize
                for row in range(int(first_row // asset.block_rows), math.ceil(last_row / asset.block_rows)):
                    for col in range(int(first_col // asset.block_cols), math.ceil(last_col / asset.block_cols)):
                        decoded += block_bytes
                        blocks.add((k, asset.band, row, col, block_bytes))
    assert made.price.decoded_bytes == decoded
    assert made.price.needed_bytes == sum(block[-1] for block in blocks)


# --- refusals -------------------------------------------------------------------------------------


def test_more_memory_than_a_rank_has_is_refused(mine: Campaign, prepared: Prepared) -> None:
    put(mine, {"how.mem_gb": 0.25})
    shards, _ = cut_whole(load_campaign(mine.file), prepared.scenes)
    worst = int(np.diff(shards.first).argmax())
    done = call_cli("plan", mine.file)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "it may take 0.25 GB" in done.stderr
    named = f"window {shards.t[worst]}, row {shards.row[worst]}, column {shards.col[worst]} of the shard lattice"
    assert f"the worst shard is {named}, 6 scenes. Lower shard_chips, batch or how.cache_mb" in done.stderr
    assert not mine.run.plan.exists()


def test_an_edited_campaign_needs_a_new_plan(mine: Campaign) -> None:
    made = planned(mine)
    put(mine, {"LAYER.min_valid": 0.75})
    edited = load_campaign(mine.file)
    done = call_cli("embed", mine.file)
    assert done.returncode == 2
    assert done.stderr == (
        f"embedcube: {mine.run.plan} was made for another version of the campaign ({made.campaign[:12]}, the file now "
        f"says {edited.digest[:12]}); run `embedcube plan` again\n"
    )
    assert not mine.run.parts.exists()
    put(mine, {"LAYER.min_valid": 0.5, "how.tasks": 2, "how.cache_mb": 100})
    assert read_plan(load_campaign(mine.file), mine.run) == made, "how it is computed may change"


def test_a_task_that_the_plan_lacks_is_refused(mine: Campaign) -> None:
    put(mine, {"how.tasks": 2})
    planned(mine)
    with pytest.raises(RequestError, match=r"^--task 2: the plan has tasks 0 to 1$"):
        app(["embed", str(mine.file), "--task", "2"], standalone_mode=False)


def test_stages_name_the_one_before_them(demo: Campaign) -> None:
    campaign = load_campaign(demo.file)
    demo.run.root.mkdir(parents=True)
    for stage, words in ((plan, "embedcube index"), (fit, "embedcube index"), (read_plan, "embedcube plan")):
        with pytest.raises(RequestError, match=f"run `{words}` first"):
            stage(campaign, demo.run)
    index(campaign, demo.run)
    with pytest.raises(RequestError, match="layer s2_mosaiks has no weights yet; run `embedcube fit` first"):
        plan(campaign, demo.run)


@pytest.mark.parametrize(
    "bbox", [[7, 50, 8, 151], [392_280, 5_630_000, 400_000, 5_640_000], [50.84, 7.5, 50.88, 7.6]], ids=str
)
def test_a_region_that_shows_nothing_of_the_archive_is_refused(
    mine: Campaign, prepared: Prepared, bbox: list[float]
) -> None:
    put(mine, {"region": {"bbox": bbox}})
    with pytest.raises(RequestError, match="region"):
        cut_whole(load_campaign(mine.file), prepared.scenes)


def test_an_inventory_of_other_bands_is_refused(mine: Campaign) -> None:
    planned(mine)
    put(mine, {"archives.s2.bands": ["B08", "B04", "B03", "B02"]})
    with pytest.raises(RequestError, match="embedcube index"):
        planned(mine)


def test_a_plan_of_another_inventory_is_refused(mine: Campaign, tmp_path: Path) -> None:
    put(mine, {"region": {"bbox": [395_000, 5_635_000, 396_000, 5_636_000], "crs": "EPSG:32632"}})
    planned(mine)
    archive = Path(yaml.safe_load(mine.file.read_text())["archives"]["s2"]["path"])
    shutil.copytree(archive, tmp_path / "archive", copy_function=os.link)
    shutil.rmtree(next((tmp_path / "archive").glob("S2B_32ULB_20230606*")))
    put(mine, {"archives.s2.path": "archive"})
    index(load_campaign(mine.file), mine.run)
    done = call_cli("embed", mine.file)
    assert done.returncode == 2, "row 2 of the inventory is another scene now"
    assert "embedcube plan" in done.stderr


# --- weights --------------------------------------------------------------------------------------


def test_weights_are_fitted_once(mine: Campaign) -> None:
    path = mine.run.weights(LAYER)
    before, moment = path.read_bytes(), path.stat().st_mtime_ns
    put(mine, {"archives.s2.mask.clear": [4], "LAYER.batch": 8})
    [layer] = fit(load_campaign(mine.file), mine.run)
    assert not layer.fresh
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (before, moment)


def test_weights_fitted_elsewhere_with_other_threads_are_the_same(mine: Campaign) -> None:
    before = mine.run.weights(LAYER).read_bytes()
    mine.run.weights(LAYER).unlink()
    put(mine, {"how.threads": 2, "LAYER.batch": 6})
    answer = json.loads(mine.cli("fit", "--json"))
    assert mine.run.weights(LAYER).read_bytes() == before
    assert list(answer) == ["weights", "fitted_without"]


def test_weights_of_another_backbone_are_refused(mine: Campaign, tmp_path: Path) -> None:
    put(mine, {"LAYER.backbone.filters": 16})
    words = (
        r"weights/s2_mosaiks\.safetensors: made for .*'filters': 32.*, layer s2_mosaiks asks for .*'filters': 16.*; "
        "remove the file to fit again, or give the layer another name"
    )
    for stage in (fit, plan):
        with pytest.raises(RequestError, match=words):
            stage(load_campaign(mine.file), mine.run)
    shutil.move(mine.run.weights(LAYER), tmp_path / "w.safetensors")
    put(mine, {"LAYER.weights": "w.safetensors"})
    with pytest.raises(RequestError, match=r"w\.safetensors: made for .*'filters': 32"):
        fit(load_campaign(mine.file), mine.run)
    assert not mine.run.weights(LAYER).exists()


def test_weights_of_other_bands_are_refused(mine: Campaign) -> None:
    put(mine, {"archives.s2.bands": ["B08", "B04", "B03", "B02"]})
    index(load_campaign(mine.file), mine.run)
    with pytest.raises(RequestError, match=r"made for .*'B02', 'B03', 'B04', 'B08'.* asks for .*'B08', 'B04'"):
        fit(load_campaign(mine.file), mine.run)


def test_weights_are_taken_from_another_campaign(mine: Campaign, base: dict[Place, str], tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    shutil.copy(mine.run.weights(LAYER), tmp_path / "other" / "w.safetensors")
    mine.run.weights(LAYER).unlink()
    put(mine, {"LAYER.weights": "other/w.safetensors"})
    [layer] = fit(load_campaign(mine.file), mine.run)
    assert layer.fresh
    assert recipes(mine) == base
    data = bytearray((tmp_path / "other" / "w.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "other" / "w.safetensors").write_bytes(data)
    with pytest.raises(RequestError, match=r"w\.safetensors differs from .*, which the run uses already"):
        fit(load_campaign(mine.file), mine.run)


def test_weights_of_another_digest_than_asked_for_are_refused(mine: Campaign, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    shutil.move(mine.run.weights(LAYER), path)
    right, wrong = hashlib.sha256(path.read_bytes()).hexdigest(), "0" * 64
    put(mine, {"LAYER.weights": path.name, "LAYER.weights_sha256": wrong})
    with pytest.raises(RequestError, match=rf"w\.safetensors has the SHA-256 {right}, weights_sha256 is {wrong}"):
        fit(load_campaign(mine.file), mine.run)
    assert not mine.run.weights(LAYER).exists()
    put(mine, {"LAYER.weights_sha256": right})
    [layer] = fit(load_campaign(mine.file), mine.run)
    assert (layer.fresh, layer.digest) == (True, right)
    # one bit of a file that was right when the run took it
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(RequestError, match=rf"weights_sha256 is {right}"):
        fit(load_campaign(mine.file), mine.run)


def test_plans_are_written_whole(mine: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    first = planned(mine)
    assert read_inventory(load_campaign(mine.file), mine.run)
    assert read_plan(load_campaign(mine.file), mine.run) == first

    def fails(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(pyarrow.parquet, "write_table", fails)
    with pytest.raises(OSError, match="disk full"):
        planned(mine)
    assert read_plan(load_campaign(mine.file), mine.run) == first, "the last plan is as it was"
    assert len(read_recipes(mine.run, first)) == first.shards
    assert not [path for path in mine.run.root.iterdir() if path.name.startswith(".tmp-")]
