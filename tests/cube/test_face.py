"""Public names of `embedcube`: what they import, what `print` shows of them, and how `--time` selects a window."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
import zarr
from pyproj import Transformer
from tests.conftest import SOUND_PLACE, Campaign, call_cli, cells_of_shards

import embedcube
from embedcube.campaign.schema import Campaign as CampaignSchema
from embedcube.errors import RequestError
from embedcube.testing.demo_sentinel2 import LOOKED_TWICE
from embedcube.testing.demo_stac import CRS

HEAVY = {"torch", "numpy", "zarr", "xarray", "dask", "distributed", "rasterio", "pydantic", "pyarrow", "pyproj", "yaml"}
HEAVY_FOR_A_CUBE = {"torch", "dask", "distributed", "rasterio", "pydantic", "pyarrow", "xarray", "PIL"}

LON, LAT = Transformer.from_crs(CRS, "EPSG:4326", always_xy=True).transform(*LOOKED_TWICE)


def imported(program: str) -> set[str]:
    """Top-level modules that are imported in a new process after it has run a program."""
    program += "\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return {str(name).partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert imported("import embedcube") & HEAVY == set()


def test_opening_a_cube_imports_neither_torch_nor_gdal(finished_demo: Campaign) -> None:
    path = str(finished_demo.run.newest_cube)
    program = f"import embedcube; cube = embedcube.open_cube({path!r}); repr(cube); "
    program += f"cube.explain(cube.cell_at({LON}, {LAT}, '2023-06'))"
    loaded = imported(program)
    assert loaded & HEAVY_FOR_A_CUBE == set()
    assert "zarr" in loaded


def test_every_public_name_is_there() -> None:
    for name in embedcube.__all__:
        assert getattr(embedcube, name) is not None
    assert set(dir(embedcube)) >= set(embedcube.__all__)
    assert issubclass(embedcube.Campaign, CampaignSchema)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        embedcube.nothing  # noqa: B018


def test_type_checkers_see_the_same_names() -> None:
    """The imports for type checkers name what is imported lazily, from the same modules."""
    tree = ast.parse(Path(embedcube.__file__).read_text())
    (checking,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module for node in checking.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert seen == embedcube._HOMES


def test_a_cube_opens_by_text_and_by_path(finished_demo: Campaign) -> None:
    path = finished_demo.run.newest_cube
    opened = embedcube.open_cube(path)
    assert repr(embedcube.open_cube(str(path))) == repr(embedcube.Cube(str(path))) == repr(opened)
    assert opened.path == path.resolve()


def test_a_cube_says_what_it_holds(finished_demo: Campaign) -> None:
    cube = embedcube.open_cube(finished_demo.run.newest_cube)
    lines = repr(cube).splitlines()
    assert lines[0] == f"Cube {finished_demo.run.newest_cube}"
    assert lines[1] == f"  version {finished_demo.run.newest_cube.resolve().stem}, campaign demo, 1 layer"
    assert lines[2:6] == [
        "  s2_mosaiks: 64 features as int8, model mosaiks",
        "    zones     grid; EPSG:32632, cells of 160 m",
        "    windows   2: 2023-06-01 to 2023-06-30 ... 2023-07-01 to 2023-07-31",
        "    cells     8,640 in each window",
    ]
    assert lines[6].startswith("    status    valid ")


def test_shares_of_status_are_those_of_the_array(finished_demo: Campaign) -> None:
    cube = embedcube.open_cube(finished_demo.run.newest_cube)
    rows, columns = cells_of_shards(finished_demo.run.newest_cube, "s2_mosaiks/grid")
    status = cube.array("s2_mosaiks/grid", "status")[:, rows, columns]
    meanings = cube.array("s2_mosaiks/grid", "status").attrs["flag_meanings"].split()
    counted = {name: float((status == value).mean()) for value, name in enumerate(meanings)}
    shares = cube.status_shares("s2_mosaiks")
    assert shares == pytest.approx({name: share for name, share in counted.items() if share})
    assert sum(shares.values()) == pytest.approx(1)


def test_a_campaign_says_what_is_asked(finished_demo: Campaign) -> None:
    campaign = embedcube.Campaign.load(str(finished_demo.file))
    assert campaign == embedcube.Campaign.load(finished_demo.file)
    assert repr(campaign) == (
        f"Campaign demo, digest {campaign.digest[:12]}\n"
        "  archives  s2 (sentinel2)\n"
        "  layers    s2_mosaiks (mosaiks)\n"
        "  windows   2: 2023-06-01 to 2023-06-30 ... 2023-07-01 to 2023-07-31"
    )


def test_a_campaign_runs_and_gives_its_cube(finished_demo: Campaign) -> None:
    lines: list[str] = []
    cube = embedcube.run(embedcube.Campaign.load(finished_demo.file), ranks=1, say=lines.append)
    assert cube.path == finished_demo.run.newest_cube.resolve()
    assert "            nothing found wrong" in lines


@pytest.mark.parametrize(
    ("time", "window"),
    [
        ("2023-06", 0),
        ("2023-06-15", 0),
        ("2023-07-31T23:59:59Z", 1),
        ("2023-07-01T01:00+02:00", 0),
        ("2023-07-01/2023-08-01", 1),
    ],
)
def test_a_partial_date_chooses_its_window(finished_demo: Campaign, time: str, window: int) -> None:
    assert embedcube.open_cube(finished_demo.run.newest_cube).cell_at(LON, LAT, time).t == window


def test_several_windows_are_listed(finished_demo: Campaign) -> None:
    cube = embedcube.open_cube(finished_demo.run.newest_cube)
    listed = "2023-06-01/2023-07-01, 2023-07-01/2023-08-01; choose one with --time, for example --time 2023-06-01/2023"
    with pytest.raises(RequestError, match=f"s2_mosaiks/grid: 2 windows match 2023: {listed}"):
        cube.cell_at(LON, LAT, "2023")
    with pytest.raises(RequestError, match=f"s2_mosaiks/grid has 2 windows: {listed}"):
        cube.cell_at(LON, LAT)


def test_a_year_explains_a_cube_of_one_window(demo: Campaign) -> None:
    """`--time 2023` selects a window of two months; `--time` may also be left out."""
    demo.change(lambda document: document.update(windows=[["2023-06-01", "2023-08-01"]], region=SOUND_PLACE))
    demo.cli("run")
    west, _, _, north = SOUND_PLACE["bbox"]
    lon, lat = Transformer.from_crs(CRS, "EPSG:4326", always_xy=True).transform(west + 1000, north - 1000)
    where = ("--lon", f"{lon:.9f}", "--lat", f"{lat:.9f}", "--json")
    answers = [call_cli("explain", demo.run.newest_cube, *where, *time) for time in (("--time", "2023"), ())]
    assert [done.returncode for done in answers] == [0, 0], answers[0].stderr
    assert answers[0].stdout == answers[1].stdout
    assert json.loads(answers[0].stdout)["cell"]["window"] == ["2023-06-01T00:00:00Z", "2023-08-01T00:00:00Z"]


def test_a_sample_of_the_records_stands_for_many(finished_demo: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    cube = embedcube.open_cube(finished_demo.run.newest_cube)
    monkeypatch.setattr("embedcube.cube.provenance._RUNS", 4)
    monkeypatch.setattr("embedcube.cube.provenance._RUN", 2)
    counts = cube.provenance.status_counts(cube.zones)
    assert sum(counts.values()) == 4 * 2 * 24 * 24
    assert sum(cube.status_shares("s2_mosaiks").values()) == pytest.approx(1)


def test_a_cube_without_provenance_still_says_what_it_is(tmp_path: Path, finished_demo: Campaign) -> None:
    import shutil

    copy = tmp_path / "cube.zarr"
    shutil.copytree(finished_demo.run.newest_cube.resolve(), copy, ignore=shutil.ignore_patterns("provenance"))
    assert "provenance" not in list(zarr.open_group(copy, mode="r", use_consolidated=False).group_keys())
    assert "status    unknown, as the cube has no provenance" in repr(embedcube.open_cube(copy))
