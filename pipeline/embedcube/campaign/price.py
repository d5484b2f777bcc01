"""The price of a plan: memory, time and files of a campaign, as plan.json keeps it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Price:
    """The price of a layer or of a campaign."""

    shards: int
    cells: int
    chips: int
    scenes: int
    """number of pairs of a shard and a scene that it reads"""
    decoded_bytes: float
    needed_bytes: float
    """decoded bytes if each needed block were decoded once"""
    cube_bytes: float
    """before compression"""
    files: int
    """number of objects in the parts; in the cube they are links"""
    folders: int
    """number of folders of these objects in the cube, and at most in the part of each rank"""
    rank_bytes: float
    """memory of one rank at the worst shard"""
    worst_shard: str
    device_s: float
    """seconds of the forward passes alone, on one device like the one that was measured"""
    longest_s: float
    """seconds that a rank takes for the most expensive shard, about"""
    device_bytes: float = 0.0
    """memory of a GPU; 0 on a CPU, where all is in `rank_bytes`"""
    limit_bytes: float = 0.0
    """memory that one rank may take"""
    device_limit_bytes: float = 0.0
    """memory that a GPU has; 0 on a CPU"""
    input_bytes: float = 0.0
    """size of the files that the shards need, each once and as a whole"""
    reads: int = 0
    """number of times that a shard reads a band of a scene"""

    @property
    def amplification(self) -> float:
        """Decoded bytes divided by the bytes of each needed block once."""
        return self.decoded_bytes / self.needed_bytes if self.needed_bytes else 1.0


def describe(price: Price) -> list[str]:
    """The price as lines of text."""
    return [
        f"{price.shards} shards, {price.cells:,} cells, {price.chips:,} chips, {price.scenes:,} scenes in shards",
        f"to decode {size(price.decoded_bytes)}, {price.amplification:.2f} x each needed block once",
        f"cube {size(price.cube_bytes)} before compression, at most {price.files:,} objects in {price.folders} folders",
        f"memory {size(price.rank_bytes)} of {size(price.limit_bytes)} per rank; worst: {price.worst_shard}",
        *([f"device memory {size(price.device_bytes)} of {size(price.device_limit_bytes)}"] * bool(price.device_bytes)),
        f"device time about {duration(price.device_s)} on one device like this one",
    ]


_LEAST_TO_MOVE_BYTES = 1e9
"""of less than this nobody asks what it is to move"""

_ALIKE = 1.1
"""quotient of two sizes of which neither is worth to be called the larger"""


def to_move(price: Price) -> list[str]:
    """What the cube saves who would otherwise move its inputs, as lines of text; none where both are small."""
    cube, inputs = price.cube_bytes, price.input_bytes
    if not inputs or not cube or max(cube, inputs) < _LEAST_TO_MOVE_BYTES:
        return []
    words = f"{inputs / cube:.3g} times less" if inputs > cube else f"{cube / inputs:.3g} times more"
    if max(cube / inputs, inputs / cube) < _ALIKE:
        words = "about as much"
    return [f"the cube weighs {size(cube)}, its inputs {size(inputs)}: {words} to move"]


def size(count: float) -> str:
    """A number of bytes as text, with a unit that suits it."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} TB" if count < 1000 else f"{count / 1000:.2f} PB"


def duration(seconds: float) -> str:
    """A number of seconds as text, with a unit that suits it."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
