"""Copy the part of a remote cube that one needs: object by object, each compared with its digest in the provenance.

The copy holds files of the remote cube byte for byte: all metadata and the provenance, and the objects of the chosen
layers, windows and box. It is a cube like any other; cells whose objects were not copied are `not_processed`.
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.buffer import Buffer, cpu
from zarr.storage import MemoryStore

from embedcube.campaign.run_folder import write_atomically
from embedcube.cube.arrays import ARRAYS, FILES, is_object
from embedcube.cube.members import Damaged, ObjectLayout, digest_of_members, digest_of_object
from embedcube.cube.part import PULLED, Part, part_of
from embedcube.cube.provenance import arrays_in
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError, WorkError
from embedcube.printable import listed, printable
from embedcube.progress import Progress
from embedcube.uses.remote import Address, Server, Store
from embedcube.uses.touching import Box, touching

_LARGEST = 1 << 31
"""bytes of a file whose size is not known beforehand"""

_METADATA = 1 << 26
"""bytes of a file of metadata"""

_LIST = 1 << 30
"""bytes of the list of all files"""

_CHUNKS = 1 << 16
"""parts of that list"""

_TRIES = 4
"""times that a file with a wrong digest is read"""

_AT_ONCE = 4
"""files that are read at once; each is in memory whole"""

NAME = re.compile(r"(?!\.\.?(?:/|$))[A-Za-z0-9._-]+(?:/(?!\.\.?(?:/|$))[A-Za-z0-9._-]+)*")
"""names of files of a cube: none leads out of it"""


class Files(Protocol):
    """The files of a cube, wherever they are."""

    @property
    def address(self) -> object:
        """Path or link, for messages."""

    def read(self, name: str, most: int) -> bytes:
        """All bytes of a file of at most `most` bytes; a FileNotFoundError says that there is none."""

    def has(self, name: str) -> bool:
        """Whether there is a file of this name, as far as that is known without asking for it."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One file of a cube."""

    name: str
    """path below the cube"""
    sha256: str
    most: int = _LARGEST
    """bytes that it has at most"""
    layout: ObjectLayout | None = None
    """of an object whose digest is that of its members (`digest_of_members`); None where it is that of the file"""

    def digest(self, data: bytes) -> str:
        """The digest of bytes, to be compared; empty where they are no such object."""
        if self.layout is None:
            return hashlib.sha256(data).hexdigest()
        try:
            return digest_of_object(data, self.layout)
        except Damaged:
            return ""


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """What was copied."""

    cube: Path
    """the copy"""
    files: int
    """files that are there now, of those that were asked for"""
    kept: int
    """of these, files that were there before"""
    bytes: int
    """bytes that were read from the remote cube"""
    damaged: tuple[str, ...]
    """files that do not have their digest, however often they are read, or are not there: they are not copied"""


def pull(
    address: Address,
    folder: Path,
    progress: Progress,
    *,
    box: Box | None = None,
    time: str | None = None,
    layers: Sequence[str] = (),
) -> Pulled:
    """Copy a part of a cube to `folder`/<version>.zarr; what is there and has its digest is not read again.

    Raises:
        RequestError: it is no cube with provenance, or nothing lies in the box, the time and the layers.
        WorkError: the server does not answer.
    """
    source = Server(address).store if address.served else address
    name = Path(source.url.rstrip("/")).name if source.remote else Path(source.url).resolve().name
    if not NAME.fullmatch(name) or "/" in name:
        raise RequestError(f"{source}: its last part is no name for a folder")
    return copy_part(Store(source), folder / name, progress, box=box, time=time, layers=layers)


def copy_part(
    files: Files,
    cube: Path,
    progress: Progress,
    *,
    box: Box | None = None,
    time: str | None = None,
    layers: Sequence[str] = (),
    partly: bool = False,
) -> Pulled:
    """Copy a part of the cube that has these files to the folder `cube`, as `pull` says.

    `partly`: the files are those of a part of a cube; what they lack is not asked for.
    """
    copy = _Copy(files, cube)
    sealed = copy.seal()
    metadata = [
        Wanted(name=name, sha256=digest, most=_METADATA if name.endswith(".json") else _LARGEST)
        for name, digest in sealed.items()
        if not is_object(name)
    ]
    first = copy.fetch(metadata, progress, 0, None)
    if first.damaged:
        return first
    selection = Selection(cube=Cube(copy.cube), sealed=sealed, box=box, time=time, layers=layers)
    objects = [one for one in selection.objects() if not partly or files.has(one.name)]
    copy.note(selection, objects)
    second = copy.fetch(objects, progress, len(metadata), len(metadata) + len(objects))
    return Pulled(
        cube=copy.cube,
        files=first.files + second.files,
        kept=first.kept + second.kept,
        bytes=first.bytes + second.bytes,
        damaged=second.damaged,
    )


