"""One search over cubes at several centres: merged, with the centre of each hit; centres that are down are named."""

import asyncio
import json
import re
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from tests.conftest import call_cli
from tests.cube.synthetic import write_zone
from tests.uses.serving import running, spawned

from embedcube.cube.reader import Cube
from embedcube.errors import RequestError, WorkError
from embedcube.uses import federation, holders
from embedcube.uses.centres import Centre, read_catalogue
from embedcube.uses.federation import Federated, find_at_all, metres
from embedcube.uses.holders import Question
from embedcube.uses.remote import Address, Server
from embedcube.uses.serve.app import create_app

NAMES = ("north", "middle", "south")
SIDE, FEATURES = 32, 12
WEIGHTS = "ab" * 32


def write_cube(path: Path, seed: int, weights: str = WEIGHTS) -> None:
    """A cube of one layer, of much the same land as the others; each seed lies 20 km further south."""
    land = np.random.default_rng(0).normal(size=(2, SIDE, SIDE, FEATURES)).cumsum(axis=1).cumsum(axis=2)
    vectors = (land + np.random.default_rng(seed + 1).normal(size=land.shape) * 3).astype(np.float32)
    write_zone(path, "s2/utm32", vectors, corner=(400_000.0, 5_600_000.0 - 20_000 * seed))
    group = zarr.open_group(path, path="s2/utm32", mode="a", zarr_format=3)
    group.update_attributes({"embedcube:weights_sha256": weights})


@pytest.fixture(scope="module")
def cubes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The cube of each centre."""
    folder = tmp_path_factory.mktemp("centres")
    paths = {name: folder / f"{name}.zarr" for name in NAMES}
    for seed, path in enumerate(paths.values()):
        write_cube(path, seed)
    return paths


def place(path: Path, y: int, x: int) -> tuple[float, float]:
    """Longitude and latitude of the centre of a cell."""
    from embedcube.grid import to_degrees

    attributes = Cube(path).group("s2/utm32").attrs
    a, _, left, _, e, top = attributes["spatial:transform"]
    lon, lat = to_degrees(attributes["proj:wkt2"]).transform(left + (x + 0.5) * a, top + (y + 0.5) * e)
    return float(lon), float(lat)


def brute(cubes: dict[str, Path], query: Any, t: int, k: int) -> list[tuple[float, str, int, int]]:
    """The best cells of all cubes in window `t` by float64: cosine, centre, row, column."""
    found = []
    for name, path in cubes.items():
        array: Any = zarr.open_group(path, mode="r")["s2/utm32/embedding"]
        vectors = array[t].astype(np.float64)
        cosines = vectors @ query / np.linalg.norm(vectors, axis=-1) / np.linalg.norm(query)
        found += [(float(cosines[y, x]), name, y, x) for y, x in np.ndindex(SIDE, SIDE)]
    return sorted(found, key=lambda one: -one[0])[:k]


def assert_same(found: Federated, expected: list[tuple[float, str, int, int]]) -> None:
    """The hits are these."""
    assert [(hit.centre, hit.y, hit.x) for hit in found.hits] == [one[1:] for one in expected]
    assert np.allclose([hit.cosine for hit in found.hits], [one[0] for one in expected], atol=2e-6)


WHERE = (10, 12)
"""the cell of the example, in the cube `middle`"""


def question(cubes: dict[str, Path], k: int = 30) -> Question:
    """A search for the cell WHERE, in the first window."""
    return Question(like=[place(cubes["middle"], *WHERE)], k=k, time="2023-06-05", apart_m=0)


def expected_hits(cubes: dict[str, Path], k: int = 30) -> list[tuple[float, str, int, int]]:
    """The best hits, without the example itself."""
    array: Any = zarr.open_group(cubes["middle"], mode="r")["s2/utm32/embedding"]
    found = brute(cubes, array[0][WHERE].astype(np.float64), 0, k + 1)
    assert found[0][1:] == ("middle", *WHERE)
    return found[1:]


def local(cubes: dict[str, Path]) -> list[Centre]:
    """Centres whose cubes are read by this process."""
    return [Centre(name, Address(url=str(path))) for name, path in cubes.items()]


def test_local_cubes_are_searched_as_one(cubes: dict[str, Path]) -> None:
    found = find_at_all(local(cubes), question(cubes))
    assert {hit.centre for hit in found.hits} == set(NAMES)
    assert [hit for hit in found.hits if (hit.centre, hit.y, hit.x) == ("middle", *WHERE)] == []
    assert_same(found, expected_hits(cubes))
    assert found.missing == []
    assert sum(one.hits for one in found.centres) == 30


@pytest.fixture(scope="module")
def served(cubes: dict[str, Path]) -> Iterator[dict[str, str]]:
    """Addresses of servers of the cubes, in threads."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(running(create_app([path]))) for name, path in cubes.items()}


