"""Lists of samples, source by source: what they refuse, and what they read."""

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import rasterio
from rasterio.transform import from_origin
from tests.sources.stores import S2_BANDS, dates_of, write_store

from embedcube.campaign.schema import Archive
from embedcube.campaign.zones import columns_of
from embedcube.errors import CorruptInput, RequestError
from embedcube.sources.lists.chips import Chips
from embedcube.sources.lists.points import Points
from embedcube.sources.lists.ssl4eo import Ssl4eo
from embedcube.sources.reader import RasterReader
from embedcube.windows import parse_period
from embedcube.zones import SampleList


def points(path: Path, **options: Any) -> Points:
    return Points("p", Archive(source="points", path=path, bands=["B04"], options={"id": "name"} | options))


def test_ids_of_rows_are_text(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("name,B04\n0000200,1\n200,2\n1e3,3\n")
    (scene,) = points(path).scenes(full_digests=False)
    assert [one.id for one in scene.samples] == ["0000200", "200", "1e3"]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_row_without_an_id_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "csv":
        path.write_text("name,B04\np1,1\n,2\n")
    else:
        pyarrow.parquet.write_table(pyarrow.table({"name": ["p1", None], "B04": [1, 2]}), path)
    with pytest.raises(RequestError, match=rf"archives.p: a.{kind}, column name: an id is empty"):
        list(points(path).scenes(full_digests=False))


@pytest.mark.parametrize(("lon", "lat"), [(500, 45), (9, 120)])
def test_places_beyond_the_earth_are_refused(tmp_path: Path, lon: float, lat: float) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"name,lon,lat,B04\np1,9,45,1\np2,{lon},{lat},2\n")
    with pytest.raises(RequestError, match=rf"a.csv: the row p2 lies at lon lat {lon} {lat}, which are no degrees"):
        list(points(path).scenes(full_digests=False))


def test_places_that_are_no_numbers_are_the_verdict_on_a_table(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    columns = {"name": ["p1"], "lon": [[9.0]], "lat": [[45.0]], "B04": [1]}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    (scene,) = points(path).scenes(full_digests=False)
    assert scene.verdict.startswith("a.parquet: Unsupported cast")


def write_chip(path: Path, bands: int, left: float = 5e5, pixel: float = 10, side: int = 6) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"driver": "GTiff", "width": side, "height": side, "count": bands, "dtype": "uint16", "crs": "EPSG:32632"}
    with rasterio.open(path, "w", transform=from_origin(left, 5e6, pixel, pixel), **about) as file:
        file.write(np.ones((bands, side, side), np.uint16))


def chips(path: Path, bands: list[str], **options: Any) -> Chips:
    return Chips("c", Archive(source="chips", path=path, bands=bands, options=options))


def test_a_file_with_more_bands_than_are_named_is_refused(tmp_path: Path) -> None:
    write_chip(tmp_path / "a.tif", 13)
    (scene,) = chips(tmp_path, ["B02", "B08"]).scenes(full_digests=False)
    assert "a.tif has 13 bands and the campaign names 2" in scene.verdict
    assert 'write the number of each as options.variables: {B02: "1"}' in scene.verdict
    (scene,) = chips(tmp_path, ["B02", "B08"], variables={"B02": "2", "B08": "8"}).scenes(full_digests=False)
    assert not scene.verdict
    assert [asset.index for asset in scene.assets] == [2, 8]


def test_bands_of_a_chip_are_of_one_place(tmp_path: Path) -> None:
    write_chip(tmp_path / "a" / "B02.tif", 1)
    write_chip(tmp_path / "a" / "B05.tif", 1, pixel=20, side=3)
    write_chip(tmp_path / "b" / "B02.tif", 1)
    write_chip(tmp_path / "b" / "B05.tif", 1, left=6e5, pixel=20, side=3)
    one, other = chips(tmp_path, ["B02", "B05"], names="{id}/{band}.tif").scenes(full_digests=False)
    assert not one.verdict
    assert "b/B05.tif lies elsewhere than b/B02.tif" in other.verdict


