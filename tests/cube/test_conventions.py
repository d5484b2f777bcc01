"""The cube opens without embedcube and without a warning; its metadata follow CF and the Zarr conventions."""

import copy
import hashlib
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyarrow.parquet
import pytest
import rasterio
import xarray
import zarr
from numpy.typing import NDArray
from pyproj import CRS
from tests.conftest import ROOT, Campaign
from tests.lane import newer_python

import embedcube
from embedcube.campaign.inventory import read_inventory
from embedcube.campaign.load import load_campaign
from embedcube.campaign.plan import LayerPlan, read_plan, read_shards
from embedcube.campaign.schema import Layer, make_layout
from embedcube.consolidate.attributes import coordinate_attributes, spatial_ref_attributes, zone_attributes
from embedcube.cube.encoding import STATUS_MEANINGS
from embedcube.cube.preview_store import write_preview_store
from embedcube.cube.reader import Cube
from embedcube.grid import Grid, PixelArea, ShardRange
from embedcube.zones import ObjectShape

ZONE = "s2_mosaiks/grid"
SCHEMAS = ROOT / "tests" / "data" / "conventions"
CONVENTIONS = ("proj", "spatial", "geoemb")

ALONE = """
import json, sys, warnings
warnings.simplefilter("error")
# the engine of embedcube is registered here, and cannot be loaded
warnings.filterwarnings("ignore", "Engine 'embedcube' loading failed", RuntimeWarning)

class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "embedcube":
            raise ImportError("embedcube is not installed here")

sys.meta_path.insert(0, Forbidden())
try:
    import embedcube
except ImportError:
    pass
else:
    raise SystemExit("this process is not alone")

# xarray loads all of its engines at once; eccodes, which reads GRIB, breaks a pyproj that comes after it
import pyproj
import numpy, tensorstore, xarray

cube, out = sys.argv[1:]
said = {}
with xarray.open_datatree(cube) as tree:
    said["groups"] = sorted(tree.groups)
    zone = tree["s2_mosaiks/grid"].to_dataset().load()
decoded = zone["embedding"] * zone["scale"]
said["dims"] = {name: list(variable.dims) for name, variable in zone.variables.items()}
said["types"] = {name: str(variable.dtype) for name, variable in zone.variables.items()}
said["coordinates"] = sorted(map(str, zone.coords))
said["time"] = [str(time)[:10] for time in zone["time"].values]
said["time_bnds"] = [[str(time)[:10] for time in pair] for pair in zone["time_bnds"].values]
said["july"] = [str(time)[:10] for time in zone.sel(time=slice("2023-07-01", "2023-07-31"))["time"].values]
arrays = {"decoded": decoded.transpose("time", "y", "x", "feature").values}
arrays |= {f"xarray/{name}": variable.values for name, variable in zone.variables.items() if variable.dtype.kind != "M"}
with warnings.catch_warnings(record=True) as heard:
    warnings.simplefilter("always")
    import pathlib
    for path in sorted(pathlib.Path(cube).resolve().rglob("zarr.json")):
        if json.loads(path.read_text())["node_type"] == "array":
            name = str(path.parent.relative_to(pathlib.Path(cube).resolve()))
            place = {"driver": "file", "path": str(path.parent)}
            store = tensorstore.open({"driver": "zarr3", "kvstore": place}, read=True).result()
            arrays[f"tensorstore/{name}"] = numpy.asarray(store.read().result())
            said.setdefault("labels", {})[name] = list(store.domain.labels)
said["warnings"] = [str(warning.message) for warning in heard]
said["imported"] = [name for name in sys.modules if name.partition(".")[0] == "embedcube"]
numpy.savez(out, **arrays)
print(json.dumps(said))
"""
"""Opens a cube with xarray and tensorstore where embedcube cannot be imported; any warning is an error."""


@dataclass(frozen=True)
class Seen:
    """What a process without embedcube has read from a cube."""

    said: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def cube(finished_demo: Campaign) -> Path:
    """The finished cube. No test changes it."""
    return finished_demo.run.newest_cube


@pytest.fixture(scope="module")
def seen(cube: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """What xarray and tensorstore read from the cube, in a process that cannot import embedcube."""
    out = tmp_path_factory.mktemp("alone") / "arrays.npz"
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, cube, out],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    with np.load(out) as arrays:
        return Seen(json.loads(done.stdout), dict(arrays))


