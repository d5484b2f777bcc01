"""A disk that is full while a verb writes: it ends with 1 and names the file, nothing half is left, and it can go on.

And what the verbs open besides files: nothing. `serve` and `view`, which listen, are in test_serve.py.

A limit on the size of files (RLIMIT_FSIZE) stands for a full disk or a quota: the kernel refuses what lies beyond, to
Python and to any library. It ends no process, as Python ignores SIGXFSZ.
"""

import os
import re
import resource
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import xarray
from pyproj import CRS
from tests.conftest import SOUND_PLACE, Campaign, call_cli, cube_bytes, demo_in
from tests.cube.two_zones import vectors_at, write_two_zones
from tests.edge.sockets import listening
from tests.uses.test_decode_labels import places, write_csv

from embedcube.errors import WorkError
from embedcube.grid import to_degrees
from embedcube.uses.decode import commands
from embedcube.uses.decode.fit import Settings
from embedcube.uses.decode.request import Request
from embedcube.uses.maps import write_maps

JUNE, EAST = "2023-06", "12.05,49.97,12.08,49.99"


class Inputs:
    """What the verbs take, made when it is asked for; nothing of it is changed."""

    def __init__(self, cube: Path, folder: Path) -> None:
        self.cube, self._folder = cube, folder

    @property
    def labels(self) -> Path:
        """A table of labels."""
        path = self._folder / "labels.csv"
        if not path.exists():
            lon, lat = places(300)
            first = vectors_at(lon, lat, 0)[:, 0]
            write_csv(path, {"lon": lon, "lat": lat, "kind": np.where(first > 0, "high", "low"), "value": first})
        return path

    def decoder(self, task: Literal["classification", "regression"]) -> Path:
        """A decoder of two classes, or of a number."""
        path = self._folder / f"{task}.safetensors"
        if not path.exists():
            of_classes = task == "classification"
            request = Request(task=task, column="kind" if of_classes else "value", time=JUNE)
            commands.fit(self.cube, [self.labels], path, request, Settings(kind="logistic" if of_classes else "ridge"))
        return path

    @property
    def other(self) -> Path:
        """The cube without a scene of the second window."""
        path = self._folder / "other.zarr"
        if not path.exists():
            write_two_zones(path, without=(4,))
        return path

    def bundle(self, *more: str) -> Path:
        """A part of the cube, or what `more` asks for, as a bundle."""
        path = self._folder / f"{''.join(more)}bundle.zip"
        if not path.exists():
            done = call_cli("export", self.cube, path, "--time", JUNE, *more)
            assert done.returncode == 0, done.stderr
        return path


