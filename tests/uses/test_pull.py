"""Copying a part of a remote cube: the same bytes, every digest checked, killed and started again."""

import functools
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from pyproj import Transformer
from tests.conftest import Campaign, call_cli
from tests.cube.two_zones import LAYER
from tests.uses.serving import running

from embedcube.cube.encoding import NOT_PROCESSED
from embedcube.cube.part import PULLED
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError, WorkError
from embedcube.grid import to_degrees
from embedcube.progress import silent
from embedcube.uses.pull import pull
from embedcube.uses.remote import Address
from embedcube.uses.serve.app import create_app
from embedcube.uses.touching import parse_box, touching

BOX = (11.9, 49.97, 11.96, 50.0)
"""in utm32 only"""


class StaticServer(http.server.ThreadingHTTPServer):
    """A static web server that may flip a bit, or be slow."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        self.asked: Counter[str] = Counter()
        self.flipped: dict[str, int] = {}
        """names whose last byte is wrong, and how often"""
        self.delay_s = 0.0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and counts."""

    server: StaticServer

    def do_GET(self) -> None:
        name = self.path.partition(".zarr/")[2]
        self.server.asked[name] += 1
        time.sleep(self.server.delay_s)
        if self.server.flipped.get(name, 0) > 0:
            self.server.flipped[name] -= 1
            data = bytearray(Path(self.translate_path(self.path)).read_bytes())
            data[len(data) // 2] ^= 1
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            return
        super().do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def static(folder: Path) -> Iterator[StaticServer]:
    """A static web server of a folder."""
    server = StaticServer(folder)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def remote(two_zones: Path) -> Iterator[StaticServer]:
    """A static web server of the folder that holds the cube."""
    with static(two_zones.parent) as server:
        yield server


def files(cube: Path) -> dict[str, bytes]:
    """Bytes of all files of a cube, by name, but for the list of what was copied."""
    return {
        str(path.relative_to(cube)): path.read_bytes()
        for path in cube.rglob("*")
        if path.is_file() and path != cube / PULLED
    }


def test_the_whole_cube_is_copied_byte_for_byte(remote: StaticServer, two_zones: Path, tmp_path: Path) -> None:
    pulled = pull(Address(url=f"{remote.url}/cube.zarr"), tmp_path, silent)
    assert pulled.cube == tmp_path / "cube.zarr"
    assert files(pulled.cube) == files(two_zones)
    assert pulled.damaged == ()
    assert pulled.kept == 0
    before = sum(remote.asked.values())
    again = pull(Address(url=f"{remote.url}/cube.zarr"), tmp_path, silent)
    assert (again.bytes, again.kept) == (0, pulled.files)
    # only the list of digests is read again, twice
    assert sum(remote.asked.values()) - before <= 4


def test_a_part_is_a_cube_that_lacks_the_rest(remote: StaticServer, two_zones: Path, tmp_path: Path) -> None:
    pulled = pull(Address(url=f"{remote.url}/cube.zarr"), tmp_path, silent, box=BOX, time="2023-07")
    copy, whole = Cube(pulled.cube), Cube(two_zones)
    inside, outside = copy.cell_at(11.93, 49.985, "2023-07"), whole.cell_at(12.08, 50.0, "2023-07")
    here = (slice(inside.y, inside.y + 1), slice(inside.x, inside.x + 1))
    vector = whole.vectors(inside.zone, inside.t, *here)
    assert np.isfinite(vector).all()
    assert np.array_equal(copy.vectors(inside.zone, inside.t, *here), vector)
    assert copy.explain(inside) == whole.explain(inside)
    assert copy.array(outside.zone, "status")[outside.t, outside.y, outside.x] == NOT_PROCESSED
    assert (copy.array(f"{LAYER}/utm32", "status")[0] == NOT_PROCESSED).all()
    own, all_files = files(pulled.cube), files(two_zones)
    assert own.items() <= all_files.items()
    assert len(own) < len(all_files)
    # no shard of the box is lacking: every cell whose centre is inside has its status
    status, expected = (one.array(f"{LAYER}/utm32", "status")[1] for one in (copy, whole))
    from embedcube.cube.within import area_in

    area = area_in(whole, f"{LAYER}/utm32", BOX)
    assert area is not None
    mask = area.cut(area.y, area.x)
    assert mask.sum() > 100
    assert np.array_equal(status[area.y, area.x][mask], expected[area.y, area.x][mask])


def test_a_second_part_is_added(remote: StaticServer, two_zones: Path, tmp_path: Path) -> None:
    address = Address(url=f"{remote.url}/cube.zarr")
    first = pull(address, tmp_path, silent, time="2023-06")
    second = pull(address, tmp_path, silent, time="2023-07/2023-09")
    assert first.kept == 0
    assert second.kept > 0
    assert files(second.cube) == files(two_zones)


def test_a_bit_that_flips_on_the_way_is_read_again(remote: StaticServer, two_zones: Path, tmp_path: Path) -> None:
    name = f"{LAYER}/utm32/embedding/c.0.2.2.0"
    remote.flipped = {name: 2, "provenance/shard_record/c/0": 1, "zarr.json": 1, "provenance/files/c/0": 1}
    pulled = pull(Address(url=f"{remote.url}/cube.zarr"), tmp_path, silent)
    assert pulled.damaged == ()
    assert remote.asked[name] == 3
    assert files(pulled.cube) == files(two_zones)


def test_a_bit_that_is_wrong_at_the_centre_is_named(remote: StaticServer, tmp_path: Path) -> None:
    name = f"{LAYER}/utm33/status/c.1.2.2"
    remote.flipped = {name: 1000}
    url = f"{remote.url}/cube.zarr"
    pulled = call_cli("pull", url, tmp_path, "--json")
    assert pulled.returncode == 1
    assert name in pulled.stderr
    assert "verify" in pulled.stderr
    (damaged,) = json.loads(pulled.stdout)["damaged"]
    assert damaged.startswith(name)
    assert not (tmp_path / "cube.zarr" / name).exists()
    # all else was copied; when the centre has mended it, it comes
    remote.flipped = {}
    again = call_cli("pull", url, tmp_path, "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["bytes"] == (tmp_path / "cube.zarr" / name).stat().st_size


def test_a_damaged_copy_is_mended(remote: StaticServer, two_zones: Path, tmp_path: Path) -> None:
    pulled = pull(Address(url=f"{remote.url}/cube.zarr"), tmp_path, silent)
    name = f"{LAYER}/utm32/embedding/c.0.2.2.0"
    data = bytearray((pulled.cube / name).read_bytes())
    data[7] ^= 4
    (pulled.cube / name).write_bytes(data)
    again = pull(Address(url=f"{remote.url}/cube.zarr"), tmp_path, silent)
    assert again.bytes == len(data)
    assert files(again.cube) == files(two_zones)


def test_a_missing_object_is_named(two_zones: Path, tmp_path: Path) -> None:
    shutil.copytree(two_zones, tmp_path / "there" / "cube.zarr")
    name = f"{LAYER}/utm32/n_obs/c.0.2.2"
    (tmp_path / "there" / "cube.zarr" / name).unlink()
    with static(tmp_path / "there") as server:
        pulled = pull(Address(url=f"{server.url}/cube.zarr"), tmp_path / "here", silent)
    (damaged,) = pulled.damaged
    assert damaged.startswith(f"{name}: no such file")


def test_killed_and_started_again(remote: StaticServer, two_zones: Path, tmp_path: Path) -> None:
    remote.delay_s = 0.03
    command = [sys.executable, "-m", "embedcube", "pull", f"{remote.url}/cube.zarr", str(tmp_path), "--json"]
    process = subprocess.Popen(command, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    objects = tmp_path / "cube.zarr" / LAYER / "utm32" / "embedding"
    end = time.monotonic() + 60
    while not (objects.is_dir() and len(list(objects.glob("c.*"))) > 10) and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    remote.delay_s = 0.0
    left = {name: data for name, data in files(tmp_path / "cube.zarr").items() if ".tmp-" not in name}
    whole = files(two_zones)
    assert left.items() <= whole.items()
    assert 10 < len(left) < len(whole)
    asked = dict(remote.asked)
    pulled = pull(Address(url=f"{remote.url}/cube.zarr"), tmp_path, silent)
    assert pulled.kept > 10
    assert {name: data for name, data in files(pulled.cube).items() if ".tmp-" not in name} == whole
    # what was there was not read again
    assert all(remote.asked[name] == asked[name] for name in left if not name.startswith("provenance/files/"))


def test_from_a_server_of_cubes_with_a_token(two_zones: Path, tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("sesame-sesame-sesame")
    token_file.chmod(0o600)
    with running(create_app([two_zones], token="sesame-sesame-sesame")) as address:
        for number, url in enumerate((address, f"{address}/v1/cubes/two_zones", f"{address}/v1/cubes/two_zones/")):
            given = Address(url=url, token_file=token_file)
            pulled = pull(given, tmp_path / str(number), silent, box=BOX, time="2023-06", layers=[LAYER])
            assert files(pulled.cube).items() <= files(two_zones).items()
        with pytest.raises(WorkError, match="401"):
            pull(Address(url=address), tmp_path / "none", silent)
        with pytest.raises(RequestError, match="no cube has this name"):
            pull(Address(url=f"{address}/v1/cubes/other", token_file=token_file), tmp_path / "none", silent)


def test_what_is_no_cube_is_refused(remote: StaticServer, two_zones: Path, tmp_path: Path) -> None:
    url = f"{remote.url}/cube.zarr"
    for wrong, message in (
        (f"{remote.url}/nothing.zarr", "no cube with provenance"),
        (str(tmp_path / "nothing.zarr"), "no such folder"),
        ("ftp://example.org/cube.zarr", "not the URL of a store"),
    ):
        with pytest.raises(RequestError, match=message):
            pull(Address(url=wrong), tmp_path / "a", silent)
    for arguments, message in (
        (("--layer", "other"), f"it has {LAYER}"),
        (("--time", "1999"), "no window holds 1999"),
        (("--bbox", "1,1,2,2"), "no object lies"),
        (("--bbox", "1,1,2"), "no box"),
        (("--bbox", "1,nan,2,3"), "no box"),
    ):
        refused = call_cli("pull", url, tmp_path / "b", *arguments)
        assert refused.returncode == 2
        assert message in refused.stderr
    # two versions of one name are not mixed
    pull(Address(url=url), tmp_path / "c", silent, time="2023-06")
    other = tmp_path / "other"
    shutil.copytree(two_zones, other / "cube.zarr")
    path = other / "cube.zarr" / "provenance" / "files" / "zarr.json"
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(RequestError, match="another cube or version"):
        pull(Address(url=str(other / "cube.zarr")), tmp_path / "c", silent)


def test_a_server_that_is_down_is_named_within_seconds(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(WorkError, match=r"127\.0\.0\.1:9/cube\.zarr"):
        pull(Address(url="http://127.0.0.1:9/cube.zarr"), tmp_path, silent)
    with pytest.raises(WorkError, match=r"127\.0\.0\.1:9"):
        pull(Address(url="http://127.0.0.1:9/v1/cubes/x"), tmp_path, silent)
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "a//b", "./a", "a/.", "..", "a\nb", ""])
def test_names_that_lead_out_of_the_copy_are_refused(two_zones: Path, tmp_path: Path, name: str) -> None:
    import zarr

    shutil.copytree(two_zones, tmp_path / "cube.zarr")
    digests = json.dumps({name: "0" * 64}).encode()
    group = zarr.open_group(tmp_path / "cube.zarr" / "provenance", mode="a", zarr_format=3)
    del group["files"]
    group.create_array("files", data=np.frombuffer(digests, np.uint8))
    with pytest.raises(WorkError, match="damaged"):
        pull(Address(url=str(tmp_path / "cube.zarr")), tmp_path / "copy", silent)
    assert not (tmp_path / "copy").exists()


def outline(cube: Cube, zone: str, row: int, column: int) -> Any:
    """A shard of 16 x 16 cells in degrees, with many points along each side."""
    attributes = cube.group(zone).attrs
    a, _, left, _, e, top = attributes["spatial:transform"]
    x, y = left + column * 16 * a, top + row * 16 * e
    square = shapely.segmentize(shapely.box(x, y + 16 * e, x + 16 * a, y), 50)
    degrees = to_degrees(attributes["proj:wkt2"])
    return shapely.transform(square, lambda xy: np.stack(degrees.transform(*xy.T), axis=1))


def test_shards_that_touch_a_box(two_zones: Path) -> None:
    cube = Cube(two_zones)
    places = np.stack(np.meshgrid(np.arange(5), np.arange(5), indexing="ij"), -1).reshape(-1, 2)
    boxes = (BOX, (11.99, 50.0, 12.01, 50.01), (12.05, 49.9, 12.2, 49.98), (-180.0, -90.0, 180.0, 90.0))
    for zone, box in product(cube.zones, boxes):
        touched = touching(cube, zone, places, box)
        distances = np.array([outline(cube, zone, *place).distance(shapely.box(*box)) for place in places.tolist()])
        assert touched[distances == 0].all()
        assert not touched[distances > 1e-3].any()
        assert touched.sum() >= (distances == 0).sum() > 0 or box[0] == 12.05
    assert not touching(cube, cube.zones[0], places, (20, 40, 21, 41)).any()
    # across the antimeridian
    assert touching(cube, cube.zones[0], places, (11.0, -90, -170.0, 90)).all()
    assert not touching(cube, cube.zones[0], places, (170.0, -90, -170.0, 90)).any()
    assert parse_box("170,-1,-170,1") == (170, -1, -170, 1)


def test_a_part_says_that_it_is_one_and_what_is_there_is_verified(finished_demo: Campaign, tmp_path: Path) -> None:
    cube = finished_demo.run.newest_cube.resolve()
    # a block of shards in the west of the demo, and one in its east
    to_degrees = Transformer.from_crs("EPSG:32632", "EPSG:4326", always_xy=True)
    west, east = (to_degrees.transform_bounds(x, 5_633_000, x + 1000, 5_634_000) for x in (396_000, 402_000))
    with static(cube.parent) as server:
        address = Address(url=f"{server.url}/{cube.name}")
        copy = pull(address, tmp_path, silent, time="2023-06", box=west).cube
        part = Cube(copy).part
        assert part is not None
        assert (len(part.objects), part.of) == (4, 8)
        said = call_cli("verify", copy, "--json")
        assert said.returncode == 0, said.stderr
        answer = json.loads(said.stdout)
        words = f"{len(part.objects)} of {part.of} objects, pulled for --time 2023-06 --bbox {','.join(map(str, west))}"
        assert words in answer["remarks"][0]
        assert not answer["findings"]
        # an object that was not asked for may be absent; one that was may not, and none may be damaged
        name = min(name for name in part.objects if "/status/" in name)
        whole = (copy / name).read_bytes()
        (copy / name).unlink()
        missing = call_cli("verify", copy, "--json")
        assert missing.returncode == 1
        assert name in json.loads(missing.stdout)["findings"][0]
        (copy / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert call_cli("verify", copy).returncode == 1
        data = bytearray((copy / PULLED).read_bytes())
        data[data.index(b"status")] ^= 1
        (copy / PULLED).write_bytes(data)
        with pytest.raises(RequestError, match="damaged; remove it, and run the same `embedcube pull` again"):
            _ = Cube(copy).part
        (copy / PULLED).unlink()
        # asked for in parts, it is whole in the end
        pull(address, tmp_path, silent, time="2023-06", box=west)
        assert pull(address, tmp_path, silent, time="2023-07", box=east).cube == copy
        assert not (copy / PULLED).exists()
    assert files(copy) == files(cube)