def documents(cube: Path) -> dict[str, dict[str, Any]]:
    """Content of every zarr.json, by the path of its group or array."""
    root = cube.resolve()
    return {
        str(path.parent.relative_to(root)).replace(".", ""): json.loads(path.read_text())
        for path in sorted(root.rglob("zarr.json"))
    }


# --- readers --------------------------------------------------------------------------------------


def test_the_cube_opens_without_embedcube_and_without_a_warning(seen: Seen) -> None:
    said = seen.said
    assert said["imported"] == []
    assert said["warnings"] == []
    assert said["groups"] == ["/", "/s2_mosaiks", f"/{ZONE}"]
    assert said["dims"] == {
        "embedding": ["time", "y", "x", "feature"],
        "scale": ["time", "y", "x"],
        "status": ["time", "y", "x"],
        "n_obs": ["time", "y", "x"],
        "time": ["time"],
        "time_bnds": ["time", "bnds"],
        "y": ["y"],
        "x": ["x"],
        "feature": ["feature"],
        "spatial_ref": [],
    }
    types = {name: said["types"][name] for name in ("embedding", "scale", "status", "n_obs")}
    assert types == {"embedding": "int8", "scale": "float32", "status": "uint8", "n_obs": "uint16"}
    assert said["coordinates"] == ["feature", "spatial_ref", "time", "x", "y"]


def test_times_and_their_bounds_are_decoded(seen: Seen) -> None:
    assert seen.said["time"] == ["2023-06-01", "2023-07-01"]
    assert seen.said["time_bnds"] == [["2023-06-01", "2023-07-01"], ["2023-07-01", "2023-08-01"]]
    assert seen.said["july"] == ["2023-07-01"]


def test_the_stated_product_is_embedcubes_own_decoding(seen: Seen, cube: Path) -> None:
    ours = np.stack([Cube(cube).vectors(ZONE, t, slice(None), slice(None)) for t in range(2)])
    assert seen.arrays["decoded"].dtype == np.float32
    assert seen.arrays["decoded"].tobytes() == ours.tobytes()
    valid = np.isin(seen.arrays["xarray/status"], [1, 5])
    assert 0.1 < valid.mean() < 0.99
    np.testing.assert_array_equal(np.isfinite(ours).all(axis=-1), valid)
    assert not seen.arrays["xarray/embedding"][~valid].any()
    assert (seen.arrays["xarray/n_obs"][valid] > 0).all()


def test_tensorstore_reads_what_zarr_reads(seen: Seen, cube: Path) -> None:
    read = {name.removeprefix("tensorstore/"): a for name, a in seen.arrays.items() if name.startswith("tensorstore/")}
    arrays = {name for name, document in documents(cube).items() if document["node_type"] == "array"}
    assert read.keys() == arrays
    assert {"s2_mosaiks/grid/embedding", "provenance/contributions"} < arrays
    for name, found in read.items():
        ours = zarr.open_array(cube / name, mode="r")
        assert found.dtype == ours.dtype
        np.testing.assert_array_equal(found, ours[...])
        assert seen.said["labels"][name] == list(ours.metadata.dimension_names or [])  # type: ignore[union-attr]


# --- CF -------------------------------------------------------------------------------------------

COMPLIANCE = """
import json, sys
from compliance_checker.runner import CheckSuite

CheckSuite.load_all_available_checkers()
suite = CheckSuite()
groups, errors = suite.run_all(suite.load_dataset(sys.argv[1]), ["cf:1.11"], skip_checks=[])["cf:1.11"]
checks = [[group.name, group.value[0] < group.value[1], list(group.msgs)] for group in groups]
print(json.dumps({"errors": [str(error) for error in errors], "checks": checks}))
"""

ACCEPTED = {
    "§2.4 Dimensions": "features stand last, so that one vector is one piece of memory; CF only recommends otherwise",
    "§2.6 Attributes": "no history: attributes outside provenance/ say only what, never how",
    "§3.3 Standard Name": "spatial_ref holds the grid mapping, which is no quantity that a name could describe",
}
"""Recommendations of CF that the cube does not follow, and why."""


