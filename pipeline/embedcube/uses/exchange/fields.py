"""`embedcube codecs FIELD.nc`: lossy codecs for fields of weather, by the three tests of ClimateBenchPress.

Each codec gets the loosest parameter with which the error that it really makes stays within the bound, so that codecs
are compared at equal achieved error: ZFP keeps four times below what it is asked for, others use all of it. The three
tests: no value off by more than the bound; R2 above 0.99999; less than 5 % of values off by more than 1e-4 of
themselves. Codecs of numcodecs-wasm are the extra `fields`. They are for fields, never for vectors: plain Zarr cannot
read them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs import BitRound, Shuffle, Zstd
from numpy.typing import NDArray

from embedcube.errors import RequestError
from embedcube.printable import printable

R2_ABOVE = 0.99999
OFF_BY, OFF_SHARE = 1e-4, 0.05
"""a value is off by more than this share of itself; less than this share of values may be"""

_MOST_VALUES = 1 << 21
"""values of a field that are measured: of a longer one the first steps"""

_HALVINGS = 6
"""steps in which the parameter of a codec is sought"""

Field = NDArray[np.float32]
Coder = Callable[[Field, float], tuple[int, Field]]
"""Bytes and decoded values of a field, for a parameter."""


@dataclass(frozen=True, kw_only=True)
class FieldRun:
    """One field through one codec with one bound."""

    field: str
    codec: str
    bound: float
    """largest error, as a share of the range of the field"""
    achieved: float
    """largest error that was made, as a share of the range"""
    times_smaller: float
    """than float32"""
    bound_holds: bool
    r2_holds: bool
    relative_holds: bool


def measure_file(path: Path, bounds: Sequence[float]) -> list[FieldRun]:
    """Measure all fields of a NetCDF or GRIB file; a RequestError says that it has none."""
    runs = [run for name, field in fields_of(path) for run in measure_field(name, field, bounds)]
    if not runs:
        raise RequestError(f"{path}: no field of numbers with two dimensions or more, not constant and without NaN")
    return runs


def fields_of(path: Path) -> Iterator[tuple[str, Field]]:
    """Names and values (..., latitude, longitude) of the fields of a file; the lowest level of several."""
    # before eccodes, whose libraries those of pyproj do not bear beside them when they come later
    import pyproj  # noqa: F401
    import rasterio  # noqa: F401
    import xarray

    engine: dict[str, Any] = {"engine": "netcdf4"}
    if path.suffix in (".grib", ".grb", ".grib2"):
        engine = {"engine": "cfgrib", "backend_kwargs": {"indexpath": ""}}
    try:
        with xarray.open_dataset(path, **engine) as dataset:
            found = [(str(name), array) for name, array in dataset.data_vars.items()]
            for name, array in found:
                for level in set(array.dims) & {"level", "hybrid", "isobaricInhPa"}:
                    array = array.isel({level: -1})
                if array.ndim < 2 or array.dtype.kind != "f":
                    continue
                steps = max(1, _MOST_VALUES // int(np.prod(array.shape[-2:])))
                values = array.values.reshape(-1, *array.shape[-2:])[:steps].astype(np.float32)
                if np.isfinite(values).all() and np.ptp(values) > 0:
                    yield name, values
    except (OSError, ValueError, KeyError) as error:
        raise RequestError(f"{path}: not a file of fields: {printable(error, 200)}") from None


def measure_field(name: str, field: Field, bounds: Sequence[float]) -> Iterator[FieldRun]:
    """All codecs and bounds for one field."""
    spread = float(np.ptp(field))
    for bound in bounds:
        for codec, coder in coders().items():
            size, decoded = _loosest(coder, field, bound * spread)
            error = float(np.abs(decoded.astype(np.float64) - field).max())
            yield FieldRun(
                field=name, codec=codec, bound=bound, achieved=error / spread,
                times_smaller=round(field.nbytes / size, 1), **tests(field, decoded, bound * spread),
            )  # fmt: skip


def tests(field: Field, decoded: Field, bound: float) -> dict[str, bool]:
    """The three tests of ClimateBenchPress for one pair of fields."""
    x, y = field.astype(np.float64), decoded.astype(np.float64)
    off = np.abs(x - y)
    correlation = np.corrcoef(x.ravel(), y.ravel())[0, 1] if np.ptp(y) > 0 else 0.0
    # relative to |x|: with x alone negative values would never fail
    relative = np.divide(off, np.abs(x), out=np.where(off > 0, np.inf, 0.0), where=x != 0)
    return {
        "bound_holds": bool((off <= bound).all()),
        "r2_holds": bool(correlation**2 > R2_ABOVE),
        "relative_holds": bool((relative > OFF_BY).mean() < OFF_SHARE),
    }


def _loosest(coder: Coder, field: Field, bound: float) -> tuple[int, Field]:
    """The smallest result whose error is within the bound: the parameter is doubled, then sought by halving."""

    def holds(decoded: Field) -> bool:
        return bool((np.abs(decoded.astype(np.float64) - field) <= bound).all())

    low, best = bound, coder(field, bound)
    while not holds(best[1]):
        # rounding to float32 may carry a value beyond the bound of the codec
        low /= 2
        if low < bound / 1024:
            return len(field.tobytes()), field
        best = coder(field, low)
    high = low
    while high < 64 * bound:
        high *= 2
        found = coder(field, high)
        if not holds(found[1]):
            break
        low, best = high, found
    for _ in range(_HALVINGS):
        middle = (low * high) ** 0.5
        found = coder(field, middle)
        if holds(found[1]):
            low, best = middle, (found if found[0] <= best[0] else best)
        else:
            high = middle
    return best


def coders() -> dict[str, Coder]:
    """The codecs; a RequestError says that the extra is missing."""
    try:
        import numcodecs_wasm_pco
        import numcodecs_wasm_sperr
        import numcodecs_wasm_sz3
        import numcodecs_wasm_zfp
    except ModuleNotFoundError as error:
        raise RequestError(f"{error.name} is not installed; `pip install 'embedcube[fields]'`") from None

    # their annotations have holes
    kinds: tuple[Any, ...] = (numcodecs_wasm_pco.Pco, numcodecs_wasm_sperr.Sperr, numcodecs_wasm_sz3.Sz3,
                              numcodecs_wasm_zfp.Zfp)  # fmt: skip
    pco_of, sperr_of, sz3_of, zfp_of = kinds

    def with_codec(make: Callable[[float], Any]) -> Coder:
        def code(field: Field, parameter: float) -> tuple[int, Field]:
            # a number of NumPy is refused as a parameter
            codec = make(float(parameter))
            stored = np.asarray(codec.encode(field))
            return stored.nbytes, np.asarray(codec.decode(stored)).reshape(field.shape).astype(np.float32)

        return code

    pco = pco_of(level=8, mode="auto", delta="auto", paging="equal-pages-up-to")
    return {
        "bitround + zstd": lambda field, bound: _bit_rounded(field, bound, _zstd),
        "bitround + pcodec": lambda field, bound: _bit_rounded(
            field, bound, lambda x: np.asarray(pco.encode(x)).nbytes
        ),
        "linear pack + zstd": _linear,
        "sz3": with_codec(lambda bound: sz3_of(eb_mode="abs", eb_abs=bound)),
        "zfp": with_codec(lambda bound: zfp_of(mode="fixed-accuracy", tolerance=bound)),
        "sperr": with_codec(lambda bound: sperr_of(mode="pwe", pwe=bound)),
    }


def _bit_rounded(field: Field, bound: float, size: Callable[[Field], int]) -> tuple[int, Field]:
    """The fewest bits of the mantissa with which no value is off by more than the bound."""
    rounded = field
    for bits in range(1, 24):
        rounded = np.asarray(BitRound(keepbits=bits).encode(field.copy())).view(np.float32).reshape(field.shape)
        if (np.abs(rounded.astype(np.float64) - field) <= bound).all():
            break
    return size(np.ascontiguousarray(rounded)), rounded


def _zstd(field: Field) -> int:
    return len(Zstd(level=5).encode(Shuffle(4).encode(field)))


def _linear(field: Field, bound: float) -> tuple[int, Field]:
    """Whole numbers of steps above the least value, in the smallest kind that holds them, as CF packs them."""
    least = float(field.min())
    levels = np.rint((field.astype(np.float64) - least) / (2 * bound))
    kind: Any = next(kind for kind in (np.uint8, np.uint16, np.uint32) if levels.max() <= np.iinfo(kind).max)
    packed = levels.astype(kind)
    size = len(Zstd(level=5).encode(Shuffle(packed.itemsize).encode(packed)))
    return size, (packed * (2 * bound) + least).astype(np.float32)


def lines_of_fields(runs: Sequence[FieldRun]) -> list[str]:
    """The table as text: the ratio and the three tests of each run."""
    codecs = list(dict.fromkeys(run.codec for run in runs))
    lines = [f"{'field':<8}{'bound':>7}  " + "".join(f"{codec:>20}" for codec in codecs)]
    for field, bound in dict.fromkeys((run.field, run.bound) for run in runs):
        own = {run.codec: run for run in runs if (run.field, run.bound) == (field, bound)}
        cells = (f"{own[codec].times_smaller:.1f} {_letters(own[codec])}" for codec in codecs)
        lines.append(f"{field:<8}{bound:>7g}  " + "".join(f"{cell:>20}" for cell in cells))
    broken = sum(not run.bound_holds for run in runs)
    lines.append(f"times smaller than float32, at equal achieved error; Y or n: bound, R2 above {R2_ABOVE}, less than "
                 f"{OFF_SHARE:.0%} of values off by more than {OFF_BY:g} of themselves")  # fmt: skip
    return [*lines, f"{len(runs)} runs, {broken} violations of the bound"]


def _letters(run: FieldRun) -> str:
    return "".join("Y" if holds else "n" for holds in (run.bound_holds, run.r2_holds, run.relative_holds))
