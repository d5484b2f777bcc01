"""Sentinel-1 GRD in SAFE folders: positions and values of pixels that sarsen geocodes, compared with closed formulas.

The products are synthetic: a circular orbit, an Earth that does not rotate, ground range twice the slant range. So line
and pixel of a location follow from a few lines of arithmetic, independent of the libraries that are tested.
"""

import hashlib
import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.control import GroundControlPoint
from tests.conftest import Campaign

from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Archive
from embedcube.cube.reader import Cube
from embedcube.errors import CorruptInput, RequestError
from embedcube.grid import Grid, PixelArea
from embedcube.sources.base import Observation
from embedcube.sources.reader import RasterReader
from embedcube.sources.sentinel1.source import Sentinel1
from embedcube.testing.contracts import check_source
from embedcube.windows import Window

UTM = Transformer.from_crs("EPSG:32632", "EPSG:4326", always_xy=True)

Floats = NDArray[np.float64]

pytest.importorskip("sarsen", reason="needs the extra s1-safe")

NAME = "S1A_IW_GRDH_1SDV_20200607T010800_20200607T010825_032904_03CFBA_D457"
GRID = Grid(crs="EPSG:32632", pixel=10)
LEFT, TOP = 600_000.0, 5_500_000.0
AREA = PixelArea(row=-int(TOP) // 10 + 100, col=int(LEFT) // 10 + 100, rows=150, cols=140)
ALL_TIME = Window(datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
START = datetime(2020, 6, 7, 1, 8, tzinfo=UTC)
LIGHT = 299_792_458.0
SIGMA, BETA = 400.0, 300.0
"""the calibration tables, which are constant"""


# --- geometry -------------------------------------------------------------------------------------


def earth_fixed(lon: Floats, lat: Floats, height: Floats) -> Floats:
    """Earth-centred coordinates (..., 3) in metres, by the definition of WGS 84."""
    a, e2 = 6_378_137.0, 6.694379990141316e-3
    lam, phi = np.radians(lon), np.radians(lat)
    n = a / np.sqrt(1 - e2 * np.sin(phi) ** 2)
    return np.stack(
        [
            (n + height) * np.cos(phi) * np.cos(lam),
            (n + height) * np.cos(phi) * np.sin(lam),
            (n * (1 - e2) + height) * np.sin(phi),
        ],
        axis=-1,
    )


@dataclass(frozen=True)
class Radar:
    """An orbit southward on a circle, looking to the right."""

    lines: int = 420
    pixels: int = 460
    spacing_m: float = 10.0
    radius_m: float = 7_071_000.0
    rate: float = 7_500.0 / 7_071_000.0
    """radians in a second"""
    orbit_s: float = 0.0
    """from the middle of the image to the middle of the orbit's positions, where sarsen begins to search"""

    @property
    def line_s(self) -> float:
        return self.spacing_m / (6_371_000.0 * self.rate)

    @cached_property
    def plane(self) -> tuple[Floats, Floats]:
        """Position and direction of flight in the middle of the image."""
        lon, lat = UTM.transform(LEFT + 1700, TOP - 1750)
        up = earth_fixed(np.array(lon), np.array(lat), np.array(400.0))
        up /= np.linalg.norm(up)
        south = np.cross(np.cross(up, [0.0, 0.0, -1.0]), up)
        heading = south / np.linalg.norm(south) + 0.2 * np.cross(south, up)
        heading -= up * (heading @ up)
        heading /= np.linalg.norm(heading)
        right = np.cross(heading, up)
        return np.cos(0.09) * up - np.sin(0.09) * right, heading

    def position(self, seconds: Floats) -> tuple[Floats, Floats]:
        """Position and velocity, (..., 3)."""
        (here, ahead), angle = self.plane, self.rate * np.asarray(seconds)[..., None]
        place = self.radius_m * (np.cos(angle) * here + np.sin(angle) * ahead)
        return place, self.radius_m * self.rate * (np.cos(angle) * ahead - np.sin(angle) * here)

    def seen_at(self, lon: Floats, lat: Floats, height: Floats) -> tuple[Floats, Floats]:
        """Seconds from the middle of the image, and slant range, of points at zero Doppler."""
        (here, ahead), place = self.plane, earth_fixed(lon, lat, height)
        seconds = np.arctan2(place @ ahead, place @ here) / self.rate
        return seconds, np.linalg.norm(place - self.position(seconds)[0], axis=-1)

    @cached_property
    def near_m(self) -> float:
        """Slant range of the first pixel."""
        lon, lat = UTM.transform(LEFT + 1700, TOP - 1750)
        middle = self.seen_at(np.array(lon), np.array(lat), np.array(400.0))[1]
        return float(middle) - self.pixels * self.spacing_m / 4

    def line_pixel(self, lon: Floats, lat: Floats, height: Floats) -> tuple[Floats, Floats]:
        seconds, slant_m = self.seen_at(lon, lat, height)
        return seconds / self.line_s + (self.lines - 1) / 2, 2 * (slant_m - self.near_m) / self.spacing_m

    def place(self, line: Floats, pixel: Floats, height: float = 400.0) -> tuple[Floats, Floats]:
        """Longitude and latitude of lines and pixels: Newton's method on `line_pixel`."""
        x, y = np.full(line.shape, LEFT + 1700), np.full(line.shape, TOP - 1750)

        def found(x: Floats, y: Floats) -> Floats:
            return np.stack(self.line_pixel(*UTM.transform(x, y), np.full(x.shape, height)))

        for _ in range(8):
            off = np.stack([line, pixel]) - found(x, y)
            dx, dy = found(x + 1, y) - found(x, y), found(x, y + 1) - found(x, y)
            det = dx[0] * dy[1] - dx[1] * dy[0]
            x = x + (off[0] * dy[1] - off[1] * dy[0]) / det
            y = y + (dx[0] * off[1] - dx[1] * off[0]) / det
        lon, lat = UTM.transform(x, y)
        return lon, lat


RADAR = Radar()


# --- a product ------------------------------------------------------------------------------------


def stamp(seconds: float) -> str:
    """The time so many seconds after the middle of the image, as text."""
    return (START + timedelta(seconds=15 + float(seconds))).strftime("%Y-%m-%dT%H:%M:%S.%f")


def annotation(radar: Radar, band: str, frame: str = "Earth Fixed") -> str:
    half = (radar.lines - 1) / 2 * radar.line_s
    orbit = ""
    for second in np.arange(-40, 41, 10.0) + radar.orbit_s:
        place, velocity = radar.position(np.array(second))
        parts = [
            f"<{tag}><x>{v[0]:.9e}</x><y>{v[1]:.9e}</y><z>{v[2]:.9e}</z></{tag}>"
            for tag, v in (("position", place), ("velocity", velocity))
        ]
        orbit += f"<orbit><time>{stamp(second)}</time><frame>{frame}</frame>{''.join(parts)}</orbit>"
    points = ""
    for line in np.linspace(0, radar.lines - 1, 4).round():
        for pixel in np.linspace(0, radar.pixels - 1, 4).round():
            lon, lat = radar.place(np.array(line), np.array(pixel))
            slant_s = 2 * (radar.near_m + pixel * radar.spacing_m / 2) / LIGHT
            points += (
                f"<geolocationGridPoint><azimuthTime>{stamp(line * radar.line_s - half)}</azimuthTime>"
                f"<slantRangeTime>{slant_s:.15e}</slantRangeTime><line>{line:.0f}</line><pixel>{pixel:.0f}</pixel>"
                f"<latitude>{lat:.12e}</latitude><longitude>{lon:.12e}</longitude><height>400</height>"
                "<incidenceAngle>39</incidenceAngle><elevationAngle>34</elevationAngle></geolocationGridPoint>"
            )
    conversions = "".join(
        f"<coordinateConversion><azimuthTime>{stamp(second)}</azimuthTime>"
        f"<slantRangeTime>{2 * radar.near_m / LIGHT:.15e}</slantRangeTime><sr0>{radar.near_m:.9e}</sr0>"
        '<srgrCoefficients count="2">0 2</srgrCoefficients><gr0>0</gr0>'
        f'<grsrCoefficients count="2">{radar.near_m:.9e} 0.5</grsrCoefficients></coordinateConversion>'
        for second in (-2.0, 0.0, 2.0)
    )
    return (
        f"<product><adsHeader><missionId>S1A</missionId><productType>GRD</productType><polarisation>{band}</polarisation>"
        f"<mode>IW</mode><swath>IW</swath></adsHeader><generalAnnotation><productInformation><pass>Descending</pass>"
        "<projection>Ground Range</projection><rangeSamplingRate>6.434523812571428e+07</rangeSamplingRate>"
        "<radarFrequency>5.405000454334350e+09</radarFrequency>"
        "<azimuthSteeringRate>1.59</azimuthSteeringRate></productInformation>"
        f'<orbitList count="9">{orbit}</orbitList></generalAnnotation><imageAnnotation><imageInformation>'
        f"<productFirstLineUtcTime>{stamp(-half)}</productFirstLineUtcTime>"
        f"<productLastLineUtcTime>{stamp(half)}</productLastLineUtcTime>"
        f"<ascendingNodeTime>{stamp(-1800)}</ascendingNodeTime>"
        f"<slantRangeTime>{2 * radar.near_m / LIGHT:.15e}</slantRangeTime>"
        f"<rangePixelSpacing>{radar.spacing_m}</rangePixelSpacing>"
        f"<azimuthPixelSpacing>{radar.spacing_m}</azimuthPixelSpacing>"
        f"<azimuthTimeInterval>{radar.line_s:.15e}</azimuthTimeInterval>"
        f"<numberOfSamples>{radar.pixels}</numberOfSamples><numberOfLines>{radar.lines}</numberOfLines>"
        "<incidenceAngleMidSwath>39</incidenceAngleMidSwath></imageInformation></imageAnnotation>"
        f'<coordinateConversion><coordinateConversionList count="3">{conversions}</coordinateConversionList>'
        "</coordinateConversion><swathTiming><linesPerBurst>0</linesPerBurst><samplesPerBurst>0</samplesPerBurst>"
        '<burstList count="0"/></swathTiming>'
        f'<geolocationGrid><geolocationGridPointList count="16">{points}</geolocationGridPointList></geolocationGrid>'
        "</product>"
    )


def vectors(radar: Radar, kind: str, tables: dict[str, float]) -> str:
    """Calibration or noise: tables of a few lines and pixels."""
    pixels = [0, radar.pixels // 2, radar.pixels]
    body = ""
    for line in (0, radar.lines // 2, radar.lines):
        numbers = "".join(f'<{tag} count="3">{" ".join(3 * [f"{value:.6e}"])}</{tag}>' for tag, value in tables.items())
        body += (
            f"<{kind}Vector><azimuthTime>{stamp(0)}</azimuthTime><line>{line}</line>"
            f'<pixel count="3">{" ".join(map(str, pixels))}</pixel>{numbers}</{kind}Vector>'
        )
    return f'<{kind}VectorList count="3">{body}</{kind}VectorList>'


def manifest(files: dict[str, tuple[str, bytes]]) -> str:
    """A manifest of `files`: kind and bytes of each."""
    objects = "".join(
        f'<dataObject ID="d{i}" repID="{kind}"><byteStream mimeType="x" size="{len(data)}">'
        f'<fileLocation locatorType="URL" href="./{name}"/>'
        f'<checksum checksumName="MD5">{hashlib.md5(data).hexdigest()}</checksum></byteStream></dataObject>'
        for i, (name, (kind, data)) in enumerate(files.items())
    )
    return (
        '<xfdu:XFDU xmlns:xfdu="urn:ccsds:schema:xfdu:1" xmlns:safe="http://www.esa.int/safe/sentinel-1.0" '
        'xmlns:s1="http://www.esa.int/safe/sentinel-1.0/sentinel-1" xmlns:gml="http://www.opengis.net/gml" '
        'xmlns:s1sarl1="http://www.esa.int/safe/sentinel-1.0/sentinel-1/sar/level-1"><metadataSection>'
        "<safe:platform><safe:familyName>SENTINEL-1</safe:familyName><safe:number>A</safe:number><safe:instrument>"
        "<s1sarl1:instrumentMode><s1sarl1:mode>IW</s1sarl1:mode><s1sarl1:swath>IW</s1sarl1:swath>"
        "</s1sarl1:instrumentMode></safe:instrument></safe:platform>"
        '<safe:orbitReference><safe:orbitNumber type="start">32904</safe:orbitNumber>'
        '<safe:orbitNumber type="stop">32904</safe:orbitNumber><safe:relativeOrbitNumber type="start">7'
        '</safe:relativeOrbitNumber><safe:relativeOrbitNumber type="stop">7</safe:relativeOrbitNumber>'
        f"<s1:pass>DESCENDING</s1:pass><s1:ascendingNodeTime>{stamp(-1800)}</s1:ascendingNodeTime>"
        f"</safe:orbitReference><safe:startTime>{stamp(-1)}</safe:startTime><safe:stopTime>{stamp(1)}</safe:stopTime>"
        "<s1sarl1:missionDataTakeID>249786</s1sarl1:missionDataTakeID>"
        "<s1sarl1:transmitterReceiverPolarisation>VV</s1sarl1:transmitterReceiverPolarisation>"
        "<s1sarl1:transmitterReceiverPolarisation>VH</s1sarl1:transmitterReceiverPolarisation>"
        "<s1sarl1:productType>GRD</s1sarl1:productType><safe:footPrint><gml:coordinates>"
        "49.7,10.3 49.7,10.5 49.5,10.5 49.5,10.3</gml:coordinates></safe:footPrint></metadataSection>"
        f"<dataObjectSection>{objects}</dataObjectSection></xfdu:XFDU>"
    )


def write_safe(root: Path, numbers: dict[str, NDArray[np.uint16]], radar: Radar = RADAR, name: str = NAME) -> Path:
    """A SAFE folder with the DN of each polarisation."""
    safe, files = root / f"{name}.SAFE", {}
    corners = [
        GroundControlPoint(line + 0.5, pixel + 0.5, *map(float, radar.place(np.array(line), np.array(pixel))), 400)
        for line in (0, radar.lines - 1)
        for pixel in (0, radar.pixels - 1)
    ]
    for i, (band, values) in enumerate(numbers.items(), start=1):
        stem = f"s1a-iw-grd-{band.lower()}-20200607t010800-20200607t010825-032904-03cfba-00{i}"
        image = safe / "measurement" / f"{stem}.tiff"
        image.parent.mkdir(parents=True, exist_ok=True)
        shape: dict[str, Any] = {"height": radar.lines, "width": radar.pixels, "count": 1, "dtype": "uint16"}
        with rasterio.open(image, "w", driver="GTiff", gcps=corners, crs="EPSG:4326", **shape) as file:
            file.write(values, 1)
        calibration = vectors(
            radar, "calibration", {"sigmaNought": SIGMA, "betaNought": BETA, "gamma": 350.0, "dn": BETA}
        )
        texts = {
            f"annotation/{stem}.xml": ("s1Level1ProductSchema", annotation(radar, band)),
            f"annotation/calibration/calibration-{stem}.xml": (
                "s1Level1CalibrationSchema",
                "<calibration><calibrationInformation><absoluteCalibrationConstant>1</absoluteCalibrationConstant>"
                f"</calibrationInformation>{calibration}</calibration>",
            ),
            f"annotation/calibration/noise-{stem}.xml": (
                "s1Level1NoiseSchema",
                f"<noise>{vectors(radar, 'noiseRange', {'noiseRangeLut': 50.0})}</noise>",
            ),
        }
        for path, (kind, text) in texts.items():
            (safe / path).parent.mkdir(parents=True, exist_ok=True)
            (safe / path).write_text(text)
            files[path] = (kind, text.encode())
        files[f"measurement/{image.name}"] = ("s1Level1MeasurementSchema", image.read_bytes())
    (safe / "manifest.safe").write_text(manifest(files))
    return safe


def hills(x: Floats, y: Floats) -> Floats:
    """Heights of up to 600 m above the ellipsoid."""
    return np.asarray(400 + 150 * np.sin(x / 900) + 50 * np.cos(y / 700))


def write_dem(path: Path, height: Callable[[Floats, Floats], Floats] = hills, pixel: float = 10.0) -> Path:
    side = int(5000 / pixel)
    x = LEFT - 700 + (np.arange(side) + 0.5) * pixel
    y = TOP + 700 - (np.arange(side) + 0.5) * pixel
    place = rasterio.transform.from_origin(LEFT - 700, TOP + 700, pixel, pixel)
    raster: dict[str, Any] = {"driver": "GTiff", "width": side, "height": side, "count": 1, "dtype": "float32"}
    with rasterio.open(path, "w", crs=GRID.crs, transform=place, nodata=-9999, **raster) as file:
        file.write(height(*np.meshgrid(x, y)).astype(np.float32), 1)
    return path


def ramp(radar: Radar = RADAR) -> NDArray[np.uint16]:
    """DN that are linear in line and pixel."""
    line, pixel = np.mgrid[: radar.lines, : radar.pixels]
    return np.asarray(1000 + 4 * line + 7 * pixel, dtype=np.uint16)


def archive(path: Path, bands: tuple[str, ...] = ("VV", "VH"), **keys: Any) -> Archive:
    options = {"dem": "dem.tif"} | keys.pop("options", {})
    return Archive(source="sentinel1", path=path, bands=bands, options=options, **keys)


@pytest.fixture
def product(tmp_path: Path) -> Path:
    """An archive with one product and its terrain: VV a ramp, VH half of it."""
    write_safe(tmp_path, {"VV": ramp(), "VH": ramp() // 2})
    write_dem(tmp_path / "dem.tif")
    return tmp_path


@pytest.fixture
def reader() -> Iterator[RasterReader]:
    opened = RasterReader(2, attempts=2, wait_s=0.01)
    yield opened
    opened.close()


def observed(
    where: Archive, reader: RasterReader, grid: Grid = GRID, area: PixelArea = AREA
) -> tuple[Scene, Observation]:
    source = Sentinel1("radar", where)
    (scene,) = source.scenes(full_digests=False)
    assert scene.verdict == ""
    return scene, source.observe(scene, ALL_TIME, grid, area, reader)


def line_pixel_of(grid: Grid, area: PixelArea) -> tuple[Floats, Floats]:
    """Line and pixel of each grid pixel of an area, on the hills."""
    lon, lat = grid.degrees(area, 1)
    x, y = UTM.transform(lon, lat, direction="INVERSE")
    return RADAR.line_pixel(lon, lat, hills(x, y))


def test_every_pixel_is_where_and_what_the_formulas_say(product: Path, reader: RasterReader) -> None:
    _, seen = observed(archive(product), reader)
    line, pixel = line_pixel_of(GRID, AREA)
    expected = (1000 + 4 * line + 7 * pixel) ** 2 / SIGMA**2
    assert seen.seen_yx.all()
    # a hundredth of a pixel is 7e-5 of the power
    np.testing.assert_allclose(seen.values_cyx[0], expected, rtol=2e-4)
    np.testing.assert_allclose(seen.values_cyx[1], expected / 4, rtol=2e-3)


def test_a_bright_target_appears_at_its_place(tmp_path: Path, reader: RasterReader) -> None:
    for line, pixel in ((200, 230), (150, 300)):
        root = tmp_path / f"{line}"
        numbers = np.full((RADAR.lines, RADAR.pixels), 100, np.uint16)
        numbers[line, pixel] = 40_000
        write_safe(root, {"VV": numbers})
        write_dem(root / "dem.tif", lambda x, y: np.full(x.shape, 700.0))
        area = PixelArea(row=AREA.row - 100, col=AREA.col - 100, rows=420, cols=420)
        _, seen = observed(archive(root, ("VV",)), reader, area=area)
        lon, lat = RADAR.place(np.array(line), np.array(pixel), 700.0)
        x, y = UTM.transform([float(lon)], [float(lat)], direction="INVERSE")
        (row,), (col,) = GRID.rows_cols(np.array(x), np.array(y))
        found = np.unravel_index(int(np.nanargmax(seen.values_cyx[0])), seen.seen_yx.shape)
        assert max(abs(found[0] + area.row - row), abs(found[1] + area.col - col)) <= 1


def test_heights_move_pixels(product: Path, reader: RasterReader) -> None:
    """At an incidence of 39 degrees, 100 m of height shift a point by 125 m: 12 pixels, if heights are ignored."""
    _, seen = observed(archive(product), reader)
    write_dem(product / "higher.tif", lambda x, y: hills(x, y) + 100)
    _, higher = observed(archive(product, options={"dem": "higher.tif"}), reader)
    pixels = (np.sqrt(higher.values_cyx[0]) - np.sqrt(seen.values_cyx[0])) * SIGMA / 7
    assert -20 < np.median(pixels) < -10


@pytest.mark.parametrize(
    ("grid", "resampling"),
    [
        (GRID, "bilinear"),
        (GRID, "nearest"),
        (Grid(crs="EPSG:32633", pixel=20), "bilinear"),
        (Grid(crs="EPSG:4326", pixel=1.5e-4), "bilinear"),
    ],
    ids=["utm", "nearest", "another zone and coarser", "degrees"],
)
def test_a_pixel_is_the_same_whatever_area_is_asked_with(
    product: Path, reader: RasterReader, grid: Grid, resampling: str
) -> None:
    """Equal bits, although sarsen's iteration stops for all pixels of a call together.

    Here it stops after one step for one half of the image, whose lines are then within a metre, and after two for the
    other half.
    """
    noise = np.random.default_rng(0).integers(1, 4000, (RADAR.lines, RADAR.pixels)).astype(np.uint16)
    # a step leaves delta^3 / 3 of an angle delta, which is a metre after 7.335 s
    write_safe(product, {"VV": noise, "VH": noise[::-1]}, replace(RADAR, orbit_s=7.335))
    where = archive(product, resampling=resampling)
    there = Transformer.from_crs(GRID.crs, grid.crs, always_xy=True)
    x, y = there.transform([LEFT + 1500], [TOP - 1500])
    (row,), (col,) = grid.rows_cols(np.array(x), np.array(y))
    one = PixelArea(row=int(row) - 37, col=int(col) - 41, rows=90, cols=70)
    other = PixelArea(row=int(row) - 80, col=int(col) - 20, rows=111, cols=101)
    _, first = observed(where, reader, grid, one)
    _, second = observed(where, reader, grid, other)
    rows, cols = slice(0, other.row + other.rows - one.row), slice(other.col - one.col, None)
    shared = first.values_cyx[:, rows, cols]
    again = second.values_cyx[:, one.row - other.row :, : shared.shape[2]][:, : shared.shape[1]]
    assert np.isfinite(shared).all()
    assert shared.shape[1] > 60
    np.testing.assert_array_equal(shared, again)


def test_it_keeps_the_contract_of_a_source(product: Path) -> None:
    check_source(Sentinel1("radar", archive(product)), GRID)


def test_a_coarser_pixel_is_the_mean_power_of_its_places(product: Path, reader: RasterReader) -> None:
    _, fine = observed(archive(product), reader, area=replace(AREA, rows=120, cols=120))
    coarse_area = PixelArea(row=AREA.row // 4, col=AREA.col // 4, rows=30, cols=30)
    _, coarse = observed(archive(product), reader, replace(GRID, pixel=40), coarse_area)
    mean = fine.values_cyx.reshape(2, 30, 4, 30, 4).mean(axis=(2, 4))
    np.testing.assert_allclose(coarse.values_cyx, mean, rtol=1e-6)


def test_sea_level_is_a_height(product: Path, reader: RasterReader) -> None:
    """Heights in integers that declare no no-data number; in other files 0 then means no data."""
    with rasterio.open(product / "dem.tif") as file:
        profile, values = file.profile, np.zeros(file.shape, np.int16)
    with rasterio.open(product / "sea.tif", "w", **profile | {"dtype": "int16", "nodata": None}) as file:
        file.write(values, 1)
    _, seen = observed(archive(product, options={"dem": "sea.tif"}), reader, area=replace(AREA, rows=30, cols=30))
    assert seen.seen_yx.all()


def test_what_lies_outside_of_the_swath_or_the_dem_is_not_seen(tmp_path: Path, reader: RasterReader) -> None:
    """Zeros along a product's border are no data, and are not mixed into their neighbours."""
    numbers = np.full((RADAR.lines, RADAR.pixels), 800, np.uint16)
    numbers[:, :150] = 0
    write_safe(tmp_path, {"VV": numbers})
    write_dem(tmp_path / "dem.tif", lambda x, y: np.where(x < LEFT + 1500, -9999, hills(x, y)))
    area = PixelArea(row=AREA.row - 100, col=AREA.col - 100, rows=350, cols=350)
    _, seen = observed(archive(tmp_path, ("VV",)), reader, area=area)
    line, pixel = line_pixel_of(GRID, area)
    x = GRID.centres(area, 1)[0]
    inside = (line > 0) & (line < RADAR.lines - 1) & (pixel > 150) & (pixel < RADAR.pixels - 1)
    surely = (np.abs(line * (line - RADAR.lines + 1)) > 10) & (np.abs((pixel - 150) * (pixel - RADAR.pixels + 1)) > 500)
    expected = inside & (x > LEFT + 1500)
    assert 0.1 < expected.mean() < 0.9
    np.testing.assert_array_equal(seen.seen_yx[surely], expected[surely])
    np.testing.assert_allclose(seen.values_cyx[0][seen.seen_yx], 800**2 / SIGMA**2, rtol=1e-6)


# --- what cannot be read ----------------------------------------------------------------------------


def verdict(where: Archive) -> str:
    (scene,) = Sentinel1("radar", where).scenes(full_digests=False)
    return scene.verdict


def files(root: Path, pattern: str) -> Path:
    (found,) = root.rglob(pattern)
    return found


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_index_says_what_cannot_be_used(product: Path) -> None:
    assert "HH" in verdict(archive(product, ("VV", "HH")))
    image, calibration = files(product, "s1a*-vv-*.tiff"), files(product, "calibration-*-vh-*.xml")
    whole = image.read_bytes()
    torn(image)
    assert re.search(r"VV: .*tiff has \d+ bytes, its manifest says \d+", verdict(archive(product)))
    image.write_bytes(b"x" * len(whole))
    assert re.search(r"VV: .* does not decode", verdict(archive(product)))
    image.write_bytes(whole)
    text = calibration.read_text()
    calibration.unlink()
    assert re.search(r"it lacks calibration of VH: download it whole", verdict(archive(product)))
    calibration.write_text(text)
    files(product, "manifest.safe").write_text("<torn")
    assert "its manifest cannot be read" in verdict(archive(product))


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (lambda root: torn(files(root, "s1a*-vv-*.tiff")), r"VV: .* has \d+ bytes, \d+ when it was indexed"),
        (lambda root: files(root, "s1a*-vv-*.xml").unlink(), r"VV: .*SAFE has no files of its annotation"),
        (lambda root: torn(files(root, "s1a*-vv-*.xml")), r"does not decode: ParseError"),
        (lambda root: files(root, "calibration-*-vh-*.xml").write_text("<calibration/>"), r"does not decode"),
        (lambda root: shutil.rmtree(files(root, "*.SAFE")), r"VV: .*is gone since it was indexed"),
        (lambda root: torn(root / "dem.tif"), r"dem: dem.tif has \d+ bytes, \d+ when it was indexed"),
    ],
    ids=["image", "no annotation", "annotation", "calibration", "gone", "dem"],
)
def test_what_is_wrong_in_its_bytes_is_quarantined(
    product: Path, reader: RasterReader, fault: Callable[[Path], None], reason: str
) -> None:
    source = Sentinel1("radar", archive(product))
    (scene,) = source.scenes(full_digests=False)
    fault(product)
    with pytest.raises(CorruptInput, match=reason):
        source.observe(scene, ALL_TIME, GRID, replace(AREA, rows=20, cols=20), reader)


def test_a_hole_in_a_measurement_is_quarantined(tmp_path: Path, reader: RasterReader) -> None:
    """Wrong bytes in a file of the right size, which only decoding can detect."""
    safe = write_safe(tmp_path, {"VV": ramp()})
    image = files(safe, "*.tiff")
    with rasterio.open(image) as file:
        values, shape = file.read(1), {"gcps": file.gcps[0], "crs": file.gcps[1]} | dict(file.profile)
    with rasterio.open(image, "w", **shape | {"compress": "deflate", "crs": "EPSG:4326", "transform": None}) as file:
        file.write(values, 1)
    data = bytearray(image.read_bytes())
    data[len(data) // 4 : -2000] = bytes(len(data) - 2000 - len(data) // 4)
    image.write_bytes(data)
    files(safe, "manifest.safe").write_text(manifest({}))
    write_dem(tmp_path / "dem.tif")
    source = Sentinel1("radar", archive(tmp_path, ("VV",)))
    (scene,) = source.scenes(full_digests=False)
    with pytest.raises(CorruptInput, match=r"tiff does not decode"):
        source.observe(scene, ALL_TIME, GRID, AREA, reader)


@pytest.fixture
def bounded() -> Iterator[None]:
    """Whatever waits for half a minute fails."""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits"))
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("pattern", ["manifest.safe", "s1a*-vv-*.tiff", "s1a*-vv-*.xml", "calibration-*-vv-*.xml"])
@pytest.mark.parametrize("full", [False, True])
def test_a_fifo_in_a_product_is_never_opened(product: Path, reader: RasterReader, pattern: str, full: bool) -> None:
    if pattern != "manifest.safe":
        # without sizes, which differ from those of a FIFO
        files(product, "manifest.safe").write_text(
            files(product, "manifest.safe").read_text().replace(' size="', ' s="')
        )
    source = Sentinel1("radar", archive(product))
    (good,) = source.scenes(full_digests=full)
    assert not good.verdict
    path = files(product, pattern)
    path.unlink()
    os.mkfifo(path)
    (scene,) = source.scenes(full_digests=full)
    assert f"{path.name} is a FIFO, not a file" in scene.verdict
    # it took the place of the file after `index`
    with pytest.raises(CorruptInput, match=r"is a FIFO, not a file|has 0 bytes"):
        source.observe(good, ALL_TIME, GRID, replace(AREA, rows=20, cols=20), reader)


@pytest.mark.parametrize("href", ["./annotation/{name}", "./measurement/../../{name}", "{folder}/{name}"])
def test_a_manifest_leads_to_no_other_image(product: Path, reader: RasterReader, href: str) -> None:
    """xarray-sentinel opens what the manifest names, and a manifest may name any file."""
    image = files(product, "s1a*-vv-*.tiff")
    safe = image.parents[1]
    place = href.format(name=image.name, folder=product)
    other = Path(place) if place.startswith("/") else safe / place
    shutil.copy(image, other)
    path = safe / "manifest.safe"
    path.write_text(path.read_text().replace(f"./measurement/{image.name}", place))
    source = Sentinel1("radar", archive(product))
    (scene,) = source.scenes(full_digests=False)
    with pytest.raises(CorruptInput, match=r"VV: its manifest names .*tiff.* for IW/VV"):
        source.observe(scene, ALL_TIME, GRID, replace(AREA, rows=20, cols=20), reader)


def test_a_text_that_takes_the_place_of_a_measurement_is_no_image(product: Path, reader: RasterReader) -> None:
    image = files(product, "s1a*-vv-*.tiff")
    source = Sentinel1("radar", archive(product))
    (scene,) = source.scenes(full_digests=False)
    good = image.read_bytes()
    (product / "good.tiff").write_bytes(good)
    text = f"""<VRTDataset rasterXSize="{RADAR.pixels}" rasterYSize="{RADAR.lines}"><VRTRasterBand dataType="UInt16"
        band="1"><SimpleSource><SourceFilename>{product / "good.tiff"}</SourceFilename></SimpleSource></VRTRasterBand>
        </VRTDataset>"""
    image.write_text(text + " " * (len(good) - len(text)))
    with pytest.raises(CorruptInput, match=r"VV: .*tiff"):
        source.observe(scene, ALL_TIME, GRID, replace(AREA, rows=20, cols=20), reader)
    (again,) = source.scenes(full_digests=False)
    assert "not recognized as being in a supported file format" in again.verdict


def test_a_dem_that_cannot_be_one_is_refused(product: Path) -> None:
    def refused(name: str, reason: str) -> None:
        with pytest.raises(RequestError, match=rf"archives\.radar\.options\.dem: .*{reason}"):
            verdict(archive(product, options={"dem": name}))

    refused("other.tif", "there is no such file")
    (product / "dem.vrt").write_text("<VRTDataset/>")
    refused("dem.vrt", "which have no digest")
    (product / "text.tif").write_text("no raster")
    refused("text.tif", "cannot be used")
    with rasterio.open(product / "dem.tif") as file:
        values, profile = file.read(1), file.profile
    with rasterio.open(product / "geoid.tif", "w", **profile | {"crs": "EPSG:32632+5773"}) as file:
        file.write(values, 1)
    refused("geoid.tif", "heights that are not above the ellipsoid")


def test_without_a_dem_or_the_extra_it_says_what_to_do(product: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = "calibrate and terrain-correct it first, for example with sarsen, and give the GeoTIFFs; or"
    plain = Archive(source="sentinel1", path=product, bands=("VV",), options={"values": "db"})
    assert f"{first} write options: {{dem: heights.tif}}, and sarsen does it" in verdict(plain)
    monkeypatch.setattr("embedcube.sources.sentinel1.source.can_geocode", lambda: False)
    assert f"{first} install embedcube[s1-safe], and sarsen does it" in verdict(archive(product))
    assert f"{first} write options: {{dem: heights.tif}} and install embedcube[s1-safe], and" in verdict(plain)


@pytest.mark.parametrize("extra", [True, False])
@pytest.mark.parametrize("options", [{}, {"values": "linear"}, {"dem": "dem.tif"}])
def test_all_that_a_product_lacks_is_said_at_once(
    product: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, str], extra: bool
) -> None:
    monkeypatch.setattr("embedcube.sources.sentinel1.source.can_geocode", lambda: extra)
    (safe,) = product.glob("*.SAFE")
    where = Archive(source="sentinel1", path=product, bands=("VV", "VH"), options=options)
    shutil.rmtree(safe / "measurement")
    for path in (safe / "annotation").rglob("*-vh-*.xml"):
        path.unlink()
    said = verdict(where)
    assert said.startswith("it lacks measurement of VV, VH; annotation, calibration, noise of VH: download it whole")
    assert ("options: {dem: heights.tif}" in said) == ("dem" not in options)
    assert ("install embedcube[s1-safe]" in said) == (not extra)
    assert len(said) < 200
    shutil.rmtree(safe / "annotation")
    (safe / "manifest.safe").unlink()
    assert verdict(where).startswith(
        "it lacks measurement, annotation, calibration, noise of VV, VH; manifest.safe: download it whole"
    )


def test_noise_alone_is_not_missed(product: Path) -> None:
    for path in product.rglob("noise-*"):
        path.unlink()
    assert verdict(archive(product)) == ""


def test_files_beside_a_product_still_need_to_say_what_they_hold(product: Path) -> None:
    beside = product / "S1A_IW_20200608T010800_DVP_RTC10_G_gpuned_12AB" / "VV.tif"
    beside.parent.mkdir()
    write_dem(beside, lambda x, y: -12 + np.sin(x / 50) * np.cos(y / 70))
    where = archive(product, ("VV",))
    _, other = Sentinel1("radar", where).scenes(full_digests=False)
    assert "options.values" in other.verdict
    both = where.model_copy(update={"options": {"dem": "dem.tif", "values": "db"}})
    safe, other = Sentinel1("radar", both).scenes(full_digests=False)
    assert (safe.verdict, other.verdict) == ("", "")
    assert "sarsen" in safe.processing
    assert "10^(value / 10)" in other.processing


# --- what a recipe knows ----------------------------------------------------------------------------


def test_the_digest_knows_the_terrain_and_every_file_that_counts(product: Path) -> None:
    def scene(full: bool = False) -> Scene:
        (found,) = Sentinel1("radar", archive(product)).scenes(full_digests=full)
        return found

    first = scene()
    assert first.software == ("sarsen", "scipy", "xarray", "xarray-sentinel")
    assert [asset.band for asset in first.assets] == ["VV", "VH", "dem"]
    assert "sigma nought" in first.processing
    assert scene().digest == first.digest
    digests = {first.digest}
    write_dem(product / "dem.tif", lambda x, y: hills(x, y) + 1)
    digests.add(scene().digest)
    files(product, "manifest.safe").write_text(manifest({}))  # so that only the files themselves decide
    digests.add(scene().digest)
    for pattern in ("s1a*-vv-*.xml", "calibration-*-vh-*.xml", "s1a*-vh-*.tiff"):
        path = files(product, pattern)
        path.write_bytes(path.read_bytes() + b" ")
        digests.add(scene().digest)
    assert len(digests) == 6
    assert scene().weak
    assert not scene(full=True).weak


@pytest.mark.slow
def test_a_campaign_goes_through_and_tells_what_was_done(product: Path) -> None:
    campaign = Campaign(product / "campaign.yaml")
    document = {
        "campaign": "grd",
        "archives": {"s1": {"source": "sentinel1", "path": ".", "bands": ["VV", "VH"], "options": {"dem": "dem.tif"}}},
        "grid": {"crs": GRID.crs, "pixel": 10},
        "region": {"bbox": [LEFT + 1000, TOP - 2400, LEFT + 2400, TOP - 1000], "crs": GRID.crs},
        "windows": [["2020-06-01", "2020-07-01"]],
        "layers": {
            "s1_mosaiks": {
                "archives": "s1", "backbone": {"name": "mosaiks", "filters": 16},
                "chip_px": 64, "halo_px": 8, "cell_px": 16, "shard_chips": 2, "batch": 4,
            }
        },
        "how": {"ranks": 1, "threads": 2},
    }  # fmt: skip
    campaign.file.write_text(yaml.safe_dump(document))
    assert "nothing found wrong" in campaign.cli("run")
    plan = json.loads((campaign.run.plan.parent / "plan.json").read_text())
    assert {"sarsen", "xarray-sentinel"} <= plan["versions"].keys()
    cube = Cube(campaign.run.newest_cube)
    lon, lat = UTM.transform(LEFT + 1700, TOP - 1700)
    told = cube.explain(cube.cell_at(lon, lat, "2020-06-15", "s1_mosaiks"))
    assert told["status"] == "valid"
    assert [scene["id"] for scene in told["scenes"]] == [NAME]
    assert "geocoded by range and Doppler on the heights of the DEM (sarsen)" in told["scenes"][0]["processing"]
