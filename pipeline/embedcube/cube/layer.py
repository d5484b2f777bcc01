"""One layer of a cube, and what is asked of it: windows and blocks of vectors."""

from collections.abc import Iterator

from embedcube.cube.blocks import Block, blocks
from embedcube.cube.store import CubeStore, Time
from embedcube.cube.within import Within


class Layer:
    """One layer of a cube, over all its zones: `cube["s2_mosaiks"]`, or `cube.layer` where there is one."""

    def __init__(self, cube: CubeStore, name: str) -> None:
        """`name` is that of a layer of `cube`."""
        self.cube = cube
        self.name = name

    @property
    def zones(self) -> tuple[str, ...]:
        """Paths of its groups, "<layer>/<zone>"."""
        return self.cube.zones_of(self.name)

    def windows_of(self, zone: str, time: Time = None) -> list[int]:
        """Indices of the windows of a zone that a time selects; a RequestError says that there is none.

        `time` is a date or a part of one ("2023", "2023-06"), an interval "2023-06-01/2023-07-01", a slice of two
        dates, both included, or None for all windows.
        """
        return self.cube.windows_of(zone, time)

    def blocks(self, within: Within | None = None, time: Time = None, cells: int = 250_000) -> Iterator[Block]:
        """Blocks of at most about `cells` cells, zone by zone; each chunk is decoded once.

        `within` is a box (west, south, east, north) or a polygon, in degrees: blocks then say which of their cells lie
        inside, and blocks without any are left out.
        """
        return blocks(self.cube, self.name, within, time, cells)
