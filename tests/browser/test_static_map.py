"""The preview store in stock OpenLayers (`ol/source/GeoZarr`), from a server that only gives whole files."""

import base64
import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from tests.browser.running import node_modules, run_node
from tests.cube.synthetic import write_zone

from embedcube.cube.encoding import MASKED, VALID
from embedcube.cube.preview_store import write_preview_store
from embedcube.cube.reader import Cube

pytestmark = [pytest.mark.browser, pytest.mark.slow]

ROWS, COLUMNS = 448, 576
WIDTH, HEIGHT = 640, 480


class Files(http.server.SimpleHTTPRequestHandler):
    """Python's server of files knows no ranges."""

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preview of two levels; smooth colours, and a masked rectangle."""
    path = tmp_path_factory.mktemp("static")
    y, x = np.mgrid[:ROWS, :COLUMNS] / 100
    vectors = np.stack([np.sin(y + t) + 2 for t in (0, 1)] + [x, np.cos(x * y), y * x], axis=-1)
    both = np.stack([vectors, vectors[::-1]]).astype(np.float32)
    status = np.full((2, ROWS, COLUMNS), VALID, np.uint8)
    status[:, 100:200, 300:400] = MASKED
    write_zone(path / "cube.zarr", "layer/grid", both, status, shard=64)
    write_preview_store(Cube(path / "cube.zarr"), path / "cube.preview.zarr")
    return path


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Files, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_openlayers_draws_it_in_place_and_in_its_colours(
    folder: Path, address: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """At one pixel a cell it is the finest level, at half a pixel a cell the overview."""
    told = run_node(
        "static.mjs", node_modules(tmp_path_factory), address, folder, "../cube.preview.zarr/layer/grid", "576,288"
    )
    for pixels, level in ((576, 0), (288, 1)):
        seen = told[str(pixels)]["seen"]
        assert seen["problems"] == []
        assert any(f"/{level}/rgb/" in url for url in seen["requests"])
        drawn = decoded(told[str(pixels)])
        rgb = np.moveaxis(cells(folder, level), 0, -1)
        rows, columns = rgb.shape[:2]
        top, left = (HEIGHT - rows) // 2, (WIDTH - columns) // 2
        inside = drawn[top : top + rows, left : left + columns]
        valid = rgb.any(axis=-1)
        assert (inside[~valid, 3] == 0).mean() > 0.97, "cells without a vector are transparent"
        assert (np.abs(inside[valid, :3].astype(int) - rgb[valid]).max(axis=-1) <= 2).mean() > 0.97
        assert (drawn[: top - 2, :, 3] == 0).all()


def decoded(picture: Any) -> NDArray[np.uint8]:
    data = np.frombuffer(base64.b64decode(picture["data"]), np.uint8)
    return data.reshape(picture["height"], picture["width"], 4)


def cells(folder: Path, level: int) -> NDArray[np.uint8]:
    array = zarr.open_array(folder / "cube.preview.zarr" / "layer" / "grid" / str(level) / "rgb", mode="r")
    return np.asarray(array[1])
