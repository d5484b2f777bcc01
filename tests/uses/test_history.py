"""`lineage`, `reproduce` and `diff`: what a scene fed, a shard made again, two cubes compared."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.conftest import REAL_DATA, ROOT, Campaign, call_cli, made_once
from tests.cube.two_zones import DOCUMENT, FAILED_SHARD, write_two_zones

from embedcube.cube.lineage import place_of_shard, scene_in
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError
from embedcube.progress import silent
from embedcube.uses.diff import CHANGED, EQUAL, GAINED, LOST, Diff, diff
from embedcube.uses.diff_map import write_diff
from embedcube.uses.lineage import cells_table, lineage_in_cube, shards_table


@pytest.fixture(scope="module")
def without_a_scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cube of two zones as it is without scene 4, which is of the second window."""
    name = "two-zones-without"
    return made_once(tmp_path_factory, name, lambda folder: write_two_zones(folder / "b.zarr", without=(4,))) / "b.zarr"


def _first_month(**layer: Any) -> dict[str, Any]:
    """The campaign of the two zones, of its first window alone, with other facts of its layer."""
    document: Any = copy.deepcopy(DOCUMENT)
    document["layers"]["s2"].update(layer)
    document["windows"]["end"] = "2023-07-01"
    return dict(document)


