"""Sentinel-1 backscatter, calibrated before (RTC or GRD) or on reading (GRD in SAFE); one band per polarisation.

GRD in SAFE folders is calibrated and geocoded on reading, if the archive names a DEM.

Decibels are a logarithm: the mean of decibels is not the decibels of the mean, and for single looks speckle makes it
about 2.5 dB too low. So each pixel is converted to linear power when it is read, resampling and compositing average
power, and the composite is converted to decibels.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from pyproj import CRS

from embedcube.campaign.scene import Asset, Scene
from embedcube.campaign.schema import Archive
from embedcube.errors import CorruptInput, RequestError
from embedcube.grid import Grid, PixelArea
from embedcube.sources.base import Observation
from embedcube.sources.believed import FirstLook, believed_when_seen
from embedcube.sources.catalog.describe import describe, place_of
from embedcube.sources.catalog.find import archive_products
from embedcube.sources.catalog.missing import several_in_words
from embedcube.sources.catalog.products import File, Product, by_time
from embedcube.sources.catalog.safe_radar import AS_THE_RADAR_SAW, is_radar_safe
from embedcube.sources.catalog.scenes import scene_or_verdict
from embedcube.sources.composite import Composite, composite
from embedcube.sources.converted import Numbers, observe_converted
from embedcube.sources.evidence import Evidence, Judge, first_words, packed_floats, undeclared
from embedcube.sources.options import band_names, read_options, refuse_keys
from embedcube.sources.passes import acquisitions
from embedcube.sources.reader import RasterReader
from embedcube.sources.resample import Conversion, Pixels
from embedcube.sources.sentinel1.grd import MOST_POWER, PROCESSING, SOFTWARE, can_geocode, observe_geocoded
from embedcube.sources.sentinel1.names import clues_of
from embedcube.sources.sentinel1.safe import images_of, lacking
from embedcube.sources.warp import has_data
from embedcube.windows import Window

POLARISATIONS = ("VV", "VH", "HH", "HV")
Values = Literal["linear", "amplitude", "db", "worldcereal"]

_POWER: dict[Values, tuple[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]]] = {
    "linear": ("power is the value", lambda x: x),
    # a negative amplitude is invalid: its power becomes zero, which is no data
    "amplitude": ("power is the value squared", lambda x: x * np.maximum(x, 0)),
    "db": ("power is 10^(value / 10)", lambda x: 10 ** (x / 10)),
    # dB = 20 log10(DN) - 83
    "worldcereal": ("power is 10^-8.3 times the value squared", lambda x: x * x * 10**-8.3),
}
"""For each meaning of the numbers in files: the formula of power in words, and the formula"""

_VALUES_ARE = (
    "say what the numbers in the files are, after unpacking and scaling: linear, amplitude, db (10 log10 of power) or "
    "worldcereal (dB = 20 log10(DN) - 83, 65535 is no data)"
)
_WORLDCEREAL_NODATA = 65535

_ORBIT_KEYS = ("sat:orbit_state", "orbitProperties_pass", "orbitDirection", "s1:orbit_direction", "orbit_direction")
"""properties with the orbit state, in STAC, in Earth Engine, and in other catalogues"""

_STATES = ("ascending", "descending")


_RANGE_DB, _LIKELY_DB = (-50.0, 5.0), (-35.0, -1.0)
"""Medians of backscatter in a scene (dB): what is believed, from calm water to a city; and what most scenes have"""

_MOST_STRANGE = 0.5
"""share of a scene that may have no power"""

_ALL = 0.9
"""decibels are below 0 in more than the rest of any scene, whatever city it shows"""

_NEEDED = f"{_VALUES_ARE}; or for GRD in SAFE folders, dem: heights.tif"


def _needs_values_or_dem(schema: dict[str, Any]) -> None:
    """Say in the JSON Schema what the validators say: with a DEM, `values` may be left out."""
    schema["anyOf"] = [{"required": ["values"]}, {"required": ["dem"]}]


class Options(Numbers):
    """The options of the YAML block."""

    model_config = ConfigDict(json_schema_extra=_needs_values_or_dem)

    values: Values | None = Field(None, description=_NEEDED)
    """meaning of the numbers after unpacking and scaling"""
    orbit: Literal["ascending", "descending", "both"] = "both"
    """passes to be used; for both as separate inputs of a layer, write two archives"""
    dem: Path | None = None
    """raster of heights above the WGS 84 ellipsoid (m), as a path below the archive or an absolute one: with it, GRD in
    SAFE folders is geocoded"""

    @property
    def stored(self) -> Values:
        """What the numbers are; where the campaign does not say it, only scenes that are geocoded here can be used."""
        return self.values or "linear"


class Sentinel1:
    """A source of Sentinel-1: reads linear power and composites it to decibels. Nothing is masked."""

    options = Options
    """options of the YAML block"""

    def __init__(self, name: str, archive: Archive) -> None:
        """Raises a RequestError for bands that are not polarisations, and for keys that have no meaning for radar."""
        self._name = name
        self._archive = archive
        self._first_look = FirstLook(archive.root, self._questions)
        self._options = read_options(Options, name, archive)
        # products in SAFE say themselves all that they need
        if self._options.values is None and self._options.dem is None and not _holds_safe(archive.path):
            raise RequestError(f"archives.{name}.options.values: is needed: {_NEEDED}")
        instead = {"mask": "radar sees through clouds", "offset": "use options.values and options.add"}
        refuse_keys(name, archive, instead)
        for band in archive.bands:
            if band not in POLARISATIONS:
                raise RequestError(
                    f'archives.{name}: Sentinel-1 has no band "{band}"; it has {", ".join(POLARISATIONS)}'
                )
        self._nodata = self._options.nodata
        if self._nodata is None and self._options.stored == "worldcereal":
            self._nodata = _WORLDCEREAL_NODATA

    @property
    def collection(self) -> str:
        """The page of the products."""
        return "https://sentiwiki.copernicus.eu/web/s1-products"

    @property
    def counted(self) -> bool:
        """True: scenes are acquisitions."""
        return True

    def scenes(self, *, full_digests: bool) -> Iterator[Scene]:
        """The scenes of all products of the requested orbit state, ordered by time and id.

        A product whose orbit state is unknown becomes a scene with a verdict, unless both are requested. An
        error on one product is the verdict of its scene, too, and so are pixels that contradict `values`.
        """
        yield from believed_when_seen(list(self._described(full_digests)), self._archive.root, self._questions)

    def _described(self, full_digests: bool) -> Iterator[Scene]:
        names = band_names(self._archive, self._options.variables)
        found = by_time(archive_products(self._archive, names, self._options.told))
        orbits = [(product, _orbit(product)) for product in found]
        taken = [(product, orbit) for product, orbit in orbits if self._options.orbit in ("both", orbit) or not orbit]
        products = [product for product, _ in taken]
        assets_of = describe(
            products,
            self._archive.root,
            full_digests=full_digests,
            nodata=self._nodata,
            packed=self._options.packing == "declared",
            one_footprint=True,
        )
        dem = self._dem(full_digests) if can_geocode() else None
        passes = acquisitions("S1", [clues_of(product) for product in products])
        for (product, orbit), acquisition, (assets, faults) in zip(taken, passes, assets_of, strict=True):
            make = partial(self._scene_of, product, orbit, assets, faults, dem, full_digests)
            scene = scene_or_verdict(self._name, product, make)
            yield replace(scene, acquisition=acquisition)

    def _scene_of(
        self,
        product: Product,
        orbit: str,
        assets: tuple[Asset, ...],
        faults: str,
        dem: Asset | None,
        full_digests: bool,
    ) -> Scene:
        if not orbit and self._options.orbit != "both":
            return self._scene(product, orbit, assets, "; ".join(filter(None, (faults, self._unknown_orbit()))))
        if product.radar_safe is not None and (needs := self._needs(product.radar_safe)):
            return self._scene(product, orbit, assets, needs)
        if product.radar_safe is not None and dem is not None:
            return self._geocoded(product, product.radar_safe, orbit, dem, full_digests)
        if "values" in self._archive.options:
            return self._scene(product, orbit, assets, faults)
        return self._scene(product, orbit, assets, faults or f"options.values: {_VALUES_ARE}")

    def _needs(self, safe: Path) -> str:
        """All that is missing before a GRD product can be geocoded; empty if nothing is."""
        lost = lacking(safe, self._archive.bands)
        steps = ["write options: {dem: heights.tif}"] if self._options.dem is None else []
        steps += [] if can_geocode() else ["install embedcube[s1-safe]"]
        if not lost:
            return f"{AS_THE_RADAR_SAW}; or {' and '.join(steps)}, and sarsen does it" if steps else ""
        return f"it lacks {lost}: download it whole{''.join(f'; {step}' for step in steps)}"

    def _questions(self, scene: Scene) -> list[tuple[Asset, Judge]]:
        if scene.software:
            return []  # calibrated here
        return [(asset, partial(self._contradicted, asset)) for asset in scene.assets]

    def _contradicted(self, asset: Asset, evidence: Evidence) -> str:
        """How the pixels of a band contradict what is declared, and what `values` calls them; empty if they do not."""

        def unknown() -> str:
            if self._nodata is not None:
                return ""
            # exactly 0 dB in many connected pixels is no backscatter, wherever they are
            zeros = [0.0] if 0 in evidence.anywhere and self._options.stored == "db" and asset.nodata != 0 else []
            numbers = zeros + ([] if asset.nodata_by or asset.mask else list(evidence.at_edge))
            scattered = [number for number in numbers if np.isfinite(self._power_of(asset, np.array([number]))).all()]
            return undeclared(asset, evidence, scattered, zero=True)

        return first_words(
            unknown,
            lambda: "" if "packing" in self._archive.options else packed_floats(asset, evidence),
            lambda: self._no_backscatter(asset, evidence),
        )

    def _no_backscatter(self, asset: Asset, evidence: Evidence) -> str:
        """Why the numbers of most of a file are no backscatter as `values` has it; empty if they are."""
        values = evidence.values[evidence.values != 0]
        if not values.size:
            return ""
        power = self._power_of(asset, values)
        lost, median_db = float(np.isnan(power).mean()), _decibels(power)
        unpacked = self._options.unpacked(asset)(values)
        bright = self._options.stored == "db" and float((unpacked >= 0).mean()) > _ALL
        if lost <= _MOST_STRANGE and not bright and _RANGE_DB[0] <= median_db <= _RANGE_DB[1]:
            return ""
        shown = f"{lost:.0%} of it no power" if lost > _MOST_STRANGE else f"a median of {median_db:.3g} dB"
        with np.errstate(over="ignore"):
            others = [name for name, (_, formula) in _POWER.items() if _fits(_decibels(_positive(formula(unpacked))))]
        fits = f"options.values: {' or '.join(others)} would fit" if others else "no options.values fits"
        advice = f"{fits}, or they need options.scale and options.add"
        return (
            f"{asset.band}: as options.values: {self._options.stored} the numbers of {asset.path} (median "
            f"{np.median(values):g}) give {shown}, which is no backscatter; {advice}"
        )

    def _power_of(self, asset: Asset, pixels: Pixels) -> NDArray[np.float64]:
        """Power of some numbers; NaN where it is not above zero."""
        _, formula = _POWER[self._options.stored]
        with np.errstate(over="ignore"):
            return _positive(formula(self._options.unpacked(asset)(pixels)))

    def _dem(self, full_digests: bool) -> Asset | None:
        """The DEM that the archive names; None if it names none."""
        if self._options.dem is None:
            return None
        path = self._archive.root / self._options.dem
        place = f"archives.{self._name}.options.dem: {path}"
        if not path.is_file():
            raise RequestError(f"{place}: there is no such file")
        if path.suffix == ".vrt":
            raise RequestError(f"{place} is a list of other files, which have no digest; convert it to one GeoTIFF")
        product = Product(
            id=path.name, time=datetime(1, 1, 1, tzinfo=UTC), files={"dem": File(path=path)}, properties={}
        )
        ((assets, fault),) = describe([product], self._archive.root, full_digests=full_digests)
        if fault:
            raise RequestError(f"{place} cannot be used: {fault}")
        if CRS.from_user_input(assets[0].crs).is_compound:
            raise RequestError(f"{place} has heights that are not above the ellipsoid; convert them to EPSG:4979")
        # 0 is a valid height, even where the file declares it as no data
        return replace(assets[0], nodata=float("nan")) if assets[0].nodata == 0 else assets[0]

    def _geocoded(self, product: Product, safe: Path, orbit: str, dem: Asset, full_digests: bool) -> Scene:
        try:
            images = images_of(safe, self._archive.root, self._archive.bands, full_digests=full_digests)
        except CorruptInput as error:
            return self._scene(product, orbit, (), str(error))
        scene = self._scene(product, orbit, (*images, dem), "")
        processing = f"{_orbit_in_words(orbit)}; {PROCESSING}; the composite is 10 log10 of power"
        return replace(scene, bbox=product.bbox or scene.bbox, processing=processing, software=SOFTWARE)

    def _unknown_orbit(self) -> str:
        return (
            f"options.orbit: {self._options.orbit} is asked for, and it does not say what it is "
            f"({' or '.join(_ORBIT_KEYS)} among its properties); "
            'write "both", or put the ascending and the descending products into archives of their own'
        )

    def _scene(self, product: Product, orbit: str, assets: tuple[Asset, ...], faults: str) -> Scene:
        return Scene(
            id=product.id,
            archive=self._name,
            time=product.time,
            end=product.end,
            acquisition=product.id,
            bbox=place_of(product, assets),
            assets=assets,
            processing="; ".join(
                [
                    _orbit_in_words(orbit),
                    *self._options.formulas(assets),
                    *several_in_words(assets),
                    f"{_POWER[self._options.stored][0]}, taken before resampling and compositing",
                    "the composite is 10 log10 of power",
                ]
            ),
            verdict=faults,
        )

    def observe(self, scene: Scene, frame: Window, grid: Grid, area: PixelArea, reader: RasterReader) -> Observation:
        """Linear power in float32; seen where every band has power above zero."""
        self._first_look.refuse_contradicted(scene)
        if scene.software:
            return observe_geocoded(scene, self._archive, grid, area, reader)
        return observe_converted(scene, self._archive, grid, area, reader, self._to_power)

    def _to_power(self, asset: Asset) -> Conversion:
        """Conversion of numbers to linear power in float32; NaN where power is not above zero, or overflows.

        It raises CorruptInput for power that no surface has.
        """
        _, formula = _POWER[self._options.stored]
        unpacked = self._options.unpacked(asset)

        def convert(pixels: Pixels) -> Pixels:
            with np.errstate(over="ignore"):
                power = formula(unpacked(pixels)).astype(np.float32)
            if power.max(initial=0) > MOST_POWER:
                _refuse_no_backscatter(pixels, power, asset, self._options.stored)
            return np.where((power > 0) & (power < np.inf), power, np.float32(np.nan))

        return convert

    def composite(self, observations: Sequence[tuple[str, Observation]]) -> Composite:
        """Decibels of the mean power, or of the median if the archive says so."""
        power = composite(observations, self._archive.composite or "mean")
        decibels = 10 * np.log10(power.x_cyx.astype(np.float64))
        return replace(power, x_cyx=decibels.astype(np.float32))


def _holds_safe(path: Path) -> bool:
    """Whether a folder is a product in SAFE, or directly holds one."""
    return is_radar_safe(path) or (path.is_dir() and any(map(is_radar_safe, path.iterdir())))


def _positive(power: NDArray[np.float64]) -> NDArray[np.float64]:
    """Power as it is read: NaN where it is not above zero in float32, or overflows."""
    with np.errstate(over="ignore"):
        single = power.astype(np.float32)
    return np.where((single > 0) & (single < np.inf), power, np.nan)


def _decibels(power: NDArray[np.float64]) -> float:
    """Median in decibels, of the numbers that are power; NaN where none is."""
    known = power[np.isfinite(power)]
    return float(10 * np.log10(np.median(known))) if known.size else float("nan")


def _fits(median_db: float) -> bool:
    return _LIKELY_DB[0] <= median_db <= _LIKELY_DB[1]


def _refuse_no_backscatter(pixels: Pixels, power: Pixels, asset: Asset, values: Values) -> None:
    """Refuse an image with power that no surface scatters, where it has data: other numbers, or damaged ones."""
    wrong = (power > MOST_POWER) & has_data(pixels, asset)
    if wrong.any():
        raise CorruptInput(
            f"{asset.band}: {asset.path} has {pixels[wrong][0]:.6g}, which as `values: {values}` is no backscatter "
            f"(more than {10 * np.log10(MOST_POWER):.0f} dB): it is damaged, or its numbers mean something else"
        )


def _orbit(product: Product) -> str:
    """The orbit state of a product, ascending or descending; empty if it is unknown."""
    states = (str(product.properties.get(key) or "").strip().lower() for key in _ORBIT_KEYS)
    # whole words, or as short as A and D
    return next((known for state in states if state for known in _STATES if known.startswith(state)), "")


def _orbit_in_words(orbit: str) -> str:
    return f"orbit {orbit or 'unknown'}"
