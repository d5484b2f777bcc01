"""Damage to documents: JSON and XML that still parse, and say other things; and such that do not."""

import json
import re
from collections.abc import Iterator
from random import Random
from typing import Any

from tests.fuzz.mutations import Mutation, Places, cut, flip_bits

Path = tuple[str | int, ...]
"""Keys and indices that lead to a part of a document."""

_KEPT = 5000
"""characters of the longest text"""

ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1e308, float("nan"), float("inf"), -float("inf"), 10**30, "", "x", "\u0000", "\ud800",
    "é" * 10, "A" * _KEPT, "../" * 50 + "etc/passwd", "file:///etc/passwd", "http://169.254.169.254/latest/meta-data",
    "ftp://x/y", "s3://b/k", "/vsicurl/http://127.0.0.1:9/x.tif", "NETCDF:x:y", "/dev/zero", "/dev/stdin",
    "/proc/self/mem", ".", "/", "[]", [], {}, [[]], [None], {"a": 1}, [1, "2"], "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-12:00", "2023-06-01", "2023-13-45T99:99:99Z", "1220" + "0" * 64, "1220zz", "12201", -0.0,
    2**63, 2**64, "NaN", "1e999", "2023-06-01T00:00:60Z", "2023-W01-1", "20230601T000000Z", [1e400, 0, 0, 0],
)  # fmt: skip
"""What no document should say, and some do."""

_ADDED = (
    "file:size", "file:checksum", "eo:bands", "bands", "roles", "href", "datetime", "start_datetime", "end_datetime",
    "proj:transform", "s2:processing_baseline", "s2:add_offset", "earthsearch:boa_offset_applied", "s2:datatake_id",
    "s2:mgrs_tile", "type", "links", "fill_value", "shape", "chunks", "dtype", "codecs", "compressor", "filters",
    "add_offset", "scale_factor",
)  # fmt: skip
"""Keys of STAC and of Zarr that change what is read."""

_LEADING = {
    "assets", "properties", "bbox", "datetime", "id", "type", "href", "eo:bands", "shape", "chunks", "dtype",
    "data_type", "fill_value", "codecs", "compressor", "filters", "attributes", "chunk_grid",
}  # fmt: skip
"""Keys whose parts are changed more often."""

DEEP = 100_000
"""brackets of a document that is nested beyond what a parser takes"""


def change_json(random: Random, data: bytearray, places: Places) -> str:
    """Remove, rename, add or replace parts of a JSON document."""
    document, said = json.loads(bytes(data)), []
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        paths = [path for path in _paths(document) if path]
        if not paths:
            break
        leading = [path for path in paths if _LEADING.intersection(path)]
        path = random.choice(leading if leading and random.random() < 0.7 else paths)
        said.append(_changed(random, document, path))
    data[:] = json.dumps(document).encode()
    return "; ".join(said)


def _changed(random: Random, document: Any, path: Path) -> str:
    parent = document
    for step in path[:-1]:
        parent = parent[step]
    name, odd, what = ".".join(map(str, path)), random.choice(ODD), random.randrange(5)
    if what == 0:
        del parent[path[-1]]
        return f"{name} removed"
    if what == 1 and isinstance(parent, dict):
        parent[str(odd)] = parent.pop(path[-1])
        return f"{name} renamed to {str(odd)[:30]!r}"
    if what == 2 and isinstance(parent, dict):
        added = random.choice(_ADDED)
        parent[added] = odd
        return f"{added} = {str(odd)[:30]!r} beside {name}"
    parent[path[-1]] = odd
    return f"{name} = {str(odd)[:30]!r}"


def nest(random: Random, data: bytearray, places: Places) -> str:
    """Replace a JSON document by brackets within brackets."""
    opening = random.choice(("[", '{"a":'))
    data[:] = (opening * DEEP).encode()
    return f"{DEEP} times {opening}"


def _paths(part: Any, at: Path = ()) -> Iterator[Path]:
    yield at
    if isinstance(part, dict):
        for key, value in part.items():
            yield from _paths(value, (*at, key))
    elif isinstance(part, list):
        for index, value in enumerate(part):
            yield from _paths(value, (*at, index))


_XML_PLACE = re.compile(r">([^<>\s][^<>]*)<|=\"([^\"]*)\"|<(/?\w[\w:]*)")
"""A text, the value of an attribute, a tag."""

_XML_TEXTS = (
    "", "-1", "NaN", "inf", "1e400", "9" * 20, "../../etc/passwd", "&lt;", "A" * _KEPT, "2018-13-45T00:00:00Z",
    "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999Z", "\u0001", "&x;", "SHA3-256", "MD5", "0" * 32, "04.00", "x",
    "\u0661\u0662", " 12 ", "1_000",
)  # fmt: skip

_ENTITIES = (
    '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">'
    + "".join(f'<!ENTITY {name} "{f"&{before};" * 10}">' for before, name in zip("abcdefgh", "bcdefghi", strict=True))
    + "]>"
)
"""Entities of entities: 10**9 characters when they are expanded."""


def change_xml(random: Random, data: bytearray, places: Places) -> str:
    """Replace a text, an attribute or a tag of an XML document."""
    text = bytes(data).decode("utf-8", "surrogateescape")
    match = random.choice(list(_XML_PLACE.finditer(text)))
    group = next(number for number in (1, 2, 3) if match[number] is not None)
    new = random.choice(_XML_TEXTS)
    data[:] = (text[: match.start(group)] + new + text[match.end(group) :]).encode("utf-8", "surrogateescape")
    return f"{match[0][:40]!r}: {new[:20]!r}"


def multiply_entities(random: Random, data: bytearray, places: Places) -> str:
    """Put entities that grow without bound into an XML document."""
    text = re.sub(r"^\s*<\?xml[^>]*>", "", bytes(data).decode("utf-8", "surrogateescape"))
    match = random.choice(list(re.finditer(r">([^<>\s][^<>]*)<", text)))
    data[:] = (_ENTITIES + text[: match.start(1)] + "&i;" + text[match.end(1) :]).encode("utf-8", "surrogateescape")
    return f"{match[0][:40]!r}: entities of entities"


JSON: tuple[Mutation, ...] = (*(change_json,) * 16, flip_bits, flip_bits, cut, nest)
XML: tuple[Mutation, ...] = (*(change_xml,) * 16, flip_bits, flip_bits, cut, multiply_entities)
