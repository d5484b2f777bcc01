"""Other libraries read the objects of a cube as they are: zarr-python, zarrs, tensorstore, xarray and zarrita.js."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import xarray
import zarr
from numpy.typing import NDArray
from tests.browser.running import node_modules
from tests.conftest import Campaign
from tests.cube.layouts import Vectors

from embedcube.zones import ObjectShape

ZARRITA = Path(__file__).parent / "zarrita"

MANY = Vectors(cells=96, dimensions=32, objects=ObjectShape(windows=2, rows=4, cols=4), blocks=(1, 1, 2))
"""Each shard has 4 chunks of vectors."""

LARGE = Vectors(cells=48, dimensions=768, objects=ObjectShape(windows=1, rows=8, cols=8), blocks=(1, 1, 2))
"""Its objects are of the size that a cube's have: 113 MB before compression."""

Arrays = dict[str, NDArray[Any]]


def by_zarr(group: Path, names: list[str]) -> Arrays:
    return {name: np.asarray(zarr.open_array(group / name, mode="r")[...]) for name in names}


def by_zarrs(group: Path, names: list[str]) -> Arrays:
    """`strict`: what zarrs cannot read is an error, and not left to zarr-python."""
    strict = {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "codec_pipeline.strict": True}
    with zarr.config.set(strict):
        array: Any = zarr.open_array(group / names[0], mode="r")
        # older versions of zarr have no other name for it
        inner = array.async_array if hasattr(array, "async_array") else array._async_array
        assert type(inner.codec_pipeline).__module__.partition(".")[0] == "zarrs"
        return by_zarr(group, names)


def by_tensorstore(group: Path, names: list[str]) -> Arrays:
    read = {}
    for name in names:
        place = {"driver": "file", "path": f"{group / name}/"}
        store = tensorstore.open({"driver": "zarr3", "kvstore": place}, read=True).result()
        read[name] = np.asarray(store.read().result())
    return read


def by_xarray(group: Path, names: list[str]) -> Arrays:
    with xarray.open_zarr(group, consolidated=False, chunks=None) as dataset:
        return {name: dataset[name].values for name in names}


def zarrita(tmp_path: Path, factory: pytest.TempPathFactory) -> Callable[[Path, list[str]], Arrays]:
    """A reader: zarrita.js in a process of Node."""
    (tmp_path / "node_modules").symlink_to(node_modules(factory, ZARRITA))
    shutil.copy(ZARRITA / "read.mjs", tmp_path)

    def read(group: Path, names: list[str]) -> Arrays:
        command = ["node", str(tmp_path / "read.mjs"), str(group), str(tmp_path), *names]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return {
            name: np.fromfile(tmp_path / str(number), one["dtype"]).reshape(one["shape"])
            for number, (name, one) in enumerate(zip(names, json.loads(done.stdout), strict=True))
        }

    return read


READERS = {"zarr-python": by_zarr, "zarrs": by_zarrs, "tensorstore": by_tensorstore, "xarray": by_xarray}
each_reader = pytest.mark.parametrize("reader", [*READERS, "zarrita.js"])


@pytest.fixture
def read(reader: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, list[str]], Arrays]:
    """Reads arrays below a folder whole."""
    return zarrita(tmp_path, tmp_path_factory) if reader == "zarrita.js" else READERS[reader]


@pytest.fixture(scope="module", params=[MANY, pytest.param(LARGE, marks=pytest.mark.slow)], ids=["many", "large"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Arrays]:
    """A group whose objects hold many shards, and its values; with shards, chunks and an object that are not there."""
    vectors: Vectors = request.param
    folder = tmp_path_factory.mktemp("layouts")
    vectors.write(folder / "shards", folder / "objects")
    return folder / "objects", vectors.whole()


@each_reader
def test_objects_of_many_shards(written: tuple[Path, Arrays], read: Callable[[Path, list[str]], Arrays]) -> None:
    group, expected = written
    found = read(group, list(expected))
    for name, values in expected.items():
        assert found[name].dtype == values.dtype
        np.testing.assert_array_equal(found[name], values)


@pytest.mark.parametrize("reader", ["zarrs", "zarrita.js"])
def test_a_cube(finished_demo: Campaign, read: Callable[[Path, list[str]], Arrays]) -> None:
    """All arrays of it, as zarr-python reads them; those of the others are in test_conventions."""
    cube = finished_demo.run.newest_cube.resolve()
    documents = [path for path in cube.rglob("zarr.json") if json.loads(path.read_text())["node_type"] == "array"]
    names = sorted(str(path.parent.relative_to(cube)) for path in documents)
    assert {"s2_mosaiks/grid/embedding", "provenance/contributions"} < {*names}
    found = read(cube, names)
    for name, values in by_zarr(cube, names).items():
        assert found[name].dtype == values.dtype
        np.testing.assert_array_equal(found[name], values, err_msg=name)
