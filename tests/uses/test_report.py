"""The report of a campaign: it says what the run folder says, needs no network, and shows nothing unescaped."""

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from PIL import Image
from tests.conftest import Campaign, cells_of_shards, demo_in, in_shards

from embedcube.campaign.run_folder import RunDir
from embedcube.cube.encoding import STATUS_MEANINGS
from embedcube.uses.report.gather import by_reason
from embedcube.uses.report.terms import terms_of

LAYER = "s2_mosaiks"
HOSTILE = '<script src="https://example.org/x.js"></script><img src=x onerror=alert(1)>"\'&amp;'


class Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def all(self, tag: str) -> list[dict[str, Any]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def campaign(finished_demo: Campaign, demo_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """A copy of the finished demo, with its report."""
    copy = demo_in(tmp_path_factory.mktemp("report"), demo_archive)
    shutil.copytree(finished_demo.run.root, copy.run.root, symlinks=True)
    assert "wrote" in copy.cli("report")
    return copy


@pytest.fixture(scope="module")
def html(campaign: Campaign) -> str:
    return (campaign.run.report / "report.html").read_text()


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def records(run: RunDir) -> list[dict[str, Any]]:
    lines = [line for file in sorted(run.parts.glob("*/*/*/records.jsonl")) for line in file.read_text().splitlines()]
    return [json.loads(line) for line in lines]


def test_nothing_is_fetched_and_nothing_runs(html: str, page: Page) -> None:
    assert {tag for tag, _ in page.tags} <= {
        "html", "head", "meta", "title", "style", "body", "header", "main", "section", "h1", "h2", "h3", "p", "ul",
        "li", "i", "div", "table", "caption", "thead", "tbody", "tr", "th", "td", "details", "summary", "pre", "code",
        "span", "img", "figure", "figcaption", "dl", "dt", "dd", "a", "br",
    }  # fmt: skip
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.all("img"))
    assert not re.search(r"@import|url\(|\bon\w+=", html)
    policies = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    assert all(link["href"].startswith("https://") for link in page.all("a"))
    assert len(html) < 2_000_000


def test_it_says_the_same_again(campaign: Campaign, html: str) -> None:
    """No clock: two reports of one run are equal."""
    out = campaign.file.parent / "again.html"
    assert json.loads(campaign.cli("report", "--out", str(out), "--json")) == {"report": str(out)}
    assert out.read_text() == html


def test_the_coverage_is_that_of_the_cube(campaign: Campaign, page: Page) -> None:
    """The shares of the records are those of the cells of all shards."""
    status = in_shards(campaign.run.newest_cube, f"{LAYER}/grid")["status"].values
    bars = [div["aria-label"] for div in page.all("div") if div.get("class") == "bar"]
    assert len(bars) == len(status) + 1, "one for each window, and that of the time"
    for window, bar in zip(status, bars, strict=False):
        counts = np.bincount(window.ravel(), minlength=len(STATUS_MEANINGS))
        expected = {f"{100 * count / counts.sum():.1f} %" for count in counts if count}
        assert set(re.findall(r"[\d.]+ %", bar)) == expected
        vectors = counts[STATUS_MEANINGS.index("valid")] + counts[STATUS_MEANINGS.index("valid_incomplete")]
        assert f"{100 * vectors / counts.sum():.1f} % {window.size:,}" in page.text


def test_the_pictures_are_those_of_the_preview(campaign: Campaign, page: Page) -> None:
    (store,) = campaign.run.cubes.glob("*.preview.zarr")
    level: Any = zarr.open_group(store, mode="r")[f"{LAYER}/grid/0"]
    rows, columns = cells_of_shards(campaign.run.newest_cube, f"{LAYER}/grid")
    maps = [image for image in page.all("img") if image["alt"].startswith("Map of layer")]
    assert len(maps) == level["rgb"].shape[0]
    for t, image in enumerate(maps):
        png = Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2])))
        pixels = np.asarray(png.convert("RGB"))
        factor = 480 // (columns.stop - columns.start)
        assert (image["width"], image["height"]) == tuple(str(side) for side in png.size)
        cells = np.moveaxis(level["rgb"][t, :, rows, columns], 0, -1)
        drawn = pixels[::factor, ::factor]
        valid = cells.any(axis=-1)
        assert valid.mean() > 0.4
        assert (drawn[valid] == cells[valid]).all()


