"""One layer of a cube, and what is asked of it: windows and blocks of vectors."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

from embedcube.cube.blocks import Block, blocks
from embedcube.cube.places import places_of
from embedcube.cube.sample import sample
from embedcube.cube.store import CubeStore, Time
from embedcube.cube.within import Within

if TYPE_CHECKING:
    import xarray


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

    def sample(
        self,
        points: Any = None,
        time: Time = None,
        *,
        x: ArrayLike | None = None,
        y: ArrayLike | None = None,
        crs: Any = None,
    ) -> "xarray.Dataset":
        """Vectors of points over time: `vector` (point, time, feature), `status` and `n_obs` (point, time).

        `points` are a GeoDataFrame of points or pairs (longitude, latitude) in degrees; or give `x` and `y` in `crs`.
        A point without a vector has NaN, and its status says why; one that lies in no cell of the layer has the status
        `outside` (255). A point has the vector of the cell that holds it, never of one near it. Near the border of two
        UTM zones it is the cell with a vector in most windows, that of the point's own zone before the other.

        `zone`, `y`, `x` and `t` name the cell, for `explain`; they are "" and -1 outside. Each chunk is decoded once.
        """
        return sample(self.cube, self.name, places_of(points, x, y, crs), time)

    def blocks(self, within: Within | None = None, time: Time = None, cells: int = 250_000) -> Iterator[Block]:
        """Blocks of at most about `cells` cells, zone by zone; each chunk is decoded once.

        `within` is a box (west, south, east, north) or a polygon, in degrees: blocks then say which of their cells lie
        inside, and blocks without any are left out.
        """
        return blocks(self.cube, self.name, within, time, cells)
