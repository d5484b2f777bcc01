"""Damage to the tags of a TIFF file, which say where its pixels are and what they mean."""

import struct
from random import Random

from tests.fuzz.mutations import FLOATS, NUMBERS, Mutation, Places, set_number

TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 11: 4, 12: 8, 16: 8}
"""Bytes of a value, by the number of its type."""

TYPES = (1, 2, 3, 4, 5, 12, 13, 16, 99)

TAGS = (
    256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 317, 322, 323, 324, 325, 339, 33550, 33922, 34264, 34735, 42113,
    65000,
)  # fmt: skip
"""Sizes, compression, strips, tiles, predictor, georeferencing, no data; and one that nobody knows."""

ENTRY_BYTES = 12


def entries(data: bytes) -> tuple[str, list[int]]:
    """Byte order, and the offset of each entry of the first directory; none in a BigTIFF."""
    order = "<" if data[:2] == b"II" else ">"
    if len(data) < 8 or struct.unpack(order + "H", data[2:4])[0] != 42:
        return order, []
    (at,) = struct.unpack(order + "I", data[4:8])
    (count,) = struct.unpack(order + "H", data[at : at + 2])
    return order, [at + 2 + ENTRY_BYTES * i for i in range(count)]


def structure(data: bytes) -> list[tuple[int, int]]:
    """The header, the first directory, and the values that its entries point to."""
    order, found = entries(data)
    ranges = [(0, 8), *((at, at + ENTRY_BYTES) for at in found)]
    for at in found:
        _, kind, count, value = struct.unpack(order + "HHII", data[at : at + ENTRY_BYTES])
        if (size := TYPE_BYTES.get(kind, 1) * count) > 4:
            ranges.append((value, min(len(data), value + size)))
    return ranges


def swap_entries(random: Random, data: bytearray, places: Places) -> str:
    """Swap two entries whole, or all but their tags."""
    order, found = entries(bytes(data))
    one, other = random.sample(found, 2)
    skipped = random.choice((0, 2))
    a, b = slice(one + skipped, one + ENTRY_BYTES), slice(other + skipped, other + ENTRY_BYTES)
    data[a], data[b] = data[b], data[a]
    return f"tags {_tag(order, data, one)} and {_tag(order, data, other)} swapped from byte {skipped} of the entry on"


def change_entry(random: Random, data: bytearray, places: Places) -> str:
    """Change the tag, the type or the count of an entry."""
    order, found = entries(bytes(data))
    at = random.choice(found)
    tag, what = _tag(order, data, at), random.choice(("tag", "type", "count"))
    number = {"tag": random.choice(TAGS), "type": random.choice(TYPES), "count": random.choice(NUMBERS) & 0xFFFFFFFF}
    struct.pack_into(
        order + ("I" if what == "count" else "H"), data, at + {"tag": 0, "type": 2, "count": 4}[what], number[what]
    )
    return f"{what} of tag {tag} = {number[what]}"


def change_value(random: Random, data: bytearray, places: Places) -> str:
    """Change the value of an entry, or one of its values."""
    order, found = entries(bytes(data))
    at = random.choice(found)
    tag, kind, count, value = struct.unpack(order + "HHII", data[at : at + ENTRY_BYTES])
    size = TYPE_BYTES.get(kind, 1) * count
    if size <= 4:
        number = random.choice(NUMBERS) & 0xFFFFFFFF
        struct.pack_into(order + "I", data, at + 8, number)
        return f"value of tag {tag} = {number}"
    if value + size > len(data):
        return set_number(random, data, places)
    if kind == 12:
        which, real = random.randrange(count), random.choice(FLOATS)
        struct.pack_into(order + "d", data, value + 8 * which, real)
        return f"value {which} of tag {tag} = {real}"
    place = value + random.randrange(size)
    data[place] = random.randrange(256)
    return f"byte {place - value} of the values of tag {tag} = {data[place]}"


def _tag(order: str, data: bytes | bytearray, at: int) -> int:
    (tag,) = struct.unpack(order + "H", data[at : at + 2])
    return int(tag)


TIFF: tuple[Mutation, ...] = (swap_entries, *(change_entry,) * 3, *(change_value,) * 5)