@pytest.fixture(scope="module")
def inputs(two_zones: Path, tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return Inputs(two_zones, tmp_path_factory.mktemp("inputs"))


Command = Callable[[Inputs, Path], list[str | Path]]

COMMANDS: dict[str, Command] = {
    "bundle": lambda have, out: ["export", have.cube, out / "a.zip", "--time", JUNE],
    "smaller vectors": lambda have, out: ["export", have.cube, out / "a.zip", "--time", JUNE, "--bits", "4"],
    "GeoParquet": lambda have, out: ["export", have.cube, out / "a.parquet", "--as", "geoparquet", "--bbox", EAST],
    "Major TOM": lambda have, out: ["export", have.cube, out / "a.parquet", "--as", "major-tom", "--bbox", EAST],
    "CSV": lambda have, out: ["export", have.cube, out / "a.csv", "--as", "neuco-csv", "--bbox", EAST, "--time", JUNE],
    "tiles of GeoTIFF": lambda have, out: [
        "export", have.cube, out / "a", "--as", "terratorch-tiff", "--tile", "8", "--bbox", EAST, "--time", JUNE
    ],
    "tiles of Parquet": lambda have, out: [
        "export", have.cube, out / "a", "--as", "terratorch-parquet", "--tile", "8", "--bbox", EAST, "--time", JUNE
    ],
    "tensors": lambda have, out: ["export", have.cube, out / "a", "--as", "pt", "--bbox", EAST, "--time", JUNE],
    "import of a part": lambda have, out: ["import", have.bundle(), out],
    "import of smaller vectors": lambda have, out: ["import", have.bundle("--bits", "4"), out],
    "decoder": lambda have, out: [
        "decode", "fit", have.cube, have.labels, "--column", "kind", "--time", JUNE, "--to",
        out / "a.safetensors",
    ],
    "decoded classes": lambda have, out: [
        "decode", "apply", have.cube, have.decoder("classification"), out / "a.tif", "--time", JUNE
    ],
    "decoded numbers": lambda have, out: [
        "decode", "apply", have.cube, have.decoder("regression"), out / "a.tif", "--time", JUNE
    ],
    "decoded layer": lambda have, out: [
        "decode", "apply", have.cube, have.decoder("classification"), out / "a.zarr", "--time", JUNE
    ],
    "pictures": lambda have, out: ["preview", have.cube, "--out", out / "report"],
    "index": lambda have, out: ["index-vectors", copied(have.cube, out / "cubes" / "cube.zarr")],
    "pull": lambda have, out: ["pull", have.cube, out, "--time", JUNE],
    "table of samples": lambda have, out: ["sample", have.cube, have.labels, "--out", out / "a.parquet"],
    "differences as GeoJSON": lambda have, out: ["diff", have.cube, have.other, "-o", out / "a.geojson"],
    "differences as Parquet": lambda have, out: ["diff", have.cube, have.other, "-o", out / "a.parquet"],
    "map of differences": lambda have, out: ["diff", have.cube, have.other, "-o", out / "a.png"],
    "hits": lambda have, out: ["find", have.cube, "--like", "12.01,50.01", "--out", out / "a.geojson"],
}  # fmt: skip


def copied(cube: Path, to: Path) -> Path:
    """A cube of its own, linked: what is made of it lies beside it."""
    if not to.exists():
        shutil.copytree(cube, to, copy_function=os.link)
    return to


@contextmanager
def no_room_beyond(size: int) -> Iterator[None]:
    """No file of this process may grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.MonkeyPatch.context() as patch:
        # Python would keep a module that it imports meanwhile as half a file of bytecode, for all later processes
        patch.setattr(sys, "dont_write_bytecode", True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def sockets_watched() -> Iterator[list[tuple[str, object]]]:
    """Addresses that this process is bound to, or connects to, meanwhile."""
    seen: list[tuple[str, object]] = []

    class Watched(socket.socket):
        def bind(self, address: Any) -> None:
            seen.append(("bound", address))
            super().bind(address)

        def connect(self, address: Any) -> None:
            # Dask asks the kernel in this way which address this machine has: a datagram socket sends nothing
            if self.type != socket.SOCK_DGRAM:
                seen.append(("connected", address))
            super().connect(address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "socket", Watched)
        yield seen


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


QUICK = ("tiles of GeoTIFF", "decoder")
"""of all others only `make test-all` has the time"""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in COMMANDS]
)
def test_a_verb_that_has_no_room_names_the_file_and_leaves_nothing_half(
    name: str, inputs: Inputs, tmp_path: Path
) -> None:
    """Where the largest file lacks its last byte, and where no file has room. Then there is room again."""
    whole, full = tmp_path / "whole", tmp_path / "full"
    for folder in (whole, full):
        folder.mkdir()
    with sockets_watched() as sockets:
        done = call_cli(*COMMANDS[name](inputs, whole))
    assert done.returncode == 0, done.stderr
    assert sockets == []
    command = COMMANDS[name](inputs, full)
    before, wanted = files_in(full), files_in(whole)
    for size in (max(len(data) for file, data in wanted.items() if file not in before) - 1, 40):
        with no_room_beyond(size):
            done = call_cli(*command)
        assert done.returncode == 1, done.stdout
        named = rf"(\[Errno 27\] .*: '{full}/\S+'|{full}/\S+: it could not be written whole: )"
        assert re.match(f"embedcube: {named}", done.stderr), done.stderr
        assert "is a bug" not in done.stderr
        left = files_in(full).keys() - before.keys()
        assert {file for file in left if not file.endswith(".partial")} <= wanted.keys(), "nothing temporary"
        sizes = {file: len(data) for file, data in files_in(full).items() if file in wanted}
        assert sizes == {file: len(wanted[file]) for file in sizes}, "and nothing half"
    done = call_cli(*command)
    assert done.returncode == 0, done.stderr
    again = files_in(full)
    assert {file: len(data) for file, data in again.items()} == {file: len(data) for file, data in wanted.items()}


@pytest.mark.parametrize("suffix", [".tif", ".zarr", ".nc"])
def test_a_map_that_has_no_room_is_named_and_not_there(suffix: str, tmp_path: Path) -> None:
    cells = np.random.default_rng(0).random((1, 200, 200), np.float32)
    maps = xarray.Dataset(
        {"score": (("time", "y", "x"), cells)},
        {"time": [np.datetime64("2023-06-01", "ns")], "y": np.arange(200.0, 0, -1), "x": np.arange(200.0)},
    ).assign_coords(spatial_ref=xarray.DataArray(0, attrs={"crs_wkt": CRS.from_epsg(32632).to_wkt()}))
    path = tmp_path / f"a{suffix}"
    with no_room_beyond(20_000), pytest.raises((OSError, WorkError), match=re.escape(str(path))):
        write_maps(maps, path)
    assert list(tmp_path.iterdir()) == []
    assert write_maps(maps, path) == [path]


@pytest.mark.slow
def test_a_merge_that_has_no_room_shows_no_cube_and_goes_on(
    finished_demo: Campaign, demo_archive: Path, tmp_path: Path
) -> None:
    """Whatever has no room first: the inventory, the plan, an object, or what is written behind the objects."""
    whole = demo_in(tmp_path, demo_archive)
    command: list[str | Path] = ["merge", finished_demo.run.root, "--campaign", whole.file]
    sizes = sorted(path.stat().st_size for path in finished_demo.run.newest_cube.resolve().rglob("c.*"))
    for size in (40, finished_demo.run.plan.stat().st_size - 1, sizes[0], sizes[-1] - 1):
        with no_room_beyond(size):
            done = call_cli(*command)
        assert done.returncode == 1, done.stdout
        assert re.match(rf"embedcube: .*{whole.run.root}/\S+", done.stderr), done.stderr
        assert "is a bug" not in done.stderr
        assert not os.path.lexists(whole.run.newest_cube)
        assert not list(whole.run.cubes.glob("[!.]*"))
    done = call_cli(*command)
    assert done.returncode == 0, done.stderr
    assert cube_bytes(whole.run.newest_cube) == cube_bytes(finished_demo.run.newest_cube)


@pytest.mark.slow
def test_a_report_that_has_no_room_is_named_and_not_there(
    finished_demo: Campaign, demo_archive: Path, tmp_path: Path
) -> None:
    own = demo_in(tmp_path, demo_archive)
    shutil.copytree(finished_demo.run.root, own.run.root, symlinks=True)
    shutil.rmtree(own.run.report)
    assert call_cli("report", own.file).returncode == 0
    wanted = files_in(own.run.report)
    for size in (40, max(map(len, wanted.values())) - 1):
        shutil.rmtree(own.run.report)
        with no_room_beyond(size):
            done = call_cli("report", own.file)
        assert done.returncode == 1, done.stdout
        assert re.match(rf"embedcube: .*{own.run.report}/\S+", done.stderr), done.stderr
        assert all(wanted[name] == data for name, data in files_in(own.run.report).items())
    assert call_cli("report", own.file).returncode == 0


@pytest.mark.slow
def test_verbs_that_share_their_work_among_workers_listen_nowhere(
    finished_demo: Campaign, demo_archive: Path, tmp_path: Path
) -> None:
    """The cube of a run folder: its `how.dask` makes the workers, which are threads where nothing else is asked for."""
    own = demo_in(tmp_path, demo_archive)
    shutil.copytree(finished_demo.run.root, own.run.root, symlinks=True)
    cube = own.run.newest_cube
    west, south = (edge + 800 for edge in SOUND_PLACE["bbox"][:2])
    rows, columns = np.indices((6, 10)).reshape(2, -1) * 160.0
    lon, lat = to_degrees(SOUND_PLACE["crs"]).transform(west + columns, south + rows)
    labels, decoder = tmp_path / "labels.csv", tmp_path / "a.safetensors"
    write_csv(labels, {"lon": lon, "lat": lat, "value": np.arange(60.0)})
    words: list[list[str | Path]] = [
        ["decode", "fit", cube, labels, "--column", "value", "--head", "ridge", "--to", decoder],
        ["index-vectors", cube],
        ["decode", "apply", cube, decoder, tmp_path / "a.tif"],
        ["report", own.file],
    ]
    for command in words:
        with sockets_watched() as sockets:
            done = call_cli(*command)
        assert done.returncode == 0, done.stderr
        assert sockets == [], command[0]
        assert listening(os.getpid()) == []


def test_a_socket_would_be_seen() -> None:
    with sockets_watched() as sockets, socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
    assert [kind for kind, _ in sockets] == ["bound", "connected"]
