"""Opening: folders, links with few requests and without credentials in what is printed, buckets, STAC Collections."""

import base64
import gc
import json
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
import zarr
from tests.cube.counting import Counting
from tests.cube.range_server import serving
from tests.cube.synthetic import create_zone

import embedcube
from embedcube.consolidate.stac import write_catalogue
from embedcube.cube.preview_store import drawn_colours, write_preview_store
from embedcube.errors import RequestError, WorkError
from embedcube.progress import silent
from embedcube.uses.index import here, index_vectors

PLACE = (11.99, 50.0)


def test_a_cube_on_another_machine_opens_with_one_request(two_zones: Path) -> None:
    with serving(two_zones.parent) as server:
        cube = embedcube.open_cube(f"{server.link}/cube.zarr")
        assert server.requests == [("GET", "/cube.zarr/zarr.json", "")]
        layer = cube.layer
        assert layer.windows_of("s2/utm32", "2023-07") == [1]
        assert len(server.requests) <= 3
        assert (cube.address, cube.version, cube.is_local) == (f"{server.link}/cube.zarr", "cube", False)
        here = embedcube.open_cube(two_zones)
        assert repr(cube).splitlines()[1:] == repr(here).splitlines()[1:]
        assert cube.explain(lon=11.99, lat=50.0, time="2023-06") == here.explain(here.cell_at(*PLACE, "2023-06"))
        with pytest.raises(RequestError, match=r"http://127.0.0.1:\d+/cube.zarr is not a folder on this machine"):
            _ = cube.path


def test_points_of_another_machine_read_each_index_and_chunk_once(two_zones: Path) -> None:
    with serving(two_zones.parent) as server:
        layer = embedcube.open_cube(f"{server.link}/cube.zarr").layer
        server.requests.clear()
        sampled = layer.sample([PLACE, (11.991, 50.0)])
        here = embedcube.open_cube(two_zones).layer.sample([PLACE, (11.991, 50.0)])
        np.testing.assert_array_equal(sampled["vector"], here["vector"])
        parts = [request for request in server.requests if request[2]]
        assert len(parts) == len(set(parts)) == 2 * 4 * 3  # index and chunk, four arrays, three windows


def test_credentials_are_used_and_never_printed(two_zones: Path) -> None:
    with serving(two_zones.parent) as server:
        server.needs = "Basic " + base64.b64encode(b"me:geheim").decode()
        with pytest.raises(WorkError, match=r"cube\.zarr: zarr\.json: not allowed; are there credentials"):
            embedcube.open_cube(f"{server.link}/cube.zarr")
        link = server.link.replace("://", "://me:geheim@")
        cube = embedcube.open_cube(f"{link}/cube.zarr?sig=abcdef")
        assert ("GET", "/cube.zarr/zarr.json?sig=abcdef", "") in server.requests
        sampled = cube.layer.sample([PLACE])
        shown = [repr(cube), cube.address, str(cube.store), repr(cube.store), repr(cube.layer), str(sampled.attrs)]
        server.needs = "nobody"
        with pytest.raises(WorkError) as refused:
            embedcube.open_cube(f"{link}/cube.zarr?sig=abcdef")
        assert not [text for text in (*shown, str(refused.value)) if "geheim" in text or "abcdef" in text]


@pytest.mark.parametrize(
    ("link", "words"),
    [
        ("ftp://x.org/cube.zarr", r"links may begin with http, https, s3, gs, az, not ftp"),
        ("http://127.0.0.1:1/cube.zarr", r"cube\.zarr: zarr\.json: .*; is the machine reachable from here\?"),
    ],
)
def test_links_that_lead_nowhere(link: str, words: str) -> None:
    with pytest.raises((RequestError, WorkError), match=words):
        embedcube.open_cube(link)


def test_what_is_not_a_cube_is_refused_in_words(two_zones: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"nothing: not a cube \(no Zarr v3 group there\)"):
        embedcube.open_cube(tmp_path / "nothing")
    with serving(two_zones.parent) as server:
        with pytest.raises(RequestError, match=r"/nothing\.zarr: not a cube \(no Zarr v3 group there\)"):
            embedcube.open_cube(f"{server.link}/nothing.zarr")
        with pytest.raises(RequestError, match=r"/cube\.zarr/s2: not a cube that can be read from here \(Consolidated"):
            embedcube.open_cube(f"{server.link}/cube.zarr/s2")