def test_ranks_time_and_cost_are_those_of_the_records(campaign: Campaign, page: Page) -> None:
    made = records(campaign.run)
    ranks = {(one["attempt"], one["rank"], one["host"]) for one in made}
    for attempt, rank, host in ranks:
        assert f"{attempt}/{rank} {host}" in page.text
    (amount, unit) = re.findall(r"memory of a rank ([\d.]+) ([kMG]B) at most", page.text)[0]
    most = max(one["peak_bytes"] for one in made)
    assert float(amount) * {"kB": 1e3, "MB": 1e6, "GB": 1e9}[unit] == pytest.approx(most, rel=0.05)
    assert "not measured: no rank had a meter that it could read" in page.text
    assert "The bottleneck is " in page.text
    (bar,) = [div["aria-label"] for div in page.all("div") if "forward" in (div.get("aria-label") or "")]
    assert sum(map(float, re.findall(r"([\d.]+) %", bar))) == pytest.approx(100, abs=0.4)


def test_the_quarantined_scene_is_named_with_its_reason(page: Page) -> None:
    assert "1 scene could not be used." in page.text
    assert "… does not decode: IReadBlock failed: TIFFReadEncodedTile() failed." in page.text
    assert "s2/S2B_32UMB_20230706_0_L2A" in page.text


def test_what_was_asked_is_told_without_paths(campaign: Campaign, html: str, page: Page) -> None:
    (asked,) = [words for words in page.words if "backbone:" in words]
    assert "name: mosaiks" in asked
    assert "- 2023-06-01T00:00:00Z/2023-07-01T00:00:00Z" in asked
    assert str(campaign.file.parent) not in html
    assert "EPSG:32632, cells of 160 m" in page.text


def test_inputs_are_cited_with_their_licence(page: Page) -> None:
    assert "Contains modified Copernicus Sentinel data" in page.text
    assert "Rolf, E. et al. (2021)" in page.text
    assert terms_of("https://example.org/own").licence == "not known to embedcube: ask its publisher"


def test_findings_are_told_and_nothing_of_them_is_markup(campaign: Campaign) -> None:
    path = campaign.run.report / "verify.json"
    kept = path.read_bytes()
    wrong = {"check": "digest", "place": HOSTILE, "found": "a", "expected": "b", "remark": False}
    try:
        path.write_text(json.dumps(json.loads(kept) | {"findings": [wrong], "remarks": [wrong | {"found": "odd"}]}))
        out = campaign.file.parent / "hostile.html"
        campaign.cli("report", "--out", str(out))
    finally:
        path.write_bytes(kept)
    found = Page(out.read_text())
    assert not found.all("script")
    assert all(image["src"].startswith("data:") for image in found.all("img"))
    assert f"digest: {HOSTILE}: a, expected b" in "".join(found.words)
    assert "verify has 1 findings" in found.text
    assert "1 remarks: unusual, and perhaps right" in found.text


def test_a_verdict_on_another_cube_does_not_count(campaign: Campaign) -> None:
    path = campaign.run.report / "verify.json"
    kept = path.read_bytes()
    try:
        path.write_text(json.dumps(json.loads(kept) | {"cube": "other.zarr"}))
        out = campaign.file.parent / "unverified.html"
        campaign.cli("report", "--out", str(out))
    finally:
        path.write_bytes(kept)
    assert "was not verified" in Page(out.read_text()).text


def test_a_campaign_that_is_not_done_says_so(embedded: Campaign) -> None:
    """Without a cube, and with the records of one attempt lost."""
    lost = sorted(embedded.run.parts.glob("*/*/*/records.jsonl"))[0]
    many = len(records(embedded.run))
    lost.unlink()
    embedded.cli("report")
    text = Page((embedded.run.report / "report.html").read_text()).text
    assert "There is no cube yet." in text
    done, planned = map(int, re.findall(r"(\d+) of (\d+) shards are embedded", text)[0])
    assert 0 <= done < planned <= many
    assert "Pictures" not in text


def test_reasons_that_differ_in_names_and_numbers_are_one_kind() -> None:
    unusable = {
        ("s2", "A"): "B03: A/B03.tif does not decode at offset 12",
        ("s2", "B"): "B04: B/B04.tif does not decode at offset 7",
        ("s1", "C"): "there is no file of band VV",
    }
    first, second = by_reason(unusable)
    assert (first.kind, first.scenes) == ("… does not decode at offset …", ("s2/A", "s2/B"))
    assert first.example == "B03: A/B03.tif does not decode at offset 12"
    assert (second.kind, second.scenes) == ("there is no file of band VV", ("s1/C",))
