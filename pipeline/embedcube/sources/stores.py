"""What a Zarr store says of itself, checked before it is opened: its codecs, and the length of its axes.

The metadata of a store name the software that decodes it; some of that software runs what the data say.
"""

import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from embedcube.sources.netcdf import refuse_long_axis

_METADATA_BYTES = 1 << 26
"""most bytes of one metadata file of a store"""

_FILTERS = (
    "adler32", "astype", "bitround", "blosc", "bz2", "crc32", "crc32c", "delta", "fixedscaleoffset", "fletcher32",
    "gzip", "jenkins_lookup3", "lz4", "lzma", "packbits", "pcodec", "quantize", "shuffle", "zfpy", "zlib", "zstd",
)  # fmt: skip
"""codecs of numcodecs that turn bytes into numbers, and nothing else"""

_CODECS = frozenset(
    (
        *_FILTERS, *(f"numcodecs.{name}" for name in _FILTERS), "bytes", "endian", "transpose", "sharding_indexed",
        "vlen-utf8", "vlen-bytes",
    )
)  # fmt: skip
"""codecs of Zarr that may be in a store. `pickle` runs code; others make objects, or come with software of the user"""


def refuse_store(store: Path | zipfile.Path) -> None:
    """Refuse a Zarr store that names a codec which is not known to be safe, or has coordinates that are too long.

    It may be a folder, or lie in a zip file. All metadata that a reader might use is looked at: consolidated or not, of
    Zarr 2 and 3.

    Raises:
        ValueError: naming the array; or the metadata cannot be understood.
        OSError: the metadata could not be read.
    """
    for name, array in _arrays(store):
        try:
            shape, chunks = _shape(array["shape"]), _shape(_chunks(array))
            codecs = list(_codecs(array))
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise ValueError(f"{name}: its metadata is not that of an array: {type(error).__name__}: {error}") from None
        if unknown := [codec for codec in codecs if codec not in _CODECS]:
            raise ValueError(
                f"{name}: the codec {unknown[0]} is not among those that are read, which only decode numbers and text; "
                "write the store anew with another one"
            )
        refuse_long_axis(name, shape, chunks)


def _arrays(store: Path | zipfile.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and metadata of every array, as each of the metadata files has them."""
    folders = sorted(entry.name for entry in store.iterdir() if entry.is_dir())
    for name, path in ((".", store), *((name, store / name) for name in folders)):
        if (document := _read(path / ".zarray")) is not None:
            yield name, document
        if (document := _read(path / "zarr.json")) is not None:
            if document.get("node_type") == "array":
                yield name, document
            together = (document.get("consolidated_metadata") or {}).get("metadata") or {}
            yield from ((key, node) for key, node in together.items() if node.get("node_type") != "group")
    consolidated = (_read(store / ".zmetadata") or {}).get("metadata") or {}
    for key, node in consolidated.items():
        if key.rpartition("/")[2] == ".zarray":
            yield key, node


def _read(path: Path | zipfile.Path) -> dict[str, Any] | None:
    """A metadata file; None if there is none."""
    try:
        with path.open("rb") as file:
            text = file.read(_METADATA_BYTES + 1)
    except FileNotFoundError:
        return None
    if len(text) > _METADATA_BYTES:
        raise ValueError(f"{path.name} has more than {_METADATA_BYTES} bytes")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    return document


def _shape(numbers: Any) -> tuple[int, ...]:
    return tuple(int(number) for number in numbers)


def _chunks(array: Mapping[str, Any]) -> Any:
    """The shape of an array's chunks, in Zarr 2 and 3."""
    return array["chunks"] if "chunks" in array else array["chunk_grid"]["configuration"].get("chunk_shape", ())


def _codecs(array: Mapping[str, Any]) -> Iterator[str]:
    """Every codec that an array's metadata name, also those inside of shards."""
    named = [*(array.get("filters") or ()), *filter(None, [array.get("compressor")]), *(array.get("codecs") or ())]
    while named:
        codec = named.pop()
        if isinstance(codec, str):
            yield codec
            continue
        yield str(codec["id"] if "id" in codec else codec["name"])
        configuration = codec.get("configuration") or {}
        named += [*(configuration.get("codecs") or ()), *(configuration.get("index_codecs") or ())]
