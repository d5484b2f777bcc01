"""The store of a cube: its groups, arrays, windows and decoded vectors. Needs numpy and zarr; neither torch nor GDAL.

A cube is plain Zarr v3, which `xarray.open_datatree` reads too. What is asked of a cube (`reader.py`, `layer.py`) and
what is computed from one is built on this module.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store

from embedcube.cube.arrays import ARRAYS
from embedcube.cube.chunks import read_box, read_vectors
from embedcube.cube.claims import check_array, check_offset, check_zone
from embedcube.cube.encoding import OFFSET, VALID, VALID_INCOMPLETE
from embedcube.cube.listed import NO_MAP, AsMap, ListedGroup, SampleTable, is_list
from embedcube.cube.members import SHARD_CELLS, cells_in
from embedcube.cube.objects import Chunks, Objects
from embedcube.cube.opening import RemoteStore, place_of
from embedcube.cube.part import Part, part_of
from embedcube.cube.provenance import Provenance
from embedcube.errors import RequestError
from embedcube.printable import printable
from embedcube.windows import Window, matching_windows, parse_period

Time = str | slice | None
"""What selects windows: "2023", "2023-06-15", "2023-06-01/2023-07-01", slice("2023-05", "2023-09"), or None for all."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of a layer."""

    zone: str
    """path of the group: "<layer>/<zone>" """
    t: int
    y: int
    x: int


