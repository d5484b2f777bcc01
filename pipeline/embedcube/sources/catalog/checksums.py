"""Checksums inside of image files that their decoder does not look at.

Each block of a TIFF that is compressed with deflate ends with a checksum of its pixels (Adler-32). GDAL does not
compare it: a flipped bit is read as other pixels.
"""

import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from rasterio.enums import Compression, Interleaving

from embedcube.errors import CorruptInput
from embedcube.sources.catalog.products import File
from embedcube.sources.opening import open_raster

_PIECE = 1 << 20
"""bytes that are decompressed at once"""


def refuse_flipped(file: File, band: str, name: str) -> None:
    """Compare the checksum of every block of a band in a deflate TIFF; other files are not looked at.

    Raises:
        CorruptInput: a block does not have its checksum.
        OSError: the file could not be read.
    """
    if not file.inner:
        status = file.path.stat()
        if reason := _flipped(file.path, file.index, status.st_size, status.st_mtime_ns):
            raise CorruptInput(f"{band}: {name} does not decode: {reason}")


# the bands of a file are often stored together
@lru_cache(maxsize=64)
def _flipped(path: Path, index: int, size: int, modified_ns: int) -> str:
    """Why a band has a damaged block; empty if it has none."""
    with open_raster(path, "") as dataset:
        if dataset.driver != "GTiff" or dataset.compression != Compression.deflate:
            return ""
        if dataset.interleaving == Interleaving.pixel and index > 1:
            return _flipped(path, 1, size, modified_ns)
        with path.open("rb") as file:
            for (row, col), _ in dataset.block_windows(index):
                try:
                    _decompress(file, *_place(dataset, index, row, col))
                except zlib.error as error:
                    return f"the block at row {row}, column {col} of its blocks: {error}"
    return ""


def _place(dataset: Any, index: int, row: int, col: int) -> tuple[int, int]:
    """Offset and length of a block in its file; 0 and 0 where it is not stored."""
    offset, length = (
        dataset.get_tag_item(f"BLOCK_{what}_{col}_{row}", "TIFF", bidx=index) for what in ("OFFSET", "SIZE")
    )
    return int(offset or 0), int(length or 0)


def _decompress(file: BinaryIO, offset: int, length: int) -> None:
    """Decompress a block piece by piece; a zlib.error where it is damaged or incomplete."""
    if not length:
        return
    file.seek(offset)
    stream = zlib.decompressobj()
    data, more = file.read(length), True
    while more and not stream.eof:
        # what has been decompressed may still be inside, with nothing left to put in
        more = len(stream.decompress(data, _PIECE)) == _PIECE
        data = stream.unconsumed_tail
    if not stream.eof:
        raise zlib.error("incomplete or truncated stream")
