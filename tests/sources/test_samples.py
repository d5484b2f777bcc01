"""Lists of samples: chips in files, tables of points, stores of SSL4EO-S12; through index to verify, and in the cube."""

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import rasterio
import xarray
import yaml
from numpy.typing import NDArray
from rasterio.transform import from_origin
from tests.conftest import Campaign, call_cli, cube_bytes
from tests.sources.stores import S2_BANDS, dates_of, write_store

import embedcube
from embedcube.cube.reader import Cube

SIDE = 12
DATES = ("20200115", "20200715")

MOSAIKS = {
    "archives": "s2", "backbone": {"name": "mosaiks", "filters": 4}, "chip_px": 12, "halo_px": 2, "encoding": "float32",
    "batch": 4,
}  # fmt: skip


def written(folder: Path, archives: dict[str, Any], layers: dict[str, Any], **more: Any) -> Campaign:
    """A campaign file over lists of samples."""
    document = {
        "campaign": "samples", "archives": archives, "grid": {"crs": "samples", "pixel": 10},
        "windows": [["2020-01-01", "2020-07-01"], ["2020-07-01", "2021-01-01"]], "layers": layers,
        "how": {"runs": "runs"},
    } | more  # fmt: skip
    path = folder / "campaign.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return Campaign(path)


def run(campaign: Campaign) -> Cube:
    done = call_cli("run", campaign.file)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing found wrong" in done.stdout
    return embedcube.open_cube(campaign.run.newest_cube)


def refused(campaign: Campaign, verb: str = "index") -> str:
    done = call_cli(verb, campaign.file)
    assert done.returncode == 2, done.stdout + done.stderr
    return done.stderr


def chip(i: int, date: str) -> NDArray[np.uint16]:
    """Pixels of a chip: the same for each call."""
    return np.random.default_rng([i, int(date)]).integers(100, 4000, (2, SIDE, SIDE)).astype(np.uint16)


def write_chips(folder: Path, count: int) -> None:
    """Chips north and south of the equator at two dates; number 2 has one date alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        crs, top = ("EPSG:32632", 5e6) if i % 2 else ("EPSG:32733", 8e6)
        for date in DATES[: 1 if i == 2 else 2]:
            about = dict(driver="GTiff", width=SIDE, height=SIDE, count=2, dtype="uint16", crs=crs)
            with rasterio.open(
                folder / f"c{i:02d}_{date}.tif", "w", transform=from_origin(5e5 + 500 * i, top, 10, 10), **about
            ) as file:
                file.write(chip(i, date))


CHIPS = {"s2": {"source": "chips", "path": "chips", "bands": ["B03", "B04"], "options": {"names": "{id}_{date}.tif"}}}


@pytest.fixture(scope="module")
def chips(tmp_path_factory: pytest.TempPathFactory) -> tuple[Campaign, Cube]:
    """Eleven chips in shards of four: one vector for each, and in another layer 2 x 2 tokens."""
    folder = tmp_path_factory.mktemp("chips")
    write_chips(folder / "chips", 11)
    layers = {
        "one": MOSAIKS | {"cell_px": 8, "shard_chips": 2},
        "tokens": MOSAIKS | {"cell_px": 4, "shard_chips": 2, "encoding": "int8"},
    }
    campaign = written(folder, CHIPS, layers)
    return campaign, run(campaign)


def expected(campaign: Campaign, layer: str, pixels: NDArray[Any], cell_px: int) -> NDArray[np.float32]:
    """The vectors of a chip, by the backbone's own module."""
    import torch

    from embedcube.backbones.base import Chips, make_backbone
    from embedcube.backbones.weights import read_weights
    from embedcube.campaign.load import load_campaign

    loaded = load_campaign(campaign.file)
    weights = read_weights(loaded, campaign.run, layer)[0]
    x = (pixels.astype(np.float32) - weights.mean[:, None, None]) / weights.std[:, None, None]
    cells = 8 // cell_px
    batch = Chips(
        x_btcyx=torch.from_numpy(np.stack([x[None]] * 2)), clear_btsyx=torch.ones((2, 1, 1, SIDE, SIDE), dtype=torch.bool),
        lonlat_byxn=torch.zeros((2, cells, cells, 2)), dates_tmd=torch.ones((1, 2, 3), dtype=torch.int64),
    )  # fmt: skip
    with torch.inference_mode():
        return np.asarray(make_backbone(loaded, layer).module(weights)(batch)[0].numpy())


