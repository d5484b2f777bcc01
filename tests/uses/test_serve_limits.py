"""What a server refuses before it reads anything, what large windows are answered, and what strangers are told."""

import math
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import httpx
import numpy as np
import pytest
from fastapi.exceptions import RequestValidationError
from tests.cube.two_zones import LAYER
from tests.uses.serving import running

from embedcube.cube.basis import fit_basis
from embedcube.cube.objects import Chunks
from embedcube.cube.preview_store import preview_store_of, write_preview_store
from embedcube.cube.reader import Cube
from embedcube.uses.serve.app import create_app
from embedcube.uses.serve.extent import of_polygons, of_windows
from embedcube.uses.serve.holdings import open_holdings
from embedcube.uses.serve.limits import Held, Limits
from embedcube.uses.serve.reading import Reader
from embedcube.uses.serve.served import Busy, Desk

LAYER_PATH = f"/v1/cubes/two_zones/layers/{LAYER}"

PLACE = {"lon": 12.03, "lat": 50.01}

SQUARE = {
    "type": "Polygon",
    "coordinates": [[[11.98, 50.0], [12.03, 50.0], [12.03, 50.02], [11.98, 50.02], [11.98, 50.0]]],
}

Ask = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def cube(two_zones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("limits") / "v1.zarr"
    shutil.copytree(two_zones, path)
    return path


@pytest.fixture(scope="module")
def ask(cube: Path) -> Iterator[Ask]:
    """Asks a server of the cube with the usual limits, by the path below the layer; a body makes it a POST."""
    with served(cube, Limits()) as asking:
        yield asking


class served:
    """A server of a cube under some limits, as something to ask."""

    def __init__(self, cube: Path, limits: Limits) -> None:
        self._running = running(create_app([cube], limits=limits))

    def __enter__(self) -> Ask:
        client = httpx.Client(base_url=self._running.__enter__(), trust_env=False, timeout=30)

        def ask(
            path: str, body: Any = None, headers: dict[str, str] | None = None, **parameters: Any
        ) -> httpx.Response:
            url = path if path.startswith("/") else f"{LAYER_PATH}/{path}"
            if body is None:
                return client.get(url, params=parameters, headers=headers)
            return client.post(url, json=body)

        self._client = client
        return ask

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._running.__exit__(None, None, None)


ASKED: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "point": ("point", None, PLACE),
    "box": ("box", None, {"bbox": "11.98,49.99,12.02,50.01"}),
    "parcels": ("parcels", {"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": SQUARE}]}, {}),
    "find by a place": ("find", {"like": [PLACE]}, {}),
    "find by a polygon": ("find", {"like": [SQUARE]}, {}),
    "find unlike a polygon": ("find", {"like": [PLACE], "unlike": [SQUARE]}, {}),
    "find within": ("find", {"like": [{"vector": [1.0] * 16}], "within": SQUARE}, {}),
    "vectors of a polygon": ("vectors", {"like": [SQUARE]}, {}),
    "vectors of a place": ("vectors", {"like": [PLACE]}, {}),
    "similar": ("similar", {"like": [SQUARE], "zone": "utm32", "time": "2023-06"}, {}),
    "change": ("change", {"before": "2023-06/2023-08", "after": "2023-08", "zone": "utm32"}, {}),
}
"""what is asked of vectors"""


def no_read(*_: Any) -> Any:
    raise AssertionError("a chunk was read")


@pytest.mark.parametrize("name", ASKED)
def test_every_question_is_priced_before_anything_is_decoded(
    cube: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, body, parameters = ASKED[name]
    with served(cube, Limits(decoded_mb=-1)) as ask:
        monkeypatch.setattr(Chunks, "read", no_read)
        monkeypatch.setattr(Cube, "valid", no_read)
        answer = ask(path, body, **parameters)
    assert answer.status_code == 413, answer.text
    assert "ask for less" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["find", "vectors", "similar"])