class CubeStore:
    """Groups, arrays and windows of one version of a cube."""

    def __init__(
        self, source: str | Path | Store, *, node_by_node: bool = False, called: str = "", keep_bytes: int = 0
    ) -> None:
        """Open the store; a RequestError says what is there instead of a cube.

        `source` is a folder, a link (http, https, s3, gs, az), the path or link of a STAC Collection that has the cube
        as its Zarr asset, or an open store of zarr-python. The metadata of all nodes are those that the root repeats;
        `node_by_node` reads the nodes' own. Messages call the cube by its path or link, or as `called` says. Of each
        array, `keep_bytes` of decoded chunks are kept in memory.
        """
        place = place_of(source)
        self._place, self._called, self._keep_bytes = place, called, keep_bytes
        self.store = place.store
        # elsewhere folders cannot be listed
        consolidated = False if node_by_node else True if isinstance(place.store, RemoteStore) else None
        try:
            self._root: Any = zarr.open_group(self.store, mode="r", zarr_format=3, use_consolidated=consolidated)
        except (FileNotFoundError, zarr.errors.GroupNotFoundError, zarr.errors.NodeTypeValidationError):
            raise RequestError(f"{self.address}: not a cube (no Zarr v3 group there)") from None
        except _METADATA_ERRORS as error:
            raise RequestError(f"{self.address}: not a cube that can be read from here ({_words(error)})") from None
        self._groups: dict[str, Any] = {}
        self._arrays: dict[tuple[str, str], Any] = {}
        self._chunks: dict[tuple[str, str], Chunks] = {}
        self._objects: dict[tuple[str, str], Objects] = {}
        self._windows: dict[str, tuple[Window, ...]] = {}
        self._samples: dict[str, SampleTable] = {}
        self._offsets: dict[str, NDArray[np.float32] | None] = {}
        if "embedcube:what" not in self._root.attrs:
            raise RequestError(f"{self.address}: a Zarr group, but not a cube of embedcube")

    @property
    def address(self) -> str:
        """Path or link as it may be printed, without credentials; or what the cube is called."""
        return self._called or self._place.address

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine."""
        return self._place.path is not None

    @property
    def path(self) -> Path:
        """The folder of this version, a link such as `cube.zarr` followed once, when the cube was opened.

        What lies beside the cube (index, preview, STAC) is looked for here: a link may lead elsewhere since.

        Raises:
            RequestError: the cube is on another machine.
        """
        if self._place.path is None:
            raise RequestError(f"{self.address} is not a folder on this machine, which this needs")
        return self._place.path

    @cached_property
    def zones(self) -> tuple[str, ...]:
        """Paths of the groups that hold arrays, "<layer>/<zone>"."""
        layers = [(name, group) for name, group in self._root.groups() if name != "provenance"]
        return tuple(sorted(f"{name}/{zone}" for name, group in layers for zone, _ in group.groups()))

    @cached_property
    def part(self) -> Part | None:
        """The part of a cube that was copied here; None for a whole cube."""
        return part_of(self.path) if self.is_local else None

    @cached_property
    def held(self) -> dict[tuple[str, int, int, int], int]:
        """Row of every shard whose objects are here, by (zone, t, iy, ix): all, but for a part of a cube."""
        part, places = self.part, self.provenance.places
        if part is None:
            return places
        # every shard has something in the array of its status
        return {
            place: row
            for place, row in places.items()
            if self.object_name(place[0], "status", place[1:]) in part.objects
        }

    @property
    def what(self) -> dict[str, Any]:
        """The part of the campaign that decides the bytes of the cube: archives, grid, windows, layers."""
        return dict(self._root.attrs["embedcube:what"])

    @property
    def version(self) -> str:
        """Name of the version of the cube, which is that of its folder."""
        return PurePosixPath(self._place.name).stem

    @property
    def campaign(self) -> str:
        """Name of the campaign."""
        return str(self._root.attrs["title"]).removeprefix("Embeddings of campaign ")

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers."""
        return tuple(dict.fromkeys(zone.split("/")[0] for zone in self.zones))

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the layers that are maps, and no lists of samples."""
        return tuple(layer for layer in self.layers if not is_list(self.zones_of(layer)[0]))

    def zones_of(self, layer: str) -> tuple[str, ...]:
        """Paths of the groups of a layer, "<layer>/<zone>"."""
        return tuple(zone for zone in self.zones if zone.split("/")[0] == layer)

    def windows(self, zone: str) -> tuple[Window, ...]:
        """The windows of a zone, in order; they are read once."""
        if zone not in self._windows:
            array, windows = self.array(zone, "time_bnds"), self.array(zone, "embedding").shape[0]
            if array.shape != (windows, 2):
                raise RequestError(
                    f"{self.address}: {zone}/time_bnds is {array.shape}, the vectors have {windows} windows"
                )
            bounds = np.asarray(array[...]).tolist()
            moments = ([datetime.fromtimestamp(seconds, UTC) for seconds in pair] for pair in bounds)
            self._windows[zone] = tuple(Window(*pair) for pair in moments)
        return self._windows[zone]

    def windows_of(self, zone: str, time: Time) -> list[int]:
        """Indices of the windows of a zone that a time selects; at least one.

        A text selects as `embedcube explain --time` does: the window equal to it, else the first that contains all of
        it, else all that overlap it. A slice selects all windows that overlap the time from the start of its first date
        to the end of its last; either may be left out.

        Raises:
            RequestError: no window matches, or `time` is not a time.
        """
        windows = self.windows(zone)
        if time is None:
            return list(range(len(windows)))
        chosen = _between(windows, time) if isinstance(time, slice) else matching_windows(windows, period_of(time))
        if not chosen:
            first, last = min(w.start for w in windows), max(w.end for w in windows)
            around = Window(first, last).short.replace("/", " and ")
            asked = f"{time.start} to {time.stop}" if isinstance(time, slice) else time
            raise RequestError(f"{zone}: no window holds {asked}; the windows lie between {around}")
        return chosen

    def model(self, zone: str) -> str:
        """Name of the backbone, and of its model where it has several; of parts, all of them."""
        backbone = self.group(zone).attrs["embedcube:backbone"]
        parts = [part["backbone"] for part in backbone.get("of", ())] if backbone.get("name") == "concat" else []
        names = [" ".join(str(one[key]) for key in ("name", "model") if key in one) for one in (backbone, *parts)]
        return names[0] + (f" of {' and '.join(names[1:])}" if parts else "")

    def group(self, zone: str) -> Any:
        """The Zarr group of a zone; its metadata are read once."""
        if zone not in self._groups:
            group = self._node(zone)
            if is_list(zone):  # samples have places of their own
                group = ListedGroup(group, f"{self.address}: {zone}")
            else:
                check_zone(f"{self.address}: {zone}", group.attrs, self.array(zone, "embedding").shape)
            self._groups[zone] = group
        return self._groups[zone]

    def array(self, zone: str, name: str) -> Any:
        """One of the arrays of a zone, of a list of samples as a map (`listed.py`); its metadata are read once."""
        if (zone, name) not in self._arrays:
            if is_list(zone) and name in ("y", "x"):
                raise RequestError(f"{self.address}: {zone} {NO_MAP}")
            array = self._node(f"{zone}/{name}")
            if is_list(zone) and name in ARRAYS:
                array = AsMap(array, self._cells(zone, array))
            check_array(f"{self.address}: {zone}/{name}", name, array)
            self._arrays[zone, name] = array
        return self._arrays[zone, name]

    def check(self, zone: str) -> None:
        """Refuse a zone whose metadata claim what cannot be, as one of a cube that others made; nothing is read.

        Raises:
            RequestError: an array or an attribute is missing, or is none that can be read.
        """
        try:
            for name in ("embedding", "status", "n_obs", "time", "time_bnds", *(() if is_list(zone) else ("y", "x"))):
                self.array(zone, name)
            if self.has_scale(zone):
                self.array(zone, "scale")
                self.offset(zone)
        except KeyError as error:
            raise RequestError(f"{self.address}: {zone} has no {printable(error, 100)}") from None
        self.windows(zone)

    def _node(self, path: str) -> Any:
        """A group or an array of the store; a RequestError says that its metadata cannot be understood."""
        try:
            return self._root[path]
        except KeyError:
            raise
        except _METADATA_ERRORS as error:
            raise RequestError(f"{self.address}: {path} cannot be read ({_words(error)})") from None

    def chunks(self, zone: str, name: str) -> Chunks:
        """The inner chunks of one of the arrays of a zone."""
        if (zone, name) not in self._chunks:
            self._chunks[zone, name] = Chunks(self.array(zone, name), self._keep_bytes)
        return self._chunks[zone, name]

    def samples(self, zone: str) -> SampleTable:
        """The samples of a zone that is a list; a RequestError where it is a map."""
        if not is_list(zone):
            raise RequestError(f"{self.address}: {zone} is a map and has no samples with ids; ask for a place instead")
        if zone not in self._samples:
            self._samples[zone] = SampleTable(self.group(zone))
        return self._samples[zone]

    def has_scale(self, zone: str) -> bool:
        """Whether the vectors are int8, each with its scale."""
        return bool(self.array(zone, "embedding").dtype == np.int8)

    def offset(self, zone: str) -> NDArray[np.float32] | None:
        """What is added to each feature of int8 vectors that are centred: (feature); None in other layers.

        It is read once; a RequestError says that there is not one number for each feature.
        """
        if zone not in self._offsets:
            found = None
            if self.has_scale(zone) and OFFSET in self.group(zone):
                found = np.asarray(self.array(zone, OFFSET)[...])
                features = int(self.array(zone, "embedding").shape[-1])
                check_offset(f"{self.address}: {zone}/{OFFSET}", found, features)
            self._offsets[zone] = found
        return self._offsets[zone]

    def axes(self, zone: str) -> int:
        """Number of dimensions of the zone's arrays, without `feature`."""
        array = self.array(zone, "status")
        return array.axes if isinstance(array, AsMap) else len(array.shape)

    def as_recorded(self, zone: str) -> bool:
        """Whether objects hold the bytes that ranks recorded; otherwise several windows were put into one chunk."""
        return bool(self.array(zone, "embedding").chunks[0] == 1)

    def shard_cells(self, zone: str) -> int:
        """Cells along a side of a shard of work."""
        if is_list(zone):
            return int(self.array(zone, "status").shards[1])
        return self._cells(zone, self.array(zone, "status"))

    def _cells(self, zone: str, array: Any) -> int:
        """Cells along a side of a shard of a map, or samples of one; in cubes of before an object was a shard."""
        attributes = self.group(zone).attrs  # read once
        try:
            return cells_in(attributes) if SHARD_CELLS in attributes else int(array.shards[1])
        except ValueError as error:
            raise RequestError(f"{self.address}: {zone}: {error}") from None

    def cells_of_shards(self, zone: str) -> tuple[slice, slice]:
        """Rows and columns of the cells of all shards of a map; those beside them are never processed.

        All cells, where the cube has no provenance.
        """
        shape = self.array(zone, "status").shape[1:]
        try:
            _, places = self.provenance.shards_of(zone)
        except RequestError:
            places = np.zeros((0, 3), np.int64)
        if not len(places):
            return slice(0, shape[0]), slice(0, shape[1])
        side = self.shard_cells(zone)
        firsts, lasts = places[:, 1:].min(axis=0) * side, (places[:, 1:].max(axis=0) + 1) * side
        rows, columns = (slice(int(a), min(int(b), n)) for a, b, n in zip(firsts, lasts, shape, strict=True))
        return rows, columns

    def objects(self, zone: str, name: str) -> Objects:
        """The objects of one of the arrays of a zone; a RequestError says that its metadata contradict each other."""
        if (zone, name) not in self._objects:
            array = self.array(zone, name)
            stored = array.stored if isinstance(array, AsMap) else array
            try:
                self._objects[zone, name] = Objects(stored, self._cells(zone, stored))
            except ValueError as error:
                raise RequestError(f"{self.address}: {zone}/{name}: {error}") from None
        return self._objects[zone, name]

    def object_name(self, zone: str, name: str, place: tuple[int, int, int]) -> str:
        """Relative path of the object that holds the array `name` of the shard at (window, shard row, shard column)."""
        return f"{zone}/{name}/{self.objects(zone, name).locate(place)[0]}"

    def vectors(self, zone: str, t: int, y: slice, x: slice) -> NDArray[np.float32]:
        """Decoded vectors (y, x, feature) of one window; NaN where a cell has no vector."""
        vectors: NDArray[np.float32] = read_vectors(self, zone, slice(t, t + 1), y, x)[0]
        return vectors

    def valid(self, zone: str, t: int | slice, y: slice, x: slice) -> NDArray[np.bool_]:
        """Whether each cell has a vector."""
        status = self.stored(zone, "status", t, y, x)
        return np.asarray((status == VALID) | (status == VALID_INCOMPLETE))

    def stored(self, zone: str, name: str, t: int | slice, y: slice, x: slice) -> NDArray[Any]:
        """Stored numbers of one array in a box, of one window (y, x[, feature]) or of some (time, y, x[, feature])."""
        if isinstance(t, slice):
            return read_box(self, zone, name, t, y, x)
        values: NDArray[Any] = read_box(self, zone, name, slice(t, t + 1), y, x)[0]
        return values

    @cached_property
    def provenance(self) -> Provenance:
        """Provenance of the cube: which process made which shard from which scenes."""
        return Provenance(self.store, self.address)


_METADATA_ERRORS = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    NotImplementedError,
    RecursionError,
    ArithmeticError,
)
"""what zarr-python raises for metadata that it does not understand, codecs that it does not have among them"""


def _words(error: Exception) -> str:
    return printable(
        f"{type(error).__name__}: {error}" if isinstance(error, LookupError | RuntimeError) else error, 200
    )


def period_of(time: str) -> Window:
    """The time that a text names; a RequestError gives an example where it names none."""
    try:
        return parse_period(time)
    except (ValueError, OverflowError, AttributeError):
        raise RequestError(f'"{time}" is not a time; write for example 2023-06-15, 2023-06 or 2023') from None


def _between(windows: Sequence[Window], time: slice) -> list[int]:
    """Windows that overlap the time from the start of the first date of a slice to the end of its last."""
    if time.step is not None:
        raise RequestError(f"a slice of time has no step, this one has {time.step}; select twice instead")
    start = min(w.start for w in windows) if time.start is None else period_of(time.start).start
    end = max(w.end for w in windows) if time.stop is None else period_of(time.stop).end
    return [i for i, window in enumerate(windows) if window.start < end and start < window.end]