def test_each_chip_has_its_own_vector(chips: tuple[Campaign, Cube]) -> None:
    campaign, cube = chips
    layer = cube["one"]
    assert layer.ids == tuple(f"c{i:02d}" for i in range(11))
    for i in (0, 1, 3, 4, 10):
        vectors = layer.vector(f"c{i:02d}")
        for t, date in enumerate(DATES):
            np.testing.assert_allclose(vectors[t], expected(campaign, "one", chip(i, date), 8)[0, 0], atol=2e-5)
            assert str(vectors.acquired.values[t])[:10].replace("-", "") == date
    one_date = layer.vector("c02")
    assert np.isfinite(one_date[0]).all()
    assert np.isnan(one_date[1]).all()
    tokens = cube["tokens"].vector("c10", "2020-08")
    assert tokens.dims == ("time", "y", "x", "feature")
    np.testing.assert_allclose(tokens[0], expected(campaign, "tokens", chip(10, DATES[1]), 4), atol=0.02)


def test_a_chip_is_where_its_file_is(chips: tuple[Campaign, Cube]) -> None:
    table = chips[1]["one"].to_pandas("2020-01").set_index("id")
    for i, crs, top in ((3, "EPSG:32632", 5e6), (4, "EPSG:32733", 8e6)):
        lon, lat = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(5e5 + 500 * i + 60, top - 60)
        np.testing.assert_allclose([table.lon[f"c{i:02d}"], table.lat[f"c{i:02d}"]], [lon, lat], atol=1e-9)
        assert chips[1].explain(sample=f"c{i:02d}", time="2020-01", layer="one")["cell"]["crs"] == crs
    statuses = chips[1]["one"].to_pandas()
    assert statuses.status.value_counts().to_dict() == {"valid": 21, "no_data": 1}


def test_the_store_is_plain_and_says_its_dimensions(chips: tuple[Campaign, Cube]) -> None:
    one, tokens = (
        xarray.open_zarr(chips[0].run.newest_cube, group=f"{layer}/samples", consolidated=False)
        for layer in ("one", "tokens")
    )
    assert one.embedding.dims == ("time", "sample", "feature")
    assert one.embedding.shape == (2, 11, 8)
    assert tokens.embedding.dims == ("time", "sample", "y", "x", "feature")
    assert tokens.status.shape == (2, 11, 2, 2)
    ids = bytes(one.sample_id.values)
    assert [
        ids[a:b].decode() for a, b in zip(one.sample_id_first[:-1].values, one.sample_id_first[1:].values, strict=True)
    ] == [*chips[1]["one"].ids]


def test_explain_names_the_files_of_a_sample(chips: tuple[Campaign, Cube]) -> None:
    explained = chips[1].explain(sample="c07", time="2020-08", layer="tokens")
    assert [scene["id"] for scene in explained["scenes"]] == ["c07_20200715"]
    assert explained["status"] == "valid"
    assert explained["cell"]["acquired"].startswith("2020-07-15")


def test_what_a_list_lacks_is_said(chips: tuple[Campaign, Cube]) -> None:
    layer = chips[1]["one"]
    for ask in (
        lambda: layer.sample([(9, 45)]),
        lambda: layer.window((8, 44, 9, 45)),
        lambda: chips[1].cell_at(9, 45, layer="one"),
    ):
        with pytest.raises(embedcube.RequestError, match="list of samples and no map"):
            ask()
    with pytest.raises(embedcube.RequestError, match='there is no sample "c99" among 11 samples: c00, c01'):
        layer.vector("c99")


def test_any_number_of_ranks_gives_the_same_bytes(chips: tuple[Campaign, Cube], tmp_path: Path) -> None:
    shutil.copytree(chips[0].file.parent / "chips", tmp_path / "chips")
    shutil.copy(chips[0].file, tmp_path / "campaign.yaml")
    again = Campaign(tmp_path / "campaign.yaml")
    again.change(lambda document: document["how"].update(ranks=3))
    run(again)
    assert cube_bytes(again.run.newest_cube) == cube_bytes(chips[0].run.newest_cube)