def test_huge_polygons_as_examples_are_too_much(cube: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    body = {"like": [{"type": "Polygon", "coordinates": [[[-10, 30], [30, 30], [30, 70], [-10, 70], [-10, 30]]]}]}
    monkeypatch.setattr(Chunks, "read", no_read)
    with served(cube, Limits(scan_cells=12_000)) as ask:
        answer = ask(path, body | ({"zone": "utm32", "time": "2023-06"} if path == "similar" else {}))
    assert answer.status_code == 413, answer.text
    assert "cells" in answer.json()["detail"]


def polygon(*places: tuple[float, float]) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": [[*map(list, places), list(places[0])]]}


ZIGZAG = polygon(*((11.9 + 0.2 * i / 2000, 49.9 + 0.2 * (i % 2)) for i in range(2001)), (12.1, 49.8), (11.9, 49.8))
"""few vertices, long edges"""


@pytest.mark.parametrize(
    ("wrong", "status", "words"),
    [
        (polygon((12, 50), (12.1, 50.1), (12.1, 50), (12, 50.1)), 422, "cross each other .*Self-intersection"),
        (polygon((12, 50), (12.1, 50.1), (12.1, 1e400)), 422, "finite numbers"),
        (polygon((12, 50), (12.1, 50.1), (12.1, float("nan"))), 422, "finite numbers"),
        (polygon((12, 50), (12.1, 91), (12.1, 50)), 422, "longitude and latitude"),
        (polygon((12, 50), (12.1, 50.1), (12, 50)), 422, "cross each other|touch"),
        (
            polygon(*((12 + 0.05 * math.cos(i / 1000), 50 + 0.05 * math.sin(i / 1000)) for i in range(6283))),
            413,
            "vert",
        ),
        (ZIGZAG, 413, "cells along the edges"),
    ],
)
def test_polygons_that_are_none_are_refused_in_words(cube: Path, wrong: Any, status: int, words: str) -> None:
    import json
    import re

    bodies = {
        "find": {"like": [wrong]},
        "find within": {"like": [PLACE], "within": wrong},
        "vectors": {"like": [wrong]},
        "parcels": {"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": wrong}]},
    }
    limits = Limits(vertices=5000, outline_cells=60_000, scan_cells=10**9)
    with running(create_app([cube], limits=limits)) as address:
        for path, body in bodies.items():
            # json of Python has NaN and Infinity, which no client should send
            data, kind = json.dumps(body), {"Content-Type": "application/json"}
            url = f"{address}{LAYER_PATH}/{path.partition(' ')[0]}"
            answer = httpx.post(url, content=data, headers=kind, trust_env=False, timeout=30)
            assert answer.status_code == status, (path, answer.text)
            assert re.search(words, answer.json()["detail"]), (path, answer.text)


