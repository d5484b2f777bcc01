"""A STAC API instead of a folder: a real server on this machine, over the Items of the demo archive."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.conftest import Campaign

from embedcube.campaign.inventory import read_inventory
from embedcube.campaign.load import load_campaign
from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Search
from embedcube.campaign.search_extent import bounded
from embedcube.errors import RequestError, StartAgain
from embedcube.prepare.index import index
from embedcube.prepare.plan import plan

pytest.importorskip("pystac_client")

COLLECTION = "demo-s2"
CONFORMS = ["core", "item-search"]


@dataclass
class Api:
    """The Items of the server, and the requests it got."""

    items: list[dict[str, Any]] = field(default_factory=list)
    page: int = 3
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    """body of each request, and its page"""
    conforms: list[str] = field(default_factory=lambda: [f"https://api.stacspec.org/v1.0.0/{c}" for c in CONFORMS])
    matched: int | None = None
    """number of Items that the server says it found"""
    fails: Callable[[int], int] = lambda page: 200
    """HTTP status of the answer, by page"""

    def landing(self) -> dict[str, Any]:
        links = [
            {"rel": "self", "href": f"{self.url}/", "type": "application/json"},
            {"rel": "root", "href": f"{self.url}/", "type": "application/json"},
            {"rel": "search", "href": f"{self.url}/search", "type": "application/geo+json", "method": "POST"},
        ]
        return {
            "type": "Catalog", "id": "here", "description": "of a test", "stac_version": "1.0.0",
            "conformsTo": self.conforms, "links": links,
        }  # fmt: skip

    def search(self, question: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """One page of the Items that touch the box and fall in the interval, both ends included, as specified."""
        page = int(question.get("page", 0))
        self.asked.append(question)
        if (status := self.fails(page)) != 200:
            return status, {"code": "no", "description": "not today"}
        found = [item for item in self.items if _matches(item, question)]
        links = []
        if len(found) > (page + 1) * self.page:
            body = question | {"page": page + 1}
            links = [{"rel": "next", "href": f"{self.url}/search", "method": "POST", "body": body}]
        features = found[page * self.page : (page + 1) * self.page]
        count = {} if self.matched is None else {"numberMatched": self.matched}
        return 200, {"type": "FeatureCollection", "features": features, "links": links} | count


def _matches(item: dict[str, Any], question: dict[str, Any]) -> bool:
    west, south, east, north = item["bbox"]
    box = question.get("bbox", [-180, -90, 180, 90])
    start, end = (
        datetime.fromisoformat(t) for t in question.get("datetime", "1900-01-01T00Z/2200-01-01T00Z").split("/")
    )
    return (
        item["collection"] in question["collections"]
        and west <= box[2] and east >= box[0] and south <= box[3] and north >= box[1]
        and start <= datetime.fromisoformat(item["properties"]["datetime"]) <= end
    )  # fmt: skip


@pytest.fixture
def api(demo_archive: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """The demo's Items, every second one with absolute links, by collections."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    archive, held = demo_archive / "archive" / "sentinel2", Api()
    for i, path in enumerate(sorted(archive.glob("*/*.json"))):
        item = json.loads(path.read_text()) | {"collection": COLLECTION}
        for asset in item["assets"].values():
            file = path.parent / asset["href"]
            asset["href"] = file.as_uri() if i % 2 else file.relative_to(archive).as_posix()
        held.items.append(item)
    held.items += [item | {"collection": "another", "id": f"other-{item['id']}"} for item in held.items]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            place = urlsplit(self.path)
            if place.path in ("", "/"):
                self._answer(200, held.landing())
            else:
                self._answer(*held.search({k: v[0] for k, v in parse_qs(place.query).items()}))

        def do_POST(self) -> None:
            self._answer(*held.search(json.loads(self.rfile.read(int(self.headers["Content-Length"])))))

        def _answer(self, status: int, document: dict[str, Any]) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        held.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield held
        server.shutdown()
        thread.join()


def asking(campaign: Campaign, api: Api, **search: Any) -> None:
    """Change a campaign's archive into a search of the API."""

    def change(document: dict[str, Any]) -> None:
        document["archives"]["s2"]["search"] = {"api": api.url, "collections": [COLLECTION]} | search

    campaign.change(change)


