"""Small archives of images: GeoTIFF, COG and JPEG 2000 in plain folders, with STAC Items, and as SAFE."""

import hashlib
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.transform import from_origin
from rasterio.warp import transform_bounds
from tests.fuzz.inputs import Input

SIDE_PX, CELL_PX = 64, 16
WEST, NORTH = 400_000.0, 5_600_000.0
CRS = "EPSG:32632"
BANDS = ("B02", "B03")
CLEAR = 4
DAYS = ("20230605", "20230705")
"""of the scene that is spared, and of the one that is damaged"""

TIFF: dict[str, Any] = {"driver": "GTiff", "tiled": True, "blockxsize": 32, "blockysize": 32}
JP2: dict[str, Any] = {"driver": "JP2OpenJPEG", "reversible": "yes", "quality": 100, "blockxsize": 32, "blockysize": 32}


def images_input(archive: dict[str, Any], files: tuple[str, ...]) -> Input:
    """An input on the pixels of `write_band`, one chip a window."""
    return Input(
        archive={"source": "sentinel2", "path": "archive", "bands": list(BANDS), **archive},
        grid={"crs": CRS, "pixel": 10, "origin": [WEST, NORTH]},
        region={"bbox": [WEST, NORTH - SIDE_PX * 10, WEST + SIDE_PX * 10, NORTH], "crs": CRS},
        windows=(("2023-06-01", "2023-07-01"), ("2023-07-01", "2023-08-01")),
        layer={
            "backbone": {"name": "mosaiks", "filters": 2},
            "chip_px": SIDE_PX + 2,
            "halo_px": 1,
            "cell_px": CELL_PX,
            "shard_chips": 1,
        },
        files=files,
    )


def texture(seed: int, side: int = SIDE_PX) -> NDArray[np.uint16]:
    """Pixels as a field has them: slopes with some noise, so that they compress."""
    rows, cols = np.mgrid[:side, :side]
    noise = np.random.default_rng(seed).integers(0, 60, (side, side))
    made: NDArray[np.float64] = 1200 + 9 * rows + 5 * cols + 300 * np.sin((rows + seed) / 7) + noise
    return made.astype(np.uint16)


def write_band(path: Path, pixels: NDArray[Any], *, pixel_m: float = 10, west: float = WEST, **profile: Any) -> None:
    """A raster of the common place."""
    settings: dict[str, Any] = {"nodata": 0, "crs": CRS} | profile
    if settings["driver"] == "JP2OpenJPEG":
        del settings["nodata"]
    bands = pixels if pixels.ndim == 3 else pixels[None]
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", count=len(bands), height=bands.shape[1], width=bands.shape[2], dtype=pixels.dtype.name,
        transform=from_origin(west, NORTH, pixel_m, pixel_m), **settings,
    ) as target:  # fmt: skip
        target.write(bands)