def mixed(cubes: dict[str, Path], served: dict[str, str]) -> list[Centre]:
    """A local cube, one behind the address of a server, one behind its address with the name of the cube."""
    urls = (str(cubes["north"]), served["middle"], f"{served['south']}/v1/cubes/synthetic")
    return [Centre(name, Address(url=url)) for name, url in zip(NAMES, urls, strict=True)]


def test_served_cubes_give_the_same_hits_as_local_ones(cubes: dict[str, Path], served: dict[str, str]) -> None:
    asked = question(cubes)
    assert find_at_all(mixed(cubes, served), asked).hits == find_at_all(local(cubes), asked).hits


def test_hits_are_apart_across_centres(cubes: dict[str, Path], served: dict[str, str], tmp_path: Path) -> None:
    # the same cube at two centres: each place is a hit once
    centres = [*mixed(cubes, served), Centre("copy", Address(url=str(cubes["south"])))]
    like = place(cubes["middle"], *WHERE)
    found = find_at_all(centres, Question(like=[like], k=25, apart_m=700))
    places = [like, *((hit.lon, hit.lat) for hit in found.hits)]
    distances = [metres(one, other) for i, one in enumerate(places) for other in places[:i]]
    assert len(found.hits) == 25
    assert min(distances) > 699
    assert not {hit.centre for hit in found.hits} >= {"south", "copy"} or len(set(places)) == 26


def test_polygons_and_counter_examples(cubes: dict[str, Path], served: dict[str, str]) -> None:
    import shapely

    (west, south), (east, north) = place(cubes["south"], 20, 4), place(cubes["south"], 14, 10)
    polygon = shapely.box(west, south, east, north)
    asked = Question(
        like=[polygon, place(cubes["north"], 3, 3)],
        unlike=[place(cubes["middle"], 30, 30)],
        k=12,
        time="2023-06-05",
        within=polygon.buffer(1),
    )
    one, other = (find_at_all(centres, asked) for centres in (mixed(cubes, served), local(cubes)))
    assert [(hit.centre, hit.y, hit.x) for hit in one.hits] == [(hit.centre, hit.y, hit.x) for hit in other.hits]
    assert len(one.hits) == 12
    assert not any(polygon.covers(shapely.Point(hit.lon, hit.lat)) for hit in one.hits)


def test_a_polygon_that_holds_the_best_hits_leaves_the_others(cubes: dict[str, Path]) -> None:
    import shapely

    (west, south), (east, north) = place(cubes["south"], 30, 1), place(cubes["south"], 1, 26)
    asked = Question(like=[shapely.box(west, south, east, north)], k=12, time="2023-06-05")
    assert len(find_at_all(local(cubes), asked).hits) == 12


