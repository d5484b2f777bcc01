"""A wrong campaign file is answered in one line; a right one has a digest of what is asked and not of how."""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from shapely.geometry import shape
from tests.conftest import Campaign, call_cli

from embedcube.campaign import plugins
from embedcube.campaign.fields import read_yaml
from embedcube.campaign.load import dump_campaign, load_campaign
from embedcube.campaign.plugins import campaign_schema, plugin
from embedcube.campaign.schema import Archive, digest_of
from embedcube.campaign.schema import Campaign as Document
from embedcube.campaign.site import load_site
from embedcube.errors import RequestError

LAYER = "layers.s2_mosaiks"

POLYGON: dict[str, Any] = {
    "type": "Polygon",
    "coordinates": [[[7.5, 50.84], [7.62, 50.84], [7.62, 50.9], [7.5, 50.9], [7.5, 50.84]]],
}


def put(document: dict[str, Any], place: str, value: Any) -> None:
    """Set a dotted key, making blocks on the way."""
    *blocks, key = place.split(".")
    for block in blocks:
        document = document.setdefault(block, {})
    document[key] = value


def setting(**values: Any) -> Callable[[dict[str, Any]], None]:
    """A change of dotted keys, written with `__` for the dots."""

    def change(document: dict[str, Any]) -> None:
        for place, value in values.items():
            put(document, place.replace("__", "."), value)

    return change


def renaming(place: str, name: str) -> Callable[[dict[str, Any]], None]:
    """A change of a key's name: a typo."""

    def change(document: dict[str, Any]) -> None:
        *blocks, key = place.split(".")
        for block in blocks:
            document = document[block]
        document[name] = document.pop(key)

    return change


# --- wrong files ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Wrong:
    """A wrong campaign file, and the one line that it must be answered with."""

    name: str
    change: Callable[[dict[str, Any]], None] | None = None
    text: str | None = None
    """of the whole file, instead of a change"""
    line: str
    """what stands after "embedcube: "; FILE and FOLDER are the campaign file and its folder"""
    files: tuple[tuple[str, str], ...] = ()
    """name and text of other files beside the campaign"""


