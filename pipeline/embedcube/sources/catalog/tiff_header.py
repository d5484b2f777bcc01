"""The part of a TIFF header that describes pixels and geometry: equal for all dates of one tile.

GDAL takes a millisecond to open a file. Files with equal descriptions are opened once.
"""

import re
import struct
from collections.abc import Callable

_DIRECTORY = {b"*\0": ("4xI", "H", "HHI4s"), b"+\0": ("8xQ", "Q", "HHQ8s")}
"""struct formats of TIFF and BigTIFF: offset of the directory, number of its entries, one entry"""

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""bytes of a value, by the number of its type"""

_BLOCKS, _DATE, _GDAL_METADATA = frozenset((273, 279, 324, 325)), 306, 42112
"""tags: offsets and lengths of strips and tiles; the date; GDAL's metadata (XML)"""

_PACKING = re.compile(rb'<Item[^>]*(?:role="(?:scale|offset)"|name="NODATA_VALUES")[^>]*>[^<]*')
"""The items of GDAL's metadata that describe pixels; statistics do not"""

_TRANSFORMS, _CRS = {33550, 34264}, 34735
"""tags: pixel scale or transformation; the coordinate reference system"""

_KIND, _MASK = 254, 4
"""tag of what a directory is (NewSubfileType), and its bit for a mask"""

_DIRECTORIES = 64
"""most directories of a file: an image, its mask, and their overviews"""


def geometry_of(head: bytes, read: Callable[[int, int], bytes] | None = None) -> bytes | None:
    """Everything in a header that describes pixels and geometry; None where GDAL must open the file.

    That is the first directory, and whether another one is a mask of its pixels. `head` is the beginning of the file.
    It does not suffice where it does not hold the whole first directory, or where that has no georeferencing.
    `read(offset, size)` reads further directories beyond `head`; without it, GDAL must open a file that has them.
    """
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    formats = _DIRECTORY.get(head[2:4] if order == "<" else head[3:1:-1])
    if order is None or formats is None:
        return None
    offset, number, entry = (struct.Struct(order + text) for text in formats)
    link = struct.Struct(order + formats[0][-1])
    try:
        (start,) = offset.unpack_from(head)
        (count,) = number.unpack_from(head, start)
        first = start + number.size
        entries = head[first : first + count * entry.size]
        if len(entries) < count * entry.size:
            return None
        parts, tags = [head[:4]], set()
        for i, (tag, kind, values, inline) in enumerate(entry.iter_unpack(entries)):
            if tag == _DATE:
                continue
            length = values * _SIZES[kind]
            if tag == _GDAL_METADATA:
                parts.extend(_PACKING.findall(_value(head, order, inline, length)))
                continue
            tags.add(tag)
            begins = i * entry.size
            # tag, type and number of values, then the values
            parts.append(entries[begins : begins + entry.size - len(inline)])
            if tag not in _BLOCKS:
                parts.append(inline[:length] if length <= len(inline) else _value(head, order, inline, length))
        (following,) = link.unpack_from(head, first + count * entry.size)
        parts.append(b"mask" * _has_mask(following, head, read, number, entry, link))
    except (struct.error, KeyError, ValueError):
        return None
    return b"".join(parts) if _CRS in tags and _TRANSFORMS & tags else None


def _has_mask(
    start: int,
    head: bytes,
    read: Callable[[int, int], bytes] | None,
    number: struct.Struct,
    entry: struct.Struct,
    link: struct.Struct,
) -> bool:
    """Whether a directory from the one at `start` on is a mask of the image's own pixels."""

    def at(place: int, size: int) -> bytes:
        if place + size <= len(head):
            return head[place : place + size]
        if read is None:
            raise ValueError("the directory lies beyond the bytes that were read")
        return read(place, size)

    for _ in range(_DIRECTORIES):
        if not start:
            return False
        (count,) = number.unpack(at(start, number.size))
        entries = at(start + number.size, count * entry.size)
        # tags are sorted, and this one is the first
        tag, _, _, inline = next(entry.iter_unpack(entries), (0, 0, 0, b""))
        kind = int.from_bytes(inline[:4], "little" if number.format[0] == "<" else "big")
        if tag == _KIND and kind & _MASK and not kind & 1:
            return True
        (start,) = link.unpack(at(start + number.size + count * entry.size, link.size))
    raise ValueError("more directories than an image has")


def _value(head: bytes, order: str, inline: bytes, length: int) -> bytes:
    """A value: inside its entry if it is short, else at the offset that the entry holds."""
    if length <= len(inline):
        return inline[:length]
    offset = int.from_bytes(inline, "little" if order == "<" else "big")
    if offset + length > len(head):
        raise ValueError("the value lies beyond the bytes that were read")
    return head[offset : offset + length]
