"""A decoder applied: the same numbers whatever the blocks, on the cells' own grid, nodata where there is no vector."""

import json
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import rasterio
import xarray
import zarr
from tests.conftest import Campaign, run_cli
from tests.cube.two_zones import vectors_at
from tests.uses.serving import running
from tests.uses.test_decode_labels import pixels, places, write_csv, write_raster

import embedcube.uses.decode.apply as application
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError
from embedcube.uses.decode import commands
from embedcube.uses.decode.examples import side_by_side
from embedcube.uses.decode.file import read_decoder
from embedcube.uses.decode.fit import Settings
from embedcube.uses.decode.labels import read_examples
from embedcube.uses.decode.pixels import interpolated
from embedcube.uses.decode.request import Request
from embedcube.uses.serve.app import create_app
from embedcube.uses.serve.limits import Limits

ZONES = ("s2/utm32", "s2/utm33")


@pytest.fixture(scope="module")
def fitted(two_zones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with labels, a classifier and a regression."""
    folder = tmp_path_factory.mktemp("fitted")
    lon, lat = places(300)
    first = vectors_at(lon, lat, 0)[:, 0]
    kind = np.where(first > 0.4, "high", np.where(first < -0.4, "low", "middle"))
    write_csv(folder / "labels.csv", {"lon": lon, "lat": lat, "kind": kind, "value": first * 3 + 1})
    labels = [folder / "labels.csv"]
    classes = Request(task="classification", column="kind", time="2023-06")
    commands.fit(two_zones, labels, folder / "classes.safetensors", classes, Settings(kind="logistic"))
    numbers = Request(task="regression", column="value", time="2023-06")
    commands.fit(two_zones, labels, folder / "value.safetensors", numbers, Settings(kind="ridge"))
    return folder


def read(path: Path) -> tuple[Any, dict[str, Any]]:
    with rasterio.open(path) as file:
        return file.read(), {"profile": file.profile, "tags": file.tags(), "band": file.tags(1)}


def test_maps_hold_what_the_head_says_of_each_cell(two_zones: Path, fitted: Path, tmp_path: Path) -> None:
    cube = Cube(two_zones)
    files = application.apply(cube, fitted / "value.safetensors", tmp_path / "v.tif", time="2023-07")
    assert [file.name for file in files] == ["v_utm32_2023-07-01.tif", "v_utm33_2023-07-01.tif"]
    for zone, path in zip(ZONES, files, strict=True):
        values, about = read(path)
        group = cube.group(zone)
        assert about["profile"]["crs"] == group.attrs["proj:code"]
        assert list(about["profile"]["transform"])[:6] == group.attrs["spatial:transform"]
        valid = cube.valid(zone, 1, slice(None), slice(None))
        np.testing.assert_array_equal(np.isfinite(values[0]), valid)
        assert 0 < valid.sum() < valid.size
        lon, lat = (np.asarray(axis) for axis in _degrees(cube, zone))
        season = vectors_at(lon, lat, 1)[..., 0] * 3 + 1
        off = (values[0] - season)[valid]
        assert np.abs(off).max() < 0.5, "July is decoded by what June taught"
        tags = about["tags"]
        assert json.loads(tags["embedcube_decoder"])["layers"][0]["weights"] == "1" * 64
        assert len(tags["embedcube_decoder_sha256"]) == 64
        assert tags["embedcube_cube"] == "cube"
    with rasterio.open(files[0]) as file:
        assert file.descriptions == ("value",)
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"


def _degrees(cube: Cube, zone: str) -> Any:
    from embedcube.grid import to_degrees

    group = cube.group(zone)
    return to_degrees(group.attrs["proj:wkt2"]).transform(*np.meshgrid(group["x"][...], group["y"][...]))


def test_numbers_do_not_depend_on_region_or_pieces(
    two_zones: Path, fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cube = Cube(two_zones)
    for name in ("classes", "value"):
        decoder = fitted / f"{name}.safetensors"
        (whole,) = application.apply(cube, decoder, tmp_path / f"{name}.zarr")
        part, _ = application.apply(
            cube, decoder, tmp_path / f"{name}.tif", within=(11.95, 49.97, 12.02, 50.02), time="2023-06"
        )
        everything = np.asarray(_group(whole)["s2/utm32/prediction"][0])
        values = read(part)[0][0]
        inside = values != 255 if name == "classes" else np.isfinite(values)
        assert 500 < inside.sum() < 2000
        np.testing.assert_array_equal(values[inside], everything[inside])
        # pieces of another size, in another order
        monkeypatch.setattr(application, "pieces", _smaller(application.pieces))
        again, _ = application.apply(cube, decoder, tmp_path / f"{name}-again.tif", time="2023-06")
        monkeypatch.undo()
        np.testing.assert_array_equal(read(again)[0][0], everything)


def _group(path: Path) -> Any:
    return zarr.open_group(path, mode="r")


def _smaller(pieces: Any) -> Any:
    """Pieces of 16 x 16 cells cut to 16 x 5, the last first."""
    from dataclasses import replace

    def cut(*arguments: Any) -> Any:
        found = pieces(*arguments)
        return {
            key: [replace(one, y=(y, min(y + 5, one.y[1]))) for one in work[::-1] for y in range(one.y[0], one.y[1], 5)]
            for key, work in found.items()
        }

    return cut


def test_logits_are_interpolated_across_pieces(
    two_zones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cube = Cube(two_zones)
    labels = [write_raster(tmp_path / "map.tif", cube, pixels())]
    request = Request(task="dense", time="2023-06", classes={"third": (3,), "rest": (1, 2)})
    dense, _ = commands.fit(two_zones, labels, tmp_path / "d.safetensors", request, Settings(kind="logistic"))
    written = application.apply(cube, tmp_path / "d.safetensors", tmp_path / "o.tif", time="2023-06", finer=4)
    for zone, path in zip(ZONES, written, strict=True):
        values, about = read(path)
        assert values.shape == (1, 320, 320)
        assert about["profile"]["transform"].a == 40
        assert about["band"] == {"class_0": "third", "class_1": "rest"}
        vectors = cube.vectors(zone, 0, slice(None), slice(None))
        logits = dense.head.logits(vectors.reshape(-1, 16)).reshape(80, 80, 2)
        whole = interpolated(logits, 4)
        there = np.isfinite(whole).all(axis=-1)
        np.testing.assert_array_equal(values[0] != 255, there)
        assert (values[0] == np.nan_to_num(whole).argmax(axis=-1))[there].mean() > 0.9999
    monkeypatch.setattr(application, "pieces", _smaller(application.pieces))
    again = application.apply(cube, tmp_path / "d.safetensors", tmp_path / "again.tif", time="2023-06", finer=4)
    np.testing.assert_array_equal(read(again[0])[0], read(written[0])[0])
    with pytest.raises(RequestError, match="--finer is for a map"):
        application.apply(cube, tmp_path / "d.safetensors", tmp_path / "o.zarr", finer=4)


def test_a_zarr_layer_is_like_the_cube(two_zones: Path, fitted: Path, tmp_path: Path) -> None:
    cube = Cube(two_zones)
    application.apply(cube, fitted / "classes.safetensors", tmp_path / "c.zarr", time="2023-07/2023-09")
    tree = xarray.open_datatree(tmp_path / "c.zarr", engine="zarr", mask_and_scale=False)
    for zone in ZONES:
        layer = tree[zone].to_dataset()
        np.testing.assert_array_equal(layer.x, cube.group(zone)["x"][...])
        assert layer.time.dt.strftime("%Y-%m-%d").values.tolist() == ["2023-07-01", "2023-08-01"]
        assert layer.prediction.attrs["flag_meanings"] == "high low middle"
        assert layer.spatial_ref.attrs["crs_wkt"]
        valid = cube.valid(zone, slice(1, 3), slice(None), slice(None))
        np.testing.assert_array_equal(layer.prediction.values != 255, valid)
        probability = layer.probability.values
        np.testing.assert_array_equal(probability[valid].argmax(-1), layer.prediction.values[valid])
        np.testing.assert_allclose(probability[valid].sum(-1), 1, atol=1e-5)
        assert np.isnan(probability[~valid]).all()
    assert tree.attrs["embedcube:decoder"]["classes"] == ["high", "low", "middle"]
    assert list(tmp_path.iterdir()) == [tmp_path / "c.zarr"]
    with pytest.raises(RequestError, match="exists; remove it"):
        application.apply(cube, fitted / "classes.safetensors", tmp_path / "c.zarr")


def test_a_map_that_fails_leaves_nothing(
    two_zones: Path, fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(100))
    right = application.decoded

    def fails(piece: Any) -> Any:
        if next(calls) == 3:
            raise OSError("disk")
        return right(piece)

    monkeypatch.setattr(application, "decoded", fails)
    for out in ("f.tif", "f.zarr"):
        calls = iter(range(100))
        with pytest.raises(OSError, match="disk"):
            application.apply(Cube(two_zones), fitted / "classes.safetensors", tmp_path / out)
    assert list(tmp_path.iterdir()) == []


def test_another_models_cube_is_refused(two_zones: Path, fitted: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.zarr"
    shutil.copytree(two_zones, other)
    provenance = zarr.open_group(other / "provenance", mode="a")
    provenance.update_attributes({"weights": {"s2": "3" * 64}})
    for use in ("apply", "score"):
        target = tmp_path / "o.tif" if use == "apply" else fitted / "labels.csv"
        done = run_cli("decode", use, other, fitted / "classes.safetensors", target)
        assert done.returncode == 2
        assert "classes.safetensors was fitted on layer s2 of weights 111111111111" in done.stderr
        assert "has 333333333333: another model" in done.stderr
    with pytest.raises(RequestError, match="has 333333333333: another model"):
        create_app([other], decoders=[fitted / "classes.safetensors"])
    app = create_app([f"own={two_zones}", f"other={other}"], decoders=[fitted / "classes.safetensors"])
    with running(app) as address:
        assert httpx.get(f"{address}/v1/cubes/other/layers/s2", trust_env=False).json()["decoders"] == []
        assert httpx.get(f"{address}/v1/cubes/own/layers/s2", trust_env=False).json()["decoders"] != []
    with pytest.raises(RequestError, match="a decoder named classes is served already"):
        create_app([two_zones], decoders=[fitted / "classes.safetensors"] * 2)
    assert not (tmp_path / "o.tif").exists()


def test_wrong_requests_are_refused(two_zones: Path, fitted: Path, tmp_path: Path) -> None:
    cube, decoder = Cube(two_zones), fitted / "value.safetensors"
    with pytest.raises(RequestError, match=r"write \.tif for maps"):
        application.apply(cube, decoder, tmp_path / "o.png")
    with pytest.raises(RequestError, match="no cell of s2 lies in"):
        application.apply(cube, decoder, tmp_path / "o.tif", within=(20, 10, 21, 11))
    with pytest.raises(RequestError, match="no window holds 2020"):
        application.apply(cube, decoder, tmp_path / "o.tif", time="2020")


def test_layers_side_by_side_over_dask(finished_demo: Campaign, tmp_path: Path) -> None:
    """Two layers of one place: of the other the cell that holds the centre; a cube in its run folder uses Dask."""
    cube = Cube(finished_demo.run.newest_cube)
    layers = ("s2_mosaiks", "era5_eof") if {"s2_mosaiks", "era5_eof"} <= set(cube.layers) else cube.layers[:1] * 1
    xmin, ymin, xmax, ymax = cube.group(cube.zones_of(layers[0])[0]).attrs["spatial:bbox"]
    x, y = np.random.default_rng(0).uniform((xmin, ymin), (xmax, ymax), (400, 2)).T
    path = write_csv(tmp_path / "p.csv", {"x": x, "y": y, "value": x})
    code = cube.group(cube.zones_of(layers[0])[0]).attrs["proj:code"]
    request = Request(task="regression", column="value", crs=code)
    examples = read_examples(cube, layers, [path], request)
    widths = [cube.array(cube.zones_of(layer)[0], "embedding").shape[-1] for layer in layers]
    assert examples.features.shape[1] == sum(widths)
    assert examples.cells is not None
    commands.fit(cube.path, [path], tmp_path / "d.safetensors", request, Settings(kind="ridge"), layers)
    written = application.apply(cube, tmp_path / "d.safetensors", tmp_path / "o.tif")
    assert len(written) == len(cube.windows(cube.zones_of(layers[0])[0]))
    cells = examples.cells.take(examples.cells.t == 0)
    vectors = side_by_side(cube, layers, cells)
    decoder = read_decoder(tmp_path / "d.safetensors")
    got = read(written[0])[0][0][cells.y, cells.x]
    np.testing.assert_array_equal(got, decoder.head(vectors)[:, 0].astype(np.float32))
    if len(layers) > 1:
        other = [
            cube.cell_at(lon, lat, "2023-06", layers[1])
            for lon, lat in zip(examples.lon[:5], examples.lat[:5], strict=True)
        ]
        for row, cell in enumerate(other):
            t = int(examples.cells.t[row])
            own = cube.vectors(cell.zone, t, slice(cell.y, cell.y + 1), slice(cell.x, cell.x + 1))[0, 0]
            np.testing.assert_array_equal(examples.features[row, widths[0] :], own)


def test_more_classes_than_a_map_can_tell_apart_are_refused(two_zones: Path, tmp_path: Path) -> None:
    lon, lat = places(300)
    write_csv(tmp_path / "labels.csv", {"lon": lon, "lat": lat, "kind": [f"kind {i}" for i in range(300)]})
    request = Request(task="classification", column="kind", time="2023-06")
    with pytest.raises(RequestError, match=r"classes: a decoder has at most 255"):
        commands.fit(two_zones, [tmp_path / "labels.csv"], tmp_path / "d.safetensors", request, Settings(kind="knn"))


def test_a_server_draws_the_maps_of_its_decoders(two_zones: Path, fitted: Path, tmp_path: Path) -> None:
    files = [fitted / "classes.safetensors", fitted / "value.safetensors"]
    with (
        running(create_app([two_zones], decoders=files)) as address,
        httpx.Client(base_url=f"{address}/v1/cubes/two_zones", trust_env=False) as client,
    ):
        told = client.get("/layers/s2").json()["decoders"]
        assert [(one["decoder"], one["label"], one["classes"]) for one in told] == [
            ("classes", "kind", ["high", "low", "middle"]),
            ("value", "value", []),
        ]
        for file, zone in product(files, ("utm32", "utm33")):
            (own,) = (
                one
                for one in application.apply(
                    Cube(two_zones), file, tmp_path / f"{zone}_{file.stem}.tif", time="2023-07"
                )
                if f"_{zone}_" in one.name
            )
            known = read(own)[0][0]
            answer = client.get(f"/layers/s2/zones/{zone}/windows/1/decoded/{file.stem}")
            assert answer.status_code == 200
            assert answer.headers["x-embedcube-window"] == "2023-07-01/2023-08-01"
            assert answer.headers["x-embedcube-shape"] == ",".join(map(str, known.shape))
            drawn = np.frombuffer(answer.content, np.uint8).reshape(known.shape)
            if file.stem == "classes":
                np.testing.assert_array_equal(drawn, np.where(known == 255, 0, known + 1))
                continue
            low, high = map(float, answer.headers["x-embedcube-range"].split(","))
            np.testing.assert_array_equal(drawn == 0, np.isnan(known))
            there = drawn > 0
            off = np.abs(low + (drawn[there] - 1.0) / 254 * (high - low) - known[there])
            assert off.max() <= (high - low) / 254 * 0.51
        unchanged = client.get(answer.request.url, headers={"If-None-Match": answer.headers["etag"]})
        assert unchanged.status_code == 304
        for path in ("windows/1/decoded/other", "windows/3/decoded/value"):
            assert client.get(f"/layers/s2/zones/utm32/{path}").status_code == 404
        few = Limits(scan_cells=1000)
    with running(create_app([two_zones], decoders=files, limits=few)) as address:
        refused = httpx.get(
            f"{address}/v1/cubes/two_zones/layers/s2/zones/utm32/windows/1/decoded/value", trust_env=False
        )
        assert refused.status_code == 413
