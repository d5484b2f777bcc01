"""Folders and tables for others: nothing old under a new summary, what was written is counted, status is told."""

import json
import shutil
from pathlib import Path

import geopandas
import pandas
import pytest
import rasterio
from tests.cube.two_zones import LAYER

from embedcube.cube.encoding import VALID, VALID_INCOMPLETE
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError
from embedcube.progress import silent
from embedcube.uses.exchange.chosen import Chosen
from embedcube.uses.exchange.for_terratorch import export_terratorch
from embedcube.uses.exchange.manifest import about_cube
from embedcube.uses.exchange.tables import export_table

BOX = (11.9, 49.97, 11.96, 50.0)
"""in utm32 only"""

JUNE, JULY = (Chosen(box=BOX, time=month) for month in ("2023-06", "2023-07"))

AROUND_INCOMPLETE = Chosen(ids=("utm33/32/32", "utm33/47/47", "utm33/50/40"), time="2023-06")
"""two cells that are valid_incomplete, and one that is valid"""


def test_a_folder_of_another_request_is_refused_and_one_of_this_goes_on(two_zones: Path, tmp_path: Path) -> None:
    cube, out = Cube(two_zones), tmp_path / "tt"
    done = export_terratorch(cube, out, JUNE, "terratorch-tiff", silent, tile=8)
    before = {path.name: path.read_bytes() for path in done.files if path.suffix == ".tif"}
    for chosen, form, tile in ((JULY, "terratorch-tiff", 8), (JUNE, "terratorch-tiff", 4), (JUNE, "pt", 8)):
        with pytest.raises(RequestError, match="holds an export of another cube, layer or choice"):
            export_terratorch(cube, out, chosen, form, silent, tile=tile)  # type: ignore[arg-type]
    done.files[0].unlink()
    again = export_terratorch(cube, out, JUNE, "terratorch-tiff", silent, tile=8)
    assert {path.name: path.read_bytes() for path in again.files if path.suffix == ".tif"} == before
    # tiles of nobody knows what
    (out / "configuration_summary.json").unlink()
    with pytest.raises(RequestError, match="holds an export of another"):
        export_terratorch(cube, out, JUNE, "terratorch-tiff", silent, tile=8)


def test_cells_that_were_written_are_counted_and_none_is_refused(two_zones: Path, tmp_path: Path) -> None:
    cube = Cube(two_zones)
    # 80 x 80 cells: one whole tile of 48
    whole = Chosen(time="2023-06")
    done = export_terratorch(cube, tmp_path / "p", whole, "terratorch-parquet", silent, tile=48)
    tables = [pandas.read_parquet(path) for path in done.files if path.suffix == ".parquet"]
    assert done.cells == sum(map(len, tables)) > 0
    assert export_terratorch(cube, tmp_path / "q", whole, "terratorch-tiff", silent, tile=48, dry_run=True).cells == (
        done.cells
    )
    with pytest.raises(RequestError, match="no whole tile of 96 x 96 cells"):
        export_terratorch(cube, tmp_path / "none", whole, "terratorch-tiff", silent, tile=96)
    with pytest.raises(RequestError, match="--ids names cells"):
        export_terratorch(cube, tmp_path / "none", AROUND_INCOMPLETE, "terratorch-tiff", silent)
    assert not (tmp_path / "none").exists()


def test_incomplete_cells_are_told_from_valid_ones(two_zones: Path, tmp_path: Path) -> None:
    cube = Cube(two_zones)
    at = {name: tuple(map(int, name.split("/")[1:])) for name in AROUND_INCOMPLETE.ids}
    status = cube.array(f"{LAYER}/utm33", "status")
    assert {int(status[(0, *place)]) for place in at.values()} == {VALID, VALID_INCOMPLETE}
    true = ["valid_incomplete", "valid_incomplete", "valid"]
    export_table(cube, tmp_path / "m.parquet", AROUND_INCOMPLETE, silent, major_tom=True)
    assert list(geopandas.read_parquet(tmp_path / "m.parquet").status) == true
    export_terratorch(cube, tmp_path / "pt", AROUND_INCOMPLETE, "pt", silent)
    assert list(pandas.read_csv(tmp_path / "pt" / "ids.csv").status) == true
    box = Chosen(time="2023-06")
    export_terratorch(cube, tmp_path / "p", box, "terratorch-parquet", silent, tile=16)
    table = pandas.read_parquet(next((tmp_path / "p").rglob("utm33_00032_00032_*.parquet")))
    assert set(table.status) == {"valid_incomplete"}
    export_terratorch(cube, tmp_path / "t", box, "terratorch-tiff", silent, tile=16)
    with rasterio.open(next((tmp_path / "t").rglob("utm33_00032_00032_*.tif"))) as file:
        assert int(file.tags()["cells_valid_incomplete"]) == len(table)


def test_what_was_done_to_vectors_travels(two_zones: Path, tmp_path: Path) -> None:
    shutil.copytree(two_zones, tmp_path / "cube.zarr")
    path = tmp_path / "cube.zarr" / "zarr.json"
    path.chmod(0o644)
    document = json.loads(path.read_bytes())
    reduce = {"pca": 4, "sample": 1000}
    document["attributes"]["embedcube:what"]["layers"][LAYER] |= {"over_time": "mean", "reduce": reduce}
    path.write_text(json.dumps(document))
    told = about_cube(Cube(tmp_path / "cube.zarr"), (LAYER,))["layers"][LAYER]
    assert (told["over_time"], told["reduce"]) == ("mean", reduce)
    assert "over_time" not in about_cube(Cube(two_zones), (LAYER,))["layers"][LAYER]