WRONG = [
    Wrong(
        name="typo in a key",
        change=renaming("windows", "widnows"),
        line='FILE: unknown key "widnows", did you mean "windows"?',
    ),
    Wrong(
        name="typo in a key of a block",
        change=renaming(f"{LAYER}.shard_chips", "shard_chip"),
        line='FILE: layers.s2_mosaiks: unknown key "shard_chip", did you mean "shard_chips"?',
    ),
    Wrong(
        name="coordinate reference system",
        change=setting(grid__crs="EPSG:326321"),
        line='FILE: grid.crs: "EPSG:326321" is not a coordinate reference system; write for example EPSG:32632',
    ),
    Wrong(
        name="end before start",
        change=setting(windows__end="2023-05-01"),
        line="FILE: windows: end 2023-05-01 is not after start 2023-06-01",
    ),
    Wrong(
        name="windows with one start",
        change=setting(windows=[["2023-06-01", "2023-07-01"], ["2023-06-01", "2023-08-01"]]),
        line="FILE: windows are not in the order of distinct starts",
    ),
    Wrong(
        name="band that no Sentinel-2 has",
        change=setting(archives__s2__bands=["B02", "B13"]),
        line='archives.s2: Sentinel-2 has no band "B13"; it has B01 (coastal), B02 (blue), B03 (green), '
        "B04 (red), B05 (rededge1), B06 (rededge2), B07 (rededge3), B08 (nir), B8A (nir08), B09 (nir09), B10 (cirrus), "
        "B11 (swir16), B12 (swir22), SCL (scl)",
    ),
    Wrong(
        name="band that the archive lacks",
        change=setting(archives__s2__bands=["B02", "B05"]),
        line="archives.s2: none of 10 scenes can be used; the first, S2B_32UMB_20230606_0_L2A: "
        "B05: the item has no file of this band; leave the band or the mask out, or give products that have it",
    ),
    Wrong(
        name="folder that is not there",
        change=setting(archives__s2__path="nowhere"),
        line="FILE: archives.s2.path: FOLDER/nowhere does not exist; is its file system mounted?",
    ),
    Wrong(
        name="variable that is not declared",
        change=setting(archives__s2__path="${HOME}/archive"),
        line='FILE: path ${HOME}/archive: variable HOME is not declared; add it to "env"',
    ),
    Wrong(
        name="variable that is not set",
        change=setting(env=["NO_SUCH_VARIABLE"], archives__s2__path="${NO_SUCH_VARIABLE}/archive"),
        line="FILE: path ${NO_SUCH_VARIABLE}/archive: variable NO_SUCH_VARIABLE is not set",
    ),
    Wrong(
        name="source",
        change=setting(archives__s2__source="sentinel3"),
        line='no plugin "sentinel3" among the sources, did you mean "sentinel2"?',
    ),
    Wrong(
        name="archive of a layer",
        change=setting(layers__s2_mosaiks__archives=["s2", "s3"]),
        line='FILE: layer s2_mosaiks names archive "s3"; known here: s2',
    ),
    Wrong(
        name="backbone",
        change=setting(layers__s2_mosaiks__backbone={"name": "mosaik"}),
        line='no plugin "mosaik" among the backbones, did you mean "mosaiks"?',
    ),
    Wrong(
        name="option of a backbone",
        change=setting(layers__s2_mosaiks__backbone={"name": "mosaiks", "filter": 32}),
        line='layers.s2_mosaiks.backbone: mosaiks: no option "filter", did you mean "filters"?',
    ),
    Wrong(
        name="weights that are not there",
        change=setting(layers__s2_mosaiks__weights="w.safetensors"),
        line="layers.s2_mosaiks.weights: cannot be read: [Errno 2] No such file or directory: 'FOLDER/w.safetensors'",
    ),
    Wrong(
        name="halo too big",
        change=setting(layers__s2_mosaiks__halo_px=65),
        line="FILE: layers.s2_mosaiks: a chip of 130 px is not larger than two halos of 65 px; use a larger chip_px",
    ),
    Wrong(
        name="chip that does not divide",
        change=setting(layers__s2_mosaiks__chip_px=131),
        line="FILE: layers.s2_mosaiks: the kept centre of 129 px (chip_px 131 - 2 x halo_px 1) does not divide into "
        "cells of 16 px",
    ),
    Wrong(
        name="batch of one",
        change=setting(layers__s2_mosaiks__batch=1),
        line="FILE: layers.s2_mosaiks.batch: Input should be greater than or equal to 2 (found 1)",
    ),
    Wrong(
        name="empty bbox",
        change=setting(region__bbox=[7.6, 50.9, 7.5, 50.8]),
        line="FILE: region: bbox [7.6, 50.9, 7.5, 50.8] is empty: it is west, south, east, north. A region across the "
        "antimeridian is written as a GeoJSON MultiPolygon",
    ),
    Wrong(
        name="GeoJSON that is no area",
        change=setting(region__geojson="region.json"),
        files=(("region.json", '{"type": "LineString", "coordinates": [[7, 50], [8, 51]]}'),),
        line="FILE: region.geojson: FOLDER/region.json holds no area but a LineString; write Polygons",
    ),
    Wrong(
        name="GeoJSON that is no JSON",
        change=setting(region__geojson="region.json"),
        files=(("region.json", "POLYGON ((7 50, 8 51))"),),
        line="FILE: region.geojson: FOLDER/region.json is not GeoJSON: JSONDecodeError: Expecting value: "
        "line 1 column 1 (char 0)",
    ),
    Wrong(
        name="a list",
        text="- campaign\n- demo\n",
        line="FILE: a campaign is a mapping of keys; `embedcube schema` prints them",
    ),
    Wrong(name="an empty file", text="", line="FILE: a campaign is a mapping of keys; `embedcube schema` prints them"),
]
"""Refused by the campaign file alone or by looking at the archive; each in a process of its own."""


def expected(wrong: Wrong, campaign: Campaign, archive: Path) -> str:
    """The whole of standard error."""
    line = wrong.line.replace("FILE", str(campaign.file)).replace("FOLDER", str(campaign.file.parent))
    return f"embedcube: {line.replace('ARCHIVE', str(archive / 'archive' / 'sentinel2'))}\n"


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.name)
def test_a_wrong_campaign_is_answered_in_one_line(wrong: Wrong, demo: Campaign, demo_archive: Path) -> None:
    if wrong.text is not None:
        demo.file.write_text(wrong.text)
    elif wrong.change:
        demo.change(wrong.change)
    for name, text in wrong.files:
        (demo.file.parent / name).write_text(text)
    done = call_cli("run", demo.file)
    assert done.stderr == expected(wrong, demo, demo_archive)
    assert len(done.stderr) <= 300
    assert done.returncode == 2
    assert not list(demo.file.parent.rglob("parts")), "some shard has been embedded"


def test_a_file_that_is_no_yaml_is_answered_in_one_line(demo: Campaign) -> None:
    demo.file.write_text("campaign: demo\narchives: [s2\ngrid: {}\n")
    done = call_cli("run", demo.file)
    assert done.returncode == 2
    assert re.fullmatch(r"embedcube: .*campaign\.yaml: not valid YAML: .*line 3, column 5.*\n", done.stderr)