def test_a_hit_that_is_none_costs_its_centre_only(cubes: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = holders.Local.find

    def torn(self: Any, *asked: Any) -> Any:
        hits, apart_m = whole(self, *asked)
        if self._cube.path == cubes["south"]:
            hits[0] = {name: value for name, value in hits[0].items() if name != "cosine"}
        return hits, apart_m

    monkeypatch.setattr(holders.Local, "find", torn)
    found = find_at_all(local(cubes), question(cubes))
    (missing,) = found.missing
    assert (missing.centre, "KeyError: 'cosine'" in missing.reason) == ("south", True)
    assert found.hits


VECTORS: dict[str, Any] = {
    "none": {"vectors": []},
    "two": {"vectors": [{"vector": [1.0] * FEATURES, "centres": []}] * 2},
    "words": {"vectors": [{"vector": ["x"] * FEATURES, "centres": []}]},
    "one word": {"vectors": [{"vector": "x", "centres": []}]},
    "no centres": {"vectors": [{"vector": [1.0] * FEATURES}]},
    "no number": {"vectors": [{"vector": [float("nan")] * FEATURES, "centres": []}]},
    "zeros": {"vectors": [{"vector": [0.0] * FEATURES, "centres": []}]},
    "short": {"vectors": [{"vector": [1.0] * (FEATURES - 1), "centres": []}]},
    "nested": {"vectors": [{"vector": [[1.0] * FEATURES], "centres": []}]},
}
"""answers to the question for the vector of an example"""


@pytest.mark.parametrize("name", VECTORS)
def test_a_vector_that_is_none_costs_its_centre_only(
    cubes: dict[str, Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = {"layers": {"s2": {"weights_sha256": WEIGHTS, "features": FEATURES}}, "version": "v1"}
    monkeypatch.setattr(Server, "get", lambda *_: there)
    monkeypatch.setattr(Server, "post", lambda *_: VECTORS[name])
    odd = Centre("odd", Address(url="http://127.0.0.1:9/v1/cubes/x"))
    found = find_at_all([odd, *local(cubes)], question(cubes, k=5))
    assert [(one.centre, one.state) for one in found.missing] == [("odd", "down")]
    assert "its answer is not understood" in found.missing[0].reason
    assert_same(found, expected_hits(cubes, 5))


@pytest.mark.parametrize("lie", ["many", "far", "nowhere"])
def test_more_hits_than_asked_for_cost_their_centre_only(
    cubes: dict[str, Path], lie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = holders.Local.find

    def lying(self: Any, *asked: Any) -> Any:
        hits, apart_m = whole(self, *asked)
        if self._cube.path == cubes["south"]:
            more = {"many": (hits * 1000, apart_m), "far": (hits, 1e9), "nowhere": (hits, float("nan"))}
            return more[lie]
        return hits, apart_m

    monkeypatch.setattr(holders.Local, "find", lying)
    found = find_at_all(local(cubes), question(cubes, k=5))
    assert [one.centre for one in found.missing] == ["south"]
    assert_same(found, expected_hits({name: path for name, path in cubes.items() if name != "south"}, 5))


def test_other_weights_are_never_mixed_in(cubes: dict[str, Path], tmp_path: Path) -> None:
    write_cube(tmp_path / "other.zarr", 1, weights="cd" * 32)
    write_cube(tmp_path / "unknown.zarr", 2, weights="")
    strangers = [Centre(name, Address(url=str(tmp_path / f"{name}.zarr"))) for name in ("other", "unknown")]
    # the first centre that holds the place decides: here the second, as the first has another place
    found = find_at_all([*local(cubes), *strangers], question(cubes))
    assert_same(found, expected_hits(cubes))
    assert [(one.centre, one.state) for one in found.missing] == [("other", "refused"), ("unknown", "refused")]
    assert "weights cdcdcdcdcdcd, the vector is of abababababab" in found.missing[0].reason
    turned = find_at_all([*strangers, *local(cubes)], question(cubes))
    assert {hit.centre for hit in turned.hits} == {"other"}


def test_a_place_that_nobody_holds(cubes: dict[str, Path]) -> None:
    nowhere = Question(like=[(0.0, 0.0)])
    with pytest.raises(RequestError, match="no centre has a vector at") as caught:
        find_at_all(local(cubes), nowhere)
    assert all(name in str(caught.value) for name in NAMES)
    down = Centre("down", Address(url="http://127.0.0.1:9"))
    with pytest.raises(WorkError, match="down: "):
        find_at_all([*local(cubes), down], nowhere)


def catalogue_of(folder: Path, centres: dict[str, str], token_file: str = "") -> Path:
    """A catalogue file."""
    lines = ["centres:"]
    for name, url in centres.items():
        lines += [f"  - name: {name}", f"    cube: {url}"]
        lines += [f"    token_file: {token_file}"] if token_file and "://" in url else []
    (folder / "centres.yaml").write_text("\n".join(lines) + "\n")
    return folder / "centres.yaml"


def test_three_servers_one_killed_amid(cubes: dict[str, Path], tmp_path: Path) -> None:
    """Three processes of `embedcube serve`, a token for all; one is lost while it is asked."""
    with ExitStack() as stack:
        started = {
            name: stack.enter_context(spawned(path, "--token-file", tmp_path / "token")) for name, path in cubes.items()
        }
        catalogue = catalogue_of(tmp_path, {name: address for name, (address, _) in started.items()}, "token")
        lon, lat = place(cubes["middle"], *WHERE)
        arguments = ("--like", f"{lon},{lat}", "--k", "30", "--time", "2023-06-05", "--apart-m", "0", "--json")
        whole = call_cli("find", "--catalogue", catalogue, *arguments)
        assert whole.returncode == 0, whole.stderr
        answer = json.loads(whole.stdout)
        assert answer["complete"]
        expected = expected_hits(cubes)
        assert [(hit["centre"], hit["y"], hit["x"]) for hit in answer["hits"]] == [one[1:] for one in expected]
        # it stands still when it is asked, and is killed then
        lost = started["south"][1]
        lost.send_signal(signal.SIGSTOP)
        killer = threading.Timer(1.5, lost.kill)
        killer.start()
        start = time.monotonic()
        part = call_cli("find", "--catalogue", catalogue, *arguments)
        killer.join()
        assert time.monotonic() - start < 30
        assert part.returncode == 1
        assert "1 of 3 centres are missing" in part.stderr
        assert "south down" in part.stderr
        answer = json.loads(part.stdout)
        assert not answer["complete"]
        states = {one["centre"]: one["state"] for one in answer["centres"]}
        assert states == {"north": "answered", "middle": "answered", "south": "down"}
        others = {name: path for name, path in cubes.items() if name != "south"}
        expected = expected_hits(others)
        assert [(hit["centre"], hit["y"], hit["x"]) for hit in answer["hits"]] == [one[1:] for one in expected]
        # without the token, all refuse, and are named
        refused = call_cli("find", "--catalogue", catalogue_of(tmp_path, {"north": started["north"][0]}), *arguments)
        assert refused.returncode == 1
        assert "401" in refused.stderr


def test_a_server_that_says_nothing_is_given_up(cubes: dict[str, Path]) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        mute = Centre("mute", Address(url=f"http://127.0.0.1:{silent.getsockname()[1]}"))
        start = time.monotonic()
        found = find_at_all([*local(cubes), mute], question(cubes), timeout_s=1.0)
    assert time.monotonic() - start < 15
    assert [(one.centre, one.state) for one in found.missing] == [("mute", "down")]
    assert re.search("Timeout|no whole answer within 1 s", found.missing[0].reason)
    assert_same(found, expected_hits(cubes))


@pytest.mark.parametrize(
    "answer", [b"{}", b"[]", b"not json", b'{"layers": []}', b'{"layers": {"s2": {}}, "cubes": []}']
)
def test_an_answer_that_makes_no_sense_is_that_centres_fault(cubes: dict[str, Path], answer: bytes) -> None:
    async def app(scope: Any, _: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": answer})

    with running(app) as address:
        odd = Centre("odd", Address(url=f"{address}/v1/cubes/x"))
        found = find_at_all([odd, *local(cubes)], question(cubes, k=5))
    assert [one.centre for one in found.missing] == ["odd"]
    assert_same(found, expected_hits(cubes, 5))


def test_catalogues_of_yaml(cubes: dict[str, Path], tmp_path: Path) -> None:
    relative = tmp_path / "cube.zarr"
    relative.symlink_to(cubes["north"])
    catalogue = catalogue_of(tmp_path, {"here": "cube.zarr", "there": "https://example.org/cube.zarr"}, "t")
    here, there = read_catalogue(str(catalogue))
    assert here.address == Address(url=str(relative))
    assert there.address == Address(url="https://example.org/cube.zarr", token_file=tmp_path / "t")
    for text, message in (
        ("centres: []", "at least 1"),
        ("centres:\n  - nam: x\n    cube: y", 'unknown key "nam", did you mean "name"'),
        ("centres:\n  - {name: x, cube: y}\n  - {name: x, cube: z}", "two centres are named x"),
        ("[", "not valid YAML"),
    ):
        catalogue.write_text(text)
        with pytest.raises(RequestError, match=message):
            read_catalogue(str(catalogue))
    with pytest.raises(RequestError, match="no such catalogue"):
        read_catalogue(str(tmp_path / "nothing.yaml"))


def test_catalogues_of_stac(cubes: dict[str, Path], two_zones: Path, tmp_path: Path) -> None:
    """The Collection that lies beside a cube leads to it, from a file and from a server; so does a list of them."""
    folder = tmp_path / "cubes" / "v1-stac"
    (folder / "s2-utm32").mkdir(parents=True)
    (tmp_path / "cubes" / "v1.zarr").symlink_to(two_zones)
    # as consolidation writes them, with the Item of the model before those of the zones
    links = [{"rel": "root", "href": "./collection.json"}, {"rel": "item", "href": "./model/model.json"}]
    links += [{"rel": "item", "href": "./s2-utm32/s2-utm32.json"}]
    (folder / "collection.json").write_text(json.dumps({"type": "Collection", "id": "two_zones", "links": links}))
    (folder / "model").mkdir()
    (folder / "model" / "model.json").write_text(json.dumps({"type": "Feature", "properties": {}, "assets": {}}))
    item: Any = {"type": "Feature", "id": "s2-utm32", "properties": {"embedcube:zone": "s2/utm32"}}
    item["assets"] = {"embeddings": {"href": "../../v1.zarr/s2/utm32"}}
    (folder / "s2-utm32" / "s2-utm32.json").write_text(json.dumps(item))
    (centre,) = read_catalogue(str(tmp_path / "cubes" / "v1-stac" / "collection.json"))
    assert (centre.name, centre.address.url) == ("two_zones", str(two_zones.resolve()))
    with running(_static(tmp_path)) as address:
        (centre,) = read_catalogue(f"{address}/cubes/v1-stac/collection.json")
        assert centre.address.url == f"{address}/cubes/v1.zarr"
        links = [{"rel": "child", "href": "./cubes/v1-stac/collection.json"}, {"rel": "data", "href": "/collections"}]
        (tmp_path / "catalog.json").write_text(json.dumps({"type": "Catalog", "id": "all", "links": links}))
        links = [{"rel": "items", "href": "/cubes/items.json"}]
        item["assets"]["embeddings"]["href"] = f"{address}/cubes/v2.zarr/s2/utm32"
        (tmp_path / "cubes" / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": [item]}))
        api = {"collections": [{"type": "Collection", "id": "second", "links": links}], "links": []}
        (tmp_path / "collections").write_text(json.dumps(api))
        found = read_catalogue(f"{address}/catalog.json")
        assert [(one.name, one.address.url) for one in found] == [
            ("two_zones", f"{address}/cubes/v1.zarr"),
            ("second", f"{address}/cubes/v2.zarr"),
        ]
        # a server cannot make us read a file of this machine
        item["assets"]["embeddings"]["href"] = f"file://{cubes['north']}/s2/utm32"
        (tmp_path / "cubes" / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": [item]}))
        with pytest.raises(RequestError, match="not followed"):
            read_catalogue(f"{address}/catalog.json")
        with pytest.raises(WorkError, match="no such document"):
            read_catalogue(f"{address}/nothing.json")


def test_a_collection_that_is_listed_twice_and_links_in_circles_are_one(two_zones: Path, tmp_path: Path) -> None:
    item: Any = {"type": "Feature", "id": "x", "properties": {"embedcube:zone": "s2/utm32"}}
    item["assets"] = {"embeddings": {"href": "./cube.zarr/s2/utm32"}}
    (tmp_path / "item.json").write_text(json.dumps(item))
    collection = {"type": "Collection", "id": "two_zones", "links": [{"rel": "item", "href": "./item.json"}]}
    (tmp_path / "collection.json").write_text(json.dumps(collection))
    (tmp_path / "collections").write_text(json.dumps({"collections": [collection, collection], "links": []}))
    children = ("./collection.json", "./collection.json", "./catalog.json", "./other.json")
    links = [{"rel": "child", "href": href} for href in children] + [{"rel": "data", "href": "./collections"}]
    (tmp_path / "catalog.json").write_text(json.dumps({"type": "Catalog", "links": links}))
    (tmp_path / "other.json").write_text(json.dumps({"type": "Catalog", "links": links}))
    with running(_static(tmp_path)) as address:
        for catalogue in (f"{address}/catalog.json", str(tmp_path / "catalog.json")):
            (centre,) = read_catalogue(catalogue)
            assert centre.name == "two_zones"
            assert centre.address.url.endswith("/cube.zarr")


def test_a_catalogue_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedcube.uses.centres._DOCUMENTS", 20)
    links = [{"rel": "child", "href": f"./{i}.json"} for i in range(5)]
    for name in ("catalog", *map(str, range(5))):
        (tmp_path / f"{name}.json").write_text(json.dumps({"type": "Catalog", "links": links}))
    with pytest.raises(RequestError, match="lists no cube"):
        read_catalogue(str(tmp_path / "catalog.json"))
    deeper = [{"rel": "child", "href": f"./{i}.json"} for i in range(19)]
    (tmp_path / "catalog.json").write_text(json.dumps({"type": "Catalog", "links": deeper}))
    for name in map(str, range(5, 19)):
        more = [{"rel": "child", "href": f"./{name}-{i}.json"} for i in range(5)]
        (tmp_path / f"{name}.json").write_text(json.dumps({"type": "Catalog", "links": more}))
        for i in range(5):
            (tmp_path / f"{name}-{i}.json").write_text("{}")
    with pytest.raises(RequestError, match=r"more than 20 documents; name the Catalog or Collection"):
        read_catalogue(str(tmp_path / "catalog.json"))


async def _trickle(scope: Any, _: Any, send: Any) -> None:
    """A server that sends a byte every tenth of a second."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"350")]})
        for _ in range(35):
            await send({"type": "http.response.body", "body": b" " * 10, "more_body": True})
            await asyncio.sleep(0.1)


def test_a_centre_that_sends_a_byte_now_and_then_ends_at_the_deadline(
    cubes: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedcube.uses.centres._WALK_S", 0.7)
    with running(_trickle) as address:
        start = time.monotonic()
        slow = Centre("slow", Address(url=f"{address}/v1/cubes/x"))
        found = find_at_all([*local(cubes), slow], question(cubes), timeout_s=0.7)
        assert time.monotonic() - start < 5
        assert [(one.centre, one.state) for one in found.missing] == [("slow", "down")]
        assert "no whole answer within 0.7 s" in found.missing[0].reason
        assert_same(found, expected_hits(cubes))
        # a plain store is read by this machine: its deadline is that of the search
        monkeypatch.setattr(federation, "DEADLINE_S", 2.5)
        store = Centre("store", Address(url=f"{address}/cube.zarr"))
        found = find_at_all([*local(cubes), store], question(cubes))
        assert [(one.centre, one.state) for one in found.missing][-1] == ("store", "down")
        start = time.monotonic()
        with pytest.raises(WorkError, match="no whole answer within"):
            read_catalogue(f"{address}/catalog.json")
        assert time.monotonic() - start < 4


def test_a_store_behind_a_server_gets_its_token(cubes: dict[str, Path], tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("a-token-of-many-letters\n")
    token_file.chmod(0o600)
    shutil.copytree(cubes["north"], tmp_path / "north.zarr")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
        zarr.consolidate_metadata(zarr.storage.LocalStore(tmp_path / "north.zarr"))
    app = create_app([f"north={tmp_path / 'north.zarr'}"], token="a-token-of-many-letters")
    with running(app) as address:
        url = f"{address}/v1/cubes/north/files/north.zarr"
        others = [centre for centre in local(cubes) if centre.name != "north"]
        found = find_at_all([*others, Centre("north", Address(url=url, token_file=token_file))], question(cubes))
        assert_same(found, expected_hits(cubes))
        refused = find_at_all([*others, Centre("north", Address(url=url))], question(cubes))
    assert [one.state for one in refused.missing] == ["down"]
    assert "not allowed" in refused.missing[0].reason


def _static(folder: Path) -> Any:
    from starlette.applications import Starlette
    from starlette.routing import Mount
    from starlette.staticfiles import StaticFiles

    return Starlette(routes=[Mount("/", StaticFiles(directory=folder, follow_symlink=True))])


def test_the_verb_prints_hits_and_centres(cubes: dict[str, Path], tmp_path: Path) -> None:
    catalogue = catalogue_of(tmp_path, {name: str(path) for name, path in cubes.items()})
    lon, lat = place(cubes["middle"], *WHERE)
    out = tmp_path / "hits.geojson"
    found = call_cli("find", "--catalogue", catalogue, "--like", f"{lon},{lat}", "--k", "3", "--out", out)
    assert found.returncode == 0, found.stderr
    lines = found.stdout.splitlines()
    assert len(lines) == 1 + 3 + 3
    assert lines[0].startswith("rank")
    assert "middle: answered" in found.stdout
    assert len(json.loads(out.read_text())["features"]) == 3
    for arguments in ((), ("--catalogue", catalogue, cubes["north"])):
        refused = call_cli("find", "--like", f"{lon},{lat}", *arguments)
        assert refused.returncode == 2
        assert "--catalogue" in refused.stderr