class _Copy:
    """The copy of one cube."""

    def __init__(self, store: Files, cube: Path) -> None:
        self._store = store
        self.cube = cube

    def seal(self) -> dict[str, str]:
        """Digest of every file that no record covers, by name; it is copied too."""
        before: dict[str, bytes] = {}
        problem = ""
        for _ in range(_TRIES):
            try:
                data = self._list()
            except FileNotFoundError:
                raise RequestError(
                    f"{self._store.address}: no cube with provenance, there is no provenance/{FILES}; give the folder "
                    "or link that ends in .zarr"
                ) from None
            except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
                problem = printable(error, 200)
                continue
            # the list has no digest of its own: it is read until it is the same twice
            if data == before:
                try:
                    sealed = digests_in(data)
                except (ValueError, KeyError, TypeError, RuntimeError, OverflowError, AttributeError) as error:
                    problem = printable(error, 200)
                    break
                self._keep(data)
                return sealed
            before, problem = data, "it is never the same twice"
        raise WorkError(f"provenance/{FILES} of the remote cube is damaged: {problem}")

    def _list(self) -> dict[str, bytes]:
        """The files of the array with the digests of all other files, by name."""
        names = [f"provenance/{FILES}/zarr.json"]
        data = {names[0]: self._store.read(names[0], _METADATA)}
        about = json.loads(data[names[0]])
        (size,), (chunk,) = about["shape"], about["chunk_grid"]["configuration"]["chunk_shape"]
        if not (0 < int(size) <= _LIST and 0 < int(chunk) <= _LIST and int(size) <= _CHUNKS * int(chunk)):
            raise ValueError(f"{size} bytes in chunks of {chunk}; a list of files has at most {_LIST:,}")
        for i in range(-(-int(size) // int(chunk))):
            name = f"provenance/{FILES}/c/{i}"
            data[name] = self._store.read(name, _LIST)
        return data

    def _keep(self, data: dict[str, bytes]) -> None:
        """Write the files of that array; a RequestError says that the copy is of another cube."""
        for name, value in data.items():
            path = self.cube / name
            if path.exists() and path.read_bytes() != value:
                raise RequestError(f"{self.cube} is a copy of another cube or version; pull into another folder")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, value)

    def note(self, selection: "Selection", objects: Sequence[Wanted]) -> None:
        """Write which objects the copy has, with those that were copied before; nothing where it is whole."""
        names, path = frozenset(one.name for one in objects), self.cube / PULLED
        asked: tuple[str, ...] = (selection.words,)
        every = frozenset(one.name for one in replace(selection, box=None, time=None, layers=()).objects())
        before = part_of(self.cube)
        if before is None and any((self.cube / name).is_file() for name in every):
            # objects are only copied after this file is written: without it the copy is of the whole cube
            return
        if before is not None:
            names, asked = names | before.objects, tuple(dict.fromkeys((*before.asked, *asked)))
        if every <= names:
            path.unlink(missing_ok=True)
        else:
            write_atomically(path, Part(objects=names, of=len(every), asked=asked).to_bytes())

    def fetch(self, wanted: Sequence[Wanted], progress: Progress, done: int, total: int | None) -> Pulled:
        """Copy files that are not there with their digests."""
        files = kept = size = 0
        damaged = []
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            try:
                for read, problem in pool.map(self._one, wanted):
                    done += 1
                    progress(done, total)
                    if problem:
                        damaged.append(problem)
                        continue
                    files, kept, size = files + 1, kept + (read == 0), size + read
            except WorkError as error:
                pool.shutdown(wait=False, cancel_futures=True)
                raise WorkError(f"{error}; what was copied stays: the same command goes on") from None
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return Pulled(cube=self.cube, files=files, kept=kept, bytes=size, damaged=tuple(damaged))

    def _one(self, wanted: Wanted) -> tuple[int, str]:
        """Bytes that were read, 0 where the file was there; and what is wrong with it, or nothing."""
        path = self.cube / wanted.name
        if path.is_file() and wanted.digest(path.read_bytes()) == wanted.sha256:
            return 0, ""
        found = ""
        for _ in range(_TRIES):
            try:
                data = self._store.read(wanted.name, wanted.most)
            except FileNotFoundError:
                return 0, f"{wanted.name}: no such file in the remote cube"
            found = wanted.digest(data)
            if found == wanted.sha256:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, data)
                return len(data), ""
        words = f"SHA-256 {found[:12]}" if found else "damaged"
        return 0, f"{wanted.name}: {words}, the provenance has {wanted.sha256[:12]}"