def test_two_samples_of_one_id_are_refused(tmp_path: Path) -> None:
    write_chips(tmp_path / "chips", 2)
    write_chips(tmp_path / "chips" / "more", 1)
    campaign = written(tmp_path, CHIPS, {"one": MOSAIKS | {"cell_px": 8}})
    said = refused(campaign)
    assert "two samples have the id c00 of 20200115, in c00_20200115.tif and in more/c00_20200115.tif" in said
    stores = tmp_path / "stores"
    stores.mkdir()
    bands = np.full((2, 4, 12, SIDE, SIDE), 1500, np.int16)
    for number in (1, 2):
        write_store(
            stores / f"{number}.zarr.zip",
            ["0000001", f"000001{number}"],
            bands,
            systems=[32632] * 2,
            dates=dates_of(2, 4, 2020),
        )
    s2 = {"source": "ssl4eo", "path": "stores", "bands": ["B03", "B04"]}
    campaign = written(tmp_path, {"s2": s2}, {"one": MOSAIKS | {"cell_px": 8}})
    assert call_cli("index", campaign.file).returncode == 0
    assert "two samples have the id 0000001, in 1-0 and in 2-0" in refused(campaign, "fit")


def test_what_does_not_fit_together_is_refused(tmp_path: Path) -> None:
    write_chips(tmp_path / "chips", 2)
    lattice = {"grid": {"crs": "EPSG:32632", "pixel": 10}}
    campaign = written(tmp_path, CHIPS, {"one": MOSAIKS | {"cell_px": 8}}, **lattice)
    assert call_cli("index", campaign.file).returncode == 0
    assert "archive s2 (chips) is a list of samples; write grid: {crs: samples, pixel: 10}" in refused(campaign, "fit")
    other = {"s2": CHIPS["s2"] | {"options": {"names": "{name}.tif"}}}
    assert 'has no field "name"' in refused(written(tmp_path, other, {"one": MOSAIKS | {"cell_px": 8}}))
    other = {"s2": CHIPS["s2"] | {"options": {"names": "x_{id}.tif"}}}
    assert "no file fits options.names" in refused(written(tmp_path, other, {"one": MOSAIKS | {"cell_px": 8}}))


@pytest.fixture(scope="module")
def ssl4eo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cube, NDArray[np.int16], NDArray[Any]]]:
    """Two stores of three samples, north and south of the equator, one of them not consolidated; one store of radar."""
    folder = tmp_path_factory.mktemp("ssl4eo")
    rng = np.random.default_rng(0)
    bands = rng.integers(1100, 5000, (6, 4, 12, SIDE, SIDE)).astype(np.int16)
    radar = rng.normal(-12, 4, (6, 4, 2, SIDE, SIDE)).astype(np.float16)
    systems, dates = [32632, 32733, 32651, 32632, 32733, 32651], dates_of(6, 4, 2019)
    for kind in ("S2L2A", "S1GRD"):
        (folder / kind).mkdir()
    for part in (0, 1):
        own = slice(3 * part, 3 * part + 3)
        ids = [f"{number:07d}" for number in range(*own.indices(6))]
        about: dict[str, Any] = {"systems": systems[own], "dates": dates[own], "consolidated": part == 0}
        write_store(
            folder / "S2L2A" / f"{part}.zarr.zip",
            ids,
            bands[own],
            clouds=np.zeros((3, 4, SIDE, SIDE), np.uint8),
            **about,
        )
        write_store(folder / "S1GRD" / f"{part}.zarr.zip", ids, radar[own], names=("vv", "vh"), **about)
    archives = {
        "s2": {"source": "ssl4eo", "path": "S2L2A", "bands": ["B04", "B03"], "options": {"seasons_of": 2020}},
        "s1": {"source": "ssl4eo", "path": "S1GRD", "bands": ["VV"], "options": {"seasons_of": 2020}},
    }
    layer = MOSAIKS | {"archives": ["s2", "s1"], "cell_px": 8, "shard_chips": 2}
    windows = {"start": "2020-03-01", "end": "2021-03-01", "step": "3 months"}
    campaign = written(folder, archives, {"seasons": layer}, windows=windows)
    yield run(campaign), bands, dates