def test_a_server_without_ranges_is_named(two_zones: Path) -> None:
    with serving(two_zones.parent, ranges=False) as server:
        cube = embedcube.open_cube(f"{server.link}/cube.zarr")
        with pytest.raises(WorkError, match=r"c\.0\.2\.4: the server gives whole files only; .* \(HTTP Range\)"):
            cube.layer.sample([PLACE], "2023-06")


def test_a_bucket_is_read_without_credentials(two_zones: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    with serving(two_zones.parents[1]) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.link)
        cube = embedcube.open_cube(f"s3://{two_zones.parent.name}/cube.zarr")
        assert len(server.requests) == 1
        assert cube.layer.sample([PLACE])["status"].values.tolist() == [[1, 1, 1]]


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore.exceptions", None)
    with pytest.raises(RequestError, match=r"pip install 'embedcube\[remote\]'"):
        embedcube.open_cube("https://me:geheim@example.org/cube.zarr")


def collection(href: str, **changes: Any) -> dict[str, Any]:
    asset = {"href": href, "type": "application/vnd.zarr; version=3", "roles": ["data"]}
    picture = {"href": "./x.png", "type": "image/png"}
    return {"type": "Collection", "assets": {"cube": asset, "thumbnail": picture}} | changes


def test_a_collection_leads_to_its_cube(two_zones: Path, tmp_path: Path) -> None:
    (tmp_path / "cubes").mkdir()
    (tmp_path / "cubes" / "v1.zarr").symlink_to(two_zones)
    (tmp_path / "stac").mkdir()
    file = tmp_path / "stac" / "collection.json"
    file.write_text(json.dumps(collection("../cubes/v1.zarr")))
    assert embedcube.open_cube(file).address == str(tmp_path / "cubes" / "v1.zarr")
    with serving(tmp_path) as server:
        cube = embedcube.open_cube(f"{server.link}/stac/collection.json?sig=abc")
        assert cube.address == f"{server.link}/cubes/v1.zarr?***"
        assert [path for _, path, _ in server.requests] == [
            "/stac/collection.json?sig=abc",
            "/cubes/v1.zarr/zarr.json?sig=abc",
        ]
        with pytest.raises(RequestError, match=r"/stac/none\.json: there is no such file"):
            embedcube.open_cube(f"{server.link}/stac/none.json")


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (collection("https://me:geheim@x.org/cube.zarr"), r"leads to https://\*\*\*@x\.org/cube\.zarr; to read that"),
        (collection("/etc/cube.zarr"), r"leads to /etc/cube\.zarr; to read that, open it by this link itself"),
        (collection("x", assets={}), "a STAC Collection with no Zarr asset"),
        (collection("x", type="Feature"), "a STAC Feature with the Zarr assets cube"),
        ({"a": 1}, "neither a cube nor a STAC Collection"),
        ([], "neither a cube nor a STAC Collection"),
    ],
)
def test_collections_that_lead_elsewhere(tmp_path: Path, document: Any, words: str) -> None:
    """Data never lead to another machine, nor to any file of this one."""
    (tmp_path / "collection.json").write_text(json.dumps(document))
    with pytest.raises(RequestError, match=words):
        embedcube.open_cube(tmp_path / "collection.json")


def test_the_catalogue_beside_a_cube_leads_to_it(two_zones: Path, tmp_path: Path) -> None:
    (tmp_path / "v1.zarr").symlink_to(two_zones)
    write_catalogue(tmp_path / "v1.zarr", tmp_path / "v1-stac", tmp_path / "weights")
    assert embedcube.open_cube(tmp_path / "v1-stac" / "collection.json").address == str(tmp_path / "v1.zarr")


