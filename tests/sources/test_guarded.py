"""Input that asks for more than to be read: other files, servers, code, memory. docs/bad-input.md lists the cases."""

import ctypes
import http.server
import json
import os
import pickle
import struct
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import rasterio
import xarray
from numpy.typing import NDArray
from rasterio.transform import from_origin
from tests.conftest import call_cli
from tests.edge.scenes import Scene as Written
from tests.edge.scenes import two_bands_of, write_scene

from embedcube.campaign.how import How
from embedcube.campaign.load import load_campaign
from embedcube.campaign.scene import WITHDRAWN, Scene
from embedcube.campaign.schema import Archive
from embedcube.errors import CorruptInput, RequestError
from embedcube.grid import Grid, PixelArea
from embedcube.prepare.index import index
from embedcube.prepare.large_blocks import refuse_too_large
from embedcube.sources.era5 import apart
from embedcube.sources.era5.source import Era5
from embedcube.sources.hdf5 import refuse_other_files
from embedcube.sources.hdf5_heap import refuse_endless_heap
from embedcube.sources.netcdf import open_netcdf
from embedcube.sources.netcdf3 import refuse_cut_short
from embedcube.sources.opening import open_raster, raster_settings
from embedcube.sources.reader import RasterReader
from embedcube.sources.sentinel2.source import Sentinel2
from embedcube.sources.stores import refuse_store
from embedcube.windows import Window

WEST, NORTH, SIDE = 400_000.0, 5_600_000.0, 64


def pixels(seed: int = 0) -> NDArray[np.uint16]:
    return np.random.default_rng(seed).integers(500, 3000, (SIDE, SIDE)).astype(np.uint16)


def write(archive: Path, id: str = "scene", **layout: Any) -> Path:
    """Write a scene of two bands; its folder."""
    bands = {"B02": pixels(0), "B03": pixels(1)}
    time = "2023-06-05T10:00:00Z"
    return write_scene(archive, Written(id=id, time=time, west=WEST, north=NORTH, bands=bands), **layout)


def scenes_of(archive: Path, *, full: bool = False) -> list[Scene]:
    source = Sentinel2("s2", Archive(source="sentinel2", path=archive, bands=("B02", "B03")))
    with raster_settings():
        return list(source.scenes(full_digests=full))


@dataclass
class Server:
    """A web server on this machine, and what it was asked for."""

    url: str
    asked: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    known = Server(url="")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known.asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        known.url = f"http://127.0.0.1:{listening.server_address[1]}"
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield known
        listening.shutdown()


VRT = """<VRTDataset rasterXSize="64" rasterYSize="64"><SRS>EPSG:32632</SRS>
<GeoTransform>400000, 10, 0, 5600000, 0, -10</GeoTransform><VRTRasterBand dataType="{kind}" band="1"{more}>
{inside}</VRTRasterBand></VRTDataset>"""

SIMPLE = '<SimpleSource><SourceFilename relativeToVRT="0">{place}</SourceFilename></SimpleSource>'

PYTHON = """<PixelFunctionType>f</PixelFunctionType><PixelFunctionLanguage>Python</PixelFunctionLanguage>
<PixelFunctionCode><![CDATA[
import pathlib
def f(*args, **kwargs):
    pathlib.Path("{mark}").write_text("code ran")
]]></PixelFunctionCode>"""

WMS = """<GDAL_WMS><Service name="TMS"><ServerUrl>{url}/${{z}}/${{x}}/${{y}}.png</ServerUrl></Service><DataWindow>
<UpperLeftX>400000</UpperLeftX><UpperLeftY>5600000</UpperLeftY><LowerRightX>400640</LowerRightX>
<LowerRightY>5599360</LowerRightY><TileLevel>1</TileLevel><TileCountX>1</TileCountX><TileCountY>1</TileCountY>
</DataWindow><Projection>EPSG:32632</Projection><BlockSizeX>64</BlockSizeX><BlockSizeY>64</BlockSizeY>
<BandsCount>1</BandsCount></GDAL_WMS>"""


