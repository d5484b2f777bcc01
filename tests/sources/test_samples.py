"""Lists of samples: chips in files, tables of points, stores of SSL4EO-S12; from index to the cube."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyproj
import pytest
import rasterio
import shapely
import xarray
import yaml
import zarr
from numpy.typing import NDArray
from rasterio.transform import from_origin
from tests.conftest import Campaign, call_cli, cube_bytes
from tests.sources.stores import S2_BANDS, dates_of, write_store

import embedcube
from embedcube.campaign.inventory import read_inventory
from embedcube.campaign.load import load_campaign
from embedcube.campaign.schema import Archive
from embedcube.campaign.zones import columns_of, zones_of
from embedcube.cube.arrays import ARRAYS
from embedcube.cube.encoding import FAILED, VALID_INCOMPLETE
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError
from embedcube.sources.lists.ssl4eo import Ssl4eo
from embedcube.sources.reader import RasterReader
from embedcube.windows import parse_period
from embedcube.zones import SAMPLES, SampleList

SIDE = 12
DATES = ("20200415", "20200715")
SYSTEMS = [32632, 32733, 32651, 32632, 32733, 32651]
POINTS = 8111
NODATA = 4000

MOSAIKS = {
    "archives": "s2", "backbone": {"name": "mosaiks", "filters": 4}, "chip_px": 12, "halo_px": 2, "encoding": "float32",
    "batch": 4, "shard_chips": 2,
}  # fmt: skip

CHIPS = {"s2": {"source": "chips", "path": "chips", "bands": ["B03", "B04"], "options": {"names": "{id}_{date}.tif"}}}

TABLE = {
    "id": "name", "start": "2020-03-01", "steps": 2, "step": "3 months", "first": 1, "nodata": NODATA,
    "columns": {"B04": "r{step}", "B03": "g{step}"},
}  # fmt: skip


def written(folder: Path, archives: dict[str, Any], layers: dict[str, Any], **more: Any) -> Campaign:
    """A campaign file over lists of samples, in four seasons."""
    document = {
        "campaign": "samples", "archives": archives, "grid": {"crs": "samples", "pixel": 10},
        "windows": {"start": "2020-03-01", "end": "2021-03-01", "step": "3 months"}, "layers": layers,
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
            about = {"driver": "GTiff", "width": SIDE, "height": SIDE, "count": 2, "dtype": "uint16", "crs": crs}
            with rasterio.open(
                folder / f"c{i:02d}_{date}.tif", "w", transform=from_origin(5e5 + 500 * i, top, 10, 10), **about
            ) as file:
                file.write(chip(i, date))


def write_stores(folder: Path) -> tuple[NDArray[np.int16], NDArray[Any]]:
    """Two stores of three samples of optics, and two of radar, north and south of the equator; one not consolidated."""
    rng = np.random.default_rng(0)
    bands = rng.integers(1100, 5000, (6, 4, 12, SIDE, SIDE)).astype(np.int16)
    radar = rng.normal(-12, 4, (6, 4, 2, SIDE, SIDE)).astype(np.float16)
    dates, clouds = dates_of(6, 4, 2019), np.zeros((3, 4, SIDE, SIDE), np.uint8)
    clouds[0, 3] = 4  # all of sample 0000000 and of 0000003, in the last season
    for kind in ("S2L2A", "S1GRD"):
        (folder / kind).mkdir()
    for part in (0, 1):
        own = slice(3 * part, 3 * part + 3)
        ids = [f"{number:07d}" for number in range(*own.indices(6))]
        about: dict[str, Any] = {"systems": SYSTEMS[own], "dates": dates[own], "consolidated": part == 0}
        write_store(folder / "S2L2A" / f"{part}.zarr.zip", ids, bands[own], clouds=clouds, **about)
        write_store(folder / "S1GRD" / f"{part}.zarr.zip", ids, radar[own], names=("vv", "vh"), **about)
    return bands, dates


def write_table(path: Path) -> NDArray[np.int64]:
    """A table of points with two steps of two bands; returns its numbers: r1, r2, g1, g2."""
    values = np.random.default_rng(0).integers(1, NODATA + 1, (POINTS, 4))
    values[3, 0] = NODATA
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["name", "lon", "lat", "r1", "r2", "g1", "g2"])
        rows.writerows([f"p{i}", 9 + i / 1000, 45, *row] for i, row in enumerate(values.tolist()))
    return values


def write_weights(campaign: Campaign, points: NDArray[np.int64]) -> None:
    """Weights of the points' layer from some rows: a fit on all would read each of them alone."""
    from embedcube.backbones.base import FitSample, make_backbone
    from embedcube.backbones.weights import packed

    loaded = load_campaign(campaign.file)
    x_ntcyx = points[:50, None, [0, 2], None, None].astype(np.float32)
    weights = make_backbone(loaded, "points").fit(FitSample(x_ntcyx=x_ntcyx, lat_ny=np.full((50, 1), 45.0)))
    (campaign.file.parent / "eof.safetensors").write_bytes(packed(loaded, "points", weights, period=""))


