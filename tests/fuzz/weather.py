"""Small archives of weather: one field of pressure, eight times a day, as NetCDF, GRIB and Zarr."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import xarray
from tests.fuzz.inputs import Input

ROWS, COLS, STEP = 12, 16, 0.25
NORTH, WEST = 52.0, 5.0
STEPS = 8
DAYS = ("2022-08-30", "2022-08-31")
"""of the file that is spared, and of the one that is damaged"""


def weather_input(*files: str) -> Input:
    """An input whose pixels are the field's own points, a chip a day."""
    edge = STEP / 2
    west, north = WEST - edge, NORTH + edge
    return Input(
        archive={"source": "era5", "path": "archive", "bands": ["sp"]},
        grid={"crs": "EPSG:4326", "pixel": STEP, "origin": [west, north]},
        region={"bbox": [west + 0.01, north - 8 * STEP + 0.01, west + 8 * STEP - 0.01, north - 0.01]},
        windows=((DAYS[0], DAYS[1]), (DAYS[1], "2022-09-01")),
        layer={
            "backbone": {"name": "eof", "components": 1},
            "chip_px": 8,
            "halo_px": 0,
            "cell_px": 8,
            "shard_chips": 1,
        },
        files=files,
    )


def field(day: str, seed: int) -> Any:
    """Pressure of a day, with the attributes that CF requires."""
    lat, lon = NORTH - STEP * np.arange(ROWS), WEST + STEP * np.arange(COLS)
    step, y, x = np.mgrid[:STEPS, :ROWS, :COLS]
    noise = np.random.default_rng(seed).normal(0, 80, step.shape)
    return xarray.DataArray(
        (99_000 + 40 * y + 90 * np.sin(x / 3) + 20 * step + noise).astype(np.float32),
        dims=("time", "latitude", "longitude"),
        coords={
            "time": ("time", pandas.date_range(day, periods=STEPS, freq="3h"), {"standard_name": "time"}),
            "latitude": ("latitude", lat.astype(np.float32), {"units": "degrees_north"}),
            "longitude": ("longitude", lon.astype(np.float32), {"units": "degrees_east"}),
        },
        attrs={"units": "Pa", "standard_name": "surface_air_pressure"},
        name="sp",
    )


def _each(folder: Path, suffix: str, write: Callable[[Any, Path], None]) -> Input:
    """A file for each day; the second is damaged."""
    for seed, day in enumerate(DAYS):
        path = folder / "archive" / f"sp_{day}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        write(field(day, seed), path)
    return weather_input(f"archive/sp_{DAYS[1]}{suffix}")


def netcdf3(folder: Path, *, kind: str) -> Input:
    """The classic format, whose numbers have no checksum."""
    return _each(folder, ".nc", lambda array, path: array.to_netcdf(path, format=kind, engine="netcdf4"))


def netcdf4(folder: Path, **encoding: Any) -> Input:
    """HDF5, with the encoding of the variable."""

    def write(array: Any, path: Path) -> None:
        array.to_netcdf(path, format="NETCDF4", engine="netcdf4", encoding={"sp": encoding})

    return _each(folder, ".nc", write)


PACKED: dict[str, Any] = {"dtype": "int16", "scale_factor": 0.25, "add_offset": 99_000.0, "_FillValue": -32767}
DEFLATED: dict[str, Any] = {"zlib": True, "complevel": 4, "shuffle": True, "chunksizes": (3, 6, 8)}


def grib(folder: Path, *, edition: int, packing: str = "grid_simple") -> Input:
    """A message for each step, written by eccodes from its own sample."""
    return _each(folder, ".grib", partial(_write_grib, edition=edition, packing=packing))


def _write_grib(array: Any, path: Path, *, edition: int, packing: str) -> None:
    import eccodes

    with path.open("wb") as file:
        for time, values in zip(pandas.DatetimeIndex(array.time.values), array.values, strict=True):
            handle = eccodes.codes_grib_new_from_samples(f"regular_ll_sfc_grib{edition}")
            wanted: dict[str, Any] = {
                "Ni": COLS, "Nj": ROWS, "iDirectionIncrementInDegrees": STEP, "jDirectionIncrementInDegrees": STEP,
                "latitudeOfFirstGridPointInDegrees": NORTH,
                "latitudeOfLastGridPointInDegrees": NORTH - STEP * (ROWS - 1),
                "longitudeOfFirstGridPointInDegrees": WEST,
                "longitudeOfLastGridPointInDegrees": WEST + STEP * (COLS - 1),
                "dataDate": int(f"{time:%Y%m%d}"), "dataTime": int(f"{time:%H%M}"), "paramId": 134, "bitsPerValue": 16,
                "packingType": packing,
            }  # fmt: skip
            for key, value in wanted.items():
                eccodes.codes_set(handle, key, value)
            eccodes.codes_set_values(handle, values.astype(np.float64).ravel())
            eccodes.codes_write(handle, file)
            eccodes.codes_release(handle)


def zarr(folder: Path, *, version: int, consolidated: bool, checksums: bool = False) -> Input:
    """A store for each day; a document or a chunk of the second is damaged."""
    from zarr.codecs import Crc32cCodec, ZstdCodec

    def write(array: Any, path: Path) -> None:
        data = array.to_dataset()
        for variable in data.variables.values():
            variable.encoding = {"compressors": [ZstdCodec(), Crc32cCodec()]} if checksums else {}
        data.chunk(time=4).to_zarr(path, zarr_format=version, consolidated=consolidated)

    made = _each(folder, ".zarr", write)
    store = folder / made.files[0]
    files = sorted(str(path.relative_to(folder)) for path in store.rglob("*") if path.is_file())
    return weather_input(*files)


def load_definitions() -> None:
    """Let eccodes read its definitions, which takes a second, before the process is forked."""
    import eccodes

    for edition in (1, 2):
        handle = eccodes.codes_grib_new_from_samples(f"regular_ll_sfc_grib{edition}")
        for key in ("paramId", "cfVarName", "cfName", "stepType", "md5GridSection", "gridType", "validityDate"):
            eccodes.codes_get(handle, key)
        eccodes.codes_release(handle)