def indexed(campaign: Campaign) -> list[Scene]:
    campaign.run.root.mkdir(parents=True, exist_ok=True)
    return index(load_campaign(campaign.file), campaign.run)


def test_an_api_and_its_folder_make_the_same_plan(demo: Campaign, api: Api, tmp_path: Path) -> None:
    """The search goes page by page, within region and windows; recipes do not depend on how scenes were found."""
    demo.change(lambda document: document.update(windows=[["2023-06-01", "2023-06-15"], ["2023-07-01", "2023-08-01"]]))
    for verb in ("index", "fit"):
        demo.cli(verb)
    of_folder = plan(load_campaign(demo.file), demo.run)
    scenes_of_folder = {scene.id: scene for scene in read_inventory(load_campaign(demo.file), demo.run)}

    there = Campaign(tmp_path / "api" / "campaign.yaml")
    there.file.parent.mkdir()
    shutil.copy(demo.file, there.file)
    asking(there, api)
    found = indexed(there)
    shutil.copytree(demo.run.root / "weights", there.run.root / "weights")
    assert plan(load_campaign(there.file), there.run).plan == of_folder.plan
    assert load_campaign(there.file).digest == load_campaign(demo.file).digest

    within = {
        name
        for name, scene in scenes_of_folder.items()
        if any(scene.meets(window) for window in load_campaign(demo.file).all_windows)
    }
    assert {scene.id for scene in found} == within < scenes_of_folder.keys()
    assert {scene.digest for scene in found} == {scenes_of_folder[name].digest for name in within}
    assert {question["datetime"] for question in api.asked} == {
        "2023-06-01T00:00:00Z/2023-06-15T00:00:00Z", "2023-07-01T00:00:00Z/2023-08-01T00:00:00Z",
    }  # fmt: skip
    assert max(int(question.get("page", 0)) for question in api.asked) > 0, "the answer came in pages"
    assert all(question["collections"] == [COLLECTION] for question in api.asked)


def test_a_search_is_bounded_by_the_region_and_as_far_as_its_shards_reach(demo: Campaign, api: Api) -> None:
    """A small region of the demo: only scenes of its shards are found, halo included."""
    demo.change(lambda document: document.update(region={"bbox": [7.6, 50.86, 7.61, 50.87]}))
    asking(demo, api)
    ((west, south, east, north),) = bounded(load_campaign(demo.file), "s2").search.boxes  # type: ignore[union-attr]
    layer = next(iter(load_campaign(demo.file).layers.values()))
    side_m = layer.shard_chips * (layer.chip_px - 2 * layer.halo_px) * 10 + layer.halo_px * 10
    assert 7.6 - west > side_m / 111_400 / 0.64, "a degree of longitude is shorter there"
    assert 50.86 - south > side_m / 111_400
    assert max(7.6 - west, east - 7.61) < 3 * side_m / 111_400
    assert max(50.86 - south, north - 50.87) < 1.1 * side_m / 111_000
    far = json.loads(json.dumps(api.items[0])) | {"id": "far", "bbox": [9.0, 50.0, 9.1, 50.1]}
    api.items.append(far)
    assert "far" not in {scene.id for scene in indexed(demo)}


@pytest.mark.parametrize(
    ("region", "expected"),
    [
        ({"bbox": [179.9, 10.0, 180.0, 10.1]}, [(-180, 9, -179, 11), (179, 9, 180, 11)]),
        ({"bbox": [-180, -90, 180, 90]}, [(-180, -90, 180, 90)]),
    ],
)
def test_boxes_of_a_search_lie_on_the_globe(
    demo: Campaign, api: Api, region: dict[str, Any], expected: list[tuple[float, ...]]
) -> None:
    demo.change(lambda document: document.update(region=region, grid={"crs": "EPSG:4326", "pixel": 0.0001}))
    asking(demo, api)
    boxes = sorted(bounded(load_campaign(demo.file), "s2").search.boxes)  # type: ignore[union-attr]
    assert len(boxes) == len(expected)
    for box, wide in zip(boxes, expected, strict=True):
        assert wide[0] <= box[0] < box[2] <= wide[2]
        assert wide[1] <= box[1] < box[3] <= wide[3]


