"""Products of Sentinel-1 SAFE folders and zips: listed, not read, because their pixels are in radar geometry.

Other software calibrates and terrain-corrects them (sarsen, pyroSAR, SNAP). For GRD in folders
`sources/sentinel1/grd.py` calls sarsen, if the archive names a DEM.
"""

import logging
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from embedcube.campaign.boxes import Box
from embedcube.printable import printable
from embedcube.sources.catalog.dates import time_in
from embedcube.sources.catalog.files import ABSENT, lasting, not_a_file, read_bounded, read_member
from embedcube.sources.catalog.products import Names, Product, unusable

_NAME = re.compile(r"^(S1[A-D]_\w\w_(?:GRD|SLC)\w_1\w(SH|SV|DH|DV)_\d{8}T\d{6}_\w+)(?:\.SAFE|\.zip|\.SAFE\.zip)$")

_POLARISATIONS = {"SH": {"hh"}, "SV": {"vv"}, "DH": {"hh", "hv"}, "DV": {"vv", "vh"}}
"""Polarisations, by the letters in a product's name"""

AS_THE_RADAR_SAW = (
    "it is Sentinel-1 as the radar saw it: calibrate and terrain-correct it first, for example with sarsen, and give "
    "the GeoTIFFs"
)

_PACKED_GRD = f"{AS_THE_RADAR_SAW}; or unpack it, write options: {{dem: heights.tif}} and install embedcube[s1-safe]"

MANIFEST_BYTES = 64 << 20
"""largest manifest"""

log = logging.getLogger(__name__)


def is_radar_safe(path: Path) -> bool:
    """Whether a folder or zip is a product of Sentinel-1, by its name."""
    return _NAME.match(path.name) is not None


def radar_products(path: Path, names: Names) -> Iterator[Product]:
    """The product of a SAFE folder or zip, with a fault that says what to do first.

    There is none if the SAFE has no polarisation of the archive.

    Raises:
        OSError: its manifest could not be read for a reason that may pass.
    """
    match = _NAME.match(path.name)
    assert match is not None
    if not any(_POLARISATIONS[match[2]] & known for known in names.values()):
        return
    time = time_in(match[1])
    if time is None:
        yield unusable(match[1], f"{path.name} has no date in its name")
        return
    bbox, properties = _described(path)
    grd = "_GRD" in match[1]
    yield Product(
        id=match[1],
        time=time,
        files={},
        fault=_PACKED_GRD if grd else AS_THE_RADAR_SAW,
        properties=properties,
        bbox=bbox,
        radar_safe=path if grd and path.is_dir() else None,
    )


def _described(path: Path) -> tuple[Box | None, dict[str, Any]]:
    """Footprint and orbit state of a product, as far as its manifest states them."""
    try:
        root = ElementTree.fromstring(_manifest(path))
        texts = {element.tag.rpartition("}")[2]: (element.text or "").strip() for element in root.iter()}
        corners = [tuple(map(float, corner.split(","))) for corner in texts.get("coordinates", "").split()]
        lats, lons = zip(*corners, strict=True) if corners else ((), ())
    except OSError as error:
        if not lasting(error):
            raise
        return None, {}
    except Exception:
        # it is in need of other software anyway, which will say what is wrong with it
        log.debug("%s", printable(path), exc_info=True)
        return None, {}
    properties = {"sat:orbit_state": texts["pass"].lower()} if texts.get("pass") else {}
    if not lons:
        return None, properties
    if max(lons) - min(lons) > 180:  # across the antimeridian: west is the larger number
        return (min(x for x in lons if x > 0), min(lats), max(x for x in lons if x < 0), max(lats)), properties
    return (min(lons), min(lats), max(lons), max(lats)), properties


def _manifest(path: Path) -> bytes:
    if path.is_dir():
        if not_a_file(path / "manifest.safe") == ABSENT:
            raise ValueError("it has no manifest")
        return read_bounded(path / "manifest.safe", MANIFEST_BYTES)
    with zipfile.ZipFile(path) as archive:
        name = next((name for name in archive.namelist() if name.endswith("/manifest.safe")), "manifest.safe")
        return read_member(archive, name, MANIFEST_BYTES)