def test_stores_of_ssl4eo_become_four_vectors_a_sample(ssl4eo: tuple[Cube, NDArray[np.int16], NDArray[Any]]) -> None:
    cube, bands, dates = ssl4eo
    layer = cube["seasons"]
    assert layer.ids == tuple(f"{number:07d}" for number in range(6))
    table = layer.to_pandas()
    assert len(table) == 24
    assert (table.status == "valid").all()
    campaign = Campaign(cube.path.resolve().parents[3] / "campaign.yaml")
    for i in (0, 4):
        vectors = layer.vector(f"{i:07d}")
        np.testing.assert_array_equal(vectors.acquired.values, dates[i])
        assert cube.explain(sample=f"{i:07d}", time="2020-04")["cell"]["crs"] == f"EPSG:{[32632, 32733][i == 4]}"
    explained = cube.explain(sample="0000004", time="2020-04")
    assert {scene["id"] for scene in explained["scenes"]} == {"1-0"}
    assert {scene["offset"] for scene in explained["scenes"] if scene["archive"] == "s2"} == {-1000}
    assert campaign.file.exists()


def test_pixels_of_a_store_are_numbers_without_the_offset(tmp_path: Path) -> None:
    from embedcube.campaign.schema import Archive
    from embedcube.campaign.zones import columns_of
    from embedcube.sources.lists.ssl4eo import Ssl4eo
    from embedcube.sources.reader import RasterReader
    from embedcube.windows import parse_period
    from embedcube.zones import SampleList

    bands = np.arange(2 * 4 * 12 * 100).reshape(2, 4, 12, 10, 10).astype(np.int16) % 4000
    write_store(
        tmp_path / "a.zarr.zip", ["0000001", "0000002"], bands, systems=[32632, 32733], dates=dates_of(2, 4, 2020)
    )
    write_store(
        tmp_path / "b" / "f00d.zarr.zip" if (tmp_path / "b").mkdir() else tmp_path / "b" / "f00d.zarr.zip",
        ["x"],
        bands[:1],
    )
    reader = RasterReader(1, attempts=1)
    try:
        for path, offset, options in ((tmp_path / "a.zarr.zip", 1000, {}), (tmp_path / "b", 0, {"seasons_of": 2020})):
            named = ["B03", "B8A"] if offset else list(S2_BANDS)
            source = Ssl4eo("s2", Archive(source="ssl4eo", path=path, bands=named, options=options))
            scenes = list(source.scenes(full_digests=False))
            assert len(scenes) == 4
            scene = scenes[1]
            assert [one.id for one in scene.samples] == (["0000001", "0000002"] if offset else ["f00d"])
            samples = SampleList(pixel=10, **columns_of(scene.samples))
            seen = source.observe_samples(scene, parse_period("2020"), samples, 6, reader)
            channels = [S2_BANDS.index(band) for band in named]
            for i in range(len(scene.samples)):
                stored = bands[i, 1, channels, 2:8, 2:8].astype(float)
                wanted = np.where(stored == 0, np.nan, np.maximum(stored - offset, 1))
                own = seen.values_cyx[:, 6 * i : 6 * i + 6]
                # the second sample is of 2021
                assert seen.seen_yx[6 * i : 6 * i + 6].any() == (i == 0)
                np.testing.assert_array_equal(own, wanted)
    finally:
        reader.close()


def test_tables_give_a_vector_for_each_row(tmp_path: Path) -> None:
    rng, path = np.random.default_rng(0), tmp_path / "points.csv"
    values = rng.integers(1, 4000, (30, 4))
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["name", "lon", "lat", "r1", "r2", "g1", "g2"])
        rows.writerows([f"p{i}", 9 + i / 10, 45, *row] for i, row in enumerate(values.tolist()))
    options = {"id": "name", "start": "2020-01-01", "steps": 2, "step": "6 months", "first": 1, "nodata": int(values[3, 0]),
               "columns": {"B04": "r{step}", "B03": "g{step}"}}  # fmt: skip
    archives = {"s2": {"source": "points", "path": "points.csv", "bands": ["B04", "B03"], "options": options}}
    layer = {"archives": "s2", "backbone": {"name": "eof", "components": 2}, "chip_px": 1, "halo_px": 0, "cell_px": 1,
             "shard_chips": 4, "encoding": "float32"}  # fmt: skip
    cube = run(written(tmp_path, archives, {"points": layer}))
    table = cube.layer.to_pandas()
    assert len(table) == 60
    assert (table.status == "valid").sum() == 60 - int((values[:, [0, 2]] == values[3, 0]).any(1).sum()) - int(
        (values[:, [1, 3]] == values[3, 0]).any(1).sum()
    )
    assert table.status[3] == "no_data"
    text = path.read_text()
    path.write_text(text.replace("p7,", "p8,"))
    said = refused(written(tmp_path, archives, {"points": layer}))
    assert "points.csv has two rows with the id p8" in said