def digests_in(data: dict[str, bytes]) -> dict[str, str]:
    """Digest of each file by its name, from the files of the array that holds them.

    Raises:
        ValueError: a name leads out of the cube, or a digest is none.
    """
    held: dict[str, Buffer] = {
        name.removeprefix("provenance/"): cpu.Buffer.from_bytes(value) for name, value in data.items()
    }
    array: Any = zarr.open_array(MemoryStore(held), path=FILES, mode="r", zarr_format=3)
    if str(array.dtype) != "uint8" or array.ndim != 1 or array.nbytes > _LIST:
        raise ValueError(f"{array.ndim} dimensions of {array.dtype}; the list of files is bytes")
    sealed: dict[str, str] = json.loads(np.asarray(array[...]).tobytes())
    for name, digest in sealed.items():
        if not (NAME.fullmatch(name) and re.fullmatch("[0-9a-f]{64}", digest)):
            raise ValueError(f"{printable(name, 80)} is no name of a file with a digest")
    return sealed


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The part of a cube that is asked for, of a copy that has all metadata."""

    cube: Cube
    sealed: dict[str, str]
    """digests of the files that no record covers"""
    box: Box | None = None
    time: str | None = None
    layers: Sequence[str] = ()
    """all where there are none"""
    shards: Mapping[str, frozenset[tuple[int, int]]] | None = None
    """(row, column) of the shards in each zone that are wanted; None for all"""

    @property
    def words(self) -> str:
        """What is asked for, in words."""
        asked = [f"--layer {layer}" for layer in self.layers]
        asked += [f"--time {self.time}"] if self.time else []
        asked += [f"--bbox {','.join(map(str, self.box))}"] if self.box else []
        return " ".join(asked) or "all of it"

    def objects(self) -> list[Wanted]:
        """Objects of the chosen layers, windows and box; a RequestError says that there are none."""
        unknown = set(self.layers) - set(self.cube.layers)
        if unknown:
            raise RequestError(f"the cube has no layer {listed(unknown)}; it has {', '.join(self.cube.layers)}")
        found: list[Wanted] = []
        problems: list[RequestError] = []
        for zone in (zone for layer in self.layers or self.cube.layers for zone in self.cube.zones_of(layer)):
            self.cube.check(zone)
            try:
                windows = self.cube.windows_of(zone, self.time)
            except RequestError as problem:
                problems.append(problem)
                continue
            found += self._recorded(zone, windows) if self.cube.as_recorded(zone) else self._grouped(zone, windows)
        if not found:
            raise problems[0] if problems else RequestError("no object lies in this box and these layers")
        return found

    def _recorded(self, zone: str, windows: Sequence[int]) -> Iterator[Wanted]:
        """Objects whose members have their digests in records: those with a shard that is chosen, whole."""
        rows, places = self.cube.provenance.shards_of(zone)
        # shards of one object of an array are in one object of each of the others
        objects = self.cube.objects(zone, "status").numbers(places)
        chosen = np.unique(objects[self._chosen(zone, windows, places)], axis=0)
        whole = np.isin(_as_one(objects), _as_one(chosen))
        members: dict[str, dict[tuple[int, ...], tuple[str, int]]] = defaultdict(dict)
        for (t, iy, ix), record in zip(places[whole].tolist(), self.cube.provenance.records(rows[whole]), strict=True):
            for stored in arrays_in(record):
                if (size := _size(stored["size"])) and stored["array"] in ARRAYS:
                    key, at = self.cube.objects(zone, stored["array"]).locate((t, iy, ix))
                    members[f"{zone}/{stored['array']}/{key}"][at] = str(stored["sha256"]), size
        for name, inside in members.items():
            layout = self.cube.objects(zone, name.split("/")[2]).layout
            digest = digest_of_members({at: digest for at, (digest, _) in inside.items()}, layout)
            most = sum(size for _, size in inside.values()) + layout.index_bytes
            yield Wanted(name=name, sha256=digest, most=min(most, _LARGEST), layout=layout)

    def _grouped(self, zone: str, windows: Sequence[int]) -> Iterator[Wanted]:
        """Objects of chunks of several windows, whose digests are among those of the other files."""
        _, places = self.cube.provenance.shards_of(zone)
        chosen = places[self._chosen(zone, windows, places)]
        _, firsts = np.unique(self.cube.objects(zone, "status").numbers(chosen), axis=0, return_index=True)
        for t, iy, ix in chosen[firsts].tolist():
            for array in (array for array in ARRAYS if array != "scale" or self.cube.has_scale(zone)):
                if (name := self.cube.object_name(zone, array, (t, iy, ix))) in self.sealed:
                    yield Wanted(name=name, sha256=self.sealed[name])

    def _chosen(self, zone: str, windows: Sequence[int], places: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which shards, at (t, row, column), lie in some windows and in what was asked for."""
        chosen = np.isin(places[:, 0], windows)
        chosen[chosen] = self._touching(zone, places[chosen, 1:].astype(np.int64))
        return chosen

    def _touching(self, zone: str, places: NDArray[np.int64]) -> NDArray[np.bool_]:
        inside = np.ones(len(places), bool)
        if self.box is not None:
            inside &= touching(self.cube, zone, places, self.box)
        if self.shards is not None:
            own = self.shards.get(zone, frozenset())
            inside &= np.array([place in own for place in map(tuple, places.tolist())], bool)
        return inside


def _as_one(numbers: NDArray[np.int64]) -> NDArray[Any]:
    """Rows of three numbers as one value each, to be compared."""
    return np.ascontiguousarray(numbers, "<i8").view([("", "<i8")] * 3).ravel()


def _size(claimed: Any) -> int:
    """Bytes of an object as a record claims them, for what is read at most; a record may come from anyone."""
    if type(claimed) is not int or claimed < 0:
        raise RequestError(f"a record of the provenance has an object of {printable(claimed, 40)} bytes; it is damaged")
    return min(claimed, _LARGEST)
