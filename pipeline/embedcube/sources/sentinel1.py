"""Sentinel-1 backscatter, terrain-corrected (RTC) or ground range (GRD), calibrated by others: one band a polarisation.

Decibels are a logarithm: the mean of decibels is not the decibels of the mean, and speckle makes it about 2.5 dB too
low for single looks. So files are brought to linear power pixel by pixel as they are read; resampling and
compositing average power, and the composite becomes decibels.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from embedcube.blocks import Block
from embedcube.composite import Composite, composite
from embedcube.config import Archive
from embedcube.errors import RequestError
from embedcube.grid import Grid, PixelArea
from embedcube.onto import Conversion, Pixels
from embedcube.raster import RasterReader
from embedcube.scene import Asset, Scene
from embedcube.sources.base import Observation
from embedcube.sources.converted import observe_converted
from embedcube.sources.finding import archive_products
from embedcube.sources.options import band_names, read_options, refuse_keys
from embedcube.sources.products import Product, describe, place_of
from embedcube.windows import Window

POLARISATIONS = ("VV", "VH", "HH", "HV")

Values = Literal["linear", "amplitude", "db", "worldcereal"]

_POWER: dict[Values, tuple[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]]] = {
    "linear": ("power is the value", lambda x: x),
    # an amplitude below zero is none: its power becomes zero, which is no data
    "amplitude": ("power is the value squared", lambda x: x * np.maximum(x, 0)),
    "db": ("power is 10^(value / 10)", lambda x: 10 ** (x / 10)),
    # dB = 20 log10(DN) - 83
    "worldcereal": ("power is 10^-8.3 times the value squared", lambda x: x * x * 10**-8.3),
}
"""What the numbers in files mean, and their power."""

_WORLDCEREAL_NODATA = 65535

_DATATAKE = re.compile(r"(S1[A-D])_.*_(\d{6})_([0-9A-F]{6})(?:_|$)", re.IGNORECASE)
"""mission, absolute orbit and datatake in a product id"""

_START = re.compile(r"(S1[A-D])_.*?(\d{8}T\d{6})")
"""mission and start of sensing in any product id"""

_ORBIT_KEYS = ("sat:orbit_state", "orbitProperties_pass")
"""of STAC, and of Earth Engine"""


class Options(Block):
    """The options of the YAML block."""

    values: Values = Field(description=f"say what the numbers in the files are: {', '.join(_POWER)}")
    """`db` 10 log10 of power, `worldcereal` integers with dB = 20 log10(DN) - 83"""
    orbit: Literal["ascending", "descending", "both"] = "both"
    """which passes are taken; two archives with one each give them to a layer as separate inputs"""
    nodata: float | None = None
    """of the files, where they do not say it themselves, or wrongly; `worldcereal` has 65535"""
    variables: dict[str, str] = Field(default_factory=dict)
    """what the files or their catalogue call a band, where it is not the polarisation"""


class Sentinel1:
    """Finds products, reads them as linear power, and composites them to decibels. Nothing is masked."""

    def __init__(self, name: str, archive: Archive) -> None:
        """Refuses bands that are no polarisations, and what has no meaning for radar."""
        self._name = name
        self._archive = archive
        self._options = read_options(Options, name, archive)
        refuse_keys(name, archive, {"mask": "clouds do not matter to it", "offset": "options.values says what is"})
        for band in archive.bands:
            if band not in POLARISATIONS:
                raise RequestError(
                    f'archives.{name}: Sentinel-1 has no band "{band}"; it has {", ".join(POLARISATIONS)}'
                )
        self._nodata = self._options.nodata
        if self._nodata is None and self._options.values == "worldcereal":
            self._nodata = _WORLDCEREAL_NODATA
        self._to_power = _to_power(self._options.values)

    @property
    def collection(self) -> str:
        """The product's page."""
        return "https://sentiwiki.copernicus.eu/web/s1-products"

    @property
    def photographs(self) -> bool:
        """They are."""
        return True

    def scenes(self, *, full_digests: bool) -> Iterator[Scene]:
        """The scenes of the products of the orbit that is asked for, ordered by time and id.

        Raises:
            RequestError: one orbit is asked for, and a product does not say what its own is.
        """
        names = band_names(self._archive, self._options.variables)
        found = sorted(archive_products(self._archive, names), key=lambda p: (p.time, p.id))
        orbits = [(product, self._orbit(product)) for product in found]
        taken = [(product, orbit) for product, orbit in orbits if self._options.orbit in ("both", orbit)]
        products = [product for product, _ in taken]
        assets_of = describe(products, self._archive.root, full_digests=full_digests, nodata=self._nodata)
        for (product, orbit), (assets, faults) in zip(taken, assets_of, strict=True):
            yield self._scene(product, orbit, assets, faults)

    def _orbit(self, product: Product) -> str:
        told = (product.properties.get(key) for key in _ORBIT_KEYS)
        orbit = next((str(state).lower() for state in told if state), "unknown")
        if orbit == "unknown" and self._options.orbit != "both":
            raise RequestError(
                f"archives.{self._name}.options.orbit: {self._options.orbit} is asked for, and {product.id} does not "
                f"say what it is ({' or '.join(_ORBIT_KEYS)} among its properties); "
                'write "both", or put the ascending and the descending products into archives of their own'
            )
        return orbit

    def _scene(self, product: Product, orbit: str, assets: tuple[Asset, ...], faults: str) -> Scene:
        return Scene(
            id=product.id,
            archive=self._name,
            time=product.time,
            photograph=photograph(product.id, product.properties),
            bbox=place_of(product, assets),
            assets=assets,
            processing=f"orbit {orbit}; {_POWER[self._options.values][0]}, taken before resampling and compositing; "
            "the composite is 10 log10 of power",
            verdict=faults,
        )

    def observe(self, scene: Scene, frame: Window, grid: Grid, area: PixelArea, reader: RasterReader) -> Observation:
        """Linear power, float32; seen where every band is a power above zero."""
        return observe_converted(scene, self._archive, grid, area, reader, lambda band: self._to_power)

    def composite(self, observations: Sequence[tuple[str, Observation]]) -> Composite:
        """Decibels of the mean power, or of the median where the archive says so."""
        picture = composite(observations, self._archive.composite or "mean")
        decibels = 10 * np.log10(picture.x_cyx.astype(np.float64))
        return replace(picture, x_cyx=decibels.astype(np.float32))


def photograph(product_id: str, properties: dict[str, Any]) -> str:
    """What was taken at once: the datatake, so that the slices of one pass are one photograph.

    Where neither the id nor the catalogue names it, the mission and the start of sensing; else the product itself,
    as radar: a stack of several sensors gives their products one id, and its photographs are not theirs.
    """
    if found := _DATATAKE.match(product_id):
        return "_".join(found.groups()).upper()
    if orbit := properties.get("sat:absolute_orbit"):
        return f"{properties.get('platform', '')}_{orbit}_{properties.get('sat:orbit_state', '')}"
    if found := _START.match(product_id):
        return "_".join(found.groups())
    return f"S1 {product_id}"


def _to_power(values: Values) -> Conversion:
    """From what is in a file to linear power, float32; what is not above zero, or overflows, is no data (NaN)."""
    _, formula = _POWER[values]

    def convert(pixels: Pixels) -> Pixels:
        with np.errstate(over="ignore"):
            power = formula(pixels.astype(np.float64)).astype(np.float32)
        return np.where((power > 0) & (power < np.inf), power, np.float32(np.nan))

    return convert
