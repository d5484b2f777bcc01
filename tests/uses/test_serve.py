"""The server of cubes: what it answers, compared with the cube read by zarr, and what it refuses."""

import base64
import gzip
import hashlib
import io
import json
import os
import shutil
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import zarr
from PIL import Image
from tests.conftest import call_cli
from tests.cube.synthetic import write_zone
from tests.cube.two_zones import LAYER, vectors_at
from tests.uses.serving import running, spawned

from embedcube.cube.encoding import MASKED, STATUS_MEANINGS, VALID, VALID_INCOMPLETE
from embedcube.cube.preview_store import preview_store_of, write_preview_store
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError
from embedcube.uses.serve.app import create_app
from embedcube.uses.serve.limits import Limits
from embedcube.uses.serve.tokens import read_token, shows_token, token_for

WEST, EAST = (11.95, 50.02), (12.03, 50.01)
"""places in utm32 and in utm33"""

TOKEN = "a-token-of-twenty-four-letters"


@pytest.fixture(scope="module")
def cube(two_zones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cube as a run folder has it: a version, its STAC folder, and a link to the version."""
    folder = tmp_path_factory.mktemp("serve")
    (folder / "cubes").mkdir()
    shutil.copytree(two_zones, folder / "cubes" / "v1.zarr")
    stac = folder / "cubes" / "v1-stac"
    stac.mkdir()
    (stac / "collection.json").write_text('{"type": "Collection", "id": "two_zones"}')
    (folder / "secret.txt").write_text("secret")
    array = folder / "cubes" / "v1.zarr" / LAYER / "utm32" / "n_obs"
    (array / "out").symlink_to(folder / "secret.txt")
    (array / "folder").symlink_to(folder)
    (array / ".tmp-unfinished").write_text("half")
    link = folder / "cube.zarr"
    link.symlink_to(Path("cubes") / "v1.zarr")
    return link


@pytest.fixture(scope="module")
def client(cube: Path) -> Iterator[httpx.Client]:
    """A client of a server of the cube."""
    app = create_app([cube], limits=Limits(body_bytes=100_000, parcels=20, hits=50))
    with running(app) as address, httpx.Client(base_url=address, trust_env=False, timeout=30) as opened:
        yield opened


LAYER_PATH = f"/v1/cubes/two_zones/layers/{LAYER}"


def get(client: httpx.Client, path: str, **parameters: Any) -> Any:
    """The JSON of an answer of status 200."""
    answer = client.get(path, params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()


def post(client: httpx.Client, path: str, body: Any) -> httpx.Response:
    """An answer of status 200 to a question with a body."""
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer


def stored(cube: Path, zone: str, name: str) -> Any:
    """One of the arrays of a zone, read whole by zarr."""
    array: Any = zarr.open_group(cube, mode="r")[f"{LAYER}/{zone}/{name}"]
    return array[...]


def test_cubes_and_layers_are_described(client: httpx.Client, cube: Path) -> None:
    (listed,) = get(client, "/v1/cubes")["cubes"]
    assert listed["name"] == "two_zones"
    assert listed["version"] == "v1"
    assert listed["store"] == "/v1/cubes/two_zones/files/v1.zarr"
    whole = get(client, "/v1/cubes/two_zones")
    zones = {zone["zone"]: zone for zone in whole["layers"][LAYER]["zones"]}
    assert zones.keys() == {"utm32", "utm33"}
    assert zones["utm33"]["windows"] == ["2023-06-01/2023-07-01", "2023-07-01/2023-08-01", "2023-08-01/2023-09-01"]
    layer = get(client, LAYER_PATH)
    assert layer == whole["layers"][LAYER]
    assert layer["features"] == 16
    assert layer["weights_sha256"] == "1" * 64


@pytest.mark.parametrize(("place", "zone"), [(WEST, "utm32"), (EAST, "utm33")])
def test_a_point_has_all_windows(client: httpx.Client, cube: Path, place: tuple[float, float], zone: str) -> None:
    answer = get(client, f"{LAYER_PATH}/point", lon=place[0], lat=place[1])
    assert answer["zone"] == zone
    y, x = answer["y"], answer["x"]
    embedding, scale, status = (stored(cube, zone, name)[:, y, x] for name in ("embedding", "scale", "status"))
    centre = (stored(cube, zone, "x")[x], stored(cube, zone, "y")[y])
    assert tuple(answer["centre"]) == centre
    assert len(answer["windows"]) == 3
    for t, window in enumerate(answer["windows"]):
        assert status[t] in (VALID, VALID_INCOMPLETE)
        assert window["status"] == STATUS_MEANINGS[status[t]]
        assert window["n_obs"] == 3
        expected = embedding[t].astype(np.float32) * scale[t]
        assert np.array_equal(np.asarray(window["vector"], np.float32), expected)
        # and it is the vector of that place
        truth = vectors_at(np.array(place[0]), np.array(place[1]), t)
        assert np.abs(expected - truth).max() < 0.2


def test_a_masked_cell_has_no_vector_and_says_so(client: httpx.Client, cube: Path) -> None:
    answer = get(client, f"{LAYER_PATH}/point", lon=11.97, lat=50.01, time="2023-06")
    (window,) = answer["windows"]
    assert stored(cube, "utm32", "status")[0, answer["y"], answer["x"]] == MASKED
    assert window["status"] == "masked"
    assert window["vector"] is None


def test_places_and_times_outside_are_not_answered(client: httpx.Client) -> None:
    asked: tuple[dict[str, str | float], ...] = (
        {"lon": 3.0, "lat": 50.0},
        {"lon": 12.0, "lat": -50.0},
        {"lon": 12.03, "lat": 50.01, "time": "1999"},
        {"lon": 12.03, "lat": 50.01, "time": "yesterday"},
    )
    for parameters in asked:
        answer = client.get(f"{LAYER_PATH}/point", params=parameters)
        assert answer.status_code == 404, parameters
        assert answer.json()["detail"]
    for path in ("/v1/cubes/other", "/v1/cubes/two_zones/layers/other", "/v1/nothing"):
        assert client.get(path).status_code == 404


@pytest.mark.parametrize("lon", ["nan", "inf", "-inf", "181", "1e400", "x", ""])
def test_numbers_that_are_no_longitude_are_refused(client: httpx.Client, lon: str) -> None:
    assert client.get(f"{LAYER_PATH}/point", params={"lon": lon, "lat": 50}).status_code == 422


def test_a_box_is_what_is_stored(client: httpx.Client, cube: Path) -> None:
    answer = client.get(f"{LAYER_PATH}/box", params={"bbox": "11.98,49.99,12.02,50.01", "time": "2023-07"})
    assert answer.status_code == 200
    arrays = np.load(io.BytesIO(answer.content))
    for zone in ("utm32", "utm33"):
        xs, ys = stored(cube, zone, "x"), stored(cube, zone, "y")
        columns, rows = np.searchsorted(xs, arrays[f"{zone}.x"]), np.searchsorted(-ys, -arrays[f"{zone}.y"])
        assert np.array_equal(xs[columns], arrays[f"{zone}.x"])
        assert np.array_equal(ys[rows], arrays[f"{zone}.y"])
        assert arrays[f"{zone}.inside"].any()
        for name in ("embedding", "scale", "status", "n_obs"):
            expected = stored(cube, zone, name)[1:2][:, rows][:, :, columns]
            assert np.array_equal(arrays[f"{zone}.{name}"], expected, equal_nan=name == "scale")


def test_boxes_that_are_none_or_too_large_are_refused(client: httpx.Client, cube: Path) -> None:
    for bbox in ("nan,0,1,1", "1,2,3", "0,0,inf,1", "1e9,0,2,2", "0;0;1;1"):
        assert client.get(f"{LAYER_PATH}/box", params={"bbox": bbox}).status_code == 422, bbox
    assert client.get(f"{LAYER_PATH}/box", params={"bbox": "12.1,50,12,49"}).status_code == 422
    assert client.get(f"{LAYER_PATH}/box", params={"bbox": "1,1,2,2"}).status_code == 404
    with running(create_app([cube], limits=Limits(box_numbers=10_000))) as address:
        answer = httpx.get(f"{address}{LAYER_PATH}/box", params={"bbox": "-180,-90,180,90"}, trust_env=False)
    assert answer.status_code == 413
    assert "10,000" in answer.json()["detail"]


def test_an_answer_names_its_version_and_is_not_sent_twice(client: httpx.Client) -> None:
    answer = client.get(f"{LAYER_PATH}/point", params={"lon": 12.03, "lat": 50.01})
    etag = answer.headers["etag"]
    assert etag.startswith('"v1-')
    again = client.get(f"{LAYER_PATH}/point?lon=12.03&lat=50.01", headers={"If-None-Match": f'"x", W/{etag}'})
    assert again.status_code == 304
    assert again.content == b""
    assert again.headers["etag"] == etag


def test_a_new_version_behind_the_link_is_not_mixed_in(client: httpx.Client, cube: Path, two_zones: Path) -> None:
    before = get(client, f"{LAYER_PATH}/point", lon=12.03, lat=50.01)
    try:
        cube.unlink()
        cube.symlink_to(Path("cubes") / "v2.zarr")
        assert get(client, f"{LAYER_PATH}/point", lon=12.05, lat=50.01)["version"] == "v1"
        assert get(client, f"{LAYER_PATH}/point", lon=12.03, lat=50.01) == before
    finally:
        cube.unlink()
        cube.symlink_to(Path("cubes") / "v1.zarr")


def test_json_is_compressed_where_the_client_can(client: httpx.Client) -> None:
    path = "/v1/cubes/two_zones"
    with client.stream("GET", path, headers={"Accept-Encoding": "gzip"}) as answer:
        raw = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == "gzip"
    plain = client.get(path, headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert json.loads(gzip.decompress(raw)) == plain.json()
    assert len(raw) < len(plain.content) / 2


def test_explain_is_that_of_the_cube(client: httpx.Client, cube: Path) -> None:
    from embedcube.cube.reader import Cube

    answer = get(client, f"{LAYER_PATH}/explain", lon=EAST[0], lat=EAST[1], time="2023-07")
    opened = Cube(cube)
    expected = json.loads(json.dumps(opened.explain(opened.cell_at(*EAST, "2023-07"))))
    assert answer["cell"]["zone"] == "utm33"
    assert {**answer, "cell": 0} == {**expected, "cell": 0}
    assert client.get(f"{LAYER_PATH}/explain", params={"lon": 12.03, "lat": 50.01}).status_code == 404  # which window?


def test_maps_of_a_window_are_raw_numbers(client: httpx.Client, cube: Path) -> None:
    status = stored(cube, "utm32", "status")[0]
    answer = client.get(f"{LAYER_PATH}/zones/utm32/windows/0/status")
    assert answer.headers["x-embedcube-shape"] == "80,80"
    assert np.array_equal(np.frombuffer(answer.content, np.uint8).reshape(80, 80), status)
    thinned = client.get(f"{LAYER_PATH}/zones/utm32/windows/0/status", params={"step": 3})
    assert np.array_equal(np.frombuffer(thinned.content, np.uint8).reshape(27, 27), status[::3, ::3])
    n_obs = client.get(f"{LAYER_PATH}/zones/utm32/windows/0/n_obs")
    assert np.array_equal(np.frombuffer(n_obs.content, "<u2").reshape(80, 80), stored(cube, "utm32", "n_obs")[0])
    colours = client.get(f"{LAYER_PATH}/zones/utm32/windows/0/colours")
    rgb = np.frombuffer(colours.content, np.uint8).reshape(80, 80, 3)
    has_vector = np.isin(status, (1, 5))
    assert rgb[has_vector].min() >= 1
    assert rgb[~has_vector].max() == 0
    assert len(np.unique(rgb.reshape(-1, 3), axis=0)) > 100
    assert client.get(f"{LAYER_PATH}/zones/utm32/windows/3/status").status_code == 404
    assert client.get(f"{LAYER_PATH}/zones/utm31/windows/0/status").status_code == 404


def test_a_tile_is_cut_from_the_map(client: httpx.Client) -> None:
    colours = client.get(f"{LAYER_PATH}/zones/utm33/windows/1/colours")
    rgb = np.frombuffer(colours.content, np.uint8).reshape(80, 80, 3)
    answer = client.get(f"{LAYER_PATH}/zones/utm33/windows/1/tiles/colours/1/0/0.png")
    assert answer.headers["content-type"] == "image/png"
    image = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert image.shape == (256, 256, 4)
    assert np.array_equal(image[:40, :40, :3], rgb[::2, ::2])
    assert np.array_equal(image[:40, :40, 3] > 0, rgb[::2, ::2].max(axis=-1) > 0)
    assert image[40:].max() == image[:, 40:].max() == 0
    assert client.get(f"{LAYER_PATH}/zones/utm33/windows/1/tiles/colours/0/1/0.png").status_code == 404


def cosines(cube: Path, zone: str, t: int, query: Any) -> Any:
    """Cosines (y, x) in float64 of a window; NaN where there is no vector."""
    vectors, status = stored(cube, zone, "embedding")[t].astype(np.float64), stored(cube, zone, "status")[t]
    norms = np.linalg.norm(vectors, axis=-1)
    with np.errstate(invalid="ignore"):
        found = vectors @ query / norms / np.linalg.norm(query)
    found[~np.isin(status, (1, 5))] = np.nan
    return found


def test_a_map_of_similarity_is_the_cosine_of_every_cell(client: httpx.Client, cube: Path) -> None:
    point = get(client, f"{LAYER_PATH}/point", lon=WEST[0], lat=WEST[1], time="2023-06")
    query = stored(cube, "utm32", "embedding")[0, point["y"], point["x"]].astype(np.float64)
    expected = cosines(cube, "utm33", 1, query)
    body = {"like": [{"vector": query.tolist()}], "zone": "utm33", "time": "2023-07", "type": "float32"}
    answer = post(client, f"{LAYER_PATH}/similar", body)
    found = np.frombuffer(answer.content, "<f4").reshape(80, 80)
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    assert np.nanmax(np.abs(found - expected)) < 1e-6
    answer = post(client, f"{LAYER_PATH}/similar", body | {"type": "uint8"})
    steps = np.frombuffer(answer.content, np.uint8).reshape(80, 80)
    low, high = map(float, answer.headers["x-embedcube-range"].split(","))
    assert np.array_equal(steps == 0, np.isnan(expected))
    read = low + (steps.astype(float) - 1) / 254 * (high - low)
    assert np.nanmax(np.abs(read - expected)[steps > 0]) <= (high - low) / 254 * 0.51
    assert post(client, f"{LAYER_PATH}/similar", body | {"like": [{"lon": 11.95, "lat": 50.02}]}).status_code == 200


def test_similarity_needs_one_zone_and_one_window(client: httpx.Client) -> None:
    like = {"like": [{"lon": 11.95, "lat": 50.02}]}
    for body in (like, like | {"zone": "utm32"}, like | {"zone": "utm32", "time": "2023"}):
        assert client.post(f"{LAYER_PATH}/similar", json=body).status_code == 404


def test_find_gives_the_best_cells_of_both_zones(client: httpx.Client, cube: Path) -> None:
    query = stored(cube, "utm32", "embedding")[1, 10, 60].astype(np.float64)
    body = {"like": [{"vector": query.tolist()}], "k": 5, "time": "2023-07", "apart_m": 0}
    answer = post(client, f"{LAYER_PATH}/find", body).json()
    maps = {zone: cosines(cube, zone, 1, query) for zone in ("utm32", "utm33")}
    best = sorted((value for one in maps.values() for value in one[np.isfinite(one)]), reverse=True)[:5]
    assert [hit["rank"] for hit in answer["hits"]] == [1, 2, 3, 4, 5]
    assert np.allclose([hit["cosine"] for hit in answer["hits"]], best, atol=1e-6)
    for hit in answer["hits"]:
        assert abs(maps[hit["zone"]][hit["y"], hit["x"]] - hit["cosine"]) < 1e-6
    assert answer["exact"]
    assert answer["weights_sha256"] == "1" * 64


def test_a_planted_change_is_the_largest_of_the_map(client: httpx.Client, tmp_path: Path) -> None:
    # three windows of three months have no past of their season
    refused = client.post(f"{LAYER_PATH}/change", json={"before": "2023-06", "after": "2023-08", "zone": "utm33"})
    assert refused.status_code == 422
    assert "at least 3" in refused.json()["detail"]
    rng = np.random.default_rng(0)
    land = rng.normal(size=(1, 24, 24, 8)) + rng.normal(size=(5, 24, 24, 8)) * 0.1
    land[4, 5, 17] = -land[4, 5, 17]
    path = tmp_path / "years.zarr"
    write_zone(path, "s2/utm32", land.astype(np.float32), shard=8)
    group: Any = zarr.open_group(path, path="s2/utm32", mode="a", zarr_format=3)
    junes = [[int(datetime(year, month, 1, tzinfo=UTC).timestamp()) for month in (6, 7)] for year in range(2019, 2024)]
    group["time"][...], group["time_bnds"][...] = np.array(junes)[:, 0], np.array(junes)
    with running(create_app([f"years={path}"])) as address:
        body = {"before": "2019/2023", "after": "2023-06", "type": "float32"}
        answer = httpx.post(f"{address}/v1/cubes/years/layers/s2/change", json=body, trust_env=False)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-embedcube-window"] == "2023-06-01/2023-07-01"
        score = np.frombuffer(answer.content, "<f4").reshape(24, 24)
        assert int(score.argmax()) == 5 * 24 + 17
        assert score[5, 17] > 10 * np.median(score)


def test_vectors_of_examples_or_why_there_is_none(client: httpx.Client, cube: Path) -> None:
    places = [{"lon": EAST[0], "lat": EAST[1]}, {"lon": 3, "lat": 50}, {"lon": 11.97, "lat": 50.01}]
    answer = post(client, f"{LAYER_PATH}/vectors", {"like": places, "time": "2023-06"}).json()
    point = get(client, f"{LAYER_PATH}/point", lon=EAST[0], lat=EAST[1], time="2023-06")
    vector = np.array(point["windows"][0]["vector"])
    assert np.allclose(answer["vectors"][0]["vector"], vector / np.linalg.norm(vector), atol=1e-6)
    assert [one["vector"] for one in answer["vectors"][1:]] == [None, None]
    assert "outside" in answer["vectors"][1]["problem"]
    assert "masked" in answer["vectors"][2]["problem"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"like": []}, 422),
        ({"like": [{"vector": []}]}, 422),
        ({"like": [{"vector": [0.0] * 16}]}, 422),
        ({"like": [{"vector": [1.0] * 15}]}, 422),
        ({"like": [{"lon": 11.95, "lat": 50.02}, {"vector": [1.0] * 15}]}, 422),
        ({"like": [{"lon": 1e9, "lat": 0}]}, 422),
        ({"like": [{"lon": 3, "lat": 50}]}, 422),
        ({"like": [{"lon": 11.95, "lat": 50.02}], "k": 0}, 422),
        ({"like": [{"lon": 11.95, "lat": 50.02}], "k": 51}, 413),
        ({"like": [{"lon": 11.95, "lat": 50.02}], "more": 1}, 422),
        ({"like": [{"zone": "utm32", "t": 9, "y": 1, "x": 1}]}, 422),
        ({"like": [{"zone": "utm32", "t": 0, "y": 80, "x": 1}]}, 422),
        ({"like": [{"zone": "../utm32", "t": 0, "y": 1, "x": 1}]}, 422),
        ({"like": [{"type": "Polygon", "coordinates": []}]}, 422),
        ({"like": [{"type": "Polygon", "coordinates": [[[0, 0], [1, "x"], [2, 2], [0, 0]]]}]}, 422),
        ({"like": [{"type": "Polygon", "coordinates": [[[0, 0], [1e9, 1], [2, 2], [0, 0]]]}]}, 422),
        ({"like": [{"lon": 11.95, "lat": 50.02}] * 257}, 413),
        ({"like": [{"vector": [1.0] * 40_000}]}, 413),
    ],
)
def test_wrong_questions_are_refused(client: httpx.Client, body: Any, status: int) -> None:
    answer = client.post(f"{LAYER_PATH}/find", json=body)
    assert answer.status_code == status, answer.text
    assert answer.json()["detail"]


def test_bodies_that_are_no_json_are_refused(client: httpx.Client) -> None:
    kind = {"Content-Type": "application/json"}
    nested = b'{"like": ' + b"[" * 30_000 + b"]" * 30_000 + b"}"
    for data in (
        b"{",
        b"\xff\xfe",
        nested,
        b'{"like": [{"vector": [NaN]}]}',
        b'{"like": [{"lon": Infinity, "lat": 0}]}',
    ):
        assert client.post(f"{LAYER_PATH}/find", content=data, headers=kind).status_code in (400, 422), data[:20]
    many = (b"x" * 10_000 for _ in range(20))  # chunked: without a length
    assert client.post(f"{LAYER_PATH}/find", content=many, headers=kind).status_code == 413


SQUARE = {
    "type": "Polygon",
    "coordinates": [[[11.98, 50.0], [12.03, 50.0], [12.03, 50.02], [11.98, 50.02], [11.98, 50.0]]],
}
"""in both zones"""


def test_parcels_are_means_over_both_zones(client: httpx.Client, cube: Path) -> None:
    from shapely.geometry import shape

    from embedcube.cube.reader import Cube
    from embedcube.cube.within import area_in

    features = [{"type": "Feature", "id": 7, "geometry": SQUARE, "properties": {"crop": "rye"}}]
    body = {"type": "FeatureCollection", "features": features, "time": "2023-06", "stats": ["mean", "std"]}
    (answer,) = post(client, f"{LAYER_PATH}/parcels", body).json()["features"]
    assert answer["id"] == 7
    assert answer["properties"]["crop"] == "rye"
    (window,) = answer["properties"]["windows"]
    vectors, cells = [], 0
    for zone in ("utm32", "utm33"):
        area = area_in(Cube(cube), f"{LAYER}/{zone}", shape(SQUARE))
        assert area is not None
        inside = area.cut(area.y, area.x)
        part = (0, area.y, area.x)
        valid = inside & np.isin(stored(cube, zone, "status")[part], (1, 5))
        own = stored(cube, zone, "embedding")[part] * stored(cube, zone, "scale")[part][..., None].astype(np.float64)
        vectors.append(own[valid])
        cells += int(inside.sum())
        assert valid.sum() > 0
    every = np.concatenate(vectors)
    assert len(every) < cells  # some lie under a cloud
    assert (window["window"], window["count"]) == ("2023-06-01/2023-07-01", len(every))
    assert answer["properties"]["cells"] == cells
    assert np.allclose(window["mean"], every.mean(axis=0), atol=1e-5)
    assert np.allclose(window["std"], every.std(axis=0), atol=1e-5)


@pytest.mark.parametrize(
    "odd", ['{"a": 100000000000000000000}', '{"a": "\\ud800"}', '{"a": ' + "[" * 300 + "]" * 300 + "}"]
)
def test_properties_that_cannot_be_sent_back_are_refused(client: httpx.Client, odd: str) -> None:
    ring = "[[12.0, 50.0], [12.01, 50.0], [12.01, 50.01], [12.0, 50.0]]"
    shape = f'{{"type": "Polygon", "coordinates": [{ring}]}}'
    feature = f'{{"type": "Feature", "properties": {{"a": {odd}}}, "geometry": {shape}}}'
    body = f'{{"type": "FeatureCollection", "features": [{feature}]}}'
    answer = client.post(f"{LAYER_PATH}/parcels", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422


def test_a_preview_that_is_drawn_later_changes_the_etag(two_zones: Path, tmp_path: Path) -> None:
    path = tmp_path / "v1.zarr"
    shutil.copytree(two_zones, path)
    with running(create_app([f"c={path}"])) as address, httpx.Client(base_url=address, trust_env=False) as opened:
        before = opened.get("/v1/cubes/c")
        write_preview_store(Cube(path), preview_store_of(path))
        after = opened.get("/v1/cubes/c", headers={"If-None-Match": before.headers["etag"]})
        assert (before.json()["preview"], after.status_code) == (None, 200)
        assert after.json()["preview"] == "/v1/cubes/c/files/v1.preview.zarr"
        assert opened.get("/v1/cubes/c", headers={"If-None-Match": after.headers["etag"]}).status_code == 304


def test_parcels_that_are_too_much_are_refused(client: httpx.Client, cube: Path) -> None:
    feature = {"type": "Feature", "geometry": SQUARE}

    def status(count: int, **more: Any) -> int:
        body = {"type": "FeatureCollection", "features": [feature] * count} | more
        return client.post(f"{LAYER_PATH}/parcels", json=body).status_code

    assert status(20) == 200
    assert status(21) == 413
    assert status(0) == 422
    assert status(1, stats=["median"]) == 422
    assert status(1, time="1999") == 404
    for limits in (Limits(vertices=4), Limits(scan_cells=100), Limits(parcel_numbers=95)):
        with running(create_app([cube], limits=limits)) as address:
            body = {"type": "FeatureCollection", "features": [feature]}
            answer = httpx.post(f"{address}{LAYER_PATH}/parcels", json=body, trust_env=False)
            assert answer.status_code == 413, limits


def raw(client: httpx.Client, path: str, *headers: str) -> bytes:
    """The answer to a request whose path nothing has tidied up."""
    with socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=10) as opened:
        lines = [f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers, "", ""]
        opened.sendall("\r\n".join(lines).encode())
        data = b""
        while piece := opened.recv(1 << 16):
            data += piece
    return data


FILES = "/v1/cubes/two_zones/files"


def test_the_store_is_served_by_ranges(client: httpx.Client, cube: Path) -> None:
    name = f"v1.zarr/{LAYER}/utm32/embedding/c.0.2.2.0"
    data = (cube.parent / "cubes" / name).read_bytes()
    whole = client.get(f"{FILES}/{name}", headers={"Accept-Encoding": "identity"})
    assert whole.content == data
    assert whole.headers["etag"].startswith('"v1-')
    part = client.get(f"{FILES}/{name}", headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, data[10:20])
    last = client.get(f"{FILES}/{name}", headers={"Range": "bytes=-8"})
    assert (last.status_code, last.content) == (206, data[-8:])
    assert client.get(f"{FILES}/{name}", headers={"Range": "bytes=99999999-"}).status_code == 416
    assert client.head(f"{FILES}/{name}").headers["content-length"] == str(len(data))
    assert client.get(f"{FILES}/{name}", headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
    assert client.get(f"{FILES}/v1-stac/collection.json").json()["id"] == "two_zones"


@pytest.mark.parametrize(
    "path",
    [
        f"{FILES}/v1.zarr/../../secret.txt",
        f"{FILES}/../../../../secret.txt",
        f"{FILES}/v1.zarr/%2e%2e/%2e%2e/secret.txt",
        f"{FILES}/v1.zarr/..%2f..%2fsecret.txt",
        f"{FILES}/v1.zarr//etc/passwd",
        f"{FILES}//etc/passwd",
        f"{FILES}/v1.zarr/{LAYER}/utm32/n_obs/out",
        f"{FILES}/v1.zarr/{LAYER}/utm32/n_obs/folder/secret.txt",
        f"{FILES}/v1.zarr/{LAYER}/utm32/n_obs/.tmp-unfinished",
        f"{FILES}/v1.zarr",
        f"{FILES}/v1.zarr/",
        f"{FILES}/v1.zarr/{LAYER}",
        f"{FILES}/v1.zarr/zarr.json%00",
        f"{FILES}/v1.zarr/{'a' * 5000}",
        f"{FILES}/",
        "/v1/../v1/cubes/two_zones/files/v1.zarr/../secret.txt",
    ],
)
def test_nothing_else_is_served(client: httpx.Client, path: str) -> None:
    answer = raw(client, path)
    assert answer.split()[1] in (b"404", b"400", b"307"), answer[:300]
    assert b"secret" not in answer.partition(b"\r\n\r\n")[2]


def test_a_fifo_does_not_hang_the_server(client: httpx.Client, cube: Path) -> None:
    fifo = cube.resolve() / LAYER / "utm32" / "n_obs" / "fifo"
    os.mkfifo(fifo)
    try:
        assert client.get(f"{FILES}/v1.zarr/{LAYER}/utm32/n_obs/fifo").status_code == 404
    finally:
        fifo.unlink()


def test_other_names_of_this_machine_are_refused_without_a_token(client: httpx.Client) -> None:
    for host, status in (("evil.example", 403), ("", 403), ("localhost:1", 200), ("127.0.0.1", 200)):
        assert client.get("/v1/cubes", headers={"Host": host}).status_code == status, host


def test_a_token_is_asked_for_everywhere(cube: Path, tmp_path: Path) -> None:
    page = tmp_path / "page"
    page.mkdir()
    (page / "index.html").write_text("<title>map</title>")
    with running(create_app([cube], token=TOKEN, static=page)) as address:
        ask = httpx.Client(base_url=address, trust_env=False)
        paths = ("/v1/cubes", "/metrics", "/", "/v1/openapi.json", f"{FILES}/v1.zarr/zarr.json", "/nothing")
        for path in paths:
            answer = ask.get(path)
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"].startswith("Basic")
            assert ask.get(path, headers={"Authorization": f"Bearer {TOKEN}x"}).status_code == 401
            assert ask.get(path, params={"token": TOKEN}).status_code == 401
        bearer = {"Authorization": f"Bearer {TOKEN}", "Host": "cubes.example"}
        assert [ask.get(path, headers=bearer).status_code for path in paths] == [200] * 5 + [404]
        assert "<title>map</title>" in ask.get("/", auth=("anybody", TOKEN)).text
        ask.close()


def test_headers_with_a_token_are_told_from_others() -> None:
    def basic(password: str) -> str:
        return "Basic " + base64.b64encode(f"me:{password}".encode()).decode()

    assert shows_token(f"Bearer {TOKEN}", TOKEN)
    assert shows_token(basic(TOKEN), TOKEN)
    wrong = (None, "", "Bearer", "Bearer ", TOKEN, f"Token {TOKEN}", basic(""), "Basic !!!", "Basic /w==", "Bearer é")
    for header in wrong:
        assert not shows_token(header, TOKEN), header


def test_a_token_file_is_private(tmp_path: Path) -> None:
    file = tmp_path / "token"
    made = token_for("10.0.0.1", file)
    assert made is not None
    assert len(made) >= 32
    assert file.stat().st_mode & 0o777 == 0o600
    assert read_token(file) == made == token_for("127.0.0.1", file)
    assert token_for("127.0.0.1", None) is None
    file.chmod(0o640)
    with pytest.raises(RequestError, match=r"0640.*chmod 600"):
        read_token(file)
    (short := tmp_path / "short").write_text("short\n")
    short.chmod(0o600)
    with pytest.raises(RequestError, match="at least 16"):
        read_token(short)
    with pytest.raises(RequestError, match="no such file"):
        read_token(tmp_path / "nothing")
    with pytest.raises(RequestError, match="--token-file"):
        token_for("10.0.0.1", None)
    for everywhere in ("0.0.0.0", "::", ""):
        with pytest.raises(RequestError, match="every network"):
            token_for(everywhere, file)


def test_requests_are_counted_by_route(client: httpx.Client) -> None:
    def counted() -> dict[str, float]:
        lines = client.get("/metrics").text.splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}

    before = counted()
    get(client, f"{LAYER_PATH}/point", lon=EAST[0], lat=EAST[1])
    client.get("/v1/cubes/<script>/layers/x/point?lon=1&lat=1")
    after = counted()
    route = 'embedcube_requests_total{route="/cubes/{cube}/layers/{layer}/point",status="%d"}'
    assert after[route % 200] == before.get(route % 200, 0) + 1
    assert after[route % 404] == before.get(route % 404, 0) + 1
    assert not any("script" in name for name in after)
    assert after["embedcube_request_seconds_count"] >= before["embedcube_request_seconds_count"] + 2
    assert after["embedcube_most_memory_bytes"] > 1e7


def test_a_damaged_object_is_named_and_the_server_lives(cube: Path, tmp_path: Path) -> None:
    copy = tmp_path / "v1.zarr"
    shutil.copytree(cube.resolve(), copy, symlinks=True)
    damaged = copy / LAYER / "utm33" / "embedding" / "c.0.2.2.0"
    damaged.chmod(0o644)
    data = bytearray(damaged.read_bytes())
    data[-20:] = bytes(20)
    damaged.write_bytes(data)
    with running(create_app([copy])) as address:
        ask = httpx.Client(base_url=address, trust_env=False)
        group: Any = zarr.open_group(copy, mode="r")[f"{LAYER}/utm33"]
        from embedcube.cube.reader import Cube
        from embedcube.grid import to_degrees

        lon, lat = to_degrees(Cube(copy).group(f"{LAYER}/utm33").attrs["proj:wkt2"]).transform(
            group["x"][40], group["y"][40]
        )
        answer = ask.get(f"{LAYER_PATH}/point", params={"lon": lon, "lat": lat, "time": "2023-06"})
        assert answer.status_code == 500
        assert "verify" in answer.json()["detail"]
        assert str(tmp_path) not in answer.json()["detail"]
        assert ask.get(f"{LAYER_PATH}/point", params={"lon": 11.95, "lat": 50.02}).status_code == 200
        ask.close()


def test_cubes_are_named_by_campaign_or_by_hand(cube: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="served already"):
        create_app([cube, cube])
    with pytest.raises(RequestError, match="no name"):
        create_app([f"a/b={cube}"])
    with pytest.raises(RequestError, match="not a cube"):
        create_app([tmp_path])
    with running(create_app([cube, f"again={cube}"])) as address:
        listed = httpx.get(f"{address}/v1/cubes", trust_env=False).json()["cubes"]
    assert [one["name"] for one in listed] == ["two_zones", "again"]


def test_the_verb_serves_and_ends_in_order(cube: Path, tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    with spawned(cube, "--token-file", token_file) as (address, process):
        token = token_file.read_text().strip()
        answer = httpx.get(f"{address}/v1/cubes", headers={"Authorization": f"Bearer {token}"}, trust_env=False)
        assert answer.status_code == 200
        process.terminate()
        out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert token not in out


def test_the_verb_refuses_what_is_open_to_all(cube: Path, tmp_path: Path) -> None:
    for arguments in (("--host", "0.0.0.0"), ("--host", "192.0.2.1")):
        refused = call_cli("serve", cube, *arguments)
        assert refused.returncode == 2
        assert "--host" in refused.stderr
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        refused = call_cli("serve", cube, "--port", str(taken.getsockname()[1]))
    assert refused.returncode == 2
    assert "--port" in refused.stderr
    assert call_cli("serve", tmp_path).returncode == 2


def test_same_bytes_as_the_files(client: httpx.Client, cube: Path) -> None:
    """What pull relies on: every file of the store can be read from the server."""
    root = cube.resolve()
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink() and path.name[0] != "."]
    for path in files[:: max(1, len(files) // 25)]:
        answer = client.get(f"{FILES}/v1.zarr/{path.relative_to(root)}")
        assert hashlib.sha256(answer.content).digest() == hashlib.sha256(path.read_bytes()).digest(), path