def text_that_gdal_follows(kind: str, folder: Path, url: str) -> str:
    good = SIMPLE.format(place=folder / "B03.tif")
    if kind == "another file":
        return VRT.format(kind="UInt16", more="", inside=good)
    if kind == "a server":
        return VRT.format(kind="UInt16", more="", inside=SIMPLE.format(place=f"/vsicurl/{url}/x.tif"))
    if kind == "raw bytes":
        source = f"<SourceFilename>{folder / 'scene.json'}</SourceFilename><ImageOffset>0</ImageOffset>"
        inside = f"{source}<PixelOffset>1</PixelOffset><LineOffset>8</LineOffset>"
        return VRT.format(kind="Byte", more=' subClass="VRTRawRasterBand"', inside=inside)
    if kind == "code":
        inside = PYTHON.format(mark=folder / "mark") + good
        return VRT.format(kind="UInt16", more=' subClass="VRTDerivedRasterBand"', inside=inside)
    return WMS.format(url=url)


@pytest.mark.parametrize("kind", ["another file", "a server", "raw bytes", "code", "map tiles"])
@pytest.mark.parametrize("when", ["before index", "after index"])
def test_a_text_that_leads_elsewhere_is_no_image(
    kind: str, when: str, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text of GDAL called .tif is a verdict, also in the place of an indexed image: nothing that it names is used."""
    monkeypatch.setenv("GDAL_VRT_ENABLE_PYTHON", "YES")
    asked = len(server.asked)
    folder = write(tmp_path)
    text = text_that_gdal_follows(kind, folder, server.url)
    known = scenes_of(tmp_path)
    size = (folder / "B02.tif").stat().st_size
    (folder / "B02.tif").write_text(text + " " * (size - len(text)))
    if when == "before index":
        (scene,) = scenes_of(tmp_path)
        assert scene.verdict.startswith("B02: scene/B02.tif does not decode")
    else:
        reader = RasterReader(1, attempts=1)
        asset, area = known[0].assets[0], PixelArea(row=0, col=0, rows=SIDE, cols=SIDE)
        grid = Grid(crs="EPSG:32632", pixel=10, origin_x=WEST, origin_y=NORTH)
        try:
            with pytest.raises(CorruptInput, match=r"B02: scene/B02\.tif"):
                reader.submit(folder / "B02.tif", asset, grid, area, "nearest", 0).result()
        finally:
            reader.close()
    assert not (folder / "mark").exists()
    assert server.asked[asked:] == []


@pytest.mark.parametrize("sidecar", ["B02.tif.aux.xml", "B02.tif.msk", "B02.tif.ovr"])
def test_files_beside_an_image_lead_nowhere(sidecar: str, tmp_path: Path, server: Server) -> None:
    asked = len(server.asked)
    folder = write(tmp_path)
    elsewhere = f"/vsicurl/{server.url}/x.tif"
    text = VRT.format(kind="Byte", more="", inside=SIMPLE.format(place=elsewhere))
    if sidecar.endswith(".xml"):
        entry = f'<Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">{elsewhere}</MDI></Metadata>'
        text = f"<PAMDataset>{entry}</PAMDataset>"
    (folder / sidecar).write_text(text)
    (scene,) = scenes_of(tmp_path, full=True)
    # a mask must be read, and is an image like any other
    words = "B02: scene/B02.tif has a mask beside it, .msk, that cannot be read: it is no GeoTIFF, or damaged"
    assert scene.verdict == (words if sidecar.endswith(".msk") else "")
    with open_raster(folder / "B02.tif", "", sidecars=False) as dataset:
        np.testing.assert_array_equal(dataset.read(1), pixels(0))
    assert server.asked[asked:] == []


def test_a_name_that_gdal_looks_up_elsewhere_is_not_opened(server: Server) -> None:
    asked = len(server.asked)
    with pytest.raises(rasterio.errors.RasterioError, match="is a name that GDAL looks up elsewhere"):
        open_raster(Path(f"/vsicurl/{server.url}/x.tif"), "")
    assert server.asked[asked:] == []


ID = ctypes.c_int64


def hdf5() -> Any:
    """The HDF5 library of netCDF4, for files that netCDF4 does not write."""
    library = ctypes.CDLL(str(import_module("netCDF4._netCDF4").__file__))
    library.H5open()
    for name in ("H5Fopen", "H5Pcreate", "H5Screate_simple", "H5Dcreate2", "H5Gcreate2"):
        getattr(library, name).restype = ID
    return library


def refer_elsewhere(path: Path, kind: str, other: Path) -> None:
    """Add `sp`, or a variable of a group, to a NetCDF file: one whose values are in `other`."""
    library = hdf5()
    size = (ctypes.c_uint64 * 1)(96)
    file = library.H5Fopen(os.fsencode(path), 1, ID(0))
    assert file >= 0
    try:
        if kind == "link":
            target = (os.fsencode(other), b"/sp", ID(file), b"sp", ID(0), ID(0))
            assert library.H5Lcreate_external(*target) >= 0
            return
        space = library.H5Screate_simple(1, size, None)
        properties = library.H5Pcreate(ID.in_dll(library, "H5P_CLS_DATASET_CREATE_ID_g"))
        number = ID.in_dll(library, "H5T_IEEE_F32LE_g")
        name = b"sp"
        if kind == "virtual":
            assert library.H5Pset_virtual(ID(properties), ID(space), os.fsencode(other), b"/sp", ID(space)) >= 0
        else:
            elsewhere = (ID(properties), os.fsencode(other), ctypes.c_long(0), ctypes.c_uint64(96 * 4))
            assert library.H5Pset_external(*elsewhere) >= 0
        if kind == "raw in a group":
            assert library.H5Gcreate2(ID(file), b"inner", ID(0), ID(0), ID(0)) >= 0
            name = b"inner/sp"
        assert library.H5Dcreate2(ID(file), name, number, ID(space), ID(0), ID(properties), ID(0)) >= 0
    finally:
        library.H5Fclose(ID(file))


@pytest.mark.parametrize("kind", ["raw", "raw in a group", "link", "virtual"])
def test_numbers_of_another_file_are_a_verdict(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # this process, which has written the file, may keep it locked for others
    monkeypatch.setattr(apart, "apart", lambda work, size, *args: work(*args))
    (tmp_path / "secret").write_bytes(bytes(1000))
    path = tmp_path / "archive" / "a.nc"
    path.parent.mkdir()
    small_series().drop_vars("sp").to_netcdf(path, engine="netcdf4")
    open_netcdf(path).close()
    refer_elsewhere(path, kind, tmp_path / "secret")
    with pytest.raises(ValueError, match="sp is stored in another file"):
        open_netcdf(path)
    (scene,) = weather(path.parent)
    assert "sp is stored in another file" in scene.verdict


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_a_file_that_is_open_already_is_looked_at_too(degree: int, tmp_path: Path) -> None:
    """A file opens twice in a process only with one close degree, which versions of the NetCDF library choose."""
    (tmp_path / "secret").write_bytes(bytes(1000))
    path = tmp_path / "a.nc"
    small_series().drop_vars("sp").to_netcdf(path, engine="netcdf4")
    refer_elsewhere(path, "link", tmp_path / "secret")
    library = hdf5()
    access = ID(library.H5Pcreate(ID.in_dll(library, "H5P_CLS_FILE_ACCESS_ID_g")))
    library.H5Pset_fclose_degree(access, degree)
    held = ID(library.H5Fopen(os.fsencode(path), 0, access))
    assert held.value >= 0
    try:
        with pytest.raises(ValueError, match="sp is stored in another file"):
            refuse_other_files(path)
    finally:
        library.H5Fclose(held)
        library.H5Pclose(access)


def test_a_file_of_hdf5_that_cannot_be_looked_at_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.nc"
    small_series().to_netcdf(path, engine="netcdf4")
    refuse_other_files(path)
    data = path.read_bytes()
    for wrong in (data[:8] + b"\xff" * 40 + data[48:], bytes(512) + data[: len(data) // 2]):
        path.write_bytes(wrong)
        with pytest.raises(OSError, match=r"a\.nc has the signature of HDF5"):
            refuse_other_files(path)
    path.write_bytes(b"CDF\x01" + data[4:])
    refuse_other_files(path)  # nor is it read where it is something else


# --- memory that a header asks for ------------------------------------------------------------------------


def large_blocks(path: Path, side: int, count: int = 1, **layout: Any) -> None:
    """Write a GeoTIFF without any stored block, of a few hundred bytes."""
    with rasterio.open(
        path, "w", driver="GTiff", width=side, height=side, count=count, dtype="uint16", crs="EPSG:32632", nodata=0,
        transform=from_origin(WEST, NORTH, 640 / side, 640 / side), sparse_ok=True, bigtiff="yes", **layout,
    ):  # fmt: skip
        pass


@pytest.mark.parametrize(
    ("layout", "side", "count", "gb"),
    [
        ({"blockysize": 50_000, "compress": "deflate"}, 50_000, 1, "5.00"),
        ({"tiled": True, "blockxsize": 48_000, "blockysize": 48_000, "compress": "zstd"}, 60_000, 1, "4.61"),
        ({"blockysize": 30_000, "compress": "lzw", "interleave": "pixel"}, 30_000, 3, "5.40"),
    ],
)
def test_a_huge_block_is_a_verdict_whatever_memory_there_is(
    layout: dict[str, Any], side: int, count: int, gb: str, tmp_path: Path
) -> None:
    write(tmp_path / "archive", "good")
    folder = write(tmp_path / "archive", "large")
    large_blocks(folder / "B02.tif", side, count, **layout)
    (folder / "B03.tif").write_bytes((folder / "B02.tif").read_bytes())
    assert (folder / "B02.tif").stat().st_size < 100_000
    verdicts = set()
    for how in ({"mem_gb": 1.4, "threads": 1}, {"mem_gb": 400, "threads": 2}):
        campaign = two_bands_of(tmp_path, (WEST, NORTH), error_budget=1, **how)
        large, good = sorted(index(load_campaign(campaign.file), campaign.run), key=lambda scene: not scene.verdict)
        assert not good.verdict
        assert f"{gb} GB as decoded; a block may have 4.29 GB" in large.verdict
        verdicts.add(large.digest)
    assert len(verdicts) == 1


def test_fit_and_plan_refuse_blocks_that_a_rank_has_no_memory_for_and_say_how_much_it_needs(tmp_path: Path) -> None:
    folder = write(tmp_path / "archive")
    for band in ("B02", "B03"):
        large_blocks(folder / f"{band}.tif", 40_000, tiled=True, blockxsize=16_000, blockysize=16_000)
    campaign = two_bands_of(tmp_path, (WEST, NORTH), mem_gb=2.0, threads=1, error_budget=1)
    scenes = index(load_campaign(campaign.file), campaign.run)
    assert not scenes[0].verdict, "no scene is dropped because of how the cube is computed"
    for verb in ("fit", "plan"):
        done = call_cli(verb, campaign.file)
        assert done.returncode == 2
        [line] = [line for line in done.stderr.splitlines() if "0.51 GB at once" in line]
        assert len(line) < 300
        assert "how.mem_gb (2.0) leaves 0.50 for them; set it to 2.1 or more" in line
    archives = {scenes[0].archive}
    refuse_too_large(scenes, archives, How(mem_gb=2.1, threads=1))
    with pytest.raises(RequestError, match=r"of 4 threads .* set it to 5\.1 or more, how\.threads to less than 4, or"):
        refuse_too_large(scenes, archives, How(mem_gb=2.1, threads=4))
    # what nobody reads needs no memory
    refuse_too_large(scenes, {"other"}, How(mem_gb=2.1, threads=4))
    for instead in ("newer", WITHDRAWN):
        unread = [replace(scene, superseded_by=instead) for scene in scenes]
        refuse_too_large(unread, archives, How(mem_gb=2.1, threads=4))


def test_the_memory_of_a_block_is_what_it_decodes_to(tmp_path: Path) -> None:
    folder = write(tmp_path, blockxsize=32, blockysize=16)
    assert [asset.block_bytes for asset in scenes_of(tmp_path)[0].assets] == [32 * 16 * 2] * 2
    both = np.stack([pixels(0), pixels(1)])
    with rasterio.open(
        folder / "B02.tif", "w", driver="GTiff", width=SIDE, height=SIDE, count=2, dtype="uint16", crs="EPSG:32632",
        transform=from_origin(WEST, NORTH, 10, 10), blockysize=8, interleave="pixel",
    ) as target:  # fmt: skip
        target.write(both)
    assert scenes_of(tmp_path)[0].assets[0].block_bytes == SIDE * 8 * 2 * 2


def test_a_zip_member_that_is_said_to_be_huge_is_a_verdict(tmp_path: Path) -> None:
    """The directory of a zip states sizes; none is more than a thousand times that of its packed bytes."""
    from embedcube.sources.catalog.digests import member_size
    from embedcube.sources.catalog.products import File

    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("B02.jp2", bytes(1000))
    data = path.read_bytes()
    entry = data.index(b"PK\x01\x02")
    path.write_bytes(data[: entry + 24] + struct.pack("<I", 1 << 31) + data[entry + 28 :])
    with pytest.raises(ValueError, match=f"B02.jp2 is said to have {1 << 31} bytes"):
        member_size(File(path=path, inner="B02.jp2"))


def small_series(**sizes: int) -> xarray.Dataset:
    lat, lon = np.arange(52, 50, -0.25), np.arange(5, 8, 0.25)
    times = np.datetime64("2022-08-31T00", "ns") + np.arange(sizes.get("time", 6)) * np.timedelta64(1, "h")
    values = np.random.default_rng(0).normal(99000, 1500, (len(times), len(lat), len(lon)))
    return xarray.Dataset(
        {"sp": (("time", "latitude", "longitude"), values)},
        coords={
            "time": ("time", times, {"standard_name": "time"}),
            "latitude": ("latitude", lat, {"units": "degrees_north"}),
            "longitude": ("longitude", lon, {"units": "degrees_east"}),
        },
    )


def weather(path: Path) -> list[Scene]:
    return list(Era5("w", Archive(source="era5", path=path, bands=("sp",))).scenes(full_digests=False))


def test_a_heap_that_keeps_the_library_busy_for_ever_is_a_verdict(tmp_path: Path) -> None:
    """The first object of the heap, which holds references to dimensions, becomes free space of no size."""
    path = tmp_path / "series.nc"
    small_series().to_netcdf(path, engine="netcdf4")
    data = bytearray(path.read_bytes())
    at = data.find(b"GCOL")
    assert at > 0
    open_netcdf(path).close()
    data[at + 16 : at + 32] = bytes(16)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"global heap is damaged at byte {at + 16}"):
        open_netcdf(path)
    far = 9 << 20  # a heap at the end of a long file
    path.write_bytes(data[:8] + bytes(far - 8) + data[at : at + 4096])
    with pytest.raises(ValueError, match=f"global heap is damaged at byte {far + 16}"):
        refuse_endless_heap(path)


@pytest.mark.parametrize("block", [512, 1024, 4096])
def test_a_file_with_a_block_for_users_is_looked_at_too(block: int, tmp_path: Path) -> None:
    """The HDF5 library finds the beginning of its file behind 512 bytes times a power of two, too."""
    path = tmp_path / "series.nc"
    small_series().to_netcdf(path, engine="netcdf4")
    data = bytearray(block) + path.read_bytes()
    path.write_bytes(data)
    open_netcdf(path).close()
    at = data.find(b"GCOL")
    data[at + 16 : at + 32] = bytes(16)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"global heap is damaged at byte {at + 16}"):
        refuse_endless_heap(path)
    path.write_bytes(bytes(block - 1) + data[block:])  # where no library looks
    refuse_endless_heap(path)


def test_an_axis_of_a_netcdf_file_that_no_memory_holds_is_a_verdict(tmp_path: Path) -> None:
    small_series().to_netcdf(tmp_path / "good.nc", engine="netcdf4")
    with netCDF4.Dataset(tmp_path / "long.nc", "w") as file:
        file.createDimension("time", 1 << 40)
        file.createVariable("time", "f8", ("time",), chunksizes=(1 << 16,)).units = "hours since 2022-01-01"
        file.createVariable("sp", "f4", ("time",), chunksizes=(1 << 16,))
    assert (tmp_path / "long.nc").stat().st_size < 100_000
    with pytest.raises(ValueError, match="time has 1,099,511,627,776 points along its axis"):
        open_netcdf(tmp_path / "long.nc")
    assert [scene.verdict for scene in weather(tmp_path) if scene.verdict] == [
        "long.nc does not decode: time has 1,099,511,627,776 points along its axis; 4,194,304 can be read"
    ]


def test_a_chunk_of_a_netcdf_file_is_priced(tmp_path: Path) -> None:
    data = small_series()
    data.to_netcdf(tmp_path / "a.nc", engine="netcdf4", encoding={"sp": {"chunksizes": (3, 8, 6), "dtype": "f4"}})
    assert [asset.block_bytes for asset in weather(tmp_path)[0].assets] == [3 * 8 * 6 * 4]


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b"latitude", b"\xff\xff\xff\xfftude", 1),
        lambda data: data[:40] + b"\x7f" * 60 + data[100:],
    ],
)
def test_a_damaged_header_of_classic_netcdf_is_a_verdict(change: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "a.nc"
    small_series().to_netcdf(path, engine="netcdf4", format="NETCDF3_64BIT")
    whole = path.read_bytes()
    for place in range(4, 200, 4):
        path.write_bytes(whole[:place] + b"\x7f\xff\xff\xff" + whole[place + 4 :])
        try:
            refuse_cut_short(path)
        except ValueError:
            continue
    path.write_bytes(change(whole))
    (scene,) = weather(tmp_path)
    assert "a.nc does not decode" in scene.verdict


def messages(path: Path, **keys: Any) -> list[bytes]:
    """Six messages of GRIB 2 as bytes."""
    eccodes = pytest.importorskip("eccodes")
    made = []
    for hour in range(6):
        handle = eccodes.codes_grib_new_from_samples("regular_ll_sfc_grib2")
        wanted: dict[str, Any] = {
            "Ni": 12, "Nj": 8, "latitudeOfFirstGridPointInDegrees": 52.0, "longitudeOfFirstGridPointInDegrees": 5.0,
            "latitudeOfLastGridPointInDegrees": 50.25, "longitudeOfLastGridPointInDegrees": 7.75,
            "iDirectionIncrementInDegrees": 0.25, "jDirectionIncrementInDegrees": 0.25, "dataDate": 20220831,
            "dataTime": hour * 100, "paramId": 134, "bitsPerValue": 16, **keys,
        }  # fmt: skip
        for key, value in wanted.items():
            eccodes.codes_set(handle, key, value)
        eccodes.codes_set_values(handle, np.random.default_rng(hour).normal(99000, 1500, 96))
        made.append(eccodes.codes_get_message(handle))
        eccodes.codes_release(handle)
    return made


@pytest.mark.parametrize("number", [0, 1, 0x7FFFFFFF, 0xFFFFFFFE, 500_000_000])
@pytest.mark.parametrize(("section", "at"), [(3, 6), (3, 30), (3, 34), (5, 5), (7, 0)])
def test_a_header_of_grib_that_asks_for_more_than_its_message_holds_is_a_verdict(
    section: int, at: int, number: int, tmp_path: Path
) -> None:
    """Number of points, columns and rows in section 3; of values in section 5; the length of section 7."""
    good, *rest = messages(tmp_path)
    place = 16
    while good[place + 4] != section:
        place += int.from_bytes(good[place : place + 4], "big")
    bad = good[: place + at] + struct.pack(">I", number) + good[place + at + 4 :]
    (tmp_path / "bad.grib").write_bytes(b"".join([bad, *rest]))
    found = weather(tmp_path)
    if any(scene.verdict for scene in found):
        return
    source = Era5("w", Archive(source="era5", path=tmp_path, bands=("sp",)))
    grid = Grid(crs="EPSG:4326", pixel=0.25, origin_x=4.875, origin_y=52.125)
    frame = Window(datetime(2022, 8, 31, tzinfo=UTC), datetime(2022, 9, 1, tzinfo=UTC))
    reader = RasterReader(1, attempts=1)
    try:
        seen = source.observe(found[0], frame, grid, PixelArea(row=0, col=0, rows=8, cols=12), reader)
    except CorruptInput:
        return
    finally:
        reader.close()
    # the number is not used by the decoder
    expected = np.mean([np.random.default_rng(hour).normal(99000, 1500, (8, 12)) for hour in range(6)], axis=0)
    np.testing.assert_allclose(seen.values_cyx[0], expected, atol=1)


# --- codecs that run code --------------------------------------------------------------------------------


@dataclass
class Opens:
    """An object that writes a file when it is unpickled."""

    mark: Path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.mark, "code ran")


def evil_v2(store: Path, mark: Path, *, consolidated: bool) -> None:
    """A store of Zarr 2 whose latitudes are decoded by `pickle`."""
    small_series().to_zarr(store, zarr_format=2, consolidated=consolidated)
    path = store / "latitude" / ".zarray"
    facts = json.loads(path.read_text())
    facts |= {"compressor": None, "dtype": "|O", "fill_value": "", "filters": [{"id": "vlen-utf8"}, {"id": "pickle"}]}
    path.write_text(json.dumps(facts))
    (store / "latitude" / "0").write_bytes(pickle.dumps(Opens(mark)))
    if consolidated:
        together = json.loads((store / ".zmetadata").read_text())
        together["metadata"]["latitude/.zarray"] = facts
        (store / ".zmetadata").write_text(json.dumps(together))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("consolidated", [True, False])
def test_a_store_whose_codec_runs_code_is_not_opened(
    consolidated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where numcodecs unpickles, as its versions before 0.16.6 do."""
    import numcodecs.pickles

    monkeypatch.setattr(numcodecs.pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True)
    small_series().to_zarr(tmp_path / "archive" / "good.zarr", zarr_format=2)
    evil_v2(tmp_path / "archive" / "evil.zarr", tmp_path / "mark", consolidated=consolidated)
    (verdict,) = [scene.verdict for scene in weather(tmp_path / "archive") if scene.verdict]
    assert "the codec pickle is not among those that are read" in verdict
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("codecs", "named"),
    [
        (["numcodecs.pickle"], "numcodecs.pickle"),
        ([{"name": "bytes"}, {"name": "numcodecs.msgpack2", "configuration": {}}], "numcodecs.msgpack2"),
        ([{"name": "sharding_indexed", "configuration": {"codecs": [{"name": "mine"}], "index_codecs": []}}], "mine"),
        ([{"name": "sharding_indexed", "configuration": {"codecs": [], "index_codecs": [{"name": "own"}]}}], "own"),
    ],
)
@pytest.mark.filterwarnings("ignore:Consolidated metadata:UserWarning")
@pytest.mark.parametrize("where", ["array", "consolidated"])
def test_unknown_codecs_of_zarr_3_are_refused_wherever_they_are_named(
    codecs: list[Any], named: str, where: str, tmp_path: Path
) -> None:
    store = tmp_path / "a.zarr"
    small_series().to_zarr(store, zarr_format=3, consolidated=where == "consolidated")
    refuse_store(store)
    path = store / ("zarr.json" if where == "consolidated" else "sp/zarr.json")
    document = json.loads(path.read_text())
    node = document["consolidated_metadata"]["metadata"]["sp"] if where == "consolidated" else document
    node["codecs"] = codecs
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=f"sp: the codec {named} is not among those that are read"):
        refuse_store(store)


@pytest.mark.parametrize(
    "text", ["[" * 200_000, '{"a":' * 200_000, "[]", "7", "{", '{"zarr_format": 3, "node_type": "array"}']
)
def test_metadata_of_a_store_that_cannot_be_understood_is_a_verdict(text: str, tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    small_series().to_zarr(store, zarr_format=3, consolidated=False)
    (store / "sp" / "zarr.json").write_text(text)
    (scene,) = weather(tmp_path)
    assert scene.verdict


def test_an_axis_of_a_store_that_no_memory_holds_is_a_verdict(tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    small_series().to_zarr(store, zarr_format=3, consolidated=False)
    path = store / "time" / "zarr.json"
    document = json.loads(path.read_text())
    document["shape"] = [1 << 40]
    path.write_text(json.dumps(document))
    (scene,) = weather(tmp_path)
    assert "time has 1,099,511,627,776 points along its axis" in scene.verdict
