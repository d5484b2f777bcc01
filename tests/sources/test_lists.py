"""Lists of samples, source by source: what they refuse, and what they read."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import rasterio
from rasterio.transform import from_origin

from embedcube.campaign.schema import Archive
from embedcube.errors import RequestError
from embedcube.sources.lists.chips import Chips
from embedcube.sources.lists.points import Points


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
