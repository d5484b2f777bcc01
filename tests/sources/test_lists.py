"""Lists of samples, source by source: what they refuse, and what they read."""

from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from embedcube.campaign.schema import Archive
from embedcube.errors import RequestError
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
