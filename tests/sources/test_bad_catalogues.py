"""Wrong catalogues, names and links: one bad thing costs itself, is named, counts, and shows no credential.

Each archive holds one good scene and one thing that is wrong.
"""

import json
import logging
import os
import random
import re
import shutil
import socket
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tests.conftest import Campaign
from tests.edge.scenes import Scene, write_scene

from embedcube.campaign.inventory import read_inventory, unplaced_scenes
from embedcube.campaign.load import load_campaign
from embedcube.campaign.parts import refuse_over_budget
from embedcube.campaign.scene import UNKNOWN_TIME
from embedcube.campaign.scene import Scene as Found
from embedcube.campaign.schema import Archive
from embedcube.cli import stages
from embedcube.errors import RequestError, StartAgain, WorkError
from embedcube.prepare.index import index
from embedcube.sources.catalog import describe
from embedcube.sources.catalog.find import find_products
from embedcube.sources.catalog.json_text import ITEM_BYTES
from embedcube.sources.era5.source import Era5
from embedcube.sources.sentinel2 import source as sentinel2

SECRET = "S3CRET"
NAMES = {"B02": frozenset({"b02"})}


def scene(id: str, day: int = 1) -> Scene:
    """A scene of one band of 16 x 16 pixels."""
    pixels = np.full((16, 16), 1500, dtype=np.uint16)
    return Scene(id=id, time=f"2023-06-{day:02d}T10:00:00Z", west=4e5, north=5.6e6, bands={"B02": pixels})


def archive_in(folder: Path) -> Path:
    """An archive with one good scene."""
    write_scene(folder / "archive", scene("good"))
    return folder / "archive"


