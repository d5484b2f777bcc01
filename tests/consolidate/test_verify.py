"""verify finds nothing wrong with a good cube, and names what is wrong with a tampered one."""

import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pyarrow
import pytest
import zarr
from numpy.typing import NDArray
from pyproj import CRS
from tests.conftest import Campaign, call_cli, change_plan, change_rows
from tests.consolidate.rewriting import (
    ARRAYS,
    Place,
    members_of,
    records_of,
    restate,
    rewrite,
    write_members,
    write_records,
)

from embedcube.campaign.run_folder import RunDir, point_symlink
from embedcube.campaign.seals import to_line
from embedcube.cli.verbs import app
from embedcube.consolidate.seal import seal_of
from embedcube.cube import reader
from embedcube.cube.members import ABSENT
from embedcube.cube.objects import Objects
from embedcube.errors import EmbedcubeError

LAYER = "s2_mosaiks"
ZONE = f"{LAYER}/grid"

PLACE = {"bbox": [399_460, 5_629_540, 403_100, 5_637_020], "crs": "EPSG:32632"}
"""Two of the demo's fifteen shards: the overlap of the tiles, and the torn band."""


@pytest.fixture(scope="module")
def little(finished_demo: Campaign, demo_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """A finished campaign of two shards in two windows, made of the demo's parts; nothing changes it."""
    campaign = Campaign(tmp_path_factory.mktemp("little") / "campaign.yaml")
    shutil.copy(finished_demo.file, campaign.file)

    def narrow(document: dict[str, Any]) -> None:
        document["archives"]["s2"]["path"] = str(demo_archive / "archive" / "sentinel2")
        document["region"] = PLACE
        document["how"] = {"ranks": 1, "threads": 1}

    campaign.change(narrow)
    shutil.copytree(finished_demo.run.root, campaign.run.root, ignore=shutil.ignore_patterns("cubes", "cube.zarr"))
    attempts = sorted(campaign.run.parts.glob("*/*"))
    campaign.cli("run")
    assert sorted(campaign.run.parts.glob("*/*")) == attempts, "the shards were there already"
    return campaign


@dataclass(frozen=True)
class Cube:
    """A campaign to tamper with, and its cube."""

    campaign: Campaign

    @property
    def run(self) -> RunDir:
        """The run folder."""
        return self.campaign.run

    @property
    def path(self) -> Path:
        """The cube itself, not the symlink."""
        return self.run.newest_cube.resolve()

    def array(self, name: str) -> Any:
        """One of the cube's arrays, to write to."""
        return zarr.open_array(self.path / name, mode="r+")

    def json(self, name: str, change: Callable[[dict[str, Any]], object]) -> None:
        """Edit a zarr.json."""
        file = self.path / name / "zarr.json"
        document = json.loads(file.read_text())
        change(document)
        file.write_text(json.dumps(document))

    def records(self, change: Callable[[dict[str, Any]], object]) -> None:
        """Edit the records in provenance/."""
        records = records_of(self.path)
        for record in records:
            change(record)
        write_records(self.path, records)

    def restate(self) -> None:
        """Let the records say what the objects hold now, so that only what they hold can be wrong."""
        rewrite(self.path, ZONE)
        restate(self.path, ZONE)
        self.seal()

    def move(self, array: str, change: Callable[[dict[Place, bytes]], object]) -> None:
        """Write the objects of an array with other bytes of shards, by their places."""
        members = members_of(self.path, ZONE, array)
        change(members)
        write_members(self.path, ZONE, array, members)

    def seal(self) -> None:
        """Let the cube's own list of its other files say what they are now."""
        cube = self.path
        group = zarr.open_group(cube / "provenance", mode="r+")
        objects = tuple(f"{ZONE}/{name}/c." for name in ARRAYS)
        names = sorted(str(path.relative_to(cube)) for path in cube.rglob("*") if path.is_file())
        sealed = {
            name: hashlib.sha256((cube / name).read_bytes()).hexdigest()
            for name in names
            if not name.startswith((*objects, "provenance/files/"))
        }
        group.create_array("files", data=np.frombuffer(json.dumps(sealed).encode(), dtype=np.uint8), overwrite=True)

    def objects(self, array: str) -> Objects:
        """The objects of an array."""
        return reader.Cube(self.path).objects(ZONE, array)

    def where(self, wanted: Callable[[NDArray[Any]], NDArray[Any]]) -> tuple[int, int, int]:
        """The first cell with a wanted status."""
        t, y, x = np.argwhere(wanted(self.array(f"{ZONE}/status")[...]))[0].tolist()
        return t, y, x

    @property
    def valid(self) -> tuple[int, int, int]:
        """A cell with a vector."""
        return self.where(lambda status: status == 1)

    @property
    def empty(self) -> tuple[int, int, int]:
        """A cell without one."""
        return self.where(lambda status: (status == 2) | (status == 3))


@pytest.fixture
def cube(little: Campaign, tmp_path: Path) -> Cube:
    """A copy of `little`: real files that may be written."""
    campaign = Campaign(tmp_path / "campaign.yaml")
    shutil.copy(little.file, campaign.file)
    shutil.copytree(little.run.root, campaign.run.root, symlinks=True)
    for path in campaign.run.root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert path.stat().st_nlink == 1, "a change would reach the campaign that this is a copy of"
            path.chmod(0o644)
    return Cube(campaign)


def verify(path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, list[str]]:
    """Exit code and findings of `embedcube verify --json`, in this process."""
    capsys.readouterr()
    code = 0
    try:
        app(["verify", str(path), "--json", *options], standalone_mode=False)
    except EmbedcubeError as error:
        code = error.exit_code
    answer = json.loads(capsys.readouterr().out)
    assert list(answer)[:3] == ["findings", "remarks", "seal"]
    return code, answer["findings"]


def flip(path: Path, at: int | None = None) -> None:
    """Turn one byte of a file over."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 0xFF
    path.write_bytes(data)


# --- a good cube ----------------------------------------------------------------------------------


def test_nothing_is_wrong_with_a_good_cube(finished_demo: Campaign, tmp_path: Path) -> None:
    # a copy elsewhere, under another name, without its run
    alone = tmp_path / "a cube.zarr"
    shutil.copytree(finished_demo.run.newest_cube.resolve(), alone)
    done = call_cli("verify", alone)
    assert (done.returncode, done.stderr) == (0, "")
    *said, seal = lines(done.stdout)
    assert said == ["verify 30 of 30 shards in N s", "nothing found wrong"]
    assert re.fullmatch("seal [0-9a-f]{64}", seal)


def lines(text: str) -> list[str]:
    """Lines with one blank between words, and N for a number of seconds."""
    return [re.sub(r"\d+\.\d s$", "N s", " ".join(line.split())) for line in text.splitlines()]


def test_nothing_is_wrong_with_a_good_run(little: Campaign, cube: Cube, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(cube.campaign.file, capsys, "--recompute", "4") == (0, [])
    report = json.loads((cube.run.report / "verify.json").read_text())
    assert report.pop("recomputed")["shards"] == 4
    assert report.pop("seal") == seal_of(cube.path)
    assert report == {"cube": cube.path.name, "findings": [], "remarks": [], "least_cosine": {}}
    # a copied tree is as good as a linked one, and verifying changes nothing
    for path in cube.path.rglob("*"):
        if path.is_file():
            twin = little.run.newest_cube.resolve() / path.relative_to(cube.path)
            assert path.read_bytes() == twin.read_bytes()


# --- tampered cubes -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Breach:
    """Something done to a cube, and the beginnings of the findings that must name it."""

    name: str
    do: Callable[[Cube], object]
    findings: tuple[str, ...] = ()


def put(name: str, place: str, value: Any) -> Callable[[Cube], None]:
    """Write one cell of an array with zarr, at the first valid or empty cell."""

    def do(cube: Cube) -> None:
        cube.array(f"{ZONE}/{name}")[getattr(cube, place)] = value

    return do


def restated(do: Callable[[Cube], object]) -> Callable[[Cube], None]:
    """The same, and then the records are made to agree with the bytes."""

    def both(cube: Cube) -> None:
        do(cube)
        cube.restate()

    return both


def add(name: str, value: Any) -> Callable[[Cube], None]:
    """Add to all values of an array."""

    def do(cube: Cube) -> None:
        array = cube.array(name)
        array[...] = array[...] + value

    return do


def attribute(node: str, name: str, value: Any) -> Callable[[Cube], None]:
    """Change one attribute."""
    return lambda cube: cube.json(node, lambda document: document["attributes"].update({name: value}))


def spoilt_vector(cube: Cube) -> None:
    """Another vector that is as good as the true one by all rules."""
    t, y, x = cube.valid
    embedding = cube.array(f"{ZONE}/embedding")
    embedding[t, y, x] = embedding[t, y, x][::-1]


def unordered(cube: Cube) -> None:
    """The windows in another order."""
    bounds = cube.array(f"{ZONE}/time_bnds")
    bounds[...] = bounds[...][::-1]


def no_incomplete(cube: Cube) -> None:
    """No scene was ever unreadable."""
    cube.array("provenance/link_quarantined")[...] = 0


def exchanged(cube: Cube) -> None:
    """The counts of two shards in each other's place."""
    one, other, *_ = members_of(cube.path, ZONE, "n_obs")
    swap(cube, "n_obs", one, other)


def swap(cube: Cube, array: str, one: Place, other: Place) -> None:
    """One array of two shards in each other's place."""

    def change(members: dict[Place, bytes]) -> None:
        assert members[one] != members[other]
        members[one], members[other] = members[other], members[one]

    cube.move(array, change)


def object_elsewhere(cube: Cube) -> None:
    """An object under the name of its neighbour."""
    (cube.path / OBJECT).rename(cube.path / OTHER_OBJECT)


def of_nobody(cube: Cube) -> None:
    """The object of an array has one shard more, where none was planned."""

    def change(members: dict[Place, bytes]) -> None:
        t, iy, ix = next(iter(members))
        members[t + 3, iy, ix] = members[t, iy, ix]

    cube.move("status", change)


def between_shards(cube: Cube) -> None:
    """A byte in an object that belongs to no shard: every offset is one further."""
    path = cube.path / OBJECT
    data, size = path.read_bytes(), cube.objects("embedding").layout.index_bytes
    index = np.frombuffer(data[-size:-4], "<u8").copy()
    index[::2][index[::2] != ABSENT] += np.uint64(1)
    path.write_bytes(b"x" + data[:-size] + index.tobytes() + google_crc32c.value(index.tobytes()).to_bytes(4, "little"))


def touch(cube: Cube, name: str) -> None:
    """A file that no record speaks of."""
    (cube.path / ZONE / name).write_bytes(b"x")


def moved(cube: Cube) -> None:
    """The zone claims to lie elsewhere."""
    attribute(ZONE, "spatial:transform", [160.0, 0.0, 0.0, 0.0, -160.0, 0.0])(cube)


def put_row(name: str, at: Any, value: Any) -> Callable[[Cube], None]:
    """Write a part of an array."""
    return lambda cube: cube.array(name).__setitem__(at, value)


def elsewhere(cube: Cube) -> None:
    """The first shard claims to lie where the second one does."""
    rows = cube.array("provenance/shard_iy")
    assert rows[0] != rows[1]
    rows[0] = rows[1]


def digest_at_root(cube: Cube) -> None:
    """The cube claims to answer another question."""
    cube.json("", lambda document: document["attributes"]["embedcube:what"]["grid"].update(pixel=20.0))


def consolidated(change: Callable[[dict[str, Any]], object]) -> Callable[[Cube], None]:
    """Edit what `xarray.open_datatree` reads, and not the nodes themselves."""
    return lambda cube: cube.json("", lambda document: change(document["consolidated_metadata"]["metadata"]))


def scene_text(cube: Cube) -> None:
    """Scenes with another name, of the same length."""
    array = cube.array("provenance/scene")
    text = array[...].tobytes()
    assert b"S2B_32U" in text
    array[...] = np.frombuffer(text.replace(b"S2B_32U", b"S2B_99X"), dtype=np.uint8)


def both_times(cube: Cube) -> None:
    """Another month."""
    for name in ("time", "time_bnds"):
        add(f"{ZONE}/{name}", 86400)(cube)


def stray_array(cube: Cube) -> None:
    """An array that nobody asked for."""
    shutil.copytree(cube.path / ZONE / "x", cube.path / ZONE / "z")


def stray_layer(cube: Cube) -> None:
    """A layer that nobody asked for."""
    zarr.open_group(cube.path, mode="r+").create_group("copy").create_group("grid")


def other_acquisitions(cube: Cube) -> None:
    """A shard is said to be made of two acquisitions in each other's place: every count stays as it is."""
    scenes = cube.array("provenance/scene_first")[...].tolist()
    text = cube.array("provenance/scene")[...].tobytes()
    acquisition = [json.loads(text[start:end])["acquisition"] for start, end in pairwise(scenes)]
    links = cube.array("provenance/link_scene")
    for start, end in pairwise(cube.array("provenance/link_first")[...].tolist()):
        rows = links[start:end].tolist()
        by_name: dict[str, list[int]] = {}
        for row in rows:
            by_name.setdefault(acquisition[row], []).append(row)
        pairs = [mine for mine in by_name.values() if len(mine) == 2]
        if len(pairs) > 1:
            swap = dict(zip(pairs[0] + pairs[1], pairs[1] + pairs[0], strict=True))
            links[start:end] = np.array([swap.get(row, row) for row in rows], dtype=np.int32)
            return
    raise AssertionError("no shard sees two acquisitions in both tiles")


def sealed(do: Callable[[Cube], object]) -> Callable[[Cube], None]:
    """The same, and then the cube's list of its files is made to agree."""

    def both(cube: Cube) -> None:
        do(cube)
        cube.seal()

    return both


def own(*names: str) -> tuple[str, ...]:
    """The beginnings of findings in files that no record covers."""
    return tuple(f"files: {name}" for name in names)


def node(name: str) -> tuple[str, ...]:
    """The beginning of a finding in a node's metadata."""
    return own(f"{name}/zarr.json: ")


def one_cell(check: str) -> str:
    """The beginning of a finding of the rules between arrays."""
    return f"{check}: {ZONE} window "


OBJECT = f"{ZONE}/embedding/c.0.0.0.0"
OTHER_OBJECT = OBJECT.replace("c.0.0.0", "c.0.0.1")
GONE = f"bytes: {OBJECT}: nothing of it, the first of 4 such shards, "
OTHER_BYTE = np.uint8(255)

BREACHES = [
    Breach("a byte of an object", lambda c: flip(c.path / OBJECT), (f"bytes: {OBJECT}: ",)),
    Breach("an object emptied", lambda c: (c.path / OBJECT).write_bytes(b""), (f"bytes: {OBJECT}: ",)),
    Breach("an object gone", lambda c: (c.path / OBJECT).unlink(), (GONE,)),
    Breach("an object elsewhere", object_elsewhere, (GONE, *own(OTHER_OBJECT))),
    Breach("shards exchanged", exchanged, (f"bytes: {ZONE}/n_obs/c.0.0.0: ",)),
    Breach("a shard of nobody", of_nobody, (f"bytes: {ZONE}/status/c.0.0.0: 5 shards, ",)),
    Breach("a byte between shards", between_shards, (f"bytes: {OBJECT}: ",)),
    Breach("a stranger", lambda c: touch(c, "status/c.0.9.9"), (f"files: {ZONE}/status/c.0.9.9: ",)),
    Breach("a torn write left behind", lambda c: touch(c, "status/.tmp-x"), (f"files: {ZONE}/status/.tmp-x: ",)),
    Breach("a status", put("status", "valid", 3), (f"bytes: {ZONE}/status/",)),
    Breach("a count", put("n_obs", "valid", 9), (f"bytes: {ZONE}/n_obs/",)),
    Breach("a scale", put("scale", "valid", np.nan), (f"bytes: {ZONE}/scale/",)),
    Breach("a scale where none is", put("scale", "empty", 1.0), (f"bytes: {ZONE}/scale/",)),
    Breach("x moved", add(f"{ZONE}/x", 10), (f"coordinates: {ZONE}/x: ",)),
    Breach("y gone", lambda c: (c.path / ZONE / "y/c/0").unlink(), (f"coordinates: {ZONE}/y: ",)),
    Breach("time moved", add(f"{ZONE}/time", 86400), (f"windows: {ZONE}/time: ",)),
    Breach("windows out of order", unordered, (f"windows: {ZONE}/time_bnds: out of order", f"windows: {ZONE}/time: ")),
    Breach("the transform", moved, (f"coordinates: {ZONE}/y: ", f"coordinates: {ZONE}/x: ")),
    Breach("a verdict forgotten", no_incomplete, (one_cell("status"), one_cell("status"))),
    Breach("a shard elsewhere", elsewhere, tuple(f"bytes: {ZONE}/{name}/c.0.0.0" for name in ARRAYS)),
    Breach("who fed what", put_row("provenance/contributions", slice(0, 72), 0), (one_cell("provenance"),)),
    # metadata, coordinates and provenance have no record: the cube lists them itself
    Breach("a window longer", add(f"{ZONE}/time_bnds", np.array([0, 3600])), own(f"{ZONE}/time_bnds/c/0/0")),
    Breach("windows moved together", both_times, own(f"{ZONE}/time/c/0", f"{ZONE}/time_bnds/c/0/0")),
    Breach("features renumbered", add(f"{ZONE}/feature", 1), own(f"{ZONE}/feature/c/0")),
    Breach("units of time", attribute(f"{ZONE}/time", "units", "days since 1970-01-01"), node(f"{ZONE}/time")),
    Breach("spatial:bbox", attribute(ZONE, "spatial:bbox", [0.0, 0.0, 1.0, 1.0]), node(ZONE)),
    Breach("proj:code", attribute(ZONE, "proj:code", "EPSG:32633"), node(ZONE)),
    Breach("spatial_ref", attribute(f"{ZONE}/spatial_ref", "GeoTransform", "0 1 0 0 0 1"), node(f"{ZONE}/spatial_ref")),
    Breach("flag_meanings", attribute(f"{ZONE}/status", "flag_meanings", "a b c d e f"), node(f"{ZONE}/status")),
    Breach("campaign digest", attribute("", "embedcube:campaign_digest", "0" * 64), own("zarr.json")),
    Breach("what was asked", digest_at_root, own("zarr.json")),
    Breach("consolidated metadata differ", consolidated(lambda m: m[f"{ZONE}/x"].update(shape=[7])), own("zarr.json")),
    Breach("fill value", lambda c: c.json(f"{ZONE}/scale", lambda n: n.update(fill_value=0.0)), node(f"{ZONE}/scale")),
    Breach("a type", lambda c: c.json(f"{ZONE}/n_obs", lambda n: n.update(data_type="uint8")), node(f"{ZONE}/n_obs")),
    Breach("a stranger among the arrays", stray_array, node(f"{ZONE}/z")),
    Breach("a stranger among the layers", stray_layer, (*node("copy"), *node("copy/grid"))),
    Breach("a recipe", put_row("provenance/shard_recipe", (3, 3), OTHER_BYTE), own("provenance/shard_recipe/c/0/0")),
    Breach("who made it", lambda c: c.records(lambda r: r.update(host="x")), own("provenance/shard_record/c/0")),
    Breach("scene digest", put_row("provenance/scene_digest", (3, 3), OTHER_BYTE), own("provenance/scene_digest/")),
    Breach("name of a scene", scene_text, own("provenance/scene/c/0")),
    Breach("links to other scenes", other_acquisitions, own("provenance/link_scene/c/0")),
    Breach("weights in provenance", attribute("provenance", "weights", {LAYER: "0" * 64}), node("provenance")),
    Breach("a coordinate does not decode", lambda c: flip(c.path / ZONE / "x/c/0", 0), own(f"{ZONE}/x/c/0")),
    Breach("a zone does not parse", lambda c: (c.path / ZONE / "zarr.json").write_text("{"), node(ZONE)),
    Breach("an array gone", lambda c: shutil.rmtree(c.path / ZONE / "scale"), node(f"{ZONE}/scale")),
    Breach("the list of files", put_row("provenance/files", 20, OTHER_BYTE), ("",)),
    Breach("the list of files gone", lambda c: shutil.rmtree(c.path / "provenance" / "files"), ("readable: ",)),
    Breach("no provenance", lambda c: shutil.rmtree(c.path / "provenance"), ("readable: ",)),
    # all digests agree; what the files hold does not
    Breach("sealed: x moved", sealed(add(f"{ZONE}/x", 10)), (f"coordinates: {ZONE}/x: ",)),
    Breach("sealed: time moved", sealed(add(f"{ZONE}/time", 86400)), (f"windows: {ZONE}/time: ",)),
    Breach("sealed: windows out of order", sealed(unordered), (f"windows: {ZONE}/time_bnds: out of order",)),
    Breach("sealed: the transform", sealed(moved), (f"coordinates: {ZONE}/y: ", f"coordinates: {ZONE}/x: ")),
    Breach("sealed: a verdict forgotten", sealed(no_incomplete), (one_cell("status"), one_cell("status"))),
    Breach(
        "sealed: who fed what",
        sealed(put_row("provenance/contributions", slice(0, 72), 0)),
        (one_cell("provenance"),),
    ),
    Breach("by the rules: not processed", restated(put("status", "empty", 0)), (one_cell("status"),)),
    Breach("by the rules: no such status", restated(put("status", "empty", 17)), (one_cell("status"),)),
    Breach("by the rules: a vector", restated(put("status", "valid", 2)), tuple(map(one_cell, ("scale", "missing")))),
    Breach("by the rules: incomplete without a reason", restated(put("status", "valid", 5)), (one_cell("status"),)),
    Breach("by the rules: unseen", restated(put("n_obs", "valid", 0)), tuple(map(one_cell, ("n_obs", "provenance")))),
    Breach("by the rules: seen too often", restated(put("n_obs", "valid", 9)), (one_cell("provenance"),)),
    Breach("by the rules: no scale", restated(put("scale", "valid", np.nan)), (one_cell("scale"), one_cell("scale"))),
    Breach("by the rules: endless scale", restated(put("scale", "valid", np.inf)), (one_cell("scale"),)),
    Breach("by the rules: negative scale", restated(put("scale", "valid", -1.0)), (one_cell("scale"),)),
    Breach("by the rules: scale of nothing", restated(put("scale", "empty", 1.0)), (one_cell("scale"),)),
    Breach("by the rules: not absmax", restated(put("embedding", "valid", 3)), (one_cell("encoding"),)),
    Breach("by the rules: -128", restated(put("embedding", "valid", -128)), (one_cell("encoding"),)),
    Breach("by the rules: numbers of nothing", restated(put("embedding", "empty", 5)), (one_cell("missing"),)),
]  # fmt: skip
"""Found in the cube alone, by these findings at least."""


def assert_named(breach: Breach, findings: list[str]) -> None:
    """Each expected finding is there, and all say what was found and what was expected."""
    for expected, count in Counter(breach.findings).items():
        assert sum(found.startswith(expected) for found in findings) >= count, findings
    assert all(", expected " in found for found in findings)


@pytest.mark.parametrize("breach", BREACHES, ids=lambda breach: breach.name)
def test_a_tampered_cube_is_found_out(cube: Cube, breach: Breach, capsys: pytest.CaptureFixture[str]) -> None:
    breach.do(cube)
    code, findings = verify(cube.path, capsys)
    assert code == 1
    assert_named(breach, findings)
    # what its index says is one finding, what its shards hold another
    objects = Counter(found.split(": ")[1] for found in findings if found.startswith("bytes: "))
    assert max(objects.values(), default=0) <= 2


def unkept(cube: Cube) -> None:
    """Nobody has kept the seal of the cube."""
    shutil.rmtree(cube.path.with_name(f"{cube.path.stem}-stac"))


def test_restating_and_sealing_alone_are_no_breach(cube: Cube, capsys: pytest.CaptureFixture[str]) -> None:
    kept = seal_of(cube.path)
    cube.restate()
    assert verify(cube.campaign.file, capsys) == (
        1,
        [seal_finding(cube, f"{cube.path.stem}-stac/collection.json", kept)],
    )
    unkept(cube)
    assert verify(cube.path, capsys) == (0, [])
    assert verify(cube.path, capsys, "--seal", kept) == (1, [seal_finding(cube, "the seal that was given", kept)])
    assert verify(cube.path, capsys, "--seal", seal_of(cube.path)) == (0, [])


def seal_finding(cube: Cube, place: str, kept: str) -> str:
    """What is said of another seal."""
    return f"seal: {place}: {seal_of(cube.path)[:12]}, expected {kept[:12]}"


def place_moved(cube: Cube) -> None:
    """The zone lies a whole shard to the east, in all that says where it lies."""
    east = 160 * 24
    add(f"{ZONE}/x", east)(cube)

    def change(document: dict[str, Any]) -> None:
        document["attributes"]["spatial:transform"][2] += east
        for edge in (0, 2):
            document["attributes"]["spatial:bbox"][edge] += east

    cube.json(ZONE, change)


def of_another_zone(cube: Cube) -> None:
    """Another UTM zone, in code and WKT."""
    wkt = CRS.from_epsg(32633).to_wkt("WKT2_2019")
    cube.json(ZONE, lambda document: document["attributes"].update({"proj:code": "EPSG:32633", "proj:wkt2": wkt}))


def more_offset(cube: Cube) -> None:
    """Scenes with another offset, of the same length."""
    array = cube.array("provenance/scene")
    text = array[...].tobytes()
    assert b'"offset":-1000.0' in text
    array[...] = np.frombuffer(text.replace(b'"offset":-1000.0', b'"offset":-2000.0'), dtype=np.uint8)


def all_equal(cube: Cube) -> None:
    """Every vector the same, as good as the true ones by all rules."""
    valid = np.isin(cube.array(f"{ZONE}/status")[...], (1, 5))
    for name, value, fill in (("embedding", 127, 0), ("scale", 1.0, np.nan)):
        array = cube.array(f"{ZONE}/{name}")
        of_cells = valid[..., None] if name == "embedding" else valid
        array[...] = np.where(of_cells, value, fill)


def one_cell_west(cube: Cube) -> None:
    """The vectors of all cells one cell further, as good as the true ones by all rules that hold for full shards."""
    for name in ("embedding", "scale"):
        array = cube.array(f"{ZONE}/{name}")
        values = array[...]
        valid = np.isin(cube.array(f"{ZONE}/status")[...], (1, 5))
        values[valid] = np.roll(values[valid], 1, axis=0)
        array[...] = values


def doubled(cube: Cube) -> None:
    """All vectors twice as long."""
    array = cube.array(f"{ZONE}/scale")
    array[...] = array[...] * 2


def clouded(cube: Cube) -> None:
    """Cells without data are said to lie behind clouds."""
    array = cube.array(f"{ZONE}/status")
    status = array[...]
    assert (status == 2).any()
    status[status == 2] = 3
    array[...] = status


def swapped(axis: str, *, told: bool) -> Callable[[Cube], None]:
    """The shards of two windows, or of two neighbours, in each other's place; and where `told`, their records too."""

    def do(cube: Cube) -> None:
        array = cube.array(f"provenance/shard_{axis}")
        one, two = sorted({*array[...].tolist()})
        for name in ARRAYS:
            places = [*members_of(cube.path, ZONE, name)]
            for t, iy, ix in places:
                if axis == "t" and t == one:
                    swap(cube, name, (t, iy, ix), (two, iy, ix))
                elif axis == "iy" and iy == one:
                    swap(cube, name, (t, iy, ix), (t, two, ix))
        if told:
            array[...] = one + two - array[...]

    return do


def letter_of_a_record(cube: Cube) -> None:
    """Another host in a record, which keeps its checksum."""
    array = cube.array("provenance/shard_record")
    data = bytearray(array[...].tobytes())
    data[data.index(b'"host":"') + 8] ^= 1
    array[...] = np.frombuffer(bytes(data), dtype=np.uint8)


WELL_TOLD = [
    Breach("windows moved together", both_times, (f"derived: {ZONE}/time: ", f"derived: {ZONE}/time_bnds: ")),
    Breach("a whole shard east", place_moved, ("recipe: ",)),
    Breach("another UTM zone", of_another_zone, (f"derived: {ZONE} proj:code: ",)),
    Breach("features renumbered", add(f"{ZONE}/feature", 1), (f"derived: {ZONE}/feature: ",)),
    Breach("units of time", attribute(f"{ZONE}/time", "units", "days since 1970-01-01"), (f"derived: {ZONE}/time ",)),
    Breach("fill value", lambda c: c.json(f"{ZONE}/scale", lambda n: n.update(fill_value=0.0)), ("derived: ",)),
    Breach("a stranger among the arrays", stray_array, (f"derived: {ZONE} arrays: ",)),
    Breach("a stranger among the layers", stray_layer, ("readable: ",)),
    Breach("consolidated metadata differ", consolidated(lambda m: m[f"{ZONE}/x"].update(shape=[7])), ("derived: ",)),
    Breach("campaign digest", attribute("", "embedcube:campaign_digest", "0" * 64), ("derived: the root ",)),
    Breach("what was asked", digest_at_root, ("campaign: provenance campaign_digest: ", "recipe: ")),
    Breach("weights in provenance", attribute("provenance", "weights", {LAYER: "0" * 64}), ("derived: ", "recipe: ")),
    Breach("a recipe", put_row("provenance/shard_recipe", (3, 3), OTHER_BYTE), ("recipe: ", "record: ")),
    Breach("scene digest", put_row("provenance/scene_digest", (3, 3), OTHER_BYTE), ("scene: ",)),
    Breach("an offset", more_offset, ("scene: ", "recipe: ", "record: ")),
    Breach("links to other scenes", other_acquisitions, ("recipe: ",)),
    Breach("a vector", restated(spoilt_vector), ("version: ",)),
    Breach("every vector the same", restated(all_equal), ("version: ",)),
    Breach("vectors one cell further", restated(one_cell_west), ("version: ",)),
    Breach("every vector twice as long", restated(doubled), ("version: ",)),
    Breach("no data said to be clouds", restated(clouded), ("version: ",)),
    Breach("windows exchanged", restated(swapped("t", told=False)), ()),
    Breach("windows exchanged, records too", restated(swapped("t", told=True)), ("recipe: ",)),
    Breach("neighbours exchanged", restated(swapped("iy", told=False)), ()),
    Breach("neighbours exchanged, records too", restated(swapped("iy", told=True)), ("recipe: ",)),
    Breach("a letter of a record", letter_of_a_record, ("record: ",)),
]  # fmt: skip
"""Found in the cube alone although all digests of files agree and nobody has kept its seal."""


@pytest.mark.parametrize("breach", WELL_TOLD, ids=lambda breach: breach.name)
def test_a_cube_whose_digests_agree_is_found_out(
    cube: Cube, breach: Breach, capsys: pytest.CaptureFixture[str]
) -> None:
    sealed(breach.do)(cube)
    unkept(cube)
    code, findings = verify(cube.path, capsys)
    assert code == 1
    assert_named(breach, findings)


def test_a_wrong_cube_that_was_pulled_in_part_is_found_out(
    cube: Cube, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sealed(put_row("provenance/scene_digest", (3, 3), OTHER_BYTE))(cube)
    day = str(cube.array(f"{ZONE}/time")[...].astype("datetime64[s]")[0])[:10]
    app(["pull", str(cube.path), str(tmp_path / "part"), "--time", day, "--json"], standalone_mode=False)
    code, findings = verify(tmp_path / "part" / cube.path.name, capsys)
    assert code == 1
    assert_named(Breach("", lambda _: None, ("scene: ",)), findings)


@pytest.mark.parametrize("how", ["a link", "an empty folder", "neither a file nor a folder"])
def test_only_files_belong_to_a_cube(cube: Cube, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = cube.path / ZONE / "status" / "more"
    if how == "a link":
        path.symlink_to("c.0.0.0")
    elif how == "an empty folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    code, findings = verify(cube.path, capsys)
    assert code == 1
    assert any(line.startswith(f"files: {ZONE}/status/more: {how}, ") for line in findings)


@pytest.mark.parametrize("name", ["zarr.json", f"{ZONE}/zarr.json"])
def test_a_fifo_in_place_of_metadata_is_not_waited_for(
    cube: Cube, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (cube.path / name).unlink()
    os.mkfifo(cube.path / name)
    code, findings = verify(cube.path, capsys)
    assert code == 1
    assert [line.partition(", ")[0] for line in findings] == [f"files: {name}: neither a file nor a folder"]


# --- tampered runs --------------------------------------------------------------------------------


def other_recipe(table: pyarrow.Table) -> pyarrow.Table:
    """The first row with another recipe."""
    recipes = pyarrow.array(["0" * 64, *table["recipe"].to_pylist()[1:]])
    return table.set_column(table.schema.get_field_index("recipe"), "recipe", recipes)


def other_plan_digest(cube: Cube) -> None:
    """plan.json claims other recipes."""
    change_plan(cube.run, lambda document: document.update(plan="0" * 64))


def no_budget(cube: Cube) -> None:
    """No scene may be unreadable, and one was."""
    cube.campaign.change(lambda document: document["how"].update(error_budget=0.0))


RUNS = [
    Breach("a byte of an object", lambda c: flip(c.path / OBJECT), (f"bytes: {OBJECT}: ",)),
    Breach("the weights", lambda c: flip(c.run.weights(LAYER), -100), (f"weights: {LAYER}: ",)),
    Breach("a shard that nobody planned", lambda c: change_rows(c.run, lambda t: t.slice(1)), (f"plan: ('{ZONE}', ",)),
    Breach("a shard by another recipe", lambda c: change_rows(c.run, other_recipe), (f"recipe: ('{ZONE}', ",)),
    Breach("a recipe", sealed(put_row("provenance/shard_recipe", (3, 3), OTHER_BYTE)), (f"recipe: {ZONE} ",)),
    Breach("the weights gone", lambda c: c.run.weights(LAYER).unlink(), (f"weights: {LAYER}: no file, ",)),
    Breach("the plan's own digest", other_plan_digest, ("plan: ",)),
    Breach("the error budget", no_budget, ("error budget: ",)),
]
"""Found with the run folder."""


@pytest.mark.parametrize("breach", RUNS, ids=lambda breach: breach.name)
def test_a_tampered_run_is_found_out(cube: Cube, breach: Breach, capsys: pytest.CaptureFixture[str]) -> None:
    breach.do(cube)
    code, findings = verify(cube.campaign.file, capsys, "--recompute", "0")
    assert code == 1
    assert_named(breach, findings)
    report = json.loads((cube.run.report / "verify.json").read_text())["findings"]
    assert [f"{f['check']}: {f['place']}: {f['found']}, expected {f['expected']}" for f in report] == findings


def test_a_lie_told_well_is_found_by_computing_again(cube: Cube, capsys: pytest.CaptureFixture[str]) -> None:
    """Told in the parts too, and in the name of the cube."""
    restated(spoilt_vector)(cube)
    unkept(cube)
    records: dict[str, bytes] = {}
    cube.records(lambda record: records.update({record["recipe"]: to_line(record)}))
    for path in cube.run.parts.rglob("records.jsonl"):
        own = [json.loads(line)["recipe"] for line in path.read_bytes().splitlines()]
        path.write_bytes(b"".join(records[recipe] for recipe in own if recipe in records))
    cube.seal()
    (named,) = (line for line in verify(cube.path, capsys)[1])
    assert named.startswith("version: name of the cube: ")
    other = cube.path.with_name(named.partition("expected ")[2] + ".zarr")
    cube.path.rename(other)
    point_symlink(cube.run.newest_cube, other)
    assert verify(cube.path, capsys) == (0, []), "bytes, records, recipes and rules agree"
    assert verify(cube.campaign.file, capsys, "--recompute", "0") == (0, [])
    code, findings = verify(cube.campaign.file, capsys, "--recompute", "4", "--seed", "7")
    assert code == 1
    [found] = [finding for finding in findings if finding.startswith("same bytes: ")]
    assert "embedding" in found


@pytest.mark.parametrize(
    ("do", "finding"),
    [
        (scene_text, "inventory: s2/S2B_"),
        (attribute("provenance", "versions", {}), "plan: versions: "),
    ],
    ids=["name of a scene", "versions"],
)
def test_what_no_digest_covers_is_compared_with_the_run(
    cube: Cube, do: Callable[[Cube], object], finding: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sealed(do)(cube)
    unkept(cube)
    code, findings = verify(cube.campaign.file, capsys)
    assert code == 1
    assert any(line.startswith(finding) for line in findings), findings


def test_a_record_that_no_part_has_is_a_remark(cube: Cube) -> None:
    sealed(lambda cube: cube.records(lambda record: record.update(host="x")))(cube)
    unkept(cube)
    done = call_cli("verify", cube.campaign.file, "--json")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["findings"]) == (0, [])
    assert len(answer["remarks"]) == 4
    assert all(line.startswith(f"record: {ZONE} ") for line in answer["remarks"])


def test_an_equal_cube_is_kept_when_the_inventory_grows(
    cube: Cube, demo_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another scene of an archive, in no window: the cube's provenance does not know it."""
    archive = tmp_path / "more"
    shutil.copytree(demo_archive / "archive" / "sentinel2", archive)
    (item,) = list(archive.rglob("S2A_32UMB_20230614*.json")) or sorted(archive.rglob("*.json"))[:1]
    document = json.loads(item.read_text())
    document["id"] += "_later"
    document["properties"]["datetime"] = "2024-06-04T10:43:00Z"
    item.with_name("later.json").write_text(json.dumps(document))

    def grown(campaign: dict[str, Any]) -> None:
        campaign["archives"]["s2"]["path"] = str(archive)

    before = cube.path
    cube.campaign.change(grown)
    for stage in ("index", "plan", "embed", "consolidate"):
        cube.campaign.cli(stage)
    assert cube.path == before
    assert verify(cube.campaign.file, capsys, "--recompute", "0") == (0, [])


def test_a_cube_of_an_earlier_version_is_remarked(cube: Cube) -> None:
    sealed(lambda c: c.json("provenance", lambda document: document["attributes"].pop("planned")))(cube)
    unkept(cube)
    done = call_cli("verify", cube.path, "--json")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["findings"]) == (0, [])
    assert any("made by an earlier version of embedcube" in line for line in answer["remarks"])


def test_findings_are_said_and_fail(cube: Cube) -> None:
    flip(cube.path / OBJECT)
    done = call_cli("verify", cube.path)
    assert done.returncode == 1
    line = f"bytes: {OBJECT}: "
    assert lines(done.stdout)[1].startswith(line)
    assert lines(done.stdout)[2] == "1 findings"
    assert done.stderr.startswith(f"embedcube: verify: 1 findings, the first: {line}")
    assert done.stderr.count("\n") == 1
    again = call_cli("verify", cube.path, "--json")
    assert again.returncode == 1
    assert [finding.startswith(line) for finding in json.loads(again.stdout)["findings"]] == [True]


@pytest.mark.parametrize("what", ["a folder", "another Zarr"])
def test_what_is_no_cube_is_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "other"
    if what == "another Zarr":
        zarr.open_group(path, mode="w", zarr_format=3)
        words = "a Zarr group, but not a cube of embedcube"
    else:
        path.mkdir()
        words = r"not a cube \(no Zarr v3 group there\)"
    with pytest.raises(EmbedcubeError, match=words) as raised:
        app(["verify", str(path)], standalone_mode=False)
    assert raised.value.exit_code == 2