class TestLineage:
    """What a scene fed, from the provenance alone."""

    def test_shards_and_cells(self, two_zones: Path) -> None:
        """All shards of its window, and just the cells whose number of acquisitions has it."""
        cube = Cube(two_zones)
        found = lineage_in_cube(cube, "scene4")
        assert {one.at.t for one in found.fed} == {1}
        assert len(found.fed) == 50
        for one in found.fed:
            zone = f"{one.at.layer}/{one.at.zone}"
            window = (1, *(slice(i * 16, i * 16 + 16) for i in (one.at.iy, one.at.ix)))
            assert one.cells is not None
            np.testing.assert_array_equal(one.cells, cube.array(zone, "n_obs")[window] > 0)
        failed = [one for one in found.fed if (one.at.zone, 1, one.at.iy, one.at.ix) == FAILED_SHARD]
        assert [one.unread for one in failed] == [False]  # it was scene0 that could not be read

    def test_tables_lie_where_the_cells_are(self, two_zones: Path) -> None:
        """The centre of each cell is that which the arrays of the zone say; the squares hold their cells."""
        cube, found = Cube(two_zones), lineage_in_cube(Cube(two_zones), "s2/scene4")
        cells = cells_table(found.fed)
        assert len(cells) == found.cells
        for zone, rows in cells.groupby("zone"):
            lonlat = cells_centres(cube, f"s2/{zone}")
            at = rows["y"].to_numpy(), rows["x"].to_numpy()
            np.testing.assert_allclose(rows["lon"], lonlat[0][at], atol=1e-9)
            np.testing.assert_allclose(rows["lat"], lonlat[1][at], atol=1e-9)
        squares = shards_table(found.fed)
        first = squares[squares["cells"] > 0].iloc[0]
        own = cells[(cells["zone"] == first["zone"]) & (cells["y"] // 16 == first["iy"])]
        own = own[own["x"] // 16 == first["ix"]]
        assert len(own) == first["cells"]
        assert own.within(first.geometry.buffer(1e-4)).all()

    def test_scenes_by_a_part_of_the_name(self, two_zones: Path, tmp_path: Path) -> None:
        """An id that is whole counts, though others hold it; else several are listed, and nothing is a refusal."""
        cube = Cube(two_zones)
        assert scene_in(cube, "ene7").id == "scene7"
        with pytest.raises(
            RequestError, match=r'9 scenes have "scene" in their names; name one of s2/scene0, .* and 5 more'
        ):
            scene_in(cube, "scene")
        with pytest.raises(RequestError, match="no scene is called"):
            scene_in(cube, "S2A")
        said = call_cli("lineage", "scene4", two_zones, "-o", tmp_path / "fed.csv", "--json")
        assert json.loads(said.stdout)["cells"] == lineage_in_cube(cube, "scene4").cells
        assert (tmp_path / "fed.csv").read_text().count("\n") == 51
        assert call_cli("lineage", "scene4", two_zones, "--cells").returncode == 2


def cells_centres(cube: Cube, zone: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Longitudes and latitudes (y, x) of the centres of cells, from the coordinates of the arrays."""
    from pyproj import Transformer

    transformer = Transformer.from_crs(cube.group(zone).attrs["proj:wkt2"], "EPSG:4326", always_xy=True)
    lon, lat = transformer.transform(*np.meshgrid(cube.array(zone, "x")[:], cube.array(zone, "y")[:]))
    return np.asarray(lon), np.asarray(lat)


class TestDiff:
    """Two cubes compared shard by shard."""

    def test_a_scene_less(self, two_zones: Path, without_a_scene: Path) -> None:
        """Just the shards of its lineage differ, by that scene; their cosines are those of the vectors."""
        first, second = Cube(two_zones), Cube(without_a_scene)
        found = diff(first, second, silent, keep_cells=True)
        assert {str(one.at) for one in found.shards} == {str(one.at) for one in lineage_in_cube(first, "scene4").fed}
        assert {one.reason.removed for one in found.shards} == {("s2/scene4",)}
        assert (found.unchanged, found.scenes()) == (100, {"removed": {"s2/scene4": 50}})
        _check_cells(first, second, found)
        distances = [one.distance.ravel() for one in found.shards if one.distance is not None]
        cosines = 1 - np.concatenate(distances)
        cosines = cosines[np.isfinite(cosines)]
        for q, told in found.cosines["s2"].items():
            # a step of the histogram, and what float32 leaves of 1 - cosine
            assert abs(told - np.quantile(cosines, q, method="inverted_cdf")) < 2e-5
        assert diff(first, first, silent).equal

    def test_another_recipe_and_another_grid(self, two_zones: Path, tmp_path: Path) -> None:
        """The key of *what* is named; windows are the same by their time; cells of other sizes are not compared."""
        write_two_zones(tmp_path / "recipe.zarr", _first_month(min_valid=0.7))
        found = diff(Cube(two_zones), Cube(tmp_path / "recipe.zarr"), silent)
        table = found.table()
        assert list(table) == ["gone", "other recipe: layers.s2.min_valid"]
        assert table["other recipe: layers.s2.min_valid"]["changed"] == 0
        valid = sum(int(Cube(two_zones).valid(zone, slice(1, 3), *_ALL).sum()) for zone in Cube(two_zones).zones)
        assert table["gone"] == {"shards": 100, "equal": 0, "changed": 0, "lost": valid, "gained": 0}
        back = diff(Cube(tmp_path / "recipe.zarr"), Cube(two_zones), silent).table()
        assert back["new"] == {"shards": 100, "equal": 0, "changed": 0, "lost": 0, "gained": valid}
        write_two_zones(tmp_path / "finer.zarr", _first_month(cell_px=32, chip_px=128, shard_chips=4))
        found = diff(Cube(two_zones), Cube(tmp_path / "finer.zarr"), silent)
        assert "cells of 16 x 10" in found.apart["s2"]
        assert "cells of 32 x 10" in found.apart["s2"]
        assert not found.cosines

    def test_files(self, two_zones: Path, without_a_scene: Path, tmp_path: Path) -> None:
        """A map for each zone and window, in which every cell has its colour; a table of shards."""
        found = diff(Cube(two_zones), Cube(without_a_scene), silent, keep_cells=True)
        files = write_diff(found, tmp_path / "map.png")
        assert [file.name for file in files] == ["map-s2-utm32-t1.png", "map-s2-utm33-t1.png"]
        colours = {tuple(colour) for row in np.asarray(Image.open(files[0]).convert("RGB")).tolist() for colour in row}
        assert (215, 215, 215) in colours  # of the legend
        assert (240, 59, 32) in colours
        said = call_cli("diff", two_zones, without_a_scene, "-o", tmp_path / "table.geojson")
        assert said.returncode == 0
        assert "50 shards other scenes" in said.stdout
        assert len(json.loads((tmp_path / "table.geojson").read_text())["features"]) == 50
        assert call_cli("diff", two_zones, without_a_scene, "-o", tmp_path / "map.jpg").returncode == 2


_ALL = slice(0, 80), slice(0, 80)


def _check_cells(first: Cube, second: Cube, found: Diff) -> None:
    """Compare what became of each cell with whole arrays, decoded by hand."""
    for zone in first.zones:
        stored = [(c.array(zone, "embedding")[:], c.array(zone, "scale")[:]) for c in (first, second)]
        a, b = (q.astype(np.float64) * scale[..., None] for q, scale in stored)
        have_a, have_b = (np.isfinite(scale) for _, scale in stored)
        fate = np.select(
            [have_a & have_b & (a == b).all(-1), have_a & have_b, have_a, have_b], [EQUAL, CHANGED, LOST, GAINED], 0
        )
        for one in (one for one in found.shards if f"{one.at.layer}/{one.at.zone}" == zone):
            t, y, x = one.at.t, slice(16 * one.at.iy, 16 * one.at.iy + 16), slice(16 * one.at.ix, 16 * one.at.ix + 16)
            assert one.fate is not None
            np.testing.assert_array_equal(one.fate, fate[t, y, x])


class TestReproduce:
    """A shard made again from what the cube says of itself."""

    def test_equal_bytes(self, finished: Campaign, demo_archive: Path, tmp_path: Path) -> None:
        """A cube that was taken away from its run folder, with an archive elsewhere, gives the bytes again."""
        cube = tmp_path / "elsewhere" / "cube.zarr"
        shutil.copytree(finished.run.newest_cube.resolve(), cube)
        archive = tmp_path / "archive"
        archive.symlink_to(demo_archive / "archive" / "sentinel2")
        names = [f"{zone} t{t} y{iy} x{ix}" for zone, t, iy, ix in Cube(cube).provenance.places]
        said = call_cli("reproduce", cube, "--shard", names[0])
        assert (said.returncode, "where is the archive s2" in said.stderr) == (2, True)
        # one with a scene that could not be read; one by its recipe
        torn = next(
            name for name, row in zip(names, Cube(cube).provenance.places.values(), strict=True)
            if Cube(cube).provenance.links(row)[1].any()
        )  # fmt: skip
        recipe = bytes(Cube(cube).provenance.array("shard_recipe")[0]).hex()[:12]
        for shard in (torn, recipe):
            said = call_cli("reproduce", cube, "--shard", shard, "--archive", f"s2={archive}")
            assert said.returncode == 0, said.stderr
            assert said.stdout.count("equal, byte for byte") == 4
            assert "weights of the cube" in said.stdout

    def test_other_bytes_are_told(self, finished: Campaign, demo_archive: Path, tmp_path: Path) -> None:
        """A changed input is named, and what differs is counted: the cells that the scene fed, at most."""
        archive = tmp_path / "archive"
        shutil.copytree(demo_archive / "archive" / "sentinel2", archive, copy_function=shutil.copy)
        cube = Cube(finished.run.newest_cube)
        fed = next(one for one in lineage_in_cube(cube, "S2B_32UMB_20230606").fed if one.count)
        changed = next(archive.glob("S2B_32UMB_20230606*/B02.tif"))
        other = next(archive.glob("S2B_32UMB_20230626*/B02.tif"))
        shutil.copy(other, changed)
        # of the size that the cube knows, so that it is read
        size = next(a["size"] for a in cube.provenance.scene(scene_in(cube, "S2B_32UMB_20230606").row)["assets"])
        with changed.open("r+b") as file:
            file.truncate(size)
        said = call_cli("reproduce", cube.path, "--shard", str(fed.at), "--archive", f"s2={archive}", "--json")
        assert said.returncode == 1
        told = json.loads(said.stdout)
        assert "S2B_32UMB_20230606_0_L2A/B02.tif has other bytes" in told["inputs"][0]
        embedding = next(one for one in told["arrays"] if one["name"] == "embedding")
        assert 0 < embedding["cells"] <= embedding["of_cells"]
        assert "the bytes are not those of the cube" in said.stderr

    def test_names_of_shards(self, two_zones: Path) -> None:
        """As messages have it, with slashes, or by the recipe; what is none gets an example."""
        provenance = Cube(two_zones).provenance
        expected = ("s2/utm32", 1, 2, 3)
        assert place_of_shard(provenance, "s2/utm32 t1 y2 x3") == expected
        assert place_of_shard(provenance, "s2/utm32/t1/y2/x3") == expected
        recipe = bytes(provenance.array("shard_recipe")[provenance.places[expected]]).hex()
        assert place_of_shard(provenance, recipe[:10]) == expected
        for wrong in ("s2/utm32 t9 y2 x3", "utm32 t1 y2 x3", "abcdef", "x"):
            with pytest.raises(RequestError):
                place_of_shard(provenance, wrong)


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.parametrize("name", ["era5_rhine_2022-08-31", "s2_33TWL_2023-08"])
def test_real_shards_are_made_again(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three shards of real campaigns: equal bytes."""
    monkeypatch.setenv("EMBEDCUBE_REAL_DATA", str(REAL_DATA.resolve()))
    campaign = Campaign(tmp_path / "campaign.yaml")
    shutil.copy(ROOT / "configs" / "campaigns" / f"{name}.yaml", campaign.file)
    campaign.change(lambda document: document["how"].update(runs="runs"))
    campaign.cli("run")
    provenance = Cube(campaign.run.newest_cube).provenance
    full = [place for place, row in provenance.places.items() if provenance.record(row)["counts"]["chips"]]
    for zone, t, iy, ix in (full[0], full[len(full) // 2], full[-1]):
        said = call_cli("reproduce", campaign.run.newest_cube, "--shard", f"{zone}/t{t}/y{iy}/x{ix}")
        assert said.returncode == 0, said.stdout + said.stderr


def test_a_link_to_a_cube_stays_a_link(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []

    def refused(place: object) -> None:
        opened.append(place)
        raise RequestError("no network here")

    monkeypatch.setattr("embedcube.cube.reader.Cube", refused)
    for words in (("lineage", "S2B", "https://host/a.zarr"), ("lineage", "https://host/a.zarr", "--shard", "x")):
        assert call_cli(*words).returncode == 2
    assert opened == ["https://host/a.zarr"] * 2
