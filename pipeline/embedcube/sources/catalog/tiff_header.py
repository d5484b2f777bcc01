"""What the header of a TIFF file says, apart from where and when: the same for all dates of one tile."""

import re
import struct

_DIRECTORY = {b"*\0": ("4xI", "H", "HHI4s"), b"+\0": ("8xQ", "Q", "HHQ8s")}
"""TIFF and BigTIFF: how the place of the directory, the number of its entries and an entry are written"""

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""bytes of a value of each type"""

_WHERE, _WHEN, _WORDS = frozenset((273, 279, 324, 325)), 306, 42112
"""offsets and lengths of strips and tiles; the date; what GDAL adds in words"""

_PACKING = re.compile(rb'<Item[^>]*role="(?:scale|offset)"[^>]*>[^<]*')
"""What counts among GDAL's words; statistics do not"""

_PLACES, _CRS = {33550, 34264}, 34735
"""pixel scale or transformation; the keys of the coordinate reference system"""


def described(head: bytes) -> bytes | None:
    """All that the first directory says of pixels and place: files for which it is equal have equal geometry.

    `head` is how the file begins. None where that is not a whole directory, or has no place: others then decide it.
    """
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    formats = _DIRECTORY.get(head[2:4] if order == "<" else head[3:1:-1])
    if order is None or formats is None:
        return None
    place, number, entry = (struct.Struct(order + text) for text in formats)
    try:
        (start,) = place.unpack_from(head)
        (count,) = number.unpack_from(head, start)
        first = start + number.size
        entries = head[first : first + count * entry.size]
        if len(entries) < count * entry.size:
            return None
        said, tags = [head[:4]], set()
        for i, (tag, kind, values, inline) in enumerate(entry.iter_unpack(entries)):
            if tag == _WHEN:
                continue
            length = values * _SIZES[kind]
            if tag == _WORDS:
                said.extend(_PACKING.findall(_value(head, order, inline, length)))
                continue
            tags.add(tag)
            begins = i * entry.size
            # tag, type, number; and the value, in its place or elsewhere
            said.append(entries[begins : begins + entry.size - len(inline)])
            if tag not in _WHERE:
                said.append(inline[:length] if length <= len(inline) else _value(head, order, inline, length))
    except (struct.error, KeyError, ValueError):
        return None
    return b"".join(said) if _CRS in tags and _PLACES & tags else None


def _value(head: bytes, order: str, inline: bytes, length: int) -> bytes:
    """A value that lies in its entry, or elsewhere where it is longer."""
    if length <= len(inline):
        return inline[:length]
    offset = int.from_bytes(inline, "little" if order == "<" else "big")
    if offset + length > len(head):
        raise ValueError("it lies further on in the file")
    return head[offset : offset + length]
