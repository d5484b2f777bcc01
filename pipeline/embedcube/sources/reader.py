"""Read raster files, decode each block once, and tell wrong bytes from failures that may pass."""

import os
import re
import resource
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile

from embedcube.campaign.resampling import Method
from embedcube.campaign.scene import Asset
from embedcube.errors import CorruptInput
from embedcube.grid import Grid, PixelArea
from embedcube.sources.changed import change_of
from embedcube.sources.masks import open_mask
from embedcube.sources.netcdf3 import is_netcdf
from embedcube.sources.opening import open_raster
from embedcube.sources.resample import Conversion, Pixels, read_onto
from embedcube.timings import WITHIN_READ, Timings

# GDAL's own threads read torn JPEG 2000 tiles as zeros or as what was in memory, and say nothing; one thread raises
os.environ["GDAL_NUM_THREADS"] = "1"
T = TypeVar("T")


class Opened(Protocol):
    """An open file of any kind."""

    def close(self) -> None:
        """Close the file."""
        ...


H = TypeVar("H", bound=Opened)


_IN_MEMORY_BYTES = 1 << 30
"""most bytes of a file that is read into memory to find out whether they are wrong"""

_MOST_FILES = 1024
"""files that a rank keeps open at most; each takes some 20 kB"""


class RasterReader:
    """The open files of one rank, and the threads that read.

    A band is always read by the same thread: two threads on one file would each decode its blocks.
    Decoded blocks stay in GDAL's cache (GDAL_CACHEMAX) as long as their file stays open.
    """

    def __init__(self, threads: int, attempts: int = 4, wait_s: float = 0.5) -> None:
        """A read that fails for the moment is tried `attempts` times; it waits `wait_s`, twice that, ... seconds."""
        self._pools = [ThreadPoolExecutor(1, thread_name_prefix=f"read-{i}") for i in range(threads)]
        self._callers = ThreadPoolExecutor(threads, thread_name_prefix="observe")
        self._files: list[OrderedDict[Hashable, Opened]] = [OrderedDict() for _ in range(threads)]
        # as many as possible, so that neighbouring shards of a group reuse open files and decoded blocks
        self._open_files = max(16, min(_MOST_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2) // threads)
        self._spent = [Timings() for _ in range(threads)]
        self._attempts = attempts
        self._wait_s = wait_s

    def submit(
        self,
        path: Path,
        asset: Asset,
        grid: Grid,
        area: PixelArea,
        method: Method,
        lane: int,
        convert: Conversion | None = None,
    ) -> Future[Pixels]:
        """Start reading `asset` onto `area`; reads of one lane run in one thread, one after the other.

        The result is that of `resample.read_onto`. It raises CorruptInput where the bytes of the file are wrong, and
        OSError where it could not be read for a reason that may pass.
        """
        place, beside = lane % len(self._pools), asset.mask_beside
        mask_path = Path(f"{path}{asset.mask}")

        def mask() -> Any:
            """The mask beside the file, which stays open like the file itself."""
            return beside and self._kept_open(place, mask_path, partial(_mask_opened, mask_path, beside))

        def decode(dataset: Any) -> Pixels:
            return read_onto(dataset, asset, grid, area, method, convert, self._spent[place], mask())

        def judged() -> CorruptInput | OSError:
            if beside is not None:
                self._dropped(place, mask_path)
            return judge_asset(path, asset, decode)

        key = (path, asset.inner)
        return self.run(lane, key=key, opened=partial(_opened, path, asset), decode=decode, judged=judged)

    def read_bands(
        self,
        root: Path,
        assets: Sequence[Asset],
        grid: Grid,
        area: PixelArea,
        method_of: Callable[[str], Method],
        convert_of: Callable[[Asset], Conversion],
    ) -> Pixels:
        """Read all bands of a scene, converted, each in its own lane: (band, y, x) float32, NaN where there is no data.

        Raises:
            CorruptInput, OSError: see `submit`.
        """
        futures = [
            self.submit(root / asset.path, asset, grid, area, method_of(asset.band), lane, convert_of(asset))
            for lane, asset in enumerate(assets)
        ]
        return np.stack([future.result() for future in futures])

    def run(
        self,
        lane: int,
        *,
        key: Hashable,
        opened: Callable[[], H],
        decode: Callable[[H], T],
        judged: Callable[[], CorruptInput | OSError],
    ) -> "Future[T]":
        """Start `decode` on the file that `opened` opens, in the thread of `lane`.

        The file stays open for later calls with an equal `key`. A read that fails (OSError, ValueError) is repeated
        with the file opened again, unless `judged` returns CorruptInput: then the bytes are wrong.
        """
        place = lane % len(self._pools)

        def judged_closed(_: Exception) -> CorruptInput | OSError:
            self._dropped(place, key)
            return judged()

        def read() -> T:
            spent, began_s = self._spent[place], time.perf_counter()
            known_s = sum(spent.seconds.values())
            try:
                return retried(
                    lambda: decode(self._kept_open(place, key, opened)),
                    judged_closed,
                    attempts=self._attempts,
                    wait_s=self._wait_s,
                )
            finally:
                # time that `decode` has not counted itself
                spent.add("decode", time.perf_counter() - began_s - (sum(spent.seconds.values()) - known_s))

        return self._pools[place].submit(read)

    def together(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """Run the calls in parallel and return their results in order; they may wait for reads that they `submit`.

        If any call fails, the first error in their order is raised, after all calls have ended. Calls that have not
        begun when the reader is closed fail with a CancelledError.
        """
        if len(self._pools) == 1:
            return [call() for call in calls]
        futures = [self._callers.submit(call) for call in calls]
        for future in futures:
            # `concurrent.futures.wait` would never return: `shutdown` cancels futures without telling who waits
            with suppress(CancelledError):
                future.exception()
        return [future.result() for future in futures]

    def spent(self) -> dict[str, float]:
        """Seconds that all threads spent on "decode" and "warp" since the last call."""
        spent, self._spent = self._spent, [Timings() for _ in self._pools]
        return {step: sum(timings.seconds.get(step, 0.0) for timings in spent) for step in WITHIN_READ}

    def close(self) -> None:
        """Stop the threads and close their files; reads that have not started are dropped."""
        self._callers.shutdown(wait=True, cancel_futures=True)
        for pool, files in zip(self._pools, self._files, strict=True):
            pool.shutdown(wait=True, cancel_futures=True)
            for file in files.values():
                file.close()
            files.clear()

    def _dropped(self, place: int, key: Hashable) -> None:
        if (broken := self._files[place].pop(key, None)) is not None:
            broken.close()

    def _kept_open(self, place: int, key: Hashable, opened: Callable[[], H]) -> H:
        files: OrderedDict[Hashable, Any] = self._files[place]
        if key in files:
            files.move_to_end(key)
        else:
            files[key] = opened()
            if len(files) > self._open_files:
                files.popitem(last=False)[1].close()
        kept: H = files[key]
        return kept


def _opened(path: Path, asset: Asset) -> Any:
    """Open the file of an asset, if it is the one that was indexed; else a ValueError."""
    if (status := path.stat()).st_size != asset.size:
        raise ValueError(f"{status.st_size} bytes")
    if other := change_of(path, asset, status):
        raise ValueError(other)
    return open_raster(path, asset.inner, sidecars=False)


def _mask_opened(path: Path, beside: Asset) -> Any:
    """Open the mask beside a file, if it is the one that was indexed; else a ValueError."""
    if other := _mask_changed(path, beside):
        raise ValueError(other)
    return open_mask(path)


def _mask_changed(path: Path, beside: Asset) -> str:
    if (status := path.stat()).st_size != beside.size:
        return f"{beside.band}: {beside.path} has {status.st_size} bytes, {beside.size} when it was indexed"
    return change_of(path, beside, status)


def _mask_judged(path: Path, beside: Asset) -> CorruptInput | OSError | None:
    """Why the mask beside a file could not be read; None if it is the one that was indexed, and is not to blame."""
    try:
        path.read_bytes()
        if other := _mask_changed(path, beside):
            return CorruptInput(other)
        with open_mask(path) as mask:
            mask.read()
    except FileNotFoundError as missing:
        return judge_missing(path, beside.band, beside.path, missing)
    except RasterioError as error:
        return CorruptInput(f"{beside.band}: {beside.path} does not decode: {_complaint(error, path)}")
    except OSError as passing:
        return passing
    return None


def judge_asset(path: Path, asset: Asset, decode: Callable[[Any], object]) -> CorruptInput | OSError:
    """Why a file or the mask beside it could not be decoded: see `judge`; or it is not the one that was indexed."""
    beside = asset.mask_beside
    if beside is not None and (of_mask := _mask_judged(Path(f"{path}{asset.mask}"), beside)) is not None:
        return of_mask
    found = judge(path, asset.inner, asset.band, asset.path, decode, size=asset.size)
    if isinstance(found, CorruptInput):
        return found
    try:
        other = change_of(path, asset, path.stat())
    except OSError:
        return found  # which may pass, as this
    return CorruptInput(other) if other else found


def retried(
    read: Callable[[], T],
    judge: Callable[[Exception], CorruptInput | OSError],
    *,
    attempts: int = 4,
    wait_s: float = 0.5,
) -> T:
    """Call `read` until it succeeds or its input is judged corrupt, `attempts` times at most."""
    for attempt in range(attempts):
        try:
            return read()
        except (RasterioError, OSError, ValueError) as error:
            judged = judge(error)
            if isinstance(judged, CorruptInput) or attempt + 1 == attempts:
                raise judged from error
        time.sleep(wait_s * 2**attempt)
    raise AssertionError("unreachable: the last attempt returns or raises")


def judge(
    path: Path, inner: str, band: str, name: str, decode: Callable[[Any], object], *, size: int | None = None
) -> CorruptInput | OSError:
    """Why a file could not be decoded: wrong bytes (CorruptInput), or a failure that may pass (OSError).

    GDAL reports both alike. So all bytes are read without GDAL and then decoded from memory: if that fails, the bytes
    are wrong. (Of a very large file, the bytes are decoded from the file right after they were all read.) `name` is the
    file's path below the archive, `size` its bytes when it was indexed.
    """
    try:
        # first: to read a FIFO, which has no bytes, would wait for ever
        if size not in (None, actual := path.stat().st_size):
            return CorruptInput(f"{band}: {name} has {actual} bytes, {size} when it was indexed")
        data = path.read_bytes() if actual <= _IN_MEMORY_BYTES else _read_through(path)
    except FileNotFoundError as missing:
        return judge_missing(path, band, name, missing)
    except OSError as passing:
        return passing
    try:
        # the NetCDF library cannot read from memory, so it reads the file, all of which was just read without an error
        with MemoryFile(data, ext=path.suffix) as memory:
            readable = path if is_netcdf(path) or not data else Path(memory.name)
            with open_raster(readable, inner) as dataset:
                decode(dataset)
    except (RasterioError, ValueError) as error:
        return CorruptInput(f"{band}: {name} does not decode: {_complaint(error, path, Path(memory.name))}")
    return OSError(f"{band}: {name} could not be read whole, though its bytes are right")


def _complaint(error: Exception, *paths: Path) -> str:
    """What a decoder complains of, on one line, without the file and the band: the caller has named them."""
    text = " ".join(str(error.__cause__ or error).split())
    names = sorted({name for path in paths for name in (str(path), path.name)}, key=len, reverse=True)
    any_name = "|".join(map(re.escape, names))
    return re.sub(rf"(['\"]?)(?<![\w/.-])(?:{any_name})\1(?:, band \d+)?:? *", "", text)


def _read_through(path: Path) -> bytes:
    """Read all bytes of a file and keep none."""
    with path.open("rb") as file:
        while file.read(1 << 24):
            pass
    return b""


def judge_missing(path: Path, band: str, name: str, missing: FileNotFoundError) -> CorruptInput | OSError:
    """Why a file is missing: deleted (CorruptInput), or its archive is not mounted (OSError).

    An archive whose folder is missing or empty is not mounted. For a file outside of the archive's folder, its own
    folder decides.
    """
    inside = len(Path(name).parts) if ".." not in Path(name).parts else 1
    archive = path.parents[inside - 1]
    if archive.exists() and any(archive.iterdir()):
        return CorruptInput(f"{band}: {name} is gone since it was indexed")
    return missing
