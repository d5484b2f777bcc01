"""One layer of a cube, and what is asked of it: windows and blocks of vectors."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

from embedcube.cube.basis import Basis, fit_basis
from embedcube.cube.blocks import Block, blocks
from embedcube.cube.examples import Examples
from embedcube.cube.listed import is_list
from embedcube.cube.parcels import STATISTICS, parcels
from embedcube.cube.places import places_of
from embedcube.cube.sample import sample
from embedcube.cube.store import CubeStore, Time
from embedcube.cube.within import Within, bounds_of

if TYPE_CHECKING:
    import pandas
    import xarray
    from geopandas import GeoDataFrame

    from embedcube.cube.segments import VectorIndex
    from embedcube.cube.window import WindowTree


class Layer:
    """One layer of a cube, over all its zones: `cube["s2_mosaiks"]`, or `cube.layer` where there is one."""

    def __init__(self, cube: CubeStore, name: str) -> None:
        """`name` is that of a layer of `cube`."""
        self.cube = cube
        self.name = name

    def __repr__(self) -> str:
        windows = self.cube.windows(self.zones[0])
        features = self.cube.array(self.zones[0], "embedding").shape[3]
        size = f"{features} features, {len(windows)} windows, {len(self.zones)} zones"
        return f"Layer {self.name} of {self.cube.address}: {size}"

    @property
    def zones(self) -> tuple[str, ...]:
        """Paths of its groups, "<layer>/<zone>"."""
        return self.cube.zones_of(self.name)

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the samples of a list, in the order of the cube; a RequestError where the layer is a map."""
        return self.cube.samples(self.zones[0]).ids

    def vector(self, sample: str, time: Time = None) -> "xarray.DataArray":
        """The decoded vectors (time, feature) or (time, y, x, feature) of a sample, by its id; NaN where it has none.

        A RequestError says that there is no such sample, or that the layer is a map.
        """
        from embedcube.cube.tables import vector

        return vector(self.cube, self.zones[0], sample, time)

    def to_pandas(self, time: Time = None) -> "pandas.DataFrame":
        """One row for each sample and window: id, time, status, lon, lat, acquired, and the features 0, 1, ...

        Of samples with several cells it is the mean of those with a vector. A RequestError says that the layer is a
        map.
        """
        from embedcube.cube.tables import table

        return table(self.cube, self.zones[0], time)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east, north in degrees; west above east where the layer crosses the antimeridian."""
        return bounds_of(self.cube, self.name)

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

    def window(self, within: Within, time: Time = None) -> "WindowTree":
        """The cells of a region: a DataTree with one Dataset for each zone, in the CRS of the zone.

        `within` is a box (west, south, east, north) or a polygon, in degrees; `inside` (y, x) says which cells have
        their centre in it. `vector` (time, y, x, feature) is decoded when it is used. `.merged(crs=)` makes one Dataset
        of all zones.
        """
        from embedcube.cube.window import window

        return window(self.cube, self.name, within, time)

    def parcels(self, gdf: Any, time: Time = None, stats: Sequence[str] = STATISTICS) -> "xarray.Dataset":
        """Statistics of the cells whose centre lies in each polygon of a GeoDataFrame, of any CRS.

        `mean` and `std` (parcel, time, feature) are over the cells with a vector, NaN where there is none; `count` and
        `valid_share` (parcel, time) say how many these are, and which share of the parcel's `cells`. A parcel in
        several zones has the sums of all of them; parcels may overlap.
        """
        return parcels(self.cube, self.name, gdf, time, stats)

    def components(self, count: int = 3) -> Basis | None:
        """The first principal components of a sample of the vectors of all zones and windows; None without any vector.

        `Basis.components` (component, feature) is the same whenever it is asked for; `colours` makes colours with it.
        """
        return fit_basis(self.cube, self.name, count)

    def blocks(self, within: Within | None = None, time: Time = None, cells: int = 250_000) -> Iterator[Block]:
        """Blocks of at most about `cells` cells, zone by zone; each chunk is decoded once.

        `within` is a box (west, south, east, north) or a polygon, in degrees: blocks then say which of their cells lie
        inside, and blocks without any are left out.
        """
        return blocks(self.cube, self.name, within, time, cells)

    def similar(
        self, like: Examples, unlike: Examples | None = None, time: Time = None
    ) -> "xarray.DataArray | xarray.DataTree":
        """Cosine (time, y, x) of every cell with the examples, with the CRS; a tree by zone where there are several.

        `like` and `unlike` are one or several cells, places (lon, lat), polygons in degrees (the mean of their
        vectors) or vectors. Of a place in several windows the mean direction is taken. Several examples become one
        vector: the mean direction of `like`, or twice that minus the mean direction of `unlike`. The error of a cosine
        is below 1e-6. Cells without a vector are NaN, as `status` says, whatever numbers are stored there.

        In a list of samples the examples are ids, vectors or cells, and the cosines are (time, sample); a sample with
        several vectors counts by their mean.
        """
        if is_list(self.zones[0]):
            from embedcube.cube.samples_like import similar_samples

            return similar_samples(self.cube, self.name, like, unlike, time)
        from embedcube.cube.likeness import similar

        return similar(self.cube, self.name, like, unlike, time)

    def find(
        self,
        like: Examples,
        unlike: Examples | None = None,
        *,
        k: int = 10,
        time: Time = None,
        within: Within | None = None,
        apart_m: float | None = None,
        status: Sequence[str] = ("valid", "valid_incomplete"),
        exact: bool | None = None,
    ) -> "GeoDataFrame":
        """The `k` cells most like the examples (see `similar`), best first: rank, cosine, zone, t, y, x, window, ...

        Hits are at least `apart_m` metres apart, and as far from the examples, in whatever windows; by default 100 m,
        or two cells where cells are larger than 50 m. Cells in a polygon of `like` are no hits. `time` selects
        windows, `within` a box (west, south, east, north) or a polygon in degrees, `status` the kinds of cells. Every
        cell is compared up to 5 million of them, or where there is no index beside the cube (`embedcube
        index-vectors`); beyond, the nearest lists of the index are, unless `exact` is true. `attrs["exact"]` says
        which it was.

        In a list of samples the examples are ids, vectors or cells, and each sample is one hit, in the window in which
        it is most like them: rank, cosine, sample, zone, t, window, lon, lat, status.
        """
        from embedcube.cube.find import Search, find, table_of

        search = Search(k=k, time=time, within=within, apart_m=apart_m, status=status, exact=exact)
        if is_list(self.zones[0]):
            from embedcube.cube.samples_like import find_samples, table_of_samples

            return table_of_samples(find_samples(self.cube, self.name, like, unlike, search))
        return table_of(find(self.cube, self.name, like, unlike, search, self.index))

    def change(self, before: Time, after: Time, history: "Layer | None" = None) -> "xarray.Dataset | xarray.DataTree":
        """How much each cell changed: score (time, y, x), and the number of its references, with the CRS.

        Each window of `after` is compared with the windows of `before` that are of its season, at least three; those
        may be of another cube with the same weights (`history`). The score is the distance (1 - cosine) from the mean
        of the references, divided by what is usual: that of each reference from the others, in the cell and, for a
        part, over the area. So 1 is usual, 5 is not. Cells with fewer than three references are NaN.
        `attrs["remarks"]` says so where most of the area changed at once, which the input does rather than the ground.

        Raises:
            RequestError: a window has fewer than three references, or `history` is of another encoder or lattice.
        """
        from embedcube.cube.change import change

        return change(self.cube, self.name, before, after, None if history is None else history.cube)

    @cached_property
    def index(self) -> "VectorIndex | None":
        """The vector index beside the cube; None where there is none, or the cube is not a folder of this machine."""
        from embedcube.cube.segments import VectorIndex

        return VectorIndex.beside(self.cube.path, self.name) if self.cube.is_local else None
