"""Files that people name: what is no file is told at once, and what refers to other files is not opened."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from embedcube.campaign.fields import read_yaml
from embedcube.campaign.geojson import read_geojson
from embedcube.errors import RequestError
from embedcube.uses.decode.file import read_decoder
from embedcube.uses.decode.neuco import read_tasks
from embedcube.uses.decode.rasters import opened
from embedcube.uses.decode.tables import read_table
from embedcube.uses.from_terratorch import translate
from embedcube.uses.remote import read_document
from embedcube.uses.serve.tokens import read_token
from embedcube.uses.tables import read_places

READERS: dict[str, Callable[[Path], object]] = {
    "a.geojson": read_places,
    "a.csv": read_places,
    "a.parquet": read_places,
    "labels.csv": lambda path: read_table(path, None),
    "labels.tif": lambda path: opened(path, None).__enter__(),
    "head.safetensors": read_decoder,
    "vectors.csv": lambda path: read_tasks(path, path.parent),
    "token": read_token,
    "centres.json": lambda path: read_document(str(path)),
    "campaign.yaml": read_yaml,
    "terratorch.yaml": translate,
}


@pytest.mark.parametrize("name", READERS)
def test_a_fifo_and_a_device_are_told_at_once(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    began = time.monotonic()
    os.mkfifo(path, 0o600)
    with pytest.raises(RequestError, match=f"{name} is a FIFO, not a file"):
        READERS[name](path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(RequestError, match=f"{name} is a device or socket, not a file"):
        READERS[name](path)
    assert time.monotonic() - began < 20


def test_a_region_that_is_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "region.geojson")
    with pytest.raises(ValueError, match="is not GeoJSON"):
        read_geojson(tmp_path / "region.geojson")


PLACES = {"type": "FeatureCollection", "features": [{"type": "Feature", "properties": {"from": "elsewhere"},
          "geometry": {"type": "Point", "coordinates": [7, 50]}}]}  # fmt: skip


@pytest.mark.parametrize("suffix", ["geojson", "gpkg", "shp"])
@pytest.mark.parametrize("kind", ["vrt", "command"])
def test_places_that_refer_to_other_files_are_not_followed(tmp_path: Path, kind: str, suffix: str) -> None:
    other = tmp_path / "other.geojson"
    other.write_text(json.dumps(PLACES))
    vrt = f'<OGRVRTDataSource><OGRVRTLayer name="other"><SrcDataSource>{other}</SrcDataSource></OGRVRTLayer>'
    command = {"type": "gdal_streamed_alg", "command_line": f"gdal vector pipeline ! read {other}"}
    path = tmp_path / f"places.{suffix}"
    path.write_text(f"{vrt}</OGRVRTDataSource>" if kind == "vrt" else json.dumps(command))
    with pytest.raises(RequestError, match="neither GeoJSON, GeoPackage, Shapefile"):
        read_places(path)
    assert len(read_places(other)) == 1


@pytest.mark.parametrize("suffix", ["gpkg", "shp"])
def test_other_formats_are_read_as_before(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "a.geojson").write_text("\ufeff " + json.dumps(PLACES))
    places = read_places(tmp_path / "a.geojson")
    places.to_file(tmp_path / f"a.{suffix}")
    assert read_places(tmp_path / f"a.{suffix}").geometry.equals(places.geometry)


def test_labels_that_refer_to_other_rasters_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "labels.tif").write_text(
        '<VRTDataset rasterXSize="2" rasterYSize="2"><SRS>EPSG:4326</SRS><GeoTransform>0,1,0,2,0,-1</GeoTransform>'
        '<VRTRasterBand dataType="Byte" band="1"/></VRTDataset>'
    )
    with pytest.raises(RequestError, match="cannot be read as a raster"), opened(tmp_path / "labels.tif", None):
        pass


def test_a_table_nested_without_end_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "labels.geojson").write_text("[" * 100_000)
    with pytest.raises(RequestError, match="RecursionError"):
        read_table(tmp_path / "labels.geojson", None)