def test_a_cube_of_100000_shards_opens_at_once(tmp_path: Path) -> None:
    """One file is read. Provenance, with a row for each shard, is not."""
    path = tmp_path / "cube.zarr"
    create_zone(path, "s2/utm32", (10, 1600, 1600, 64))
    group = zarr.open_group(path / "provenance", mode="w", zarr_format=3)
    for name in ("zone", "t", "iy", "ix"):
        group.create_array(f"shard_{name}", data=np.zeros(100_000, np.int32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(str(path), zarr_format=3)
    counting = Counting(path)
    start = time.process_time()
    layer = embedcube.open_cube(counting)["s2"]
    spent_s = time.process_time() - start
    assert layer.zones == ("s2/utm32",)
    assert [key for key, _ in counting.reads] == ["zarr.json"]
    assert spent_s < 0.3


def test_a_cube_whose_link_moves_on_stays_what_was_opened(two_zones: Path, tmp_path: Path) -> None:
    shutil.copytree(two_zones, tmp_path / "a.zarr")
    link = tmp_path / "cube.zarr"
    link.symlink_to("a.zarr")
    cube = embedcube.open_cube(link)
    (tmp_path / "b.zarr").mkdir()
    link.unlink()
    link.symlink_to("b.zarr")
    assert (cube.version, cube.path) == ("a", tmp_path / "a.zarr")
    assert cube.layer.sample([PLACE])["status"].values.tolist() == [[1, 1, 1]]


def test_index_and_preview_are_those_of_the_version_that_was_opened(two_zones: Path, tmp_path: Path) -> None:
    for version in ("a", "b"):
        shutil.copytree(two_zones, tmp_path / f"{version}.zarr")
        index_vectors(embedcube.open_cube(tmp_path / f"{version}.zarr"), ("s2",), here, silent)
    link = tmp_path / "cube.zarr"
    link.symlink_to("a.zarr")
    cube, dataset = embedcube.open_cube(link), xarray.open_dataset(link, engine="embedcube", group="s2/utm32").load()
    write_preview_store(cube, tmp_path / "a.preview.zarr")
    link.unlink()
    link.symlink_to("b.zarr")
    assert cube.layer.index is not None
    assert cube.layer.index.folder == tmp_path / "a.find"
    assert drawn_colours(cube, "s2/utm32", 0) is not None
    # index-vectors goes on with the version that it began with
    shutil.rmtree(tmp_path / "a.find")
    assert index_vectors(cube, ("s2",), here, silent).folder == str(tmp_path / "a.find")
    # and a Dataset that was read before does not answer from the newer one
    gc.collect()
    with pytest.raises(RequestError, match="leads to version b now, this Dataset is of a"):
        _ = dataset.embedcube.layer


def test_using_a_layer_imports_neither_torch_nor_gdal(two_zones: Path) -> None:
    program = f"""
import json, sys, embedcube
layer = embedcube.open_cube({str(two_zones)!r}).layer
layer.sample([(11.99, 50.0)])
layer.window((11.99, 50.0, 12.01, 50.01)).merged()
layer.components()
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    # xarray itself loads dask where it is installed
    assert not {"torch", "distributed", "rasterio", "pydantic", "obstore"} & set(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("time", "windows"),
    [
        (None, [0, 1, 2]),
        ("2023", [0, 1, 2]),
        ("2023-07", [1]),
        ("2023-07-31", [1]),
        ("2023-06-15/2023-07-15", [0, 1]),
        (slice("2023-07", "2023-08"), [1, 2]),
        (slice("2023-07-31", None), [1, 2]),
        (slice(None, "2023-06"), [0]),
        (slice(None), [0, 1, 2]),
    ],
)
def test_times_select_windows(two_zones: Path, time: Any, windows: list[int]) -> None:
    assert embedcube.open_cube(two_zones).layer.windows_of("s2/utm33", time) == windows


@pytest.mark.parametrize(
    ("time", "words"),
    [
        ("2021", "no window holds 2021; the windows lie between 2023-06-01 and 2023-09-01"),
        (slice("2021", "2022"), "no window holds 2021 to 2022; the windows lie between 2023-06-01 and 2023-09-01"),
        ("yesterday", '"yesterday" is not a time; write for example 2023-06-15, 2023-06 or 2023'),
        (slice("2023", "2023", 2), "a slice of time has no step, this one has 2"),
        (2023, '"2023" is not a time'),
    ],
)
def test_times_that_select_nothing(two_zones: Path, time: Any, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        embedcube.open_cube(two_zones).layer.windows_of("s2/utm32", time)


def test_layers_by_name(two_zones: Path) -> None:
    cube = embedcube.open_cube(two_zones)
    assert cube["s2"].name == cube.layer.name == "s2"
    assert repr(cube.layer) == f"Layer s2 of {two_zones}: 16 features, 3 windows, 2 zones"
    with pytest.raises(RequestError, match="no layer s1; it has s2"):
        cube["s1"]
