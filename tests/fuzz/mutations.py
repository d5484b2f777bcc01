"""Ways to damage a file: each takes a seeded generator and changes the bytes in place, and says in words what it did.

A mutation knows where a format keeps its structure (headers, markers, sections) only as `Places`: most damage is put
there, as a flipped bit in pixels is a number like any other.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

NUMBERS = (
    0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF,
    10**6, 10**9, 10**12, 2**62, 2**63, 2**64 - 1,
)  # fmt: skip
"""Numbers at the edges of what sizes, counts and offsets can hold."""

FLOATS = (float("nan"), float("inf"), -float("inf"), 1e308, -1e308, 1e-308, 0.0, -0.0, 1e20, 360.0, -10.0)

_IN_STRUCTURE = 0.7
"""share of the damage that is put into a file's structure"""


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where a file keeps its structure."""

    ranges: tuple[tuple[int, int], ...]
    """(first byte, byte after the last)"""

    def pick(self, random: Random, data: bytearray, length: int = 1) -> int:
        """An offset at which `length` bytes lie in the file; in the structure more often than not."""
        last = max(1, len(data) - length + 1)
        if self.ranges and random.random() < _IN_STRUCTURE:
            start, stop = random.choice(self.ranges)
            return min(random.randrange(start, max(start + 1, stop)), last - 1)
        return random.randrange(last)


Mutation = Callable[[Random, bytearray, Places], str]


def flip_bits(random: Random, data: bytearray, places: Places) -> str:
    """Flip one bit, or a few."""
    at = [places.pick(random, data) for _ in range(random.choice((1, 1, 1, 2, 8)))]
    for place in at:
        data[place] ^= 1 << random.randrange(8)
    return f"flipped bits at {at}"


def set_byte(random: Random, data: bytearray, places: Places) -> str:
    """Set a byte to an edge of its range, or to anything."""
    at = places.pick(random, data)
    data[at] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))
    return f"byte {at} = {data[at]}"


def set_number(random: Random, data: bytearray, places: Places) -> str:
    """Set 2, 4 or 8 bytes to a number at the edge of what they can hold."""
    size = random.choice((2, 4, 8))
    at, number = places.pick(random, data, size), random.choice(NUMBERS) & ((1 << 8 * size) - 1)
    data[at : at + size] = number.to_bytes(size, random.choice(("little", "big")))
    return f"{size} bytes at {at} = {number}"


def set_float(random: Random, data: bytearray, places: Places) -> str:
    """Set 8 bytes to a float that is no number, endless, or far away."""
    at, number = places.pick(random, data, 8), random.choice(FLOATS)
    data[at : at + 8] = struct.pack(random.choice("<>") + "d", number)
    return f"8 bytes at {at} = {number}"


def cut(random: Random, data: bytearray, places: Places) -> str:
    """Cut the file short."""
    kept = random.choice((random.randrange(len(data)), len(data) - random.randrange(1, 64), places.pick(random, data)))
    del data[max(0, kept) :]
    return f"cut to {len(data)} bytes"


def zero(random: Random, data: bytearray, places: Places) -> str:
    """Fill a block with zeros, as a file system does after a power cut."""
    size = min(random.choice((16, 64, 256, 1024, 4096)), len(data))
    at = places.pick(random, data, size)
    data[at : at + size] = bytes(size)
    return f"{size} bytes at {at} zeroed"


def scramble(random: Random, data: bytearray, places: Places) -> str:
    """Fill a block with anything."""
    size = min(random.choice((4, 16, 64, 256, 1024)), len(data))
    at = places.pick(random, data, size)
    data[at : at + size] = random.randbytes(size)
    return f"{size} bytes at {at} scrambled"


def swap(random: Random, data: bytearray, places: Places) -> str:
    """Swap two blocks."""
    size = min(random.choice((4, 16, 256, 1024)), len(data) // 2)
    one, other = sorted((places.pick(random, data, size), random.randrange(max(1, len(data) - size))))
    data[one : one + size], data[other : other + size] = data[other : other + size], data[one : one + size]
    return f"{size} bytes at {one} and {other} swapped"


def insert(random: Random, data: bytearray, places: Places) -> str:
    """Insert some bytes: all that follows moves."""
    at, size = places.pick(random, data), random.choice((1, 4, 100))
    data[at:at] = random.randbytes(size)
    return f"{size} bytes inserted at {at}"


def remove(random: Random, data: bytearray, places: Places) -> str:
    """Remove some bytes: all that follows moves."""
    at, size = places.pick(random, data), random.choice((1, 4, 100))
    del data[at : at + size]
    return f"{size} bytes removed at {at}"


def append(random: Random, data: bytearray, places: Places) -> str:
    """Append zeros, anything, or the file's own beginning."""
    more = random.choice((bytes(1000), random.randbytes(1000), bytes(data[:2000])))
    data += more
    return f"{len(more)} bytes appended"


BINARY: tuple[Mutation, ...] = (
    *(flip_bits,) * 5, *(set_byte,) * 2, *(set_number,) * 5, set_float, cut, cut, zero, zero, scramble, swap, insert,
    remove, append,
)  # fmt: skip
"""For any file of bytes; those that find more stand there more than once."""


def around(data: bytes, marker: bytes, before: int, after: int) -> list[tuple[int, int]]:
    """The ranges around each place of `marker`."""
    found, at = [], data.find(marker)
    while at >= 0:
        found.append((max(0, at - before), min(len(data), at + after)))
        at = data.find(marker, at + 1)
    return found


def damaged(
    random: Random, clean: bytes, mutations: Sequence[Mutation], ranges: Sequence[tuple[int, int]]
) -> tuple[bytes, str]:
    """Bytes that differ from the clean ones, and what was done to them."""
    places = Places(ranges=tuple(ranges))
    while True:
        data = bytearray(clean)
        said = random.choice(mutations)(random, data, places)
        if data != clean:
            return bytes(data), said