@pytest.fixture(scope="module")
def cf(cube: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Messages of the CF checker about the zone, written as NetCDF, by section of the conventions."""
    with xarray.open_datatree(cube) as tree:
        zone = tree[ZONE].to_dataset().load()
        zone.attrs["title"] = tree.attrs["title"]
    # NetCDF has no nested attributes, and CF allows no colon in names: attributes of the Zarr conventions are left out
    zone.attrs = {name: value for name, value in zone.attrs.items() if ":" not in name and isinstance(value, str)}
    # JSON has one type of integer, NetCDF has several
    zone["status"].attrs["flag_values"] = np.array(zone["status"].attrs["flag_values"], dtype=zone["status"].dtype)
    for name, variable in zone.variables.items():
        kept = {key: value for key, value in variable.encoding.items() if key in ("units", "calendar", "dtype")}
        variable.encoding = kept | ({} if name == "scale" else {"_FillValue": None})
    file = tmp_path_factory.mktemp("cf") / "zone.nc"
    zone.to_netcdf(file, engine="netcdf4")
    done = subprocess.run(
        [sys.executable, "-c", COMPLIANCE, file], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["errors"] == []
    assert len(result["checks"]) > 15, "the checker looked at little"
    return {name: messages for name, lost, messages in result["checks"] if lost}


def test_the_zone_keeps_the_rules_of_cf(cf: dict[str, list[str]]) -> None:
    assert cf.keys() == ACCEPTED.keys(), cf
    (without_name,) = cf["§3.3 Standard Name"]
    assert without_name.endswith("for variable spatial_ref")


def test_the_rules_that_matter_most_by_hand(cube: Path) -> None:
    with xarray.open_datatree(cube) as tree:
        zone = tree[ZONE].to_dataset()
    assert zone.attrs["Conventions"] == "CF-1.11"
    for name in ("embedding", "scale", "status", "n_obs"):
        attributes = zone[name].attrs
        assert attributes["long_name"]
        assert zone[attributes["grid_mapping"]].ndim == 0
        assert "standard_name" not in attributes, "there is no standard name for an embedding"
    assert set(zone["embedding"].attrs["ancillary_variables"].split()) == {"status", "scale", "n_obs"}
    flags = zone["status"].attrs
    assert flags["flag_values"] == list(range(6))
    assert flags["flag_meanings"].split() == list(STATUS_MEANINGS)
    assert STATUS_MEANINGS == ("not_processed", "valid", "no_data", "masked", "failed", "valid_incomplete")
    assert zone["time"].attrs["bounds"] == "time_bnds"
    assert zone["x"].attrs["standard_name"] == "projection_x_coordinate"
    assert (zone["x"].attrs["units"], zone["x"].attrs["axis"]) == ("metre", "X")
    assert (zone["y"].attrs["units"], zone["y"].attrs["axis"]) == ("metre", "Y")
    assert zone["time"].attrs["axis"] == "T"
    assert zone["x"].to_index().is_monotonic_increasing
    assert zone["y"].to_index().is_monotonic_decreasing


@pytest.mark.parametrize("opened_by", ["open_datatree", "open_zarr"])
def test_arithmetic_and_selections_keep_the_crs(cube: Path, tmp_path: Path, opened_by: str) -> None:
    import rioxarray  # noqa: F401  (registers the accessor)

    if opened_by == "open_zarr":
        zone = xarray.open_zarr(cube, group=ZONE, chunks=None)
    else:
        with xarray.open_datatree(cube, chunks=None) as tree:
            zone = tree[ZONE].to_dataset().load()
    small = zone[["embedding", "scale"]].isel(time=0, feature=slice(0, 3), y=slice(2, 6), x=slice(3, 8))
    vectors = (small["embedding"] * small["scale"]).transpose("feature", "y", "x")
    vectors.rio.to_raster(tmp_path / "vectors.tif")
    cell, _, west, _, _, north = zone.attrs["spatial:transform"]
    with rasterio.open(tmp_path / "vectors.tif") as file:
        assert file.crs.to_epsg() == 32632
        assert tuple(file.transform)[:6] == (cell, 0.0, west + 3 * cell, 0.0, -cell, north - 2 * cell)
        np.testing.assert_array_equal(file.read(), vectors)


def test_n_obs_counts_acquisitions(cube: Path) -> None:
    attributes = documents(cube)[f"{ZONE}/n_obs"]["attributes"]
    assert attributes["long_name"] == "distinct acquisitions with at least one clear pixel in the cell"


def test_cf_xarray_finds_grid_mapping_axes_and_bounds(cube: Path) -> None:
    import cf_xarray  # noqa: F401  (registers the accessor)

    with xarray.open_datatree(cube, decode_coords="all") as tree:
        zone = tree[ZONE].to_dataset()
    assert zone.cf.grid_mapping_names == {"transverse_mercator": ["spatial_ref"]}
    assert {name: zone.cf.axes[name] for name in "TXY"} == {"T": ["time"], "X": ["x"], "Y": ["y"]}
    assert zone.cf.bounds == {"T": ["time_bnds"], "time": ["time_bnds"]}
    assert CRS.from_cf(zone.cf["grid_mapping"].attrs) == CRS.from_epsg(32632)
    valid = zone["status"].cf.isin(["valid", "valid_incomplete"])
    np.testing.assert_array_equal(valid, np.isin(zone["status"], [1, 5]))


# --- Zarr conventions -----------------------------------------------------------------------------


def validator(convention: str) -> Any:
    """Validator of a whole zarr.json; the README beside the schemas says why it is not `jsonschema.validate`."""
    return jsonschema.Draft202012Validator(json.loads((SCHEMAS / f"{convention}.schema.json").read_text()))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_the_zone_follows_the_convention(cube: Path, convention: str) -> None:
    document = documents(cube)[ZONE]
    validator(convention).validate(document)
    registered = [entry["name"] for entry in document["attributes"]["zarr_conventions"]]
    assert registered == ["proj", "spatial", "geoemb:"]


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_the_schemas_are_not_vacuous(cube: Path, convention: str) -> None:
    document = documents(cube)[ZONE]
    attributes = document["attributes"]
    without = [entry for entry in attributes["zarr_conventions"] if entry["name"].rstrip(":") != convention]
    assert len(without) == 2
    broken = {
        "proj": {"proj:code": "32632"},
        "spatial": {"spatial:transform": [160.0, 0.0]},
        "geoemb": {"geoemb:type": "tile"},
    }
    for change in ({"zarr_conventions": without}, broken[convention]):
        other = copy.deepcopy(document)
        other["attributes"] |= change
        assert not validator(convention).is_valid(other), change


def test_the_grid_is_told_thrice_and_agrees(cube: Path, seen: Seen) -> None:
    attributes = documents(cube)[ZONE]["attributes"]
    x, y = seen.arrays["xarray/x"], seen.arrays["xarray/y"]
    a, b, c, d, e, f = attributes["spatial:transform"]
    assert (b, d) == (0, 0)
    assert attributes["spatial:dimensions"] == ["y", "x"]
    assert attributes["spatial:shape"] == [y.size, x.size]
    np.testing.assert_array_equal(x, c + (np.arange(x.size) + 0.5) * a)
    np.testing.assert_array_equal(y, f + (np.arange(y.size) + 0.5) * e)
    half = a / 2
    assert attributes["spatial:bbox"] == [x[0] - half, y[-1] - half, x[-1] + half, y[0] + half]
    assert a == -e == 160.0
    assert x[0] % 160 == y[0] % 160 == 80, "cells are counted from the origin"
    spatial_ref = documents(cube)[f"{ZONE}/spatial_ref"]["attributes"]
    assert [float(number) for number in spatial_ref["GeoTransform"].split()] == [c, a, b, f, d, e]
    grid = CRS.from_epsg(32632)
    assert CRS.from_user_input(attributes["proj:code"]) == grid
    assert CRS.from_wkt(attributes["proj:wkt2"]) == grid
    assert CRS.from_wkt(spatial_ref["crs_wkt"]) == grid
    assert CRS.from_cf(spatial_ref) == grid
    assert attributes["geoemb:dimensions"] == seen.arrays["xarray/feature"].size == 64


def planned(layer: Layer, grid: Grid, shards: ShardRange) -> LayerPlan:
    """Plan of a layer on one grid, with made-up weights and collection."""
    return LayerPlan(
        zones={grid.name: shards},
        grids={grid.name: grid},
        layout=make_layout(layer),
        encoding=layer.encoding,
        dimensions=7,
        chunk_windows=1,
        objects=ObjectShape(windows=1, rows=1, cols=1),
        collections=("https://x.org/s",),
        counted=layer.archives,
        weights="0" * 64,
        fitted_on="",
        model="https://x.org/m",
        batch=2,
        batch_for="",
        program="",
        compiled_for="",
        versions={},
        plugins=(),
        empty=(),
    )


@pytest.mark.parametrize("encoding", ["int8", "float16", "float32"])
@pytest.mark.parametrize("cell_px", [1, 16])
@pytest.mark.parametrize(
    "crs", ["EPSG:32719", "EPSG:3035", "EPSG:3031", "EPSG:4326", "+proj=laea +lat_0=52 +lon_0=10 +datum=WGS84"]
)
def test_any_zone_follows_the_conventions(encoding: str, cell_px: int, crs: str) -> None:
    layer = Layer.model_validate(
        {
            "archives": ["a"],
            "backbone": {"name": "b"},
            "cell_px": cell_px,
            "encoding": encoding,
            "chip_px": 64,
            "shard_chips": 1,
        }
    )
    grid, area = Grid(crs=crs, pixel=0.5, origin_x=-3.0), PixelArea(row=-64, col=32, rows=128, cols=64)
    attributes = zone_attributes(layer, planned(layer, grid, ShardRange(row=-2, col=1, rows=4, cols=2)), grid.name)
    document = {"zarr_format": 3, "node_type": "group", "attributes": json.loads(json.dumps(attributes))}
    for convention in CONVENTIONS:
        validator(convention).validate(document)
    assert ("geoemb:quantization" in attributes) == (encoding == "int8")
    assert attributes["geoemb:type"] == ("pixel" if cell_px == 1 else "chip")
    assert attributes["spatial:bbox"] == [13.0, -32.0, 45.0, 32.0]
    assert attributes["spatial:transform"] == [0.5 * cell_px, 0.0, 13.0, 0.0, -0.5 * cell_px, 32.0]
    mapping = spatial_ref_attributes(grid, area, cell_px)
    assert CRS.from_cf(mapping) == CRS.from_user_input(crs)
    names = [coordinate_attributes(grid, axis)["standard_name"] for axis in ("x", "y")]
    geographic = CRS.from_user_input(crs).is_geographic
    plane = ["projection_x_coordinate", "projection_y_coordinate"]
    assert names == (["longitude", "latitude"] if geographic else plane)


def test_the_ground_sample_distance_is_in_metres() -> None:
    layer = Layer.model_validate({"archives": ["a"], "backbone": {"name": "b"}})
    grid = Grid(crs="EPSG:4326", pixel=0.25)
    attributes = zone_attributes(layer, planned(layer, grid, ShardRange(row=0, col=0, rows=1, cols=1)), grid.name)
    assert attributes.get("geoemb:gsd", 27_000) > 1000


# --- plain numbers, and only what -----------------------------------------------------------------


def test_there_are_no_strings_in_arrays(cube: Path) -> None:
    types = {d["data_type"] for d in documents(cube).values() if d["node_type"] == "array"}
    assert types <= {"int8", "uint8", "uint16", "int32", "int64", "float32", "float64"}


def test_consolidated_metadata_is_what_the_nodes_say(cube: Path) -> None:
    nodes = documents(cube)
    consolidated = nodes[""].pop("consolidated_metadata")["metadata"]
    own = {name: document for name, document in nodes.items() if name and not name.startswith("provenance")}
    assert consolidated.keys() == own.keys()
    for name, document in consolidated.items():
        document.pop("consolidated_metadata", None)
        assert document == own[name], name


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every string of a JSON document, with the path of keys that leads to it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{place}/{key}")
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner, f"{place}/*")
    elif isinstance(value, str):
        yield place, value


def test_attributes_outside_provenance_say_only_what(cube: Path, finished_demo: Campaign) -> None:
    made = json.loads(finished_demo.run.plan_summary.read_text())["versions"]
    # a whole number alone, as the kernel's, is found everywhere
    versions = {version for version in (embedcube.__version__, *made.values()) if not version.isdigit()}
    forbidden = "|".join([
        rf"\b{re.escape(socket.gethostname())}\b",
        r"(?<![:/\w])/(?!/)\w+",  # an absolute path
        r"\b[Cc]\.(zarr|yaml)\b",
        *(rf"(?<![\d.]){re.escape(version)}(?![\d.])" for version in versions),
    ])  # fmt: skip
    nodes = {name: d for name, d in documents(cube).items() if not name.startswith("provenance")}
    strings = {place: text for name, d in nodes.items() for place, text in leaves(d["attributes"], name)}
    assert len(strings) > 50
    for place, text in strings.items():
        assert not re.search(forbidden, text), (place, text)
        moment = re.search(r"\d{4}-\d\d-\d\d", text)
        if moment:
            period = "/embedcube:what/windows" in place or place.endswith("/embedcube:fitted_on")
            assert period or place.endswith("/units"), (place, text)
    for probe in (socket.gethostname(), "/home/me/archive", f"made by {embedcube.__version__}", made["torch"]):
        assert re.search(forbidden, probe), f"the test would not see {probe}"


def test_the_root_carries_the_question_and_its_digest(cube: Path, finished_demo: Campaign) -> None:
    attributes = documents(cube)[""]["attributes"]
    campaign = load_campaign(finished_demo.file)
    assert attributes["embedcube:what"] == json.loads(json.dumps(campaign.what))
    canonical = json.dumps(attributes["embedcube:what"], sort_keys=True, separators=(",", ":"))
    assert attributes["embedcube:campaign_digest"] == hashlib.sha256(canonical.encode()).hexdigest() == campaign.digest


# --- provenance -----------------------------------------------------------------------------------


class Provenance:
    """The arrays of provenance/, read with zarr-python alone."""

    def __init__(self, cube: Path) -> None:
        group = zarr.open_group(cube / "provenance", mode="r")
        self.attributes = dict(group.attrs)
        self.arrays: dict[str, NDArray[Any]] = {name: np.asarray(a[...]) for name, a in group.arrays()}

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.arrays[name]

    def texts(self, name: str) -> list[bytes]:
        """Rows of an array of bytes; `<name>_first` holds the offset of each."""
        first = self[f"{name}_first"].tolist()
        data = self[name].tobytes()
        return [data[start:end] for start, end in pairwise(first)]


@pytest.fixture(scope="module")
def provenance(cube: Path) -> Provenance:
    """Provenance of the finished cube."""
    return Provenance(cube)


def test_provenance_arrays_fit_together(provenance: Provenance, cube: Path) -> None:
    shards, links = len(provenance["shard_zone"]), len(provenance["link_scene"])
    scenes = len(provenance["scene_digest"])
    assert (shards, scenes) == (30, 10)
    for name in ("t", "iy", "ix"):
        assert provenance[f"shard_{name}"].shape == (shards,)
    assert provenance["shard_recipe"].shape == (shards, 32)
    assert provenance["scene_digest"].shape == (scenes, 32)
    assert provenance["link_quarantined"].shape == (links,)
    assert provenance["link_resampling"].shape == (links,)
    ways = int(provenance["link_resampling"].max()) + 1
    for name, rows in (
        ("shard_record", shards), ("scene", scenes), ("contributions", shards), ("link", shards), ("resampling", ways),
    ):  # fmt: skip
        first = provenance[f"{name}_first"]
        assert first.shape == (rows + 1,)
        assert first[0] == 0
        assert (np.diff(first) >= 0).all()
        assert first[-1] == (links if name == "link" else provenance[name].size)
    assert 0 <= provenance["link_scene"].min() <= provenance["link_scene"].max() < scenes
    side = documents(cube)[ZONE]["attributes"]["embedcube:shard_cells"]
    packed = -(-side * side // 8)
    assert [len(fed) for fed in provenance.texts("contributions")] == (
        np.diff(provenance["link_first"]) * packed
    ).tolist()


def test_provenance_digests_are_those_of_the_bytes(
    provenance: Provenance, cube: Path, finished_demo: Campaign, demo_archive: Path
) -> None:
    campaign, run = load_campaign(finished_demo.file), finished_demo.run
    inventory, plan, opened = read_inventory(campaign, run), read_plan(campaign, run), Cube(cube)
    assert [bytes(digest).hex() for digest in provenance["scene_digest"]] == [scene.digest for scene in inventory]
    for text in provenance.texts("scene"):
        for asset in json.loads(text)["assets"]:
            data = (demo_archive / "archive" / "sentinel2" / asset["path"]).read_bytes()
            assert asset["digest"] == f"sha256:{hashlib.sha256(data).hexdigest()}"
    planned = {(s.t, s.iy, s.ix): s for group in read_shards(run, plan) for s in group}
    assert len(planned) == len(provenance["shard_t"])
    links = np.split(provenance["link_scene"], provenance["link_first"][1:-1])
    quarantined = np.split(provenance["link_quarantined"], provenance["link_first"][1:-1])
    for row, text in enumerate(provenance.texts("shard_record")):
        t, iy, ix = (int(provenance[f"shard_{name}"][row]) for name in ("t", "iy", "ix"))
        record, shard = json.loads(text), planned.pop((t, iy, ix))
        assert bytes(provenance["shard_recipe"][row]).hex() == record["recipe"] == shard.recipe
        assert tuple(links[row].tolist()) == shard.scenes
        assert record["scenes"] == [inventory[i].digest for i in shard.scenes]
        bad = {q["scene_digest"] for q in record["quarantined"]}
        assert quarantined[row].tolist() == [inventory[i].digest in bad for i in shard.scenes]
        for stored in record["arrays"]:
            data = opened.objects(ZONE, stored["array"]).member((t, iy, ix)) or b""
            assert (stored["size"], stored["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert not planned
    assert sum(int(q.sum()) for q in quarantined) > 0, "the torn band is quarantined in some shard"
    made = "".join(sorted(bytes(recipe).hex() for recipe in provenance["shard_recipe"]))
    assert provenance.attributes["plan_digest"] == hashlib.sha256(made.encode()).hexdigest()
    # those of the cube are without the scene that was found torn
    planned_recipes = "".join(sorted(pyarrow.parquet.read_table(run.plan)["recipe"].to_pylist()))
    assert plan.plan == hashlib.sha256(planned_recipes.encode()).hexdigest()
    weights = hashlib.sha256(run.weights("s2_mosaiks").read_bytes()).hexdigest()
    assert provenance.attributes["weights"] == {"s2_mosaiks": weights}
    assert documents(cube)[ZONE]["attributes"]["embedcube:weights_sha256"] == weights
    assert provenance.attributes["campaign_digest"] == campaign.digest
    assert provenance.attributes["versions"] == plan.versions


def test_fed_bits_count_the_acquisitions(provenance: Provenance, cube: Path) -> None:
    acquisitions = [json.loads(text)["acquisition"] for text in provenance.texts("scene")]
    n_obs = zarr.open_array(cube / ZONE / "n_obs", mode="r")
    side = documents(cube)[ZONE]["attributes"]["embedcube:shard_cells"]
    links = np.split(provenance["link_scene"], provenance["link_first"][1:-1])
    most = 0
    for row, fed in enumerate(provenance.texts("contributions")):
        t, iy, ix = (int(provenance[f"shard_{name}"][row]) for name in ("t", "iy", "ix"))
        bits = np.unpackbits(np.frombuffer(fed, np.uint8).reshape(len(links[row]), -1), axis=1, count=side * side)
        names = [acquisitions[scene] for scene in links[row].tolist()]
        counted = np.zeros(side * side, dtype=np.int64)
        for name in set(names):
            counted += bits[[other == name for other in names]].any(axis=0)
        stored = np.asarray(n_obs[t, iy * side : (iy + 1) * side, ix * side : (ix + 1) * side])
        np.testing.assert_array_equal(counted.reshape(side, side), stored)
        most = max(most, int(stored.max()))
    assert most == 3, "June has three acquisitions"


def test_the_store_holds_one_object_per_block_of_shards_and_array(cube: Path) -> None:
    """Three rows and five columns of shards lie in two blocks; both windows are in one."""
    root = cube.resolve()
    for name in ("embedding", "scale", "status", "n_obs"):
        names = sorted(path.name for path in (root / ZONE / name).iterdir())
        assert names[-1] == "zarr.json"
        extra = ".0" if name == "embedding" else ""
        assert names[:-1] == [f"c.0.0.{x}{extra}" for x in range(2)]
    folders = [path for path in root.rglob("*") if path.is_dir()]
    assert len(folders) < 80, "folders do not grow with the shards"


GEOZARR = "geozarr-toolkit==0.1.2"


@pytest.mark.slow
def test_another_validator_accepts_the_zones_and_the_preview(cube: Path, tmp_path: Path) -> None:
    python = newer_python()
    if python is None:
        pytest.skip(f"{GEOZARR} needs Python 3.12 or newer")
    subprocess.run([python, "-m", "venv", tmp_path], check=True)
    subprocess.run([tmp_path / "bin" / "pip", "--quiet", "install", GEOZARR], check=True)
    preview = tmp_path / "preview.zarr"
    write_preview_store(Cube(cube), preview)
    zones = {path.parent: "spatial, proj" for path in cube.resolve().glob("*/*/embedding")}
    zones |= {preview / zone: "spatial, proj, multiscales" for zone in Cube(cube).zones}
    for zone, conventions in zones.items():
        command: list[str | Path] = [tmp_path / "bin" / "geozarr", "validate", zone]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stdout + answer.stderr
        assert answer.stdout.strip().endswith(conventions)