def laughs(levels: int) -> str:
    """YAML in which each of ten aliases stands for ten of the level below."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(lines)


HOSTILE_YAML = {
    "aliases of aliases": (laughs(9).encode(), "more than 1,000,000 values, counting all that aliases stand for"),
    "an alias of itself": (b"a: &a [*a]", "nested more than 50 deep, or an alias stands for itself"),
    "deep": (b"[" * 60 + b"]" * 60, "nested more than 50 deep"),
    "deeper": (b"[" * 1000, "nested too deeply for a YAML file"),
    "large": (b"# " + b"x" * (16 << 20), "more than 16 MB"),
    "not UTF-8": (b"campaign: \xff", "cannot be read: 'utf-8' codec"),
    "a date that is none": (b"campaign: 2023-13-45", "not valid YAML: month must be in 1..12"),
    "a tag of Python": (
        b"a: !!python/object/apply:os.system [id]",
        "not valid YAML: could not determine a constructor",
    ),
    "a number that is none": (b"a: !!int ''", "not valid YAML"),
    "a time that is none": (b"a: !!timestamp now", "not valid YAML"),
}


@pytest.mark.parametrize("name", HOSTILE_YAML)
def test_yaml_is_bounded(tmp_path: Path, demo: Campaign, name: str) -> None:
    """The campaign and the file of its site."""
    data, words = HOSTILE_YAML[name]
    path = tmp_path / "x.yaml"
    path.write_bytes(data)
    with pytest.raises(RequestError, match=f"{path}: {re.escape(words)}"):
        load_campaign(path)
    with pytest.raises(RequestError, match=f"{path}: {re.escape(words)}"):
        load_site(load(demo, how__site=str(path)))


def test_aliases_within_reason_are_taken(tmp_path: Path, demo: Campaign) -> None:
    text = demo.file.read_text()
    demo.file.write_text(text + "\n" + "# " * 1000)
    assert read_yaml(demo.file) == yaml.safe_load(text)
    (tmp_path / "x.yaml").write_text(laughs(5))
    assert len(read_yaml(tmp_path / "x.yaml")["a4"]) == 10


def test_a_password_in_the_url_of_an_api_is_refused_and_not_repeated(demo: Campaign) -> None:
    for api in ("https://user:S3CRET@host/v1", "https://host/v1?token=S3CRET", "ftp://user:S3CRET@host"):
        with pytest.raises(RequestError, match=r"archives\.s2\.search\.api: ") as raised:
            load(demo, archives__s2__search={"api": api, "collections": ["c"]})
        assert "S3CRET" not in str(raised.value)


def test_a_file_that_is_not_there_is_answered_in_one_line(tmp_path: Path) -> None:
    done = call_cli("run", tmp_path / "campaign.yaml")
    assert done.returncode == 2
    assert done.stderr == (
        f"embedcube: {tmp_path}/campaign.yaml: no such campaign file; `embedcube demo DIR` writes one to start from\n"
    )


def load(campaign: Campaign, /, **values: Any) -> Document:
    """The campaign with some keys changed, resolved."""
    campaign.change(setting(**values))
    return load_campaign(campaign.file)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"windows__stepp": "1 day"}, r'windows: unknown key "stepp", did you mean "step"\?'),
        (
            {"how__zzz": 1},
            r'how: unknown key "zzz"; known here: account, base, cache_mb, dask, device, .* and \d+ more$',
        ),
        ({"windows__start": "2023-06-31"}, r'windows\.start: "2023-06-31" is not a date; write for example 2023-06-01'),
        ({"windows__step": "1 fortnight"}, r'windows: "1 fortnight" is not a length of time; .* "14 days", "1 month"'),
        ({"archives__s2__bands": ["B02", "B02"]}, r"archives\.s2\.bands: a band is named twice in B02, B02"),
        ({"region": {"bbox": [7, 50, 8, 51], "geojson": "x"}}, "region: a region is either a bbox or a geojson file"),
        ({"layers__s2_mosaiks__backbone": {"filters": 32}}, r'backbone: a backbone needs a "name", for example {name:'),
        ({"how__device": "gpu"}, r"how\.device: Input should be 'cpu' or 'cuda' \(found 'gpu'\)"),
        ({"how__ranks": 0}, r"how\.ranks: Input should be greater than 0 \(found 0\)"),
        ({"how__error_budget": 2}, r"how\.error_budget: Input should be less than or equal to 1 \(found 2\)"),
        ({"layers__s2_mosaiks__encoding": "int4"}, r"s2_mosaiks\.encoding: .*'int8', 'float16' or 'float32' .*'int4'"),
        ({"layers__s2_mosaiks__min_valid": 0}, r"s2_mosaiks\.min_valid: Input should be greater than 0 \(found 0\)"),
        ({"campaign": "../elsewhere"}, r"campaign: String should match pattern .* \(found '../elsewhere'\)"),
        ({"archives__s2__mask": {"band": "SCL", "clear": []}}, r"archives\.s2\.mask\.clear: .*at least 1 item"),
        ({"windows": []}, "windows is empty"),
        ({"windows": [["2023-06-02", "2023-06-01"]]}, "windows: end 2023-06-01 is not after start 2023-06-02"),
        ({"windows__length": "0 days"}, 'windows: "0 days" is not a length of time'),
        ({"windows__start": 20230601}, r"windows\.start: 20230601 is not a date; write for example 2023-06-01"),
        ({"region": {}}, "region: a region is either a bbox or a geojson file"),
        ({"region__bbox": [7, 50, float("nan"), 51]}, r"region\.bbox\.2: Input should be a finite number"),
        (
            {"archives__s2__resampling": {"B05": "nearest"}},
            r'archives\.s2: resampling: "B05" is not among the bands to read, did',
        ),
        ({"layers__s2_mosaiks__archives": []}, r"layer s2_mosaiks: archives \[\] are none, or one is named twice"),
        ({"layers__s2_mosaiks__archives": ["s2", "s2"]}, r"archives \['s2', 's2'\] are none, or one is named twice"),
        ({"layers__s2_mosaiks__frames": "1 fortnight"}, r'layers\.s2_mosaiks\.frames: "1 fortnight" is not a length'),
        ({"layers__s2_mosaiks__frames": "9000 years"}, r"layers\.s2_mosaiks\.frames: .*9000 years"),
        (
            {"layers__s2_mosaiks__frames": "10 days"},
            r"layers\.s2_mosaiks\.frames: the window from 2023-06-01 holds 3 frames, the one from 2023-07-01 4; a "
            "backbone needs as many in each",
        ),
        ({"layers__s2_mosaiks__weights_sha256": "abc"}, r"s2_mosaiks\.weights_sha256: String should match pattern"),
        ({"grid__pixel": -10}, r"grid\.pixel: Input should be greater than 0 \(found -10\)"),
    ],
    ids=str,
)
def test_other_wrong_values_are_named(demo: Campaign, values: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words) as raised:
        load(demo, **values)
    assert "\n" not in str(raised.value)
    assert str(demo.file) in str(raised.value)


@pytest.mark.parametrize(
    ("geojson", "words"),
    [
        ({"type": "Feature", "properties": {}, "geometry": None}, "region.json"),
        ({"type": "FeatureCollection"}, "region.json"),
        ({"type": "FeatureCollection", "features": []}, "region.json"),
        ({"type": "Polygon"}, "region.json"),
        ({"type": "Polygon", "coordinates": [["a"]]}, "region.json"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1, float("nan")], [1, 1], [0, 0]]]}, "not a finite number"),
        ({"type": "Polygon", "coordinates": json.loads("[" * 300 + "]" * 300)}, "region.json"),
        ({"type": "FeatureCollection", "features": 5}, "region.json"),
        ({"type": "Feature", "properties": {}, "geometry": {"type": "Point", "coordinates": [7.6, 50.87]}}, "Point"),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_geojson_without_an_area_is_refused_at_once(demo: Campaign, geojson: dict[str, Any], words: str) -> None:
    (demo.file.parent / "region.json").write_text(json.dumps(geojson))
    with pytest.raises(RequestError, match=rf"region\.geojson: .*{words}"):
        load(demo, region__geojson="region.json")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"region": {"bbox": [7, 50, 8, 51], "crs": "EPSG:99999"}}, r"region\.crs: .*EPSG:99999"),
        ({"region__bbox": [float("-inf"), 50, 8, 51]}, r"region\.bbox\.0: .*inf"),
        ({"windows__step": "9000 years"}, "windows: .*9000 years"),
        ({"windows__step": "99999999999 days"}, "windows: .*99999999999 days"),
        ({"grid__pixel": float("inf")}, r"grid\.pixel: .*inf"),
        ({"grid__origin": [float("nan"), 0]}, r"grid\.origin\.0: .*nan"),
        ({"layers": {"provenance": {"archives": ["s2"], "backbone": {"name": "mosaiks"}}}}, r"layers\.provenance: "),
    ],
    ids=str,
)
def test_values_that_no_stage_can_use_are_refused_at_once(demo: Campaign, values: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        assert load(demo, **values).all_windows


# --- the digest -----------------------------------------------------------------------------------

WHAT: dict[str, dict[str, Any]] = {
    "Archive.source": {"archives__s2__source": "sentinel1"},
    "Archive.bands": {"archives__s2__bands": ["B03", "B02", "B04", "B08"]},
    "Archive.offset": {"archives__s2__offset": -1000},
    "Archive.resampling": {"archives__s2__resampling": "nearest"},
    "Archive.composite": {"archives__s2__composite": "mean"},
    "Archive.options": {"archives__s2__options": {"orbit": "ascending"}},
    "Archive.mask": {"archives__s2__mask": None},
    "Mask.band": {"archives__s2__mask__band": "B01"},
    "Mask.clear": {"archives__s2__mask__clear": [4, 5, 6, 7]},
    "GridBlock.crs": {"grid__crs": "EPSG:32633"},
    "GridBlock.pixel": {"grid__pixel": 20},
    "GridBlock.origin": {"grid__origin": [0, 10]},
    "Region.bbox": {"region__bbox": [7.5, 50.8, 7.6, 50.9]},
    "Region.crs": {"region": {"bbox": [7.5, 50.8, 7.6, 50.9], "crs": "EPSG:4258"}},
    "Region.geojson": {"region__geojson": "region.json"},
    "Region.geometry": {"region__geometry": POLYGON | {"bbox": [7.5, 50.84, 7.62, 50.9]}},
    "WindowSteps.start": {"windows__start": "2023-06-02"},
    "WindowSteps.end": {"windows__end": "2023-08-02"},
    "WindowSteps.step": {"windows__step": "14 days"},
    "WindowSteps.length": {"windows__length": "14 days"},
    "Layer.archives": {"layers__s2_mosaiks__archives": ["s2", "other"]},
    "Layer.frames": {"layers__s2_mosaiks__frames": "31 days"},
    "Layer.grid": {"layers__s2_mosaiks__grid": {"crs": "EPSG:32632", "pixel": 20}},
    "Layer.centre": {"layers__s2_mosaiks__centre": True},
    "Layer.chunk_windows": {"layers__s2_mosaiks__chunk_windows": 2},
    "Layer.weights_sha256": {"layers__s2_mosaiks__weights_sha256": "0" * 64},
    "Period.start": {"layers__s2_mosaiks__fit": {"start": "2023-06-02", "end": "2023-08-01"}},
    "Period.end": {"layers__s2_mosaiks__fit": {"start": "2023-06-01", "end": "2023-07-01"}},
    "Layer.backbone": {"layers__s2_mosaiks__backbone": {"name": "mosaiks", "filters": 64}},
    "Layer.precision": {"layers__s2_mosaiks__precision": "bfloat16"},
    "Layer.compile": {"layers__s2_mosaiks__compile": True},
    "Layer.chip_px": {"layers__s2_mosaiks__chip_px": 146},
    "Layer.halo_px": {"layers__s2_mosaiks__halo_px": 17},
    "Layer.cell_px": {"layers__s2_mosaiks__cell_px": 8},
    "Layer.shard_chips": {"layers__s2_mosaiks__shard_chips": 2},
    "Layer.batch": {"layers__s2_mosaiks__batch": 8},
    "Layer.min_valid": {"layers__s2_mosaiks__min_valid": 0.6},
    "Layer.encoding": {"layers__s2_mosaiks__encoding": "float16"},
    "Campaign.withdraw": {"withdraw": ["S2A_32UMB_20230601_0_L2A"]},
    "Layer.over_time": {"layers__s2_mosaiks__over_time": "mean"},
    "Reduce.pca": {"layers__s2_mosaiks__reduce": {"pca": 8}},
}
"""Every key that says what is asked, and another value of it."""

SEARCH: dict[str, Any] = {"api": "https://stac.example.org", "collections": ["sentinel-2-l2a"]}

HOW: dict[str, dict[str, Any]] = {
    "Campaign.campaign": {"campaign": "other-name"},
    "Campaign.env": {"env": ["HOME"]},
    "Archive.path": {"archives__s2__path": "moved"},
    "Archive.search": {"archives__s2__search": SEARCH},
    "Archive.links": {"archives__s2__links": {"s3://bucket/": "."}},
    "Search.api": {"archives__s2__search": SEARCH | {"api": "http://elsewhere.example"}},
    "Search.collections": {"archives__s2__search": SEARCH | {"collections": ["other"]}},
    "Search.boxes": {"archives__s2__search": SEARCH | {"boxes": [[7, 50, 8, 51]]}},
    "Search.times": {"archives__s2__search": SEARCH | {"times": [["2023-06-01", "2023-07-01"]]}},
    "Layer.weights": {"layers__s2_mosaiks__weights": "elsewhere.safetensors"},
    "How.runs": {"how__runs": "elsewhere"},
    "How.base": {"how__base": "elsewhere"},
    "How.executor": {"how__executor": "slurm"},
    "How.site": {"how__site": "site.yaml"},
    "How.tasks": {"how__tasks": 7},
    "How.parallel": {"how__parallel": 3},
    "How.nodes": {"how__nodes": 2},
    "How.time_min": {"how__time_min": 30},
    "How.account": {"how__account": "project1"},
    "How.ranks": {"how__ranks": 3},
    "How.threads": {"how__threads": 5},
    "How.device": {"how__device": "cuda"},
    "How.mem_gb": {"how__mem_gb": 3},
    "How.cache_mb": {"how__cache_mb": 17},
    "How.error_budget": {"how__error_budget": 0.5},
    "How.read_attempts": {"how__read_attempts": 9},
    "Dask.kind": {"how__dask": {"kind": "mpi"}},
    "Dask.workers": {"how__dask": {"workers": 5}},
    "Dask.wait_min": {"how__dask": {"wait_min": 5}},
    "Dask.threads": {"how__dask": {"threads": 5}},
    "How.retry_quarantined": {"how__retry_quarantined": True},
}
"""Every key that says how or where, and another value of it."""

BLOCKS = {
    "Campaign.archives",
    "Campaign.grid",
    "Campaign.region",
    "Campaign.windows",
    "Campaign.layers",
    "Campaign.how",
    "How.dask",
    "Layer.fit",
    "Layer.reduce",
}
"""Keys that only hold other blocks."""


@pytest.fixture
def two_archives(demo: Campaign) -> Campaign:
    """The demo with a second archive, for a layer to name, and a GeoJSON file and a folder beside it.

    Its layer is fitted on all windows, and says so.
    """
    (demo.file.parent / "moved").mkdir()
    (demo.file.parent / "region.json").write_text(json.dumps(POLYGON))
    demo.change(lambda document: document["archives"].update(other=document["archives"]["s2"]))
    demo.change(setting(layers__s2_mosaiks__fit={"start": "2023-06-01", "end": "2023-08-01"}))
    return demo


def test_every_key_is_either_what_or_how() -> None:
    schema = Document.model_json_schema()
    blocks = schema["$defs"] | {"Campaign": schema}
    keys = {f"{block}.{key}" for block, about in blocks.items() for key in about.get("properties", ())}
    assert keys == WHAT.keys() | HOW.keys() | BLOCKS
    assert not WHAT.keys() & HOW.keys()


@pytest.mark.parametrize("key", WHAT)
def test_what_is_asked_makes_the_digest(two_archives: Campaign, key: str) -> None:
    before = load_campaign(two_archives.file)
    after = load(two_archives, **WHAT[key])
    assert after.digest != before.digest


@pytest.mark.parametrize("key", HOW)
def test_how_it_is_computed_does_not_make_the_digest(two_archives: Campaign, key: str) -> None:
    before = load_campaign(two_archives.file)
    after = load(two_archives, **HOW[key])
    assert after != before, "the change is none"
    assert after.digest == before.digest


def test_two_ways_to_say_one_thing_have_one_digest(demo: Campaign) -> None:
    steps = load_campaign(demo.file)
    assert load(demo, windows=[["2023-06-01", "2023-07-01"], ["2023-07-01", "2023-08-01"]]).digest == steps.digest
    noon = [["2023-06-01T02:00:00+02:00", "2023-07-01T00:00:00Z"], ["2023-07-01", "2023-08-01"]]
    assert load(demo, windows=noon).digest == steps.digest
    assert load(demo, grid__pixel=10.0, grid__origin=[0, 0], layers__s2_mosaiks__encoding="int8").digest == steps.digest
    assert load(demo, layers__s2_mosaiks__archives="s2").digest == steps.digest, "a name is a list of one"


def test_the_digest_is_sha256_of_canonical_json(demo: Campaign) -> None:
    assert digest_of({"b": [1, 2.5], "a": None}) == digest_of({"a": None, "b": [1, 2.5]})
    # printf '{"a":null,"b":[1,2.5]}' | sha256sum
    assert digest_of({"a": None, "b": [1, 2.5]}) == "e57f5d37865437a82e1108bafb4e5213dfe7e9085f5c253341ebbab30cac5faf"
    campaign = load_campaign(demo.file)
    assert campaign.digest == digest_of(json.loads(json.dumps(campaign.what)))


def test_a_moved_or_relative_archive_has_the_same_digest(demo: Campaign, tmp_path: Path) -> None:
    absolute = load_campaign(demo.file)
    (tmp_path / "a" / "archive").mkdir(parents=True)
    relative = load(demo, archives__s2__path="a/archive")
    assert relative.archives["s2"].path == tmp_path / "a" / "archive"
    assert relative.digest == absolute.digest
    shutil.move(tmp_path / "a", tmp_path / "b")
    shutil.move(demo.file, tmp_path / "b" / "campaign.yaml")
    moved = load(Campaign(tmp_path / "b" / "campaign.yaml"), archives__s2__path="../b/./archive")
    assert moved.archives["s2"].path == tmp_path / "b" / "archive"
    assert moved.digest == absolute.digest
    assert moved.run_folder == tmp_path / "b" / "runs" / "demo"


# --- loading and dumping --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"region__geojson": "region.json", "layers__s2_mosaiks__weights": "w", "how__runs": "/elsewhere/runs"},
        {"region": {"bbox": [1, 2, 3, 4], "crs": "EPSG:32632"}, "archives__s2__mask": None, "archives__s2__offset": -5},
        {"windows": [["2023-06-01T10:00:00+02:00", "2023-06-02"], ["2024-02-29", "2024-03-01"]], "how": {"mem_gb": 2}},
        {"windows__length": "5 days", "env": ["EMBEDCUBE_HERE"], "how__runs": "${EMBEDCUBE_HERE}/runs"},
    ],
    ids=str,
)
def test_a_dumped_campaign_loads_as_itself(
    demo: Campaign, tmp_path: Path, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "region.json").write_text(json.dumps(POLYGON))
    monkeypatch.setenv("EMBEDCUBE_HERE", str(tmp_path))
    campaign = load(demo, **values)
    text = dump_campaign(campaign)
    seal, digest, _ = text.split("\n", 2)
    assert seal.startswith("# SHA-256 of the lines below: ")
    assert digest == f"# digest of what is asked: {campaign.digest}"
    (tmp_path / "other").mkdir()
    copy = tmp_path / "other" / "resolved.yaml"
    copy.write_text(text)
    (tmp_path / "region.json").unlink()
    monkeypatch.delenv("EMBEDCUBE_HERE")
    again = load_campaign(copy)
    assert again == campaign
    assert again.digest == campaign.digest
    assert dump_campaign(again) == text


def test_geojson_is_read_at_once(demo: Campaign, tmp_path: Path) -> None:
    file = tmp_path / "region.json"
    feature = {"type": "Feature", "properties": {"name": "here"}, "geometry": POLYGON}
    digests = set()
    for document in (POLYGON, feature, feature | {"properties": {}, "id": 7}):
        file.write_text(json.dumps(document))
        campaign = load(demo, region={"geojson": "region.json"})
        assert campaign.region is not None
        assert campaign.region.geojson is None
        assert campaign.region.geometry == POLYGON
        digests.add(campaign.digest)
    assert len(digests) == 1
    apart = {"type": "Polygon", "coordinates": [[[x + 1, y] for x, y in ring] for ring in POLYGON["coordinates"]]}
    features = [feature, {"type": "Feature", "properties": {}, "geometry": apart}]
    file.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    many = load_campaign(demo.file)
    assert many.region is not None
    assert many.region.geometry is not None
    assert many.region.geometry["type"] == "MultiPolygon"
    assert shape(many.region.geometry).equals(shape(POLYGON).union(shape(apart)))
    assert many.digest not in digests


def test_variables_are_expanded_where_they_are_declared_and_nowhere_else(
    demo: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDCUBE_HERE", str(tmp_path))
    (tmp_path / "archive").mkdir()
    (tmp_path / "region.json").write_text(json.dumps(POLYGON))
    campaign = load(
        demo,
        env=["EMBEDCUBE_HERE"],
        archives__s2__path="${EMBEDCUBE_HERE}/archive",
        region__geojson="${EMBEDCUBE_HERE}/region.json",
        layers__s2_mosaiks__weights="${EMBEDCUBE_HERE}/w",
        layers__s2_mosaiks__backbone={"name": "mosaiks", "card": "${EMBEDCUBE_HERE}"},
        how__runs="${EMBEDCUBE_HERE}/runs",
    )
    layer = campaign.layers["s2_mosaiks"]
    assert campaign.archives["s2"].path == tmp_path / "archive"
    assert campaign.region is not None
    assert campaign.region.geometry == POLYGON
    assert layer.weights == tmp_path / "w"
    assert layer.backbone["card"] == "${EMBEDCUBE_HERE}", "only paths are expanded"
    assert campaign.how.runs == tmp_path / "runs"
    for place in ("archives__s2__path", "layers__s2_mosaiks__weights", "how__runs", "region__geojson"):
        undeclared = Campaign(tmp_path / f"{place}.yaml")
        shutil.copy(demo.file, undeclared.file)
        with pytest.raises(RequestError, match='variable PATH is not declared; add it to "env"'):
            load(undeclared, **{place: "${PATH}/x"})
    assert "PATH" in os.environ
    os.mkdir(tmp_path / "$EMBEDCUBE_HERE")  # noqa: PTH102
    assert load(demo, archives__s2__path="$EMBEDCUBE_HERE").archives["s2"].path == tmp_path / "$EMBEDCUBE_HERE"


# --- the schema -----------------------------------------------------------------------------------


def test_the_schema_describes_the_demo_and_refuses_typos(demo_archive: Path) -> None:
    done = call_cli("schema")
    assert (done.returncode, done.stderr) == (0, "")
    schema = json.loads(done.stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    text = (demo_archive / "campaign.yaml").read_text()
    document = json.loads(json.dumps(yaml.safe_load(text), default=lambda date: date.isoformat()))
    validator.validate(document)
    for place, value in (
        ("chanel", 1),
        (f"{LAYER}.shard_chip", 3),
        (f"{LAYER}.batch", 1),
        ("windows.step", None),
        ("archives.s2.bands", []),
        ("how.device", "gpu"),
    ):
        wrong = json.loads(json.dumps(document))
        put(wrong, place, value)
        assert not validator.is_valid(wrong), place


@pytest.mark.parametrize(
    ("source", "bands", "options", "good"),
    [
        ("sentinel2", ["B04"], {"stated": "ignore"}, True),
        ("sentinel2", ["B04"], {"stated": "ignored"}, False),
        ("sentinel2", ["B04"], {"values": "db"}, False),
        ("sentinel1", ["VV"], {"values": "db", "orbit": "both"}, True),
        ("sentinel1", ["VV"], {"dem": "heights.tif"}, True),
        ("sentinel1", ["VV"], {}, False),
        ("sentinel1", ["VV"], {"values": "dB"}, False),
        ("era5", ["t2m"], {"accumulated": {"t2m": "per_day"}, "select": {"number": 3}}, True),
        ("era5", ["t2m"], {"accumulated": "daily"}, False),
        ("fields", ["t"], {"scale": {"t": "two"}}, False),
        ("snow_cover", ["snow"], {"clouds": 250}, True),
        ("snow_cover", ["snow"], {"clouds": "many"}, False),
    ],
)
def test_the_schema_and_the_source_say_the_same_of_options(
    demo_archive: Path, tmp_path: Path, source: str, bands: list[str], options: dict[str, Any], good: bool
) -> None:
    document = yaml.safe_load((demo_archive / "campaign.yaml").read_text())
    document["archives"]["s2"] = {"source": source, "path": "archive", "bands": bands, "options": options}
    plain = json.loads(json.dumps(document, default=lambda date: date.isoformat()))
    assert jsonschema.Draft202012Validator(campaign_schema()).is_valid(plain) == good
    archive = Archive(source=source, path=tmp_path, bands=tuple(bands), options=options)
    if good:
        plugin("sources", source)("s2", archive)
    else:
        with pytest.raises(RequestError, match=r"archives\.s2\.options"):
            plugin("sources", source)("s2", archive)


@pytest.mark.parametrize(
    ("backbone", "good"),
    [
        ({"name": "mosaiks", "filters": 16}, True),
        ({"name": "mosaiks", "filters": 0}, False),
        ({"name": "mosaiks", "filter": 16}, False),
        ({"name": "mosaik"}, False),
        ({"filters": 16}, False),
        ({"name": "eof", "standardise": True}, True),
        ({"name": "presto", "filters": 16}, False),
        ({"name": "torch", "takes": "bcyx"}, True),
        ({"name": "torch", "takes": "xyz"}, False),
        ({"name": "terratorch"}, False),
        ({"name": "concat", "of": [{"backbone": {"name": "mosaiks"}}, {"backbone": {"name": "presto"}}]}, True),
        ({"name": "concat", "of": [{"backbone": {"name": "mosaiks"}}, {"backbone": {"name": "eofs"}}]}, False),
        ({"name": "concat", "of": [{"backbone": {"name": "mosaiks"}}]}, False),
        ({"name": "tiny_vit", "width": 32}, True),
        ({"name": "tiny_vit", "wide": 32}, True),  # it does not declare its options
    ],
    ids=str,
)
def test_the_schema_has_the_options_of_backbones(demo_archive: Path, backbone: dict[str, Any], good: bool) -> None:
    document = yaml.safe_load((demo_archive / "campaign.yaml").read_text())
    next(iter(document["layers"].values()))["backbone"] = backbone
    plain = json.loads(json.dumps(document, default=lambda date: date.isoformat()))
    assert jsonschema.Draft202012Validator(campaign_schema()).is_valid(plain) == good


def test_what_is_installed_is_read_once_for_a_search_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []

    def look(*, group: str) -> EntryPoints:
        looks.append(group)
        return entry_points(group=group)

    monkeypatch.setattr(plugins, "entry_points", look)
    monkeypatch.syspath_prepend(tmp_path)
    for _ in range(2):
        assert "sentinel2" in plugins.names("sources")
        assert plugin("sources", "sentinel2").__name__ == "Sentinel2"
    assert looks == ["embedcube.sources"]
    # a folder that joins the path may bring plugins
    monkeypatch.syspath_prepend(tmp_path / "later")
    assert "sentinel2" in plugins.names("sources")
    assert looks == ["embedcube.sources"] * 2
