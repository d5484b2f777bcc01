"""The preview store: its values, its overviews, its place, and what other programs make of it."""

import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import tensorstore
import xarray
import zarr
from numpy.typing import NDArray
from tests.cube.synthetic import write_zone

from embedcube.cube.basis import fit_basis
from embedcube.cube.encoding import MASKED, STATUS_MEANINGS, VALID
from embedcube.cube.preview_store import (
    CHUNK_SIDE,
    OVERVIEW_SIDE,
    drawn_colours,
    level_shapes,
    preview_store_of,
    write_preview_store,
)
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError

SCHEMAS = Path(__file__).parents[1] / "data" / "conventions"
ROWS, COLUMNS = 75, 1050
"""an odd number of rows, and columns for three levels"""


def vectors(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Cube:
    """Two windows in shared chunks, one in five cells masked; a layer in degrees beside it."""
    path = tmp_path_factory.mktemp("preview") / "cube.zarr"
    status = np.where(np.random.default_rng(1).random((2, ROWS, COLUMNS)) < 0.2, MASKED, VALID).astype(np.uint8)
    write_zone(path, "layer/grid", vectors(2, ROWS, COLUMNS, 4), status, shard=75, chunk_windows=2)
    n_obs: Any = zarr.open_group(path)["layer/grid/n_obs"]
    n_obs[...] = np.broadcast_to(np.arange(COLUMNS, dtype=np.uint16), n_obs.shape)
    write_zone(path, "weather/latlon", vectors(1, 16, 16, 4), crs="EPSG:4326", side=0.25, corner=(5.0, 55.0))
    made = Cube(path)
    write_preview_store(made, preview_store_of(path))
    return made


@pytest.fixture(scope="module")
def store(cube: Cube) -> Path:
    return preview_store_of(cube.path)


def opened(store: Path) -> Any:
    return xarray.open_datatree(store, engine="zarr")


def test_it_holds_the_colours_the_status_and_the_acquisitions(cube: Cube, store: Path) -> None:
    level = opened(store)["layer/grid/0"]
    status = cube.array("layer/grid", "status")[...]
    np.testing.assert_array_equal(level["status"], status)
    np.testing.assert_array_equal(level["n_obs"], cube.array("layer/grid", "n_obs")[...])
    basis = fit_basis(cube, "layer")
    assert basis is not None
    decoded = np.stack([cube.vectors("layer/grid", t, slice(None), slice(None)) for t in (0, 1)]).astype(np.float64)
    along = (decoded - basis.mean) @ basis.components.T
    expected = 1 + 254 * np.clip((along - basis.low) / (basis.high - basis.low), 0, 1)
    drawn = np.moveaxis(level["rgb"].values, 1, -1)
    assert (drawn[status == MASKED] == 0).all()
    assert np.abs(drawn - expected)[status == VALID].max() <= 0.51
    assert level["time"].dt.strftime("%Y-%m-%d").values.tolist() == ["2023-06-01", "2023-06-11"]


def test_cells_of_overviews_are_the_nearest_cells_below_them(store: Path) -> None:
    """Rows of an odd level lie exactly between two finer ones: either is nearest."""
    zone = opened(store)["layer/grid"]
    assert [zone[str(k)]["status"].shape[1:] for k in range(3)] == [(75, 1050), (38, 525), (19, 263)]
    for k in (1, 2):
        finer, coarser = zone[str(k - 1)], zone[str(k)]
        nearest = [both_nearest(finer[axis].values, coarser[axis].values) for axis in ("y", "x")]
        for name in ("status", "n_obs", "rgb"):
            cells = [finer[name].values[..., y[:, None], x] for y in nearest[0] for x in nearest[1]]
            assert np.any([coarser[name].values == one for one in cells], axis=0).all()
        # colours and status are those of one cell
        assert ((coarser["rgb"].values == 0).all(axis=1) == (coarser["status"].values == MASKED)).all()


def both_nearest(finer: NDArray[np.float64], coarser: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    """Indices of the finer centres that are nearest to each coarser one: of two, the first and the last."""
    distances = np.round(np.abs(finer - coarser[:, None]), 6)
    return [distances.argmin(axis=1), distances.shape[1] - 1 - distances[:, ::-1].argmin(axis=1)]


@pytest.mark.parametrize("zone", ["layer/grid", "weather/latlon"])
def test_every_level_covers_the_zone(cube: Cube, store: Path, zone: str) -> None:
    about = cube.group(zone).attrs
    group = json.loads((store / zone / "zarr.json").read_text())["attributes"]
    for entry in group["multiscales"]["layout"]:
        level = json.loads((store / zone / entry["asset"] / "zarr.json").read_text())["attributes"]
        assert level["spatial:transform"] == entry["spatial:transform"]
        a, _, c, _, e, f = entry["spatial:transform"]
        rows, columns = entry["spatial:shape"]
        assert [c, f + e * rows, c + a * columns, f] == pytest.approx(about["spatial:bbox"])
        assert level["proj:code"] == about["proj:code"]
    assert group["multiscales"]["layout"][0]["spatial:transform"] == pytest.approx(about["spatial:transform"])


def test_the_conventions_hold(store: Path) -> None:
    """The group of a zone follows all three, that of a level two; the schemas refuse what is wrong."""
    zone = json.loads((store / "layer/grid/zarr.json").read_text())
    level = json.loads((store / "layer/grid/1/zarr.json").read_text())
    for convention, documents in {"multiscales": [zone], "proj": [zone, level], "spatial": [zone, level]}.items():
        schema = json.loads((SCHEMAS / f"{convention}.schema.json").read_text())
        validator = jsonschema.Draft202012Validator(schema)
        for document in documents:
            validator.validate(document)
            others = [one for one in document["attributes"]["zarr_conventions"] if one["name"] != convention]
            wrong = document | {"attributes": document["attributes"] | {"zarr_conventions": others}}
            assert not validator.is_valid(wrong)
    entry = zone["attributes"]["multiscales"]["layout"][1]
    assert entry["derived_from"] == "0"
    assert entry["transform"]["scale"] == pytest.approx([75 / 38, 2])


def test_one_request_tells_all_of_a_zone(store: Path) -> None:
    """Consolidated metadata lie in the root and in each zone: a map asks for a zone alone."""
    for path, names in ((".", {"layer/grid/0/rgb", "weather/latlon/0/status"}), ("layer/grid", {"0/rgb", "2/n_obs"})):
        document = json.loads((store / path / "zarr.json").read_text())
        known = document["consolidated_metadata"]["metadata"]
        assert names <= known.keys()
        for name, metadata in known.items():
            own = json.loads((store / path / name / "zarr.json").read_text())
            assert metadata["attributes"] == own["attributes"]
            assert metadata.get("shape") == own.get("shape")


def test_a_chunk_is_a_file_and_another_reader_agrees(store: Path) -> None:
    """No sharding, so that a server without ranges serves it; tensorstore reads what zarr reads."""
    document = json.loads((store / "layer/grid/0/rgb/zarr.json").read_text())
    assert [codec["name"] for codec in document["codecs"]] == ["bytes", "zstd"]
    side = document["chunk_grid"]["configuration"]["chunk_shape"][-1]
    assert side <= CHUNK_SIDE
    assert side % 75 == 0, "whole chunks of the cube"
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(store / "layer/grid/0/rgb")}}
    other = tensorstore.open(spec).result().read().result()
    np.testing.assert_array_equal(other, zarr.open_array(store / "layer/grid/0/rgb", mode="r")[...])
    flags = xarray.open_zarr(store, group="layer/grid/0")["status"].attrs["flag_meanings"].split()
    assert flags == list(STATUS_MEANINGS)