def bad(archive: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """One more scene, after `change` has edited its Item."""
    path = write_scene(archive, scene("bad", 4)) / "bad.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def asset(item: dict[str, Any]) -> dict[str, Any]:
    """The only asset of an Item."""
    found: dict[str, Any] = item["assets"]["B02"]
    return found


def campaign_in(folder: Path, **how: Any) -> Campaign:
    """A campaign over the archive."""
    campaign = Campaign(folder / "campaign.yaml")
    layer = {
        "archives": "s2", "backbone": {"name": "mosaiks", "filters": 2}, "chip_px": 18, "halo_px": 1, "cell_px": 16,
        "shard_chips": 1, "batch": 2,
    }  # fmt: skip
    document = {
        "campaign": "bad",
        "archives": {"s2": {"source": "sentinel2", "path": "archive", "bands": ["B02"]}},
        "grid": {"crs": "EPSG:32632", "pixel": 10, "origin": [4e5, 5.6e6]},
        "windows": [["2023-06-01", "2023-07-01"]],
        "layers": {"s2": layer},
        "how": {"ranks": 1, "threads": 1, **how},
    }
    campaign.file.write_text(yaml.safe_dump(document))
    return campaign


@dataclass(frozen=True)
class Indexed:
    """What `index` has said and stored."""

    scenes: dict[str, Found]
    text: str
    """all of it, in one"""

    @property
    def bad(self) -> Found:
        """The only scene that is not the good one."""
        (one,) = (scene for id, scene in self.scenes.items() if id != "good")
        return one


def indexed(folder: Path, caplog: pytest.LogCaptureFixture) -> Indexed:
    """Index; whatever is said or stored can be printed and is bounded, and the good scene is good."""
    campaign = campaign_in(folder)
    resolved, said = load_campaign(campaign.file), list[str]()
    campaign.run.root.mkdir(parents=True, exist_ok=True)
    with caplog.at_level(logging.WARNING):
        stages.index(resolved, campaign.run, said.append, full_digests=False)
    scenes = {scene.id: scene for scene in read_inventory(resolved, campaign.run)}
    lines = [*said, *(record.getMessage() for record in caplog.records), *(s.to_json() for s in scenes.values())]
    for line in lines:
        assert line.isprintable()
        assert len(line) < 3000
    assert scenes["good"].verdict == ""
    return Indexed(scenes, "\n".join(lines))


# --- Items ----------------------------------------------------------------------------------------------


def file_of(name: str, data: bytes) -> Callable[[Path], None]:
    """A change that writes one more file."""

    def make(archive: Path) -> None:
        (archive / name).write_bytes(data)

    return make


def item(**facts: Any) -> bytes:
    """An Item without files, as the bytes of a file."""
    document = {"type": "Feature", "id": "q", "properties": {"datetime": "2023-06-02T00:00:00Z"}, "assets": {}}
    return json.dumps(document | facts).encode()


def one_byte_wrong(archive: Path) -> None:
    bad(archive, lambda item: None)
    path = archive / "bad" / "bad.json"
    path.write_bytes(path.read_bytes().replace(b'"id": ', b'"id"; ', 1))
    (path.parent / "B02.tif").unlink()


UNREADABLE = {
    "one byte": (one_byte_wrong, r"bad\.json is not JSON: Expecting ':' delimiter"),
    "empty": (file_of("x.json", b""), "x.json is not JSON: Expecting value"),
    "nested": (file_of("x.json", b"[" * 200_000), "x.json is nested too deeply"),
    "nested objects": (file_of("x.json", b'{"a":' * 200_000), "x.json is nested too deeply"),
    "nested within": (
        file_of("x.json", item(properties={})[:-1] + b', "y": ' + b"[" * 200_000), "x.json is nested too deeply"
    ),
    "a huge number": (file_of("x.json", b"1" * 100_000), "x.json is not JSON: Exceeds the limit"),
    "not UTF-8": (file_of("x.json", b'{"type": "Feature\xff"}'), "x.json is not JSON: 'utf-8' codec"),
    "UTF-16": (file_of("x.json", item(properties={}).decode().encode("utf-16")), "x.json .* it has no datetime"),
    "too large": (
        file_of("x.json", b" " * (ITEM_BYTES + 1)), r"x\.json has more than 16,777,216 bytes",
    ),
    "a list of assets": (file_of("x.json", item(assets=[1])), "x.json .* its assets is a list, not an object"),
    "no assets": (file_of("x.json", item(assets=None)), "x.json .* its assets is null, not an object"),
    "a list of properties": (file_of("x.json", item(properties=[1])), "x.json .* its properties is a list"),
    "no id": (file_of("x.json", item(id=None)), "x.json .* its id is null"),
    "no time": (file_of("x.json", item(properties={})), "x.json .* it has no datetime"),
    "a wrong time": (file_of("x.json", item(properties={"datetime": "\0now"})), r'datetime "\\x00now" is not a time'),
    "a time that is no text": (file_of("x.json", item(properties={"datetime": [1]})), "it has no datetime"),
    "before the first year": (
        file_of("x.json", item(properties={"datetime": "0001-01-01T00:00:00+14:00"})), "is not a time",
    ),
    "after the last year": (
        file_of("x.json", item(properties={"datetime": "9999-12-31T23:59:59-12:00"})), "is not a time",
    ),
    "the first year": (
        file_of("x.json", item(properties={"datetime": "0001-01-01T00:00:00Z"})), "not within the years 1678 to 2261",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_item_that_does_not_parse_is_a_scene_that_says_so_and_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    make, words = UNREADABLE[name]
    make(archive_in(tmp_path))
    (scene,) = [scene for id, scene in indexed(tmp_path, caplog).scenes.items() if id != "good"]
    assert scene.verdict
    assert re.search(words, scene.verdict), scene.verdict
    assert not scene.placed
    assert_counts(tmp_path)


def assert_counts(folder: Path) -> None:
    """The error budget is exceeded by the only scene besides the good one."""
    campaign = Campaign(folder / "campaign.yaml")
    resolved = load_campaign(campaign.file)
    good = [scene for scene in read_inventory(resolved, campaign.run) if scene.placed]
    with pytest.raises(WorkError, match="0 of 1 scenes cannot be read and 1 of 2 in the inventory lie nobody knows"):
        refuse_over_budget(resolved, good, [], unplaced_scenes(resolved, campaign.run))


def remote(item: dict[str, Any], box: Any) -> None:
    """Leave an Item without a file on this machine."""
    item["bbox"] = box
    asset(item)["href"] = "https://example.org/gone.tif"


WRONG = {
    "a file size that is a word": (lambda i: asset(i).update({"file:size": "large"}), "its file:size is a text"),
    "an odd checksum": (lambda i: asset(i).update({"file:checksum": "1220zz"}), '"1220zz" is not a multihash'),
    "a short checksum": (lambda i: asset(i).update({"file:checksum": "1220ab"}), '"1220ab" is not a multihash'),
    "a checksum of a list": (lambda i: asset(i).update({"file:checksum": [1]}), "is not a multihash"),
    "an asset that is a list": (lambda i: i["assets"].update(B02=[1]), "its asset B02: it is a list"),
    "an href that is a number": (lambda i: asset(i).update(href=1), "its asset B02: its href is a number"),
    "bands that are numbers": (lambda i: asset(i).update({"eo:bands": [1]}), "its asset B02: one of its bands is"),
    "not a number in the box": (lambda i: remote(i, [float("nan")] * 4), "is not on this machine"),
    "an endless box": (lambda i: remote(i, [-1e400, -1e400, 1e400, 1e400]), "is not on this machine"),
    "a box beyond the Earth": (lambda i: remote(i, [-1e300, -1e300, 1e300, 1e300]), "is not on this machine"),
    "a box of huge numbers": (lambda i: remote(i, [-(10**400), 0, 10**400, 1]), "is not on this machine"),
    "a box of words": (lambda i: remote(i, ["a", "b", "c", "d"]), "is not on this machine"),
    "a box that is a text": (lambda i: remote(i, "wsen"), "is not on this machine"),
    "a file name that is too long": (lambda i: asset(i).update(href="./" + "A" * 300 + ".tif"), "too long for a file"),
    "a path that is too long": (lambda i: asset(i).update(href="/" + "A/" * 5000 + "x.tif"), "too long for a file"),
    "NUL in a link": (lambda i: asset(i).update(href="./a\0b.tif"), r"\./a\\x00b\.tif cannot be the name of a file"),
    "a surrogate in a link": (lambda i: asset(i).update(href="./a\ud800.tif"), r"a\\ud800\.tif cannot be the name"),
    "another file of this machine": (lambda i: asset(i).update(href="file:///etc/passwd"), "does not decode"),
    "far above": (lambda i: asset(i).update(href="../" * 40 + "etc/passwd"), "does not decode"),
    "a device": (lambda i: asset(i).update(href="/dev/zero"), "/dev/zero is a device, not a file"),
    "a process": (lambda i: asset(i).update(href="/proc/self/environ"), "a window into this machine's kernel"),
    "a folder": (lambda i: asset(i).update(href="../good"), r"\.\./good is a folder, not a file"),
    "below a file": (lambda i: asset(i).update(href="./B02.tif/x"), "lies below a file"),
    "a server by a path of GDAL": (
        lambda i: asset(i).update(href="/vsicurl/http://127.0.0.1:1/x.tif"), "is not on this machine",
    ),
    "another server": (lambda i: asset(i).update(href="FILE://host/etc/none.tif"), "does not exist"),
    "an IPv6 address that is none": (lambda i: asset(i).update(href="file://[::1/x"), "Invalid IPv6 URL"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_in_an_item_costs_its_scene_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    change, words = WRONG[name]
    bad(archive_in(tmp_path), change)
    found = indexed(tmp_path, caplog)
    assert found.scenes.keys() == {"good", "bad"}
    assert re.search(words, found.bad.verdict), found.bad.verdict
    assert "root:" not in found.text


FINE = {
    "a file size that is a text": lambda i: asset(i).update({"file:size": str(size_of_band())}),
    "a checksum of another kind": lambda i: asset(i).update({"file:checksum": "d50110" + "ab" * 16}),
    "an escape code in the id": lambda i: i.update(id="x\nplan        30 shards\n\x1b[2J"),
    "a surrogate in the id": lambda i: i.update(id="x\ud800"),
    "NUL in the id": lambda i: i.update(id="x\0y"),
    "an id of millions of characters": lambda i: i.update(id="x" * 5_000_000),
    "an id that is a number": lambda i: i.update(id=17),
    "a link as its id": lambda i: i.update(id=f"https://user:{SECRET}@host/x?sig={SECRET}"),
    "a nested property": lambda i: i["properties"].update(x=json.loads("[" * 400 + "]" * 400)),
    "a long property": lambda i: i["properties"].update({"s2:product_uri": "S2A_OPER_MSI_L2A_DS_" * 50_000}),
    "a surrogate in a property": lambda i: i["properties"].update({"s2:datatake_id": "GS2A\ud800"}),
    "a preview that is nothing": lambda i: i["assets"].update(thumbnail={"href": None}),
    "a box that is none": lambda i: i.update(bbox=[float("nan")] * 4),
}


def size_of_band() -> int:
    with tempfile.TemporaryDirectory() as folder:
        return (write_scene(Path(folder), scene("bad", 4)) / "B02.tif").stat().st_size


@pytest.mark.parametrize("name", FINE)
def test_what_is_only_odd_in_an_item_costs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    bad(archive_in(tmp_path), FINE[name])
    found = indexed(tmp_path, caplog)
    assert found.bad.verdict == ""
    assert SECRET not in found.text
    assert len(found.bad.id) < 300


def test_two_ids_stay_two_however_they_are_shortened(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    archive = archive_in(tmp_path)
    for name, id in (("a", "x" * 1000 + "1"), ("b", "x" * 1000 + "2")):
        path = write_scene(archive, scene(name)) / f"{name}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"id": id}))
    found = indexed(tmp_path, caplog).scenes
    assert len(found) == 3
    assert [(scene.verdict, scene.superseded_by) for scene in found.values()] == [("", "")] * 3


def test_json_that_is_no_item_is_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    archive = archive_in(tmp_path)
    for name, document in (("b", {"type": "Feature", "geometry": None}), ("c", {"x": 1}), ("a", [1])):
        (archive / f"{name}.json").write_text(json.dumps(document))
    (archive / "catalog.json").write_text(json.dumps({"type": "Catalog", "links": []}))
    found = indexed(tmp_path, caplog)
    assert found.scenes.keys() == {"good"}
    assert "3 JSON files are no STAC Items and are left out, the first is a.json" in found.text


@pytest.mark.parametrize("features", ["text", {"a": 1}, None, 3])
def test_a_saved_search_without_a_list_is_a_scene_that_says_so(tmp_path: Path, features: Any) -> None:
    (tmp_path / "found_20230605.json").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    (product,) = find_products(tmp_path, {"B02": frozenset({"b02"})})
    assert "is a saved search" in product.fault
    assert "not a list of Items" in product.fault
    assert product.time == datetime(2023, 6, 5, tzinfo=UTC)


def test_lines_and_links_of_catalogues_are_judged_one_by_one(tmp_path: Path) -> None:
    folder = write_scene(tmp_path, scene("good"))
    line = (folder / "good.json").read_bytes().replace(b"./B02.tif", str(folder / "B02.tif").encode())
    (tmp_path / "found.ndjson").write_bytes(b"\n".join([b"{", line, b"[" * 100_000, b"", b"5"]))
    verdicts = {product.id: product.fault for product in find_products(tmp_path / "found.ndjson", NAMES)}
    assert verdicts["good"] == ""
    assert verdicts["found line 1"].startswith("line 1 of found.ndjson is not JSON: ")
    assert verdicts["found line 3"] == "line 3 of found.ndjson is nested too deeply"
    assert "the Item is a number, not an object" in verdicts["found line 5"]
    (tmp_path / "torn.json").write_text("{")
    (tmp_path / "odd.json").write_text('{"type": 5}')
    os.mkfifo(tmp_path / "fifo.json")
    (tmp_path / "loop").symlink_to(".")
    hrefs = ("torn.json", "odd.json", "fifo.json", "good/good.json", "./loop/c.json", "x" * 300, "gone.json", None, 5)
    links = [{"rel": "item", "href": href} for href in hrefs]
    (tmp_path / "c.json").write_text(json.dumps({"type": "Catalog", "links": [*links, 7, None]}))
    verdicts = {product.id: product.fault for product in find_products(tmp_path / "c.json", NAMES)}
    assert verdicts.pop("good") == ""
    assert verdicts.pop("torn").startswith("torn.json is not JSON")
    assert verdicts.pop("odd") == "odd.json is neither a STAC catalogue nor an Item: its type is 5"
    assert verdicts.pop("c fifo.json") == "c.json links to fifo.json, which is a FIFO, not a file"
    assert [fault.endswith("which has a name that is too long for a file") for fault in verdicts.values()] == [True]


def test_catalogues_may_be_nested_deeper_than_functions(tmp_path: Path) -> None:
    write_scene(tmp_path, scene("good"))
    for i in range(1500):
        below = {"rel": "child", "href": f"{i + 1}.json"} if i < 1499 else {"rel": "item", "href": "good/good.json"}
        (tmp_path / f"{i}.json").write_text(json.dumps({"type": "Catalog", "links": [below]}))
    assert [product.id for product in find_products(tmp_path / "0.json", NAMES)] == ["good"]


ODD: list[Any] = [
    None, True, -1, 1e308, float("nan"), float("inf"), 10**400, "", "\0", "\ud800", "x" * 5000, "https://u:S3CRET@h/x?sig=y",
    "../../x", "1220", [], {}, [[[]]], {"": {}}, [None] * 200, "9999-12-31T23:59:59-14:00", "0000", "\n\x1b[2J",
]  # fmt: skip


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a JSON value with each of its keys."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from places(value[key])


@pytest.mark.parametrize("seed", range(4))
def test_no_change_of_an_item_makes_it_vanish_or_costs_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    """Items with a random value at a random place, or with random bytes: each is a scene, or counted as no Item."""
    rng = random.Random(seed)
    archive = archive_in(tmp_path)
    data = (archive / "good" / "good.json").read_bytes().replace(b"./B02.tif", b"good/B02.tif")
    data = data.replace(b'"id": "good"', b'"id": "other"')
    for i in range(250):
        document = json.loads(data)
        for container, key in rng.sample(list(places(document)), rng.choice([1, 1, 2, 5])):
            container[key] = rng.choice(ODD)
        changed = bytearray(json.dumps(document).encode())
        if i % 3 == 0:
            changed = bytearray(data)
            for _ in range(rng.choice([1, 1, 5])):
                changed[rng.randrange(len(changed))] = rng.randrange(256)
            del changed[rng.choice([len(changed), rng.randrange(len(changed))]) :]
        (archive / f"i{i:03d}.json").write_bytes(changed)
    found = indexed(tmp_path, caplog)
    ignored = re.search(r"(\d+) JSON files are no STAC Items", found.text)
    assert len(found.scenes) + (int(ignored[1]) if ignored else 0) == 251
    assert SECRET not in found.text
    assert not any(scene.unforeseen for scene in found.scenes.values())


# --- names and links of the file system -------------------------------------------------------------------


def latin1(archive: Path) -> None:
    folder = archive / os.fsdecode(b"M\xfcnchen")
    folder.mkdir()
    shutil.copy(archive / "good" / "B02.tif", folder / "x_20230604_B02.tif")


def latin1_item(archive: Path) -> None:
    shutil.copytree(archive / "good", archive / os.fsdecode(b"M\xfcnchen"))


def control(archive: Path) -> None:
    shutil.copy(archive / "good" / "B02.tif", archive / "x\x1b[2J_20230604_B02.tif")


def credential(archive: Path) -> None:
    def change(item: dict[str, Any]) -> None:
        name = f"B02.tif?sig={SECRET}"
        (archive / "bad" / "B02.tif").rename(archive / "bad" / name)
        asset(item)["href"] = f"./{name}"

    bad(archive, change)


def image_of(make: Callable[[Path], object]) -> Callable[[Path], None]:
    """An entry with the name of an image, in a folder of its own."""

    def within(archive: Path) -> None:
        (archive / "x").mkdir()
        make(archive / "x" / "20230604_B02.tif")

    return within


def fifo_by_its_link(archive: Path) -> None:
    os.mkfifo(archive / "f.fifo")
    bad(archive, lambda item: asset(item).update(href="../f.fifo"))


def socketed(archive: Path) -> None:
    here = Path.cwd()
    os.chdir(archive)  # the name of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("s.json")
    finally:
        os.chdir(here)


ENTRIES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a FIFO of JSON": (lambda a: os.mkfifo(a / "f.json"), "f.json is a FIFO, not a file"),
    "a FIFO of NetCDF": (lambda a: os.mkfifo(a / "f.nc"), "f.nc is a FIFO, not a file"),
    "a FIFO of an image": (image_of(os.mkfifo), "B02.tif is a FIFO"),
    "a FIFO by its link": (fifo_by_its_link, r"\.\./f\.fifo is a FIFO"),
    "a socket": (socketed, "s.json is a socket, not a file"),
    "a link to a device": (lambda a: (a / "z.json").symlink_to("/dev/zero"), "z.json is a device, not a file"),
    "a dangling link": (lambda a: (a / "gone.json").symlink_to("/nowhere"), "gone.json is a link that leads nowhere"),
    "a dangling image": (image_of(lambda p: p.symlink_to("/nowhere/B02.tif")), "B02.tif is a link that leads nowhere"),
    "a link to itself": (lambda a: (a / "me.json").symlink_to("me.json"), "me.json is a link that leads back to"),
    "an image that is itself": (image_of(lambda p: p.symlink_to("20230604_B02.tif")), "is a link that leads back"),
    "a zip that is itself": (
        lambda a: (a / "S2A_x_20230604T1.zip").symlink_to("S2A_x_20230604T1.zip"), "leads back to itself",
    ),
    "a name in Latin-1": (
        lambda a: shutil.copy(a / "good" / "B02.tif", os.fsencode(a) + b"/M\xfcnchen_20230604_B02.tif"),
        r"M\\xfcnchen_20230604_B02\.tif has a name that is not UTF-8",
    ),
    "a folder in Latin-1": (latin1, r"M\\xfcnchen/x_20230604_B02\.tif has a name that is not UTF-8"),
    "an escape code in a name": (control, r"x\\x1b\[2J_20230604_B02\.tif has control characters in its name"),
    "a credential in a name": (credential, "has what looks like a credential in its name"),
}  # fmt: skip


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_that_is_no_usable_file_is_named_and_never_opened(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    make, words = ENTRIES[name]
    make(archive_in(tmp_path))
    found = indexed(tmp_path, caplog)
    assert len(found.scenes) == 2
    assert re.search(words, found.bad.verdict), found.bad.verdict
    assert SECRET not in found.text


def test_an_item_in_a_folder_that_is_not_utf_8(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    archive = archive_in(tmp_path)
    latin1_item(archive)
    path = archive / os.fsdecode(b"M\xfcnchen") / "good.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"id": "other"}))
    (path.parent / os.fsdecode(b"\xe9.json")).write_text("{")
    found = indexed(tmp_path, caplog).scenes
    assert r"M\xfcnchen/B02.tif has a name that is not UTF-8" in found["other"].verdict
    (torn,) = (scene for id, scene in found.items() if id not in ("good", "other"))
    assert torn.id.startswith(r"M\xfcnchen/\xe9 ")
    assert r"\xe9.json is not JSON" in torn.verdict


def test_folders_that_are_named_like_files_are_folders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    archive = archive_in(tmp_path)
    for name in ("folder.json", "folder.tif"):
        (archive / name).mkdir()
    write_scene(archive / "folder.json", scene("within", 4))
    assert indexed(tmp_path, caplog).scenes.keys() == {"good", "within"}


def test_links_to_folders_are_followed_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    archive = archive_in(tmp_path)
    write_scene(tmp_path / "elsewhere", scene("linked", 4))
    (tmp_path / "elsewhere" / "back").symlink_to(archive)
    (archive / "a" / "b").mkdir(parents=True)
    targets = {"a/loop": "..", "a/b/up": "..", "twin": "good", "out": "../elsewhere", "z": "out"}
    for place, target in (targets | {"a/b/over": str(tmp_path), "a/b/whole": str(archive)}).items():
        (archive / place).symlink_to(target)
    found = indexed(tmp_path, caplog).scenes
    assert found.keys() == {"good", "linked"}
    assert found["good"].assets[0].path == "good/B02.tif"


@contextmanager
def not_as_root() -> Iterator[Path]:
    """A folder in which this process may not read everything."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    user = os.geteuid()
    try:
        yield folder
    finally:
        os.seteuid(user)
        shutil.rmtree(folder)


def test_a_folder_that_may_not_be_listed_is_an_error_that_names_it(tmp_path: Path) -> None:
    with not_as_root() as folder:
        write_scene(folder, scene("good"))
        (folder / "locked").mkdir(mode=0)
        (folder / "series").mkdir()
        (folder / "series" / "locked.grib.d").mkdir(mode=0)
        if os.geteuid() == 0:
            os.seteuid(65534)
        with pytest.raises(RequestError, match=rf"{folder}/locked may not be listed: Permission denied"):
            list(find_products(folder, NAMES))
        weather = Era5("w", Archive(source="era5", path=folder / "series", bands=("t2m",)))
        with pytest.raises(RequestError, match=r"locked\.grib\.d may not be listed: Permission denied"):
            list(weather.scenes(full_digests=False))


def test_a_file_that_may_not_be_read_costs_its_scene(tmp_path: Path) -> None:
    with not_as_root() as folder:
        write_scene(folder, scene("good"))
        (write_scene(folder, scene("bad", 4)) / "B02.tif").chmod(0)
        (folder / "locked.json").write_text("{}")
        (folder / "locked.json").chmod(0)
        if os.geteuid() == 0:
            os.seteuid(65534)
        archive = Archive(source="sentinel2", path=folder, bands=("B02",))
        found = {scene.id: scene.verdict for scene in sentinel2.Sentinel2("s2", archive).scenes(full_digests=False)}
    assert found == {
        "good": "",
        "bad": "B02: bad/B02.tif may not be read: permission denied",
        "locked": "locked.json may not be read: permission denied",
    }


def test_a_path_that_is_neither_file_nor_folder_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(RequestError, match="fifo is a FIFO, not a file"):
        list(find_products(tmp_path / "fifo", NAMES))


def test_weather_of_a_fifo_and_of_a_name_in_latin_1_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f.grib")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9.nc")).write_bytes(b"")
    (tmp_path / "gone.nc").symlink_to("/nowhere")
    weather = Era5("w", Archive(source="era5", path=tmp_path, bands=("t2m",)))
    verdicts = [scene.verdict for scene in weather.scenes(full_digests=False)]
    assert sorted(verdict.partition(" ")[2].partition(";")[0] for verdict in verdicts) == [
        "has a name that is not UTF-8, which the libraries of rasters cannot open",
        "is a FIFO, not a file",
        "is a link that leads nowhere",
    ]


# --- credentials ------------------------------------------------------------------------------------------

SIGNED = [
    f"https://acct.blob.core.windows.net/c/gone.tif?sv=2023&sig={SECRET}",
    f"https://user:{SECRET}@host/gone.tif",
    f"https://{SECRET}@host/gone.tif",
    f"https://bucket.s3.amazonaws.com/gone.tif?X-Amz-Credential={SECRET}&X-Amz-Signature={SECRET}",
    f"s3://key:{SECRET}@bucket/gone.tif",
    f"./B02.tif.gone?token={SECRET}",
    f"/vsicurl/https://user:{SECRET}@host/gone.tif",
    f"/vsicurl?url=https%3A%2F%2Fuser%3A{SECRET}%40host%2Fgone.tif",
    f"file://user:{SECRET}@host/nowhere/gone.tif?sig={SECRET}",
    f"https://us er:{SECRET} {SECRET}@host/gone.tif",
    f"https://user:{SECRET}'{SECRET}@host/gone.tif#access_token={SECRET}",
]


@pytest.mark.parametrize("href", SIGNED)
def test_credentials_in_links_are_neither_printed_nor_stored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, href: str
) -> None:
    archive = archive_in(tmp_path)
    bad(archive, lambda item: asset(item).update(href=href))
    found = indexed(tmp_path, caplog)
    assert found.bad.verdict.startswith("B02: ")
    assert SECRET not in found.text
    links = [{"rel": "item", "href": "good/good.json"}, {"rel": "item", "href": href}]
    (archive / "catalog.json").write_text(json.dumps({"type": "Catalog", "links": links}))
    products = list(find_products(archive / "catalog.json", NAMES))
    assert SECRET not in repr(products) + caplog.text


# --- errors that nobody foresaw -----------------------------------------------------------------------------


def test_an_unforeseen_error_costs_its_product_and_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad(archive_in(tmp_path), lambda item: None)

    def fail(product: Any, assets: Any) -> Any:
        return describe.place_of(product, assets) if product.id == "good" else 1 // 0

    monkeypatch.setattr(sentinel2, "place_of", fail)
    with caplog.at_level(logging.DEBUG):
        found = indexed(tmp_path, caplog)
    assert found.bad.verdict == "unforeseen ZeroDivisionError: integer division or modulo by zero"
    assert "1 of 2 scenes ended with an unforeseen ZeroDivisionError; this may be a bug of the source" in found.text


def test_an_unforeseen_error_of_every_product_is_a_bug_and_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad(archive_in(tmp_path), lambda item: None)
    campaign = campaign_in(tmp_path)
    monkeypatch.setattr(sentinel2, "identify", lambda product: vars(product)["level"])
    words = (
        r"all 2 scenes ended with an unforeseen KeyError, the first one, good: unforeseen KeyError: 'level'; this may"
    )
    with pytest.raises(WorkError, match=words):
        index(load_campaign(campaign.file), campaign.run)


def test_an_error_between_two_scenes_is_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive_in(tmp_path)
    campaign = campaign_in(tmp_path)

    def scenes(self: Any, *, full_digests: bool) -> Iterator[Found]:
        yield Found(id="a", archive="s2", time=UNKNOWN_TIME, acquisition="a", bbox=(0, 0, 1, 1))
        raise IndexError("nine")

    monkeypatch.setattr(sentinel2.Sentinel2, "scenes", scenes)
    with pytest.raises(WorkError, match="after 1 scenes unforeseen IndexError: nine; this may be a bug of the source"):
        index(load_campaign(campaign.file), campaign.run)


def test_an_error_that_may_pass_still_stops_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad(archive_in(tmp_path), lambda item: None)
    campaign = campaign_in(tmp_path)
    stat = Path.stat

    def fail(path: Path, **options: bool) -> os.stat_result:
        if path.parent.name == "bad":
            raise OSError(116, "Stale file handle", str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", fail)
    with pytest.raises(StartAgain, match="Stale file handle"):
        index(load_campaign(campaign.file), campaign.run)


# --- SAFE ---------------------------------------------------------------------------------------------------


def test_members_of_a_zip_are_read_up_to_a_bound(tmp_path: Path) -> None:
    """Two hundred kilobytes that are two hundred megabytes of metadata."""
    with zipfile.ZipFile(tmp_path / "S2A_MSIL2A_20230604T100031.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("S2A.SAFE/MTD_MSIL2A.xml", "w", force_zip64=True) as member:
            for _ in range(200):
                member.write(b" " * (1 << 20))
        archive.writestr("S2A.SAFE/GRANULE/L2A_T32UMB_A1_20230604T1/IMG_DATA/R10m/T32UMB_20230604T1_B02_10m.jp2", b"")
    (product,) = find_products(tmp_path, NAMES)
    assert product.fault.endswith("S2A.SAFE/MTD_MSIL2A.xml has more than 67,108,864 bytes")


def test_images_of_an_item_that_cannot_be_used_are_not_said_to_want_a_date(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its verdict says what is wrong; with a date of their own they would be scenes without their metadata."""
    bad(archive_in(tmp_path), lambda item: item["properties"].update(datetime="yesterday"))
    with caplog.at_level(logging.WARNING):
        (product,) = [one for one in find_products(tmp_path / "archive", NAMES) if one.fault]
    assert 'its datetime "yesterday" is not a time' in product.fault
    assert not caplog.records