def test_a_search_may_say_its_own_bounds(demo: Campaign, api: Api) -> None:
    asking(demo, api, boxes=[[7.0, 50.0, 8.0, 51.0]], times=[["2023-06-01", "2023-06-10"]])
    found = indexed(demo)
    assert found
    assert all((scene.time.month, scene.time.day) < (6, 11) for scene in found)
    (question,) = {(tuple(q["bbox"]), q["datetime"]) for q in api.asked}
    assert question == ((7.0, 50.0, 8.0, 51.0), "2023-06-01T00:00:00Z/2023-06-10T00:00:00Z")


def test_what_holds_at_all_times_is_not_asked_for_by_the_windows(demo: Campaign, api: Api) -> None:
    asking(demo, api)
    demo.change(lambda document: document["archives"]["s2"].update(source="fields", options={"static": True}))
    search = bounded(load_campaign(demo.file), "s2").search
    assert search is not None
    assert search.times == ()


def test_other_windows_need_another_index(demo: Campaign, api: Api) -> None:
    """An inventory of June does not have the scenes of July."""
    demo.change(lambda document: document.update(windows=[["2023-06-01", "2023-07-01"]]))
    asking(demo, api)
    indexed(demo)
    demo.change(lambda document: document.update(windows=[["2023-06-01", "2023-08-01"]]))
    with pytest.raises(RequestError, match="run `embedcube index` again"):
        read_inventory(load_campaign(demo.file), demo.run)


def test_an_api_that_gives_fewer_items_than_it_found_is_told(
    demo: Campaign, api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    asking(demo, api, times=[["2023-06-01", "2023-08-01"]])
    count = len(indexed(demo))
    assert not caplog.records
    api.matched = 10_000
    assert len(indexed(demo)) == count
    assert [record.getMessage() for record in caplog.records] == [
        f"{api.url} gave {count} of the 10000 Items that it says it found: the cube will lack the others"
    ]


def test_a_file_on_another_machine_is_to_be_staged_first(demo: Campaign, api: Api) -> None:
    (name, item) = next((item["id"], item) for item in api.items if item["collection"] == COLLECTION)
    for asset in item["assets"].values():
        asset["href"] = f"https://example.org/else/x{Path(asset['href']).name}"
    asking(demo, api, times=[["2023-06-01", "2023-08-01"]])
    (verdict,) = (scene.verdict for scene in indexed(demo) if scene.id == name)
    assert "is not on this machine" in verdict
    assert 'links: {"https://example.org/": FOLDER}' in verdict


@pytest.mark.parametrize(
    ("harm", "error", "words"),
    [
        ({"fails": lambda page: 503 if page else 200}, StartAgain, "could not be searched"),
        ({"fails": lambda page: 429}, StartAgain, "could not be searched"),
        ({"fails": lambda page: 403}, RequestError, "answered 403"),
        ({"conforms": ["https://api.stacspec.org/v1.0.0/core"]}, RequestError, "is not a STAC API with a search"),
    ],
    ids=["a page that fails", "too many questions", "forbidden", "no search"],
)
def test_an_api_that_does_not_answer_is_named(
    demo: Campaign, api: Api, harm: dict[str, Any], error: type[Exception], words: str
) -> None:
    """If a search fails midway, no inventory is written."""
    for key, value in harm.items():
        setattr(api, key, value)
    asking(demo, api)
    with pytest.raises(error, match=rf"{api.url}.*{words}"):
        indexed(demo)
    assert not demo.run.inventory.exists()


def test_an_api_that_is_not_there_is_named(demo: Campaign, api: Api) -> None:
    gone = Api(url="http://127.0.0.1:9")
    asking(demo, gone)
    with pytest.raises(StartAgain, match=r"http://127\.0\.0\.1:9 could not be searched: .*start again when it answers"):
        indexed(demo)
    asking(demo, Api(url="/data/catalog.json"))
    with pytest.raises(RequestError, match=r"archives\.s2\.search\.api: String should match pattern '\^https\?://'"):
        load_campaign(demo.file)
    assert Search(api=api.url, collections=("x",)).boxes == ()


def test_weather_is_not_searched(demo: Campaign, api: Api) -> None:
    asking(demo, api)
    demo.change(lambda document: document["archives"]["s2"].update(source="era5", mask=None, bands=["t2m"]))
    with pytest.raises(RequestError, match=r"archives\.s2\.search means nothing to the source era5; weather is read"):
        indexed(demo)