def test_a_date_that_is_none_is_refused_with_its_file(tmp_path: Path) -> None:
    write_chip(tmp_path / "a_20209999.tif", 1)
    with pytest.raises(RequestError, match=r"archives.c: a_20209999.tif: the part that options.names calls the date"):
        list(chips(tmp_path, ["B02"], names="{id}_{date}.tif").scenes(full_digests=False))


def test_a_chip_of_a_month_lasts(tmp_path: Path) -> None:
    write_chip(tmp_path / "a_2020-04.tif", 1)
    (scene,) = chips(tmp_path, ["B02"], names="{id}_{date}.tif").scenes(full_digests=False)
    assert scene.end is not None
    assert (scene.time.isoformat()[:10], scene.end.isoformat()[:10]) == ("2020-04-01", "2020-04-30")


def test_archives_do_not_share_acquisitions(tmp_path: Path) -> None:
    """What two archives show is observed twice: `n_obs` counts acquisitions of all archives together."""
    write_chip(tmp_path / "a_20200401.tif", 1)
    (tmp_path / "a.csv").write_text("name,B04\na,1\n")
    said = set()
    for name in ("s1", "s2"):
        of_chips = Archive(source="chips", path=tmp_path, bands=["B02"], options={"names": "{id}_{date}.tif"})
        of_rows = Archive(source="points", path=tmp_path, bands=["B04"], options={"id": "name"})
        for source in (Chips(name, of_chips), Points(name, of_rows)):
            said |= {scene.acquisition for scene in source.scenes(full_digests=False)}
    assert len(said) == 4


def stored(path: Path, ids: list[str]) -> Path:
    bands = np.arange(len(ids) * 4 * 12 * 36).reshape(len(ids), 4, 12, 6, 6).astype(np.int16) + 1001
    write_store(path, ids, bands, systems=[32632] * len(ids), dates=dates_of(len(ids), 4, 2020))
    return path


def ssl4eo(path: Path) -> Ssl4eo:
    return Ssl4eo("s", Archive(source="ssl4eo", path=path, bands=["B03", "B8A"]))


def changed(path: Path, name: str, change: Any) -> None:
    """Change one member of a zip file: `change` makes its new bytes of the old ones; None leaves it out."""
    with zipfile.ZipFile(path) as old:
        members = {one: old.read(one) for one in old.namelist() if one != ".zmetadata"}
    with zipfile.ZipFile(path, "w") as new:
        for one, data in members.items():
            if (data_now := change(data) if one == name else data) is not None:
                new.writestr(one, data_now)


def metadata(**more: Any) -> Any:
    return lambda data: json.dumps(json.loads(data) | more).encode()


def test_two_samples_of_one_id_in_a_store_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"archives.s: a.zarr.zip has 2 samples with the id a; an id is of one"):
        list(ssl4eo(stored(tmp_path / "a.zarr.zip", ["a", "a"])).scenes(full_digests=False))


def test_ids_in_bytes_are_texts(tmp_path: Path) -> None:
    path = stored(tmp_path / "a.zarr.zip", ["0000001", "0000002"])
    changed(path, "sample/.zarray", metadata(dtype="|S7", compressor=None, filters=None, fill_value=None))
    changed(path, "sample/0", lambda _: b"00000010000002")
    scene = next(iter(ssl4eo(path).scenes(full_digests=False)))
    assert [one.id for one in scene.samples] == ["0000001", "0000002"]