def test_it_lies_beside_the_version_and_is_replaced_whole(tmp_path: Path) -> None:
    write_zone(tmp_path / "cubes" / "abc.zarr", "layer/grid", vectors(1, 16, 16, 4))
    (tmp_path / "cube.zarr").symlink_to("cubes/abc.zarr")
    store = preview_store_of(tmp_path / "cube.zarr")
    assert store == (tmp_path / "cubes" / "abc.preview.zarr").resolve()
    for _ in range(2):
        write_preview_store(Cube(tmp_path / "cube.zarr"), store)
        assert sorted(path.name for path in store.parent.iterdir()) == ["abc.preview.zarr", "abc.zarr"]
        (store / "of the earlier one").touch()
    assert zarr.open_group(store).attrs["embedcube:cube"] == "abc"


def test_colours_of_a_window_are_read_back(cube: Cube, store: Path, tmp_path: Path) -> None:
    colours = drawn_colours(cube, "layer/grid", 1)
    assert colours is not None
    np.testing.assert_array_equal(np.moveaxis(colours, -1, 0), opened(store)["layer/grid/0/rgb"].values[1])
    # beside another cube of the same name it is no preview of it
    write_zone(tmp_path / "cube.zarr", "layer/grid", vectors(1, 16, 16, 4))
    assert drawn_colours(Cube(tmp_path / "cube.zarr"), "layer/grid", 0) is None
    shutil.copytree(store, tmp_path / store.name)
    assert drawn_colours(Cube(tmp_path / "cube.zarr"), "layer/grid", 0) is None


def test_nothing_is_left_of_one_that_cannot_be_drawn(tmp_path: Path) -> None:
    masked = np.full((1, 16, 16), MASKED, np.uint8)
    write_zone(tmp_path / "cube.zarr", "layer/grid", vectors(1, 16, 16, 4), masked)
    with pytest.raises(RequestError, match=r"cube.zarr: no layer has vectors to draw"):
        write_preview_store(Cube(tmp_path / "cube.zarr"), tmp_path / "out" / "cube.preview.zarr")
    assert list((tmp_path / "out").iterdir()) == []


def test_levels_end_where_one_fits_a_screen() -> None:
    assert level_shapes((OVERVIEW_SIDE, 3)) == [(OVERVIEW_SIDE, 3)]
    assert level_shapes((1025, 1)) == [(1025, 1), (513, 1), (257, 1)]