def write_scenes(folder: Path, *, mask: bool = False, **profile: Any) -> list[Path]:
    """Two scenes in plain folders, known by the dates in their names; returns the bands of the second."""
    suffix = ".jp2" if profile["driver"] == "JP2OpenJPEG" else ".tif"
    paths = []
    for number, day in enumerate(DAYS):
        name = f"T32ULB_{day}T103629"
        paths = [folder / "archive" / name / f"{name}_{band}{suffix}" for band in BANDS]
        for place, path in enumerate(paths):
            write_band(path, texture(2 * number + place), **profile)
        if mask:
            classes = np.full((SIDE_PX // 2, SIDE_PX // 2), CLEAR, dtype=np.uint8)
            write_band(paths[0].with_name(f"{name}_SCL{suffix}"), classes, pixel_m=20, **profile)
            paths.append(paths[0].with_name(f"{name}_SCL{suffix}"))
    return paths


def plain(folder: Path, *, mask: bool = True, **profile: Any) -> Input:
    """Plain folders, of which one file of the second scene is damaged."""
    paths = write_scenes(folder, mask=mask, **profile)
    archive = {"offset": 0} | ({"mask": {"band": "SCL", "clear": [CLEAR]}} if mask else {})
    return images_input(archive, tuple(str(path.relative_to(folder)) for path in paths))


def radar(folder: Path) -> Input:
    """Floating point, in decibels, half a pixel beside the grid, so that it is warped."""
    paths = []
    for number, day in enumerate(DAYS):
        name = f"S1A_IW_GRDH_1SDV_{day}T054318_VV"
        paths = [folder / "archive" / name / f"{band}.tif" for band in ("VV", "VH")]
        for place, path in enumerate(paths):
            decibels = -5 - texture(2 * number + place).astype(np.float32) / 300
            write_band(path, decibels, west=WEST - 5, **TIFF, compress="lzw", predictor=3, nodata=float("nan"))
    archive = {"source": "sentinel1", "bands": ["VV", "VH"], "options": {"values": "db"}}
    return images_input(archive, tuple(str(path.relative_to(folder)) for path in paths))


# --- STAC -----------------------------------------------------------------------------------------------------------


def _item(folder: Path, day: str, paths: list[Path], base: Path) -> dict[str, Any]:
    """The Item of a scene, with size and checksum of each file."""
    with rasterio.open(paths[0]) as band:
        box = transform_bounds(CRS, "EPSG:4326", *band.bounds)
    west, south, east, north = box
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {
        "type": "Feature", "stac_version": "1.0.0", "id": f"S2A_32ULB_{day}_0_L2A", "stac_extensions": [], "links": [],
        "bbox": list(box), "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {
            "datetime": f"{day[:4]}-{day[4:6]}-{day[6:]}T10:36:29Z", "platform": "sentinel-2a",
            "s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": True,
            "s2:datatake_id": f"GS2A_{day}T103629_041661_N05.09",
        },
        "assets": {
            path.stem.rpartition("_")[2].lower(): {
                "href": f"./{path.relative_to(base)}", "roles": ["data"], "file:size": path.stat().st_size,
                "file:checksum": "1220" + hashlib.sha256(path.read_bytes()).hexdigest(),
                "eo:bands": [{"name": path.stem.rpartition("_")[2]}],
            }
            for path in paths
        },
    }  # fmt: skip


def _with_items(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Two scenes, each with its Item's path and document; the Items are not written."""
    write_scenes(folder, mask=True, **TIFF, compress="deflate")
    found = []
    for place in sorted((folder / "archive").iterdir()):
        day = place.name.partition("_")[2][:8]
        found.append((place / f"{place.name}.json", _item(folder, day, sorted(place.glob("*.tif")), place)))
    return found


STAC_ARCHIVE: dict[str, Any] = {"mask": {"band": "SCL", "clear": [CLEAR]}}


def items(folder: Path) -> Input:
    """An Item beside the files of each scene."""
    found = _with_items(folder)
    for path, item in found:
        path.write_text(json.dumps(item))
    return images_input(STAC_ARCHIVE, (str(found[1][0].relative_to(folder)),))


def item_collections(folder: Path) -> Input:
    """A Collection with a link to the saved result of a search for each month; the second is damaged."""
    found = _with_items(folder)
    for path, item in found:
        for asset in item["assets"].values():
            asset["href"] = f"./{path.parent.name}/{asset['href'].removeprefix('./')}"
        month = folder / "archive" / f"items_{path.parent.name}.json"
        month.write_text(json.dumps({"type": "FeatureCollection", "features": [item]}))
    return _linked(folder, [f"items_{path.parent.name}.json" for path, _ in found])


def catalogue(folder: Path) -> Input:
    """A Collection with a link to each Item; the second Item is damaged."""
    found = _with_items(folder)
    for path, item in found:
        path.write_text(json.dumps(item))
    return _linked(folder, [f"{path.parent.name}/{path.name}" for path, _ in found])


def _linked(folder: Path, names: list[str]) -> Input:
    document = {
        "type": "Collection", "stac_version": "1.0.0", "id": "fuzz", "description": "", "license": "CC0-1.0",
        "extent": {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [[None, None]]}},
        "links": [{"rel": "item", "href": f"./{name}"} for name in names],
    }  # fmt: skip
    (folder / "archive" / "collection.json").write_text(json.dumps(document))
    return images_input(STAC_ARCHIVE | {"path": "archive/collection.json"}, (f"archive/{names[1]}",))


# --- SAFE -----------------------------------------------------------------------------------------------------------


def _write_safe(folder: Path, day: str, seed: int) -> Path:
    """A product of Level-2A as the ground segment has it, cut to the bands that are read."""
    name = f"S2A_MSIL2A_{day}T103629_N0509_R008_T32ULB_{day}T150000"
    safe = folder / "archive" / f"{name}.SAFE"
    images = safe / "GRANULE" / f"L2A_T32ULB_A041661_{day}T103630" / "IMG_DATA"
    for place, band in enumerate(BANDS):
        path = images / "R10m" / f"T32ULB_{day}T103629_{band}_10m.jp2"
        write_band(path, texture(seed + place) + np.uint16(1000), **JP2)
    classes = np.full((SIDE_PX // 2, SIDE_PX // 2), CLEAR, dtype=np.uint8)
    write_band(images / "R20m" / f"T32ULB_{day}T103629_SCL_20m.jp2", classes, pixel_m=20, **JP2)
    offsets = "".join(f'<BOA_ADD_OFFSET band_id="{band}">-1000</BOA_ADD_OFFSET>' for band in range(3))
    moment = f"{day[:4]}-{day[4:6]}-{day[6:]}T10:36:29.024Z"
    (safe / "MTD_MSIL2A.xml").write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n<n1:Level-2A_User_Product xmlns:n1="https://example.org/PSD">'
        "<n1:General_Info><Product_Info>"
        f"<PRODUCT_START_TIME>{moment}</PRODUCT_START_TIME><PRODUCT_URI>{safe.name}</PRODUCT_URI>"
        "<PROCESSING_LEVEL>Level-2A</PROCESSING_LEVEL><PROCESSING_BASELINE>05.09</PROCESSING_BASELINE>"
        f"<GENERATION_TIME>{moment}</GENERATION_TIME>"
        f'<Datatake datatakeIdentifier="GS2A_{day}T103629_041661_N05.09">'
        f"<DATATAKE_SENSING_START>{moment}</DATATAKE_SENSING_START></Datatake></Product_Info>"
        f"<BOA_ADD_OFFSET_VALUES_LIST>{offsets}</BOA_ADD_OFFSET_VALUES_LIST></n1:General_Info>"
        "</n1:Level-2A_User_Product>"
    )
    objects = "".join(
        f'<dataObject ID="file{i}"><byteStream mimeType="application/octet-stream" size="{path.stat().st_size}">'
        f'<fileLocation locatorType="URL" href="./{path.relative_to(safe)}"/>'
        f'<checksum checksumName="SHA3-256">{hashlib.sha3_256(path.read_bytes()).hexdigest()}</checksum>'
        "</byteStream></dataObject>"
        for i, path in enumerate(sorted(path for path in safe.rglob("*") if path.is_file()))
    )
    (safe / "manifest.safe").write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n<xfdu:XFDU xmlns:xfdu="urn:ccsds:schema:xfdu:1">'
        f"<dataObjectSection>{objects}</dataObjectSection></xfdu:XFDU>"
    )
    return safe


def safe_folders(folder: Path) -> Input:
    """Two products; the manifest or the metadata of the second is damaged."""
    safes = [_write_safe(folder, day, 2 * number) for number, day in enumerate(DAYS)]
    files = (safes[1] / "manifest.safe", safes[1] / "MTD_MSIL2A.xml")
    return images_input(STAC_ARCHIVE, tuple(str(path.relative_to(folder)) for path in files))


def safe_zips(folder: Path) -> Input:
    """Two products in zips, of which the second is damaged anywhere."""
    for number, day in enumerate(DAYS):
        safe = _write_safe(folder, day, 2 * number)
        zipped = safe.with_suffix(".zip")
        with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(safe.rglob("*")):
                archive.write(path, path.relative_to(safe.parent))
        shutil.rmtree(safe)
    return images_input(STAC_ARCHIVE, (str(zipped.relative_to(folder)),))