@dataclass(frozen=True, kw_only=True)
class Made:
    """A finished campaign over chips, stores and a table, and what these hold."""

    campaign: Campaign
    cube: Cube
    bands: NDArray[np.int16]
    dates: NDArray[Any]
    points: NDArray[np.int64]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Eleven chips as one vector and as 2 x 2 tokens each; six samples of SSL4EO; a table."""
    folder = tmp_path_factory.mktemp("samples")
    write_chips(folder / "chips", 11)
    bands, dates = write_stores(folder)
    points = write_table(folder / "points.csv")
    seasons = {"seasons_of": 2020, "clear": [0]}
    archives = CHIPS | {
        "optics": {"source": "ssl4eo", "path": "S2L2A", "bands": ["B04", "B03"], "options": seasons},
        "radar": {"source": "ssl4eo", "path": "S1GRD", "bands": ["VV"], "options": seasons},
        "table": {"source": "points", "path": "points.csv", "bands": ["B04", "B03"], "options": TABLE},
    }
    layers = {
        "one": MOSAIKS | {"cell_px": 8},
        "tokens": MOSAIKS | {"cell_px": 4, "encoding": "int8"},
        "two": MOSAIKS | {"cell_px": 8, "backbone": {"name": "concat", "of": [
            {"backbone": {"name": "mosaiks", "filters": 2, "seed": 1}}, {"backbone": MOSAIKS["backbone"]},
        ]}},
        "seasons": MOSAIKS | {"archives": ["optics", "radar"], "cell_px": 8},
        "points": {
            "archives": "table", "backbone": {"name": "eof", "components": 2}, "chip_px": 1, "halo_px": 0,
            "cell_px": 1, "shard_chips": 32, "batch": 256, "chunk_windows": 4, "weights": "eof.safetensors",
        },
    }  # fmt: skip
    campaign = written(folder, archives, layers)
    write_weights(campaign, points)
    return Made(campaign=campaign, cube=run(campaign), bands=bands, dates=dates, points=points)


def expected(campaign: Campaign, layer: str, pixels: NDArray[Any], cell_px: int) -> NDArray[np.float32]:
    """The vectors of a chip (frame, band, y, x), by the backbone's own module."""
    import torch

    from embedcube.backbones.base import Chips, make_backbone
    from embedcube.backbones.weights import read_weights

    loaded = load_campaign(campaign.file)
    weights = read_weights(loaded, campaign.run, layer)[0]
    x = (pixels.astype(np.float32) - weights.mean[:, None, None]) / weights.std[:, None, None]
    cells = max(1, 8 // cell_px if pixels.shape[-1] > 1 else 1)
    batch = Chips(
        x_btcyx=torch.from_numpy(np.stack([x] * 2)),
        clear_btsyx=torch.ones((2, 1, len(loaded.layers[layer].archives), *x.shape[-2:]), dtype=torch.bool),
        lonlat_byxn=torch.full((2, cells, cells, 2), 45.0),
        dates_tmd=torch.ones((1, 2, 3), dtype=torch.int64),
    )
    with torch.inference_mode():
        return np.asarray(make_backbone(loaded, layer).module(weights)(batch)[0].numpy())


def test_each_chip_has_its_own_vector(made: Made) -> None:
    layer = made.cube["one"]
    assert layer.ids == tuple(f"c{i:02d}" for i in range(11))
    for i in (0, 1, 3, 4, 10):
        vectors = layer.vector(f"c{i:02d}")
        for t, date in enumerate(DATES):
            own = expected(made.campaign, "one", chip(i, date)[None], 8)
            np.testing.assert_allclose(vectors[t], own[0, 0], atol=2e-5)
            assert str(vectors.acquired.values[t])[:10].replace("-", "") == date
    one_date = layer.vector("c02")
    assert np.isfinite(one_date[0]).all()
    assert np.isnan(one_date[1:]).all()
    tokens = made.cube["tokens"].vector("c10", "2020-07")
    assert tokens.dims == ("time", "y", "x", "feature")
    own = expected(made.campaign, "tokens", chip(10, DATES[1])[None], 4)
    np.testing.assert_allclose(tokens[0], own, atol=0.06)  # half a step of int8


def test_a_chip_is_where_its_file_is(made: Made) -> None:
    table = made.cube["one"].to_pandas("2020-04").set_index("id")
    for i, crs, top in ((3, "EPSG:32632", 5e6), (4, "EPSG:32733", 8e6)):
        lon, lat = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(5e5 + 500 * i + 60, top - 60)
        np.testing.assert_allclose([table.lon[f"c{i:02d}"], table.lat[f"c{i:02d}"]], [lon, lat], atol=1e-9)
        assert made.cube.explain(sample=f"c{i:02d}", time="2020-04", layer="one")["cell"]["crs"] == crs
    assert made.cube["one"].to_pandas().status.value_counts().to_dict() == {"valid": 21, "no_data": 23}


def test_the_store_is_plain_and_says_its_dimensions(made: Made) -> None:
    path = made.campaign.run.newest_cube
    one, tokens = (xarray.open_zarr(path, group=f"{name}/samples", consolidated=False) for name in ("one", "tokens"))
    assert one.embedding.dims == ("time", "sample", "feature")
    assert one.embedding.shape == (4, 11, 8)
    assert tokens.embedding.dims == ("time", "sample", "y", "x", "feature")
    assert tokens.status.shape == (4, 11, 2, 2)
    ids, first = bytes(one.sample_id.values), one.sample_id_first.values.tolist()
    assert tuple(ids[a:b].decode() for a, b in pairwise(first)) == made.cube["one"].ids


def test_explain_names_the_files_of_a_sample(made: Made) -> None:
    explained = made.cube.explain(sample="c07", time="2020-07", layer="tokens")
    assert [scene["id"] for scene in explained["scenes"]] == ["c07_20200715"]
    assert explained["status"] == "valid"
    assert explained["cell"]["acquired"].startswith("2020-07-15")


def test_what_a_list_lacks_is_said(made: Made) -> None:
    layer = made.cube["one"]
    asked: list[Callable[[], object]] = [
        partial(layer.sample, [(9, 45)]),
        partial(layer.window, (8, 44, 9, 45)),
        partial(layer.find, (9, 45)),
        partial(layer.similar, (9, 45)),
        partial(layer.change, "2020-04", "2020-07"),
        partial(layer.parcels, geopandas.GeoDataFrame(geometry=[shapely.box(8, 44, 9, 45)], crs="EPSG:4326")),
    ]
    asked.append(partial(made.cube.cell_at, 9, 45, layer="one"))
    for ask in asked:
        with pytest.raises(embedcube.RequestError, match="list of samples and no map"):
            ask()
    with pytest.raises(embedcube.RequestError, match='there is no sample "c99" among 11 samples: c00, c01'):
        layer.vector("c99")


@pytest.mark.slow
def test_any_number_of_ranks_gives_the_same_bytes(made: Made, tmp_path: Path) -> None:
    for name in ("chips", "S2L2A", "S1GRD"):
        shutil.copytree(made.campaign.file.parent / name, tmp_path / name)
    for name in ("points.csv", "eof.safetensors", "campaign.yaml"):
        shutil.copy(made.campaign.file.parent / name, tmp_path / name)
    again = Campaign(tmp_path / "campaign.yaml")
    again.change(lambda document: document["how"].update(ranks=3))
    run(again)
    assert cube_bytes(again.run.newest_cube) == cube_bytes(made.campaign.run.newest_cube)


def test_samples_are_merged_and_come_from_a_cube_alone(made: Made, tmp_path: Path) -> None:
    """Of several windows in one object, too: they are divided again, and have the bytes of their records."""
    from embedcube.campaign.base import Base
    from embedcube.campaign.run_folder import RunDir
    from embedcube.consolidate.adopt import Adopted, adopt_all

    for name in ("eof.safetensors", "campaign.yaml"):
        shutil.copy(made.campaign.file.parent / name, tmp_path / name)
    whole = Campaign(tmp_path / "campaign.yaml")
    done = call_cli("merge", made.campaign.run.root, "--campaign", whole.file)
    assert done.returncode == 0, done.stdout + done.stderr
    assert cube_bytes(whole.run.newest_cube) == cube_bytes(made.campaign.run.newest_cube)
    recipes = {bytes(recipe).hex() for recipe in made.cube.provenance.array("shard_recipe")}
    alone, adopted = Base(path=made.cube.path, run=None, cube=made.cube.path, has_parts=False), Adopted()
    adopt_all(RunDir(tmp_path / "new"), alone, recipes, adopted)
    assert (adopted.recipes, adopted.damaged) == (recipes, [])


def test_many_samples_are_few_objects(made: Made) -> None:
    folder = made.campaign.run.newest_cube.resolve() / "points" / "samples"
    objects = [file for name in ARRAYS for file in (folder / name).glob("c.*")]
    assert len(objects) <= 4 * POINTS / 1000
    assert len(made.cube["points"].ids) == POINTS


def test_tables_give_a_vector_for_each_row(made: Made) -> None:
    table = made.cube["points"].to_pandas("2020-03/2020-09")
    missing = np.concatenate([(made.points[:, steps] == NODATA).any(axis=1) for steps in ([0, 2], [1, 3])])
    assert missing.sum() >= 1
    np.testing.assert_array_equal(table.status == "no_data", missing)
    for i in (0, 1023, 1024, POINTS - 1):
        for t in (0, 1):
            pixels = made.points[i, [t, 2 + t]][None, :, None, None]
            if not missing[t * POINTS + i]:
                own = expected(made.campaign, "points", pixels, 1)[0, 0]
                stored = table.loc[t * POINTS + i, [0, 1]].to_numpy(float)
                np.testing.assert_allclose(stored, own, atol=np.abs(own).max() / 250)


def test_shards_of_samples_are_asked_and_made_again(made: Made) -> None:
    """Of lists too: equal bytes, and the samples that a scene fed; places of samples are not in the table."""
    from embedcube.progress import silent
    from embedcube.uses.diff import diff
    from embedcube.uses.lineage import cells_table, lineage_in_cube, shards_table
    from embedcube.uses.reproduce import Here, reproduce

    for layer in ("tokens", "points"):
        place = next(place for place in made.cube.provenance.places if place[0].startswith(f"{layer}/"))
        zone, t, iy, ix = place
        assert reproduce(made.cube, f"{zone} t{t} y{iy} x{ix}", Here()).equal
    rows, _ = made.cube.provenance.links(made.cube.provenance.places[place])
    scene = made.cube.provenance.scene(int(rows[0]))
    found = lineage_in_cube(made.cube, f"{scene['archive']}/{scene['id']}")
    assert place[0] in {f"{one.at.layer}/{one.at.zone}" for one in found.fed}
    assert len(shards_table(found.fed)) == len(found.fed)
    assert len(cells_table(found.fed)) == found.cells
    assert diff(made.cube, made.cube, silent).equal


def test_two_samples_of_one_id_are_refused(tmp_path: Path) -> None:
    write_chips(tmp_path / "chips", 2)
    write_chips(tmp_path / "chips" / "more", 1)
    campaign = written(tmp_path, CHIPS, {"one": MOSAIKS | {"cell_px": 8}})
    said = refused(campaign)
    assert "two samples have the id c00 of 20200415, in c00_20200415.tif and in more/c00_20200415.tif" in said
    stores = tmp_path / "stores"
    stores.mkdir()
    bands = np.full((2, 4, 12, SIDE, SIDE), 1500, np.int16)
    for number in (1, 2):
        ids = ["0000001", f"000001{number}"]
        write_store(stores / f"{number}.zarr.zip", ids, bands, systems=[32632] * 2, dates=dates_of(2, 4, 2020))
    s2 = {"source": "ssl4eo", "path": "stores", "bands": ["B03", "B04"]}
    campaign = written(tmp_path, {"s2": s2}, {"one": MOSAIKS | {"cell_px": 8}})
    assert call_cli("index", campaign.file).returncode == 0
    assert "two samples have the id 0000001, in 1-0 and in 2-0" in refused(campaign, "fit")
    # withdrawn, the second store is left out as if the archive did not have it
    seconds = tuple(f"2-{date}" for date in range(4))
    asked = load_campaign(campaign.file).model_copy(update={"withdraw": seconds})
    listed = zones_of(asked, "one", read_inventory(asked, campaign.run))[SAMPLES]
    assert isinstance(listed, SampleList)
    assert listed.ids == ("0000001", "0000011")


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


def test_stores_of_ssl4eo_become_four_vectors_a_sample(made: Made) -> None:
    layer = made.cube["seasons"]
    assert layer.ids == tuple(f"{number:07d}" for number in range(6))
    for i in (0, 4):
        name = f"{i:07d}"
        vectors = layer.vector(name)
        np.testing.assert_array_equal(vectors.acquired.values, made.dates[i])
        explained = made.cube.explain(sample=name, time="2020-04", layer="seasons")
        assert explained["cell"]["crs"] == f"EPSG:{SYSTEMS[i]}"
        assert {scene["id"] for scene in explained["scenes"]} == {f"{i // 3}-0"}
        assert {scene["offset"] for scene in explained["scenes"] if scene["archive"] == "optics"} == {-1000}
    radar = np.random.default_rng(0)
    radar.integers(1100, 5000, made.bands.shape)
    decibels = radar.normal(-12, 4, (6, 4, 2, SIDE, SIDE)).astype(np.float16)
    pixels = np.concatenate([made.bands[4, 2, [3, 2]] - 1000.0, decibels[4, 2, :1]])
    own = expected(made.campaign, "seasons", pixels[None], 8)[0, 0]
    np.testing.assert_allclose(layer.vector("0000004")[2], own, atol=2e-5)
    # optics are all cloud, radar is there
    last = layer.to_pandas("2021-01").set_index("id").status
    assert last.to_dict() == dict.fromkeys(layer.ids, "valid")


def test_pixels_of_a_store_are_numbers_without_the_offset(tmp_path: Path) -> None:
    bands = np.arange(2 * 4 * 12 * 100).reshape(2, 4, 12, 10, 10).astype(np.int16) % 4000
    ids, systems = ["0000001", "0000002"], [32632, 32733]
    write_store(tmp_path / "a.zarr.zip", ids, bands, systems=systems, dates=dates_of(2, 4, 2020))
    (tmp_path / "b").mkdir()
    write_store(tmp_path / "b" / "f00d.zarr.zip", ["x"], bands[:1])
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


def test_two_rows_of_one_id_are_refused(tmp_path: Path) -> None:
    (tmp_path / "points.csv").write_text("name,r1,r2,g1,g2\np7,1,1,1,1\np8,1,1,1,1\np8,2,2,2,2\n")
    archives = {"s2": {"source": "points", "path": "points.csv", "bands": ["B04", "B03"], "options": TABLE}}
    layer = MOSAIKS | {"cell_px": 1, "chip_px": 1, "halo_px": 0}
    assert "points.csv has two rows with the id p8" in refused(written(tmp_path, archives, {"points": layer}))


def test_a_part_of_a_list_is_pulled_and_looked_at(made: Made, tmp_path: Path) -> None:
    from embedcube.consolidate.verify import verify_cube, wrong
    from embedcube.progress import silent
    from embedcube.uses.pull import pull
    from embedcube.uses.remote import Address

    address = Address(url=str(made.cube.path))
    part = pull(address, tmp_path, silent, layers=("tokens", "points"), box=(8.9, 44.9, 9.5, 45.2)).cube
    held = Cube(part).held
    # samples 0 to 500 of the table lie there, in the first of 8 shards: the object that holds them comes whole
    assert {(zone, iy) for zone, _, iy, _ in held if zone != "tokens/samples"} == {
        ("points/samples", iy) for iy in range(8)
    }
    assert {iy for zone, _, iy, _ in held if zone == "tokens/samples"} == {0, 1, 2}
    assert wrong(verify_cube(part, silent)) == []
    name = next(one for one in sorted((part / "tokens/samples/embedding").iterdir()) if one.name.startswith("c."))
    assert name.name.count(".") == 5
    name.write_bytes(name.read_bytes()[:-1] + b"x")
    damaged = (name.relative_to(part).as_posix(), "bytes")
    assert {(one.place, one.check) for one in wrong(verify_cube(part, silent))} == {damaged}


def test_samples_are_exported_by_their_ids(made: Made, tmp_path: Path) -> None:
    import geopandas
    import pandas

    from embedcube.progress import silent
    from embedcube.uses.exchange.chosen import Chosen
    from embedcube.uses.exchange.export import export
    from embedcube.uses.exchange.receiving import take_in

    for layer, ids in (("tokens", ("c07", "c01")), ("points", ("p7", "p8000"))):
        chosen = Chosen(layers=(layer,), time="2020-04", ids=ids)
        table = made.cube[layer].to_pandas("2020-04").set_index("id").loc[sorted(ids)]
        numbers = table.iloc[:, table.columns.get_loc(0) :].to_numpy(np.float32)
        out = tmp_path / f"{layer}.csv"
        assert export(str(made.cube.path), out, "neuco-csv", chosen, None, silent).cells == 2
        read = pandas.read_csv(out).set_index("id").loc[sorted(ids)]
        np.testing.assert_array_equal(read.to_numpy(np.float32), numbers)
        out = tmp_path / f"{layer}.parquet"
        export(str(made.cube.path), out, "geoparquet", chosen, None, silent)
        places = geopandas.read_parquet(out).set_index("id").loc[sorted(ids)]
        np.testing.assert_allclose([places.geometry.x, places.geometry.y], [table.lon, table.lat])
        np.testing.assert_array_equal(np.stack(places.embedding), numbers)
        out = tmp_path / f"{layer}.zip"
        export(str(made.cube.path), out, "bundle", chosen, None, silent)
        cube = Cube(take_in(out, tmp_path / layer, silent).folder)
        np.testing.assert_array_equal(cube[layer].vector(ids[0])[0], made.cube[layer].vector(ids[0])[0])
        # objects hold all windows, and come whole
        other = cube[layer].vector(ids[0], "2020-07")
        np.testing.assert_array_equal(other, made.cube[layer].vector(ids[0], "2020-07"))
        assert np.isfinite(other).any()


def test_labels_of_samples_fit_a_decoder(made: Made, tmp_path: Path) -> None:
    from embedcube.uses.decode.labels import read_examples
    from embedcube.uses.decode.request import Request

    rows = [f"{i:07d},{'ab'[i % 2]},g{i % 3}" for i in range(6)]
    (tmp_path / "labels.csv").write_text("id,crop,part\n" + "\n".join([*rows, "0000099,a,g0"]) + "\n")
    request = Request(task="classification", column="crop", time="2020-04", groups="part")
    examples = read_examples(made.cube, ("seasons",), [tmp_path / "labels.csv"], request)
    wanted = np.stack([made.cube["seasons"].vector(f"{i:07d}", "2020-04")[0] for i in range(6)])
    np.testing.assert_array_equal(examples.features, wanted)
    assert [examples.classes[int(one)] for one in examples.target] == list("ababab")
    assert examples.left_out == {"outside of the cube": 1}
    assert examples.group is not None
    assert examples.group.tolist() == ["g0", "g1", "g2"] * 2
    table = made.cube["seasons"].to_pandas("2020-04")
    np.testing.assert_array_equal(examples.lon, table.lon)


def numbered(made: Made, layer: str, folder: Path, classes: bool = False) -> Path:
    """A decoder of a layer of chips, from labels of all of them."""
    from embedcube.uses.decode import commands
    from embedcube.uses.decode.fit import Settings
    from embedcube.uses.decode.request import Request

    rows = [f"c{i:02d},{i * i % 7},{'ab'[i % 2]}" for i in range(11)]
    (folder / "labels.csv").write_text("id,value,crop\n" + "\n".join(rows) + "\n")
    request = Request(task="classification" if classes else "regression", column="crop" if classes else "value")
    settings = Settings(kind="logistic" if classes else "ridge")
    commands.fit(made.cube.path, [folder / "labels.csv"], folder / "d.safetensors", request, settings, (layer,))
    return folder / "d.safetensors"


def test_samples_are_decoded_into_a_table(made: Made, tmp_path: Path) -> None:
    import pandas
    import pyarrow.parquet

    from embedcube.uses.decode.apply import apply
    from embedcube.uses.decode.file import read_decoder

    decoder = numbered(made, "one", tmp_path)
    (out,) = apply(made.cube, decoder, tmp_path / "o.parquet")
    table = pyarrow.parquet.read_table(out)
    assert table.schema.names == ["id", "window", "lon", "lat", "prediction"]
    assert json.loads(table.schema.metadata[b"embedcube:decoder"])["layers"][0]["name"] == "one"
    frame = table.to_pandas()
    assert len(frame) == 21, "one of the chips has one date alone"
    head, known = read_decoder(decoder).head, made.cube["one"].to_pandas("2020-04").set_index("id")
    for name, own in frame.groupby("id"):
        vectors = made.cube["one"].vector(str(name)).values
        wanted = head(vectors[np.isfinite(vectors).all(axis=1)])[:, 0]
        np.testing.assert_array_equal(own.prediction, wanted.astype(np.float32))
        np.testing.assert_array_equal(own.lat, known.lat[[name] * len(own)])
    # the chips south of the equator, in one window, as CSV
    north = made.cube["one"].to_pandas().lat.max()
    out, beside = apply(made.cube, decoder, tmp_path / "s.csv", (0, -60, 30, north - 30), "2020-04")
    south = pandas.read_csv(out)
    assert south.id.tolist() == [f"c{i:02d}" for i in range(0, 11, 2)]
    assert "2020-03-01" in south.window[0]
    np.testing.assert_array_equal(south.prediction.astype("f4"), frame[frame.window == south.window[0]].prediction[::2])
    assert json.loads(beside.read_text())["embedcube:cube"] == made.cube.version
    with pytest.raises(RequestError, match=r"a list of samples and no map: it becomes a table, write .csv or .parquet"):
        apply(made.cube, decoder, tmp_path / "o.tif")
    with pytest.raises(RequestError, match="no sample that was asked for has a vector"):
        apply(made.cube, decoder, tmp_path / "n.csv", time="2020-10")
    assert not (tmp_path / "n.csv").exists()
    with pytest.raises(RequestError, match="no cell of one lies in"):
        apply(made.cube, decoder, tmp_path / "n.csv", (100, 10, 101, 11))


def test_each_cell_of_a_sample_has_a_row_of_its_own(made: Made, tmp_path: Path) -> None:
    from embedcube.cli.verbs import app
    from embedcube.uses.decode.file import read_decoder

    decoder = numbered(made, "tokens", tmp_path, classes=True)
    app(["decode", "apply", str(made.cube.path), str(decoder), str(tmp_path / "o.parquet"), "--time", "2020-07"],
        standalone_mode=False)  # fmt: skip
    import pandas

    frame = pandas.read_parquet(tmp_path / "o.parquet")
    assert list(frame)[4:] == ["row", "column", "prediction", "probability_a", "probability_b"]
    assert frame.id.tolist() == [f"c{i:02d}" for i in range(11) for _ in range(4) if i != 2]
    own = frame[frame.id == "c07"]
    assert list(zip(own.row, own.column, strict=True)) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    said = read_decoder(decoder).head(made.cube["tokens"].vector("c07", "2020-07").values[0].reshape(4, -1))
    np.testing.assert_array_equal(own[["probability_a", "probability_b"]], said.astype("f4"))
    assert own.prediction.tolist() == ["ab"[i] for i in said.argmax(axis=1)]


def test_samples_are_read_again_for_what_is_simpler(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raw pixels of each cell are those of its chip; with weights as they are, vectors are those of the cube."""
    from embedcube.uses.decode import baselines
    from embedcube.uses.decode.examples import cells_of_samples, vectors_of

    monkeypatch.setattr(baselines, "_shuffled", lambda weights, seed: weights)
    ids = ["c01", "c04", "c10"]
    cells, row = cells_of_samples(made.cube, "tokens/samples", ids, "2020-04")
    again = baselines.read_again(made.cube, "tokens", cells)
    assert again.missing == ""
    assert again.raw_bytes == 2 * 2 * 4**2
    for i in range(12):
        pixels = chip(int(ids[row[i]][1:]), DATES[0])[:, 2:-2, 2:-2].reshape(2, 2, 4, 2, 4)
        own = pixels[:, i % 4 // 2, :, i % 2].reshape(2, 16).astype(float)
        expected = np.concatenate([own.mean(axis=1), own.std(axis=1)])
        np.testing.assert_allclose(again.features[baselines.RAW][i], expected, rtol=1e-5)
    stored = vectors_of(made.cube, cells)
    step = np.abs(stored).max(axis=1, keepdims=True) / 127
    assert (np.abs(again.features[baselines.RANDOM] - stored) <= 0.51 * step).all()


@pytest.mark.parametrize(
    "asked",
    [
        ["explain", "CUBE", "--lon", "9", "--lat", "45", "--layer", "one"],
        ["find", "CUBE", "--like", "9,45", "--layer", "one"],
        ["change", "CUBE", "--from", "2020-04", "--to", "2020-07", "--layer", "one"],
        ["index-vectors", "CUBE"],
        ["preview", "CUBE", "--out", "OUT"],
        ["export", "CUBE", "OUT", "--as", "major-tom", "--layer", "one"],
        ["export", "CUBE", "OUT", "--as", "terratorch-tiff", "--layer", "one"],
        ["export", "CUBE", "OUT", "--features", "2", "--layer", "points"],
        ["serve", "CUBE", "--port", "0"],
    ],
    ids=lambda asked: " ".join(asked[:1] + asked[3:5]),
)
def test_what_needs_a_map_is_refused(made: Made, tmp_path: Path, asked: list[str]) -> None:
    from embedcube.cli.verbs import app

    places = {"CUBE": str(made.cube.path), "OUT": str(tmp_path / "out")}
    with pytest.raises(RequestError, match="is a list of samples and no map"):
        app([places.get(word, word) for word in asked], standalone_mode=False)


def test_explain_takes_an_id(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    from embedcube.cli.verbs import app

    app(["explain", str(made.cube.path), "--sample", "c07", "--time", "2020-07", "--layer", "tokens", "--json"],
        standalone_mode=False)  # fmt: skip
    assert json.loads(capsys.readouterr().out)["cell"]["sample"] == "c07"
    with pytest.raises(RequestError, match="one of the two"):
        app(["explain", str(made.cube.path), "--sample", "c07", "--lon", "9", "--lat", "45"], standalone_mode=False)


def test_lineage_names_the_samples(made: Made) -> None:
    from embedcube.uses.lineage import cells_table, lineage_in_cube

    found = lineage_in_cube(made.cube, "c07_20200715")
    assert {tuple(one.facts()["samples"]) for one in found.fed} == {("c07",)}
    cells = cells_table(found.fed)
    table = made.cube["one"].to_pandas("2020-04").set_index("id")
    assert set(cells["sample"]) == {"c07"}
    assert set(cells["lon"]) == {table.lon["c07"]}


def test_regions_of_lists_and_missing_places_are_refused(made: Made, tmp_path: Path) -> None:
    folder = made.campaign.file.parent
    for name in ("eof.safetensors", "points.csv"):
        shutil.copy(folder / name, tmp_path / name)
    lines = [line.split(",") for line in (tmp_path / "points.csv").read_text().splitlines()[:20]]
    lines[3][1] = ""
    (tmp_path / "points.csv").write_text("\n".join(map(",".join, lines)) + "\n")
    document = yaml.safe_load(made.campaign.file.read_text())
    archives, layers = ({name: document[key][name]} for key, name in (("archives", "table"), ("layers", "points")))
    campaign = written(tmp_path, archives, layers)
    for verb in ("index", "fit"):
        assert call_cli(verb, campaign.file).returncode == 0
    said = refused(campaign, "plan")
    assert "layers.points: 1 of 19 samples have no place (p2), and the backbone eof gives no vector without one" in said
    assert "take them out of it, or choose a backbone that is told no place" in said
    assert not campaign.run.plan.exists()
    region = {"bbox": [9, 44, 10, 46]}
    assert "region: layer points is a list of samples" in refused(written(tmp_path, archives, layers, region=region))


def test_vectors_of_two_backbones_stand_behind_each_other(made: Made) -> None:
    for name in ("c00", "c10"):
        both, alone = (np.asarray(made.cube[layer].vector(name, "2020-04"))[0] for layer in ("two", "one"))
        assert both.shape == (12,)
        np.testing.assert_array_equal(both[4:], alone)
    assert made.cube.model("two/samples") == "concat of mosaiks and mosaiks"
    assert "of" in made.cube.group("two/samples").attrs["embedcube:backbone"]


# --- found by ids ------------------------------------------------------------------------------------


def cosines(cube: Cube, layer: str, query: NDArray[Any]) -> NDArray[np.float64]:
    """Cosines (window, sample) in float64; NaN without a vector."""
    vectors = np.stack([np.stack([np.asarray(cube[layer].vector(one)).reshape(4, -1, 8)]) for one in cube[layer].ids])
    means = np.nanmean(vectors[:, 0].astype(np.float64), axis=2).swapaxes(0, 1)
    return np.asarray(means @ query / np.linalg.norm(means, axis=-1) / np.linalg.norm(query))


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
@pytest.mark.parametrize("layer", ["one", "tokens"])
def test_similar_is_the_cosine_of_every_sample(made: Made, layer: str) -> None:
    cube = made.cube
    query = np.asarray(cube[layer].vector("c07", "2020-07"))[0].reshape(-1, 8).mean(axis=0)
    found = cube[layer].similar("c07", time="2020-07")
    assert found.dims == ("time", "sample")
    np.testing.assert_allclose(found[0], cosines(cube, layer, query)[1], atol=1e-6)
    whole = cube[layer].similar(query)
    np.testing.assert_allclose(whole, cosines(cube, layer, query), atol=1e-6)
    assert whole.sample_id.values.tolist() == list(cube[layer].ids)


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
@pytest.mark.parametrize("layer", ["one", "tokens"])
def test_find_gives_each_sample_once_in_its_best_window(made: Made, layer: str) -> None:
    cube = made.cube
    ids = list(cube[layer].ids)
    query = cube[layer].similar("c07", "c01")
    assert isinstance(query, xarray.DataArray)
    found = cube[layer].find("c07", "c01", k=20)
    best = np.nanmax(query.values, axis=0)
    order = [int(i) for i in np.argsort(-best) if ids[int(i)] != "c07"]
    assert found["sample"].tolist() == [ids[i] for i in order]
    np.testing.assert_allclose(found["cosine"], best[order], atol=1e-6)
    assert found.t.tolist() == [int(np.nanargmax(query.values[:, i])) for i in order]
    place = cube[layer].to_pandas("2020-04").set_index("id")
    np.testing.assert_allclose(found.geometry.x, [place.lon[one] for one in found["sample"]], atol=1e-6)
    explained = cube.explain(sample=found["sample"][0], time=found["window"][0], layer=layer)
    assert explained["cell"]["sample"] == found["sample"][0]


def test_hits_are_chosen_by_status_time_and_place(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.cube.path, tmp_path / "cube.zarr")
    folder = tmp_path / "cube.zarr" / "one" / "samples" / "status"
    for path in folder.rglob("*"):
        path.chmod(0o644)
    zarr.open_array(folder, mode="r+")[1, 3:5] = VALID_INCOMPLETE, FAILED
    cube = Cube(tmp_path / "cube.zarr")
    layer = cube["one"]
    incomplete = layer.find("c00", k=20, time="2020-07", status=("valid_incomplete",))
    assert incomplete["sample"].tolist() == ["c03"]
    summer = layer.find("c00", k=20, time="2020-07")["sample"].tolist()
    assert set(layer.ids) - set(summer) == {"c00", "c02", "c04"}  # the example; one without a date in July; one failed
    west, _, east, _ = layer.find(["c01"], k=20).total_bounds
    table = layer.to_pandas("2020-04")
    box = (west - 1, 0.0, east + 1, 90.0)
    assert set(layer.find("c01", k=20, within=box)["sample"]) == set(table.id[table.lat > 0]) - {"c01"}
    around = (box[0], 0.0, box[0] - 1e-9, 90.0)  # all around the globe, over the antimeridian
    assert set(layer.find("c01", k=20, within=around)["sample"]) == set(table.id[table.lat > 0]) - {"c01"}
    vector = np.asarray(layer.vector("c05", "2020-04"))[0]
    assert layer.find(vector, k=1)["sample"][0] == "c05"
    assert layer.find(cube.cell_of("c05", "2020-04", "one"), k=20)["sample"].tolist().count("c05") == 0


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"like": "c99"}, 'there is no sample "c99" among 11 samples'),
        ({"like": "c02", "time": "2020-07"}, "sample c02: no vector, its status is no_data"),
        ({"like": (9.0, 45.0)}, "is a list of samples and no map"),
        ({"like": "c00", "apart_m": 5.0}, "apart_m 5 is for maps"),
        ({"like": "c00", "exact": False}, "exact=False is for maps"),
        ({"like": np.ones(3)}, "has 3 numbers, those of the layer have 8"),
    ],
)
def test_what_cannot_be_found_is_said(made: Made, asked: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        made.cube["one"].find(**asked)


def test_the_verb_takes_ids(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from embedcube.cli.verbs import app

    cube = made.cube
    out = tmp_path / "hits.geojson"
    words = ["find", str(cube.path), "--like", "c07", "--unlike", "c01", "--k", "3", "--layer", "one", "-o", str(out)]
    app([*words, "--json"], standalone_mode=False)
    hits = json.loads(capsys.readouterr().out)["hits"]
    assert [hit["sample"] for hit in hits] == cube["one"].find("c07", "c01", k=3)["sample"].tolist()
    assert geopandas.read_file(out)["sample"].tolist() == [hit["sample"] for hit in hits]
    app(words, standalone_mode=False)
    assert f"   1  {hits[0]['cosine']:.6f}" in capsys.readouterr().out
    with pytest.raises(RequestError, match=r'there is no sample "c99"'):
        app(["find", str(cube.path), "--like", "c99", "--layer", "one"], standalone_mode=False)