@pytest.mark.parametrize(
    ("member", "change", "words"),
    [
        ("time_/.zattrs", lambda _: b"{}", "time_ holds numbers without the units of a time"),
        ("bands/.zarray", metadata(compressor={"id": "pickle"}), "the codec pickle is not among those that are read"),
        ("x_/.zarray", metadata(shape=[2, 10**11]), "x_ has 200,000,000,000 values, where at most"),
        ("x_/.zarray", metadata(chunks=[2, 10**11]), "x_ has 200,000,000,000 values, where at most"),
        ("bands/.zarray", metadata(shape=[10**9, 4, 12, 6, 6]), "it has 1000000000 samples and 2 ids"),
        ("bands/.zarray", metadata(shape=[2, 10**9, 12, 6, 6]), "it has 2 samples at 1,000,000,000 times"),
        ("crs/.zarray", lambda _: b"{", "is not JSON"),
    ],
)
def test_a_store_that_claims_too_much_is_a_verdict(tmp_path: Path, member: str, change: Any, words: str) -> None:
    path = stored(tmp_path / "a.zarr.zip", ["a", "b"])
    changed(path, member, change)
    (scene,) = ssl4eo(path).scenes(full_digests=False)
    assert words in scene.verdict


def test_samples_are_read_chunk_by_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import zarr

    path = stored(tmp_path / "a.zarr.zip", list("abcdef"))
    folder = tmp_path / "u.zarr"
    with zipfile.ZipFile(path) as file:
        file.extractall(folder)
    whole = np.asarray(zarr.open_group(folder, mode="r", zarr_format=2)["bands"][...])
    group = zarr.open_group(folder, mode="r+", zarr_format=2, use_consolidated=False)
    group.create_array("bands", data=whole, chunks=(2, 4, 12, 6, 6), overwrite=True)
    scene = list(ssl4eo(folder).scenes(full_digests=False))[1]
    assert scene.assets[0].block_bytes == 2 * 4 * 12 * 36 * 2
    sizes = []
    read = zarr.Array.__getitem__

    def counted(array: Any, selection: Any) -> Any:
        result = read(array, selection)
        sizes.append(np.size(result))
        return result

    monkeypatch.setattr(zarr.Array, "__getitem__", counted)
    reader = RasterReader(1, attempts=1)
    try:
        wanted = [scene.samples[i] for i in (5, 0, 4)]
        samples = SampleList(pixel=10, **columns_of(wanted))
        seen = ssl4eo(folder).observe_samples(scene, parse_period("2020"), samples, 4, reader)
    finally:
        reader.close()
    channels = [S2_BANDS.index(band) for band in ("B03", "B8A")]
    expected = whole[[5, 0, 4], 1][:, channels, 1:5, 1:5].astype(float) - 1000
    np.testing.assert_array_equal(seen.values_cyx.reshape(2, 3, 4, 4).swapaxes(0, 1), expected)
    assert max(sizes) <= 2 * 12 * 36


@pytest.mark.parametrize("damage", ["zip", "chunk", "column", "parquet"])
def test_damage_is_told_from_failures_that_pass(tmp_path: Path, damage: str) -> None:
    """What libraries raise on wrong bytes (BadZipFile, RuntimeError, OSError) quarantines the file."""
    source: Any
    if damage in ("zip", "chunk"):
        path = stored(tmp_path / "a.zarr.zip", ["a", "b"])
        source = ssl4eo(path)
        if damage == "chunk":
            changed(path, "bands/0.0.0.0.0", lambda data: data[:16] + b"?" * (len(data) - 16))
    else:
        path = tmp_path / "a.parquet"
        values: list[Any] = [[1.0], [2.0]] if damage == "column" else [1.0, 2.0]
        pyarrow.parquet.write_table(pyarrow.table({"name": ["a", "b"], "B04": values}), path)
        source = points(path)
    scene = next(iter(source.scenes(full_digests=False)))
    assert not scene.verdict
    if damage in ("zip", "parquet"):
        # other bytes of the same length, of the same time: what a broken disk gives
        about, size = path.stat(), path.stat().st_size
        path.write_bytes(path.read_bytes()[:4] + b"?" * (size - 4))
        os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    reader = RasterReader(1, attempts=1)
    try:
        samples = SampleList(pixel=10, **columns_of(scene.samples))
        side = 1 if path.suffix == ".parquet" else 6
        with pytest.raises(CorruptInput):
            source.observe_samples(scene, parse_period("2020"), samples, side, reader)
    finally:
        reader.close()
    if damage in ("zip", "parquet"):
        (scene,) = source.scenes(full_digests=False)
        assert scene.verdict