def test_the_price_of_polygons_covers_what_is_read(cube: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from shapely.geometry import box

    opened = Cube(cube)
    read: list[Any] = []
    plain = Chunks.read

    def counted(chunks: Chunks, place: tuple[int, int, int]) -> Any:
        read.append(chunks)
        return plain(chunks, place)

    monkeypatch.setattr(Chunks, "read", counted)
    rng = np.random.default_rng(0)
    for _ in range(12):
        west, south = 11.9 + 0.15 * rng.random(), 49.95 + 0.08 * rng.random()
        region = box(west, south, west + 0.06 * rng.random(), south + 0.04 * rng.random())
        for zone in opened.zones:
            read.clear()
            blocks = [one for one in opened.layer.blocks(region) if one.zone == zone]
            cells = int(sum(0 if one.inside is None else one.inside.sum() for one in blocks))
            decoded = sum(math.prod(one.chunks) for one in read if len(one.shape) == 4 and zone in one._array.path)
            cost = of_polygons(opened, zone, [0, 1, 2], [region])
            assert cells <= cost.cells
            assert decoded <= cost.decoded <= of_windows(opened, zone, [0, 1, 2]).decoded


def test_windows_that_are_too_large_to_keep_are_answered_part_by_part(cube: Path, ask: Ask) -> None:
    body = {"like": [PLACE], "zone": "utm32", "time": "2023-06", "type": "float32"}
    paths = [f"zones/utm32/windows/0/{what}" for what in ("status", "n_obs", "colours", "tiles/colours/1/0/0.png")]
    paths += [f"zones/utm32/windows/0/{what}" for what in ("colours?step=3", "tiles/status/0/0/0.png", "status?step=7")]
    expected = [ask("similar", body).content, *(ask(path).content for path in paths)]
    with served(cube, Limits(held=Held(windows_mb=0))) as small:
        assert small("similar", body).content == expected[0]
        for path, content in zip(paths, expected[1:], strict=True):
            answer = small(path)
            assert answer.status_code == 200, (path, answer.text)
            assert answer.content == content, path
    # what is too much to send or to decode is told from what is asked: status has a byte for each cell
    with served(cube, Limits(held=Held(windows_mb=0), decoded_mb=-1)) as none:
        assert {none(path).status_code for path in paths} == {413}


def test_colours_of_large_windows_are_those_of_the_preview(cube: Path, tmp_path: Path, ask: Ask) -> None:
    copy = tmp_path / "v1.zarr"
    shutil.copytree(cube, copy)
    write_preview_store(Cube(copy), preview_store_of(copy))
    path = "zones/utm33/windows/1/colours"
    expected = ask(path).content
    # no vector is decoded for them, so a price of vectors does not matter
    with served(copy, Limits(held=Held(windows_mb=0))) as small:
        assert small(path).content == expected
        assert small(path, step=5).content == ask(path, step=5).content


def test_what_is_not_there_is_404_also_for_those_who_know_the_version(ask: Ask) -> None:
    etag = ask("point", **PLACE).headers["etag"]
    known = {"If-None-Match": etag}
    other = LAYER_PATH.replace(f"/{LAYER}", "/other")
    for path, parameters in (
        (f"{other}/point", PLACE),
        (f"{other}/box", {"bbox": "11.98,49.99,12.02,50.01"}),
        (f"{other}/explain", PLACE),
        (f"{other}/zones/utm32/windows/0/status", {}),
        (f"{other}/zones/utm32/windows/0/tiles/status/0/0/0.png", {}),
        (other, {}),
        ("zones/utm31/windows/0/status", {}),
        ("zones/utm32/windows/9/status", {}),
        ("zones/utm32/windows/0/tiles/status/0/9/0.png", {}),
        ("point", {"lon": 3, "lat": 50}),
        ("point", PLACE | {"time": "1999"}),
        ("explain", {"lon": 3, "lat": 50, "time": "2023-06"}),
        ("box", {"bbox": "1,1,2,2"}),
    ):
        answer = ask(path, headers=known, **parameters)
        assert answer.status_code == 404, (path, answer.status_code)
    for path, parameters in (
        ("point", PLACE),
        ("zones/utm32/windows/0/status", {}),
        ("box", {"bbox": "12,50,12.01,50.01"}),
    ):
        assert ask(path, headers=known, **parameters).status_code == 304, path


def test_errors_name_the_cube_and_not_its_place_on_this_machine(cube: Path, tmp_path: Path) -> None:
    copy = tmp_path / "hidden" / "v1.zarr"
    shutil.copytree(cube, copy)
    for zone in ("utm32", "utm33"):
        for damaged in (copy / LAYER / zone / "embedding").glob("c.0.*"):
            damaged.chmod(0o644)
            damaged.write_bytes(damaged.read_bytes()[:-20] + bytes(20))
    with served(copy, Limits(held=Held(windows_mb=0))) as ask:
        answers = {name: ask(path, body, **parameters) for name, (path, body, parameters) in ASKED.items()}
        answers["explain"] = ask("explain", **PLACE, time="2023-06")
        answers["outside"] = ask("explain", lon=3, lat=50)
        answers["no example"] = ask("vectors", {"like": [{"lon": 3, "lat": 50}]})
        answers["empty polygon"] = ask("find", {"like": [polygon((3, 50), (3.1, 50), (3, 50.1))]})
        answers["map"] = ask("zones/utm32/windows/0/colours")
    assert {answers[name].status_code for name in ("point", "box", "parcels", "find by a place", "similar")} == {500}
    for name, answer in answers.items():
        assert "hidden" not in answer.text, (name, answer.text)
        assert str(tmp_path.parent) not in answer.text, (name, answer.text)
    assert "two_zones" in answers["no example"].json()["vectors"][0]["problem"]


SENT: dict[str, tuple[str, Any]] = {
    "examples": ("find", {"like": [0] * 100_000}),
    "counter-examples": ("find", {"like": [PLACE], "unlike": [0] * 100_000}),
    "examples that are none": ("find", {"like": [0] * 256}),
    "numbers": ("vectors", {"like": [{"vector": ["x"] * 50_000}]}),
    "features": ("parcels", {"type": "FeatureCollection", "features": [0] * 100_000}),
    "features that are none": ("parcels", {"type": "FeatureCollection", "features": [0] * 10_000}),
    "statistics": ("parcels", {"type": "FeatureCollection", "features": [], "stats": [0] * 100_000}),
    "keys": ("find", {"like": [PLACE]} | {f"a{i}": 0 for i in range(50_000)}),
    "keys of an example": ("find", {"like": [PLACE | {f"a{i}": 0 for i in range(50_000)}]}),
}


@pytest.mark.parametrize("name", SENT)
def test_a_body_full_of_errors_is_refused_at_the_first_ones(
    ask: Ask, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bodies are checked in the loop that answers everyone: each error costs time and memory there."""
    path, body = SENT[name]
    counts: list[int] = []
    plain = RequestValidationError.errors

    def counted(error: RequestValidationError) -> Any:
        counts.append(len(plain(error)))
        return plain(error)

    monkeypatch.setattr(RequestValidationError, "errors", counted)
    answer = ask(path, body)
    assert answer.status_code == 422, answer.text
    assert max(counts) < 20, name


def test_what_is_kept_is_bounded_for_all_cubes_together(cube: Path, tmp_path: Path) -> None:
    shutil.copytree(cube, tmp_path / "other" / "v1.zarr")
    holdings = open_holdings([f"a={cube}", f"b={tmp_path / 'other' / 'v1.zarr'}"], Limits(held=Held(windows_mb=1)))
    windows = [one.reader.whole("s2/utm32", t) for t in range(3) for one in holdings.values()] * 2
    kept = {id(one.reader._shelf): one.reader._shelf for one in holdings.values()}
    assert sum(window.nbytes for window in windows) > 1 << 20
    assert 0 < sum(one.nbytes for shelf in kept.values() for one in shelf.windows._values.values()) <= 1 << 20
    # a window of one is not taken for that of another
    fresh = open_holdings([f"a={cube}"], Limits())["a"].reader
    other = Reader(Cube(cube), fresh._shelf)
    other._name = "another cube"
    assert other.whole("s2/utm32", 0) is not fresh.whole("s2/utm32", 0) is fresh.whole("s2/utm32", 0)


def test_threads_that_ask_for_the_same_read_and_fit_it_once(cube: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, flat, fit = open_holdings([f"a={cube}"], Limits())["a"].reader, Reader.flat, fit_basis
    calls: list[str] = []

    def slow(self: Reader, zone: str, name: str, *rest: Any) -> Any:
        calls.append(name)
        time.sleep(0.05)
        return flat(self, zone, name, *rest)

    def slow_fit(*asked: Any) -> Any:
        calls.append("basis")
        time.sleep(0.05)
        return fit(*asked)

    monkeypatch.setattr(Reader, "flat", slow)
    monkeypatch.setattr("embedcube.uses.serve.reading.fit_basis", slow_fit)
    with ThreadPoolExecutor(4) as pool:
        drawn = list(pool.map(lambda _: reader.colours("s2/utm32", 0, slice(None), slice(None)), range(4)))
    assert all(np.array_equal(one, drawn[0]) for one in drawn)
    assert sorted(calls) == ["basis", "embedding", "scale", "status"]


def test_points_of_many_chunks_wait_for_their_turn(cube: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[int] = []
    plain = Desk.turn

    async def counted(desk: Desk, work: Any) -> Any:
        turns.append(1)
        return await plain(desk, work)

    monkeypatch.setattr(Desk, "turn", counted)
    expected = ask("point", **PLACE)
    assert turns == []
    with served(cube, Limits(held=Held(point_mb=-1))) as small:
        assert small("point", **PLACE).content == expected.content
    assert turns == [1]


def test_turns_are_few_and_some_are_sent_away() -> None:
    present: list[int] = []
    most, refused = 0, 0

    async def work() -> None:
        nonlocal most
        present.append(1)
        most = max(most, len(present))
        await anyio.sleep(0.01)
        present.pop()

    async def all_at_once() -> None:
        desk = Desk(Limits(held=Held(computing=2, waiting=3)))

        async def one() -> None:
            nonlocal refused
            try:
                await desk.turn(work)
            except Busy:
                refused += 1

        async with anyio.create_task_group() as tasks:
            for _ in range(7):
                tasks.start_soon(one)

    anyio.run(all_at_once)
    assert (most, refused) == (2, 2)
