"""Rows of inventory.parquet: made of scenes, or taken from the inventory before this one."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow
import pyarrow.parquet
import shapely
from pydantic_core import from_json
from pyproj import CRS

from embedcube.campaign.boxes import Box, footprint, in_range
from embedcube.campaign.remembered_scene import RememberedScene, bands_of, whole
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.scene import Noted, Scene, digest_of_facts, is_weak, shows
from embedcube.campaign.seals import read_digested
from embedcube.campaign.tables import inventory_digest
from embedcube.errors import RequestError
from embedcube.windows import utc

_ROWS, _PIECE = 1 << 13, 1 << 10
"""rows of the table that are written at once, and that are made at once"""

_MOMENT = pyarrow.timestamp("us", "UTC")

_WKB = {
    "ARROW:extension:name": "geoarrow.wkb",
    "ARROW:extension:metadata": json.dumps({"crs": CRS.from_epsg(4326).to_json_dict()}),
}
"""Metadata of the column of footprints, for readers of Arrow."""


Text = tuple[str, str]
"""A scene as JSON, and what was noted of its files"""

Pieces = Sequence[Sequence[Text]]
"""Scenes in their order, some at a time"""

Spread = Callable[[Callable[[Pieces], list[pyarrow.RecordBatch]], Pieces], Iterable[pyarrow.RecordBatch]]
"""Gives what a function makes of each piece, in order, perhaps in other processes; both are picklable"""


class _Texts(Pieces):
    """Some scenes, as texts when they are asked for."""

    def __init__(self, scenes: Sequence[Scene]) -> None:
        self._scenes = scenes

    def __len__(self) -> int:
        return len(range(0, len(self._scenes), _PIECE))

    @overload
    def __getitem__(self, place: int) -> Sequence[Text]: ...

    @overload
    def __getitem__(self, place: slice) -> Pieces: ...

    def __getitem__(self, place: int | slice) -> Sequence[Text] | Pieces:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        if not 0 <= place < len(self):
            raise IndexError(place)
        return [text_of(scene) for scene in self._scenes[place * _PIECE : (place + 1) * _PIECE]]


def text_of(scene: Scene) -> Text:
    """A scene as JSON, and what was noted of its files."""
    scene = whole(scene)
    return scene.to_json(), json.dumps([list(vars(note).values()) for note in scene.notes])


def notes_from(text: str) -> list[Noted]:
    """What was noted of each file of a scene, from its text."""
    return [Noted(**dict(zip(vars(Noted()), note, strict=True))) for note in json.loads(text)]


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """The inventory before this one."""

    table: pyarrow.Table
    rows: Mapping[tuple[str, str], int]
    """by archive and id"""
    same: dict[tuple[str, str], int] = field(default_factory=dict)
    """of these the rows of scenes that are as they were, with all that was noted of their files; see `compare`"""

    @classmethod
    def read(cls, run: RunDir) -> "Earlier | None":
        """None where there is no inventory that can be read."""
        try:
            source = pyarrow.BufferReader(read_digested(run.inventory, inventory_digest(run), "index"))
            with pyarrow.parquet.ParquetFile(source) as file:
                table = file.read().replace_schema_metadata(None)
            names = zip(*(table[name].to_pylist() for name in ("embedcube:archive", "id")), strict=True)
        except (pyarrow.ArrowException, KeyError, OSError, RequestError):
            return None
        return cls(table=table, rows={name: row for row, name in enumerate(names)})

    def compare(self, scenes: Sequence[Scene]) -> None:
        """Find the scenes that are as they were."""
        texts, noted = (self.table[name].combine_chunks() for name in ("embedcube:scene", "embedcube:noted"))
        for scene in scenes:
            row = self.rows.get((scene.archive, scene.id))
            if row is None:
                continue
            if isinstance(scene, RememberedScene):
                same = scene.as_it_was
            else:
                same = text_of(scene) == (texts[row].as_py(), noted[row].as_py())
            if same:
                self.same[scene.archive, scene.id] = row

    def scene(self, archive: str, id: str) -> Scene:
        """A scene as it was."""
        row = self.rows[archive, id]
        text, noted = (self.table[name][row].as_py() for name in ("embedcube:scene", "embedcube:noted"))
        return Scene.from_json(text, notes_from(noted))

    def digest_and_notes(self, scene: Scene) -> tuple[str, list[Noted]]:
        """The digest that the scene with this id had, and what was noted of its files; nothing if there was none."""
        row = self.rows.get((scene.archive, scene.id))
        if row is None:
            return "", []
        return self.table["embedcube:digest"][row].as_py(), notes_from(self.table["embedcube:noted"][row].as_py())


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What all rows of a table have in common; makes them of scenes."""

    asked: dict[str, str]
    """for each archive, the digest of its block and of its search"""
    extent: str
    """digest of the windows and the region"""
    bands: tuple[str, ...]
    """of all scenes of the table"""
    lasting: bool
    """whether some scene of the table has an end, so that there are columns for it"""

    @classmethod
    def of(cls, asked: Mapping[str, str], extent: str, scenes: Sequence[Scene]) -> "Rows":
        """What the rows of a table of these scenes have in common."""
        bands = tuple(dict.fromkeys(band for scene in scenes for band in bands_of(scene)))
        return cls(asked=dict(asked), extent=extent, bands=bands, lasting=any(scene.end for scene in scenes))

    def made(self, pieces: Pieces) -> list[pyarrow.RecordBatch]:
        """The rows of each piece."""
        return [self._batch(scenes) for scenes in pieces]

    def _batch(self, texts: Sequence[Text]) -> pyarrow.RecordBatch:
        scenes = [_Row.of(text) for text, _ in texts]
        west, south, east, north = np.array([scene.bbox for scene in scenes]).T
        shapes = shapely.box(west, south, east, north)
        for i in np.flatnonzero(west > east):
            shapes[i] = footprint(scenes[i].bbox)
        nothing = pyarrow.array([[]] * len(scenes), pyarrow.list_(pyarrow.null()))
        columns = {
            "type": ["Feature"] * len(scenes),
            "stac_version": ["1.0.0"] * len(scenes),
            "id": [scene.facts["id"] for scene in scenes],
            "geometry": shapely.to_wkb(shapes, flavor="iso"),
            "bbox": pyarrow.StructArray.from_arrays([west, south, east, north], ["xmin", "ymin", "xmax", "ymax"]),
            "links": nothing,
            "assets": self._assets(scenes),
            "stac_extensions": nothing,
            "collection": [scene.archive for scene in scenes],
            # STAC: an Item with a beginning and an end has no datetime
            "datetime": pyarrow.array([None if scene.end else scene.time for scene in scenes], _MOMENT),
            "embedcube:archive": [scene.archive for scene in scenes],
            "embedcube:asked": [self.asked[scene.archive] for scene in scenes],
            "embedcube:made_for": [self.extent] * len(scenes),
            "embedcube:digest": [digest_of_facts(scene.facts, scene.assets) for scene in scenes],
            "embedcube:weak": [is_weak(scene.assets) for scene in scenes],
            "embedcube:declared": [any(asset["declared"] for asset in scene.assets) for scene in scenes],
            "embedcube:verdict": [scene.facts["verdict"] for scene in scenes],
            "embedcube:superseded_by": [scene.facts["superseded_by"] for scene in scenes],
            "embedcube:shows": [shows(scene.facts) for scene in scenes],
            "embedcube:scene": [text for text, _ in texts],
            "embedcube:noted": [noted for _, noted in texts],
        }
        if self.lasting:
            columns["start_datetime"] = pyarrow.array([scene.time if scene.end else None for scene in scenes], _MOMENT)
            columns["end_datetime"] = pyarrow.array([scene.end for scene in scenes], _MOMENT)
        batch = pyarrow.RecordBatch.from_pydict(columns)
        place = batch.schema.get_field_index("geometry")
        return batch.cast(batch.schema.set(place, batch.schema.field(place).with_metadata(_WKB)))

    def _assets(self, scenes: "Sequence[_Row]") -> pyarrow.StructArray:
        """The column of assets: one field for each band, null where a scene has no file of that band."""
        rows = [{asset["band"]: {"href": asset["path"]} for asset in scene.assets} for scene in scenes]
        of_band = pyarrow.struct([("href", pyarrow.string())])
        return pyarrow.array(rows, pyarrow.struct([(band, of_band) for band in self.bands]))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """A scene, as its JSON says."""

    facts: dict[str, Any]
    archive: str
    assets: list[dict[str, Any]]
    bbox: Box
    time: datetime
    end: datetime | None

    @classmethod
    def of(cls, text: str) -> "_Row":
        """The scene of a text."""
        facts = from_json(text)  # in half of the time of Python's json
        facts["time"] = utc(datetime.fromisoformat(facts["time"]))
        facts["end"] = utc(datetime.fromisoformat(facts["end"])) if facts["end"] else None
        return cls(
            facts=facts,
            archive=facts["archive"],
            assets=facts["assets"],
            bbox=in_range(tuple(facts["bbox"])),
            time=facts["time"],
            end=facts["end"],
        )


def write_rows(
    rows: Rows, scenes: Sequence[Scene], path: Path, earlier: Earlier | None = None, spread: Spread | None = None
) -> None:
    """Write the scenes as STAC-GeoParquet; one more column holds the complete description of each scene as JSON."""
    from stac_geoparquet.arrow import to_parquet

    [first] = rows.made([[text_of(scenes[0])]])
    table = None if earlier is None else _fitting(rows, first.schema, earlier.table)
    same = {} if earlier is None or table is None else earlier.same
    taken = [same.get((scene.archive, scene.id)) for scene in scenes]
    new = [scene for scene, row in zip(scenes, taken, strict=True) if row is None]
    # columns, some thousand rows at a time: as dictionaries, a hundred thousand Items are a GB
    pieces = _Texts(new)
    made = spread(rows.made, pieces) if spread else (batch for one in pieces for batch in rows.made([one]))
    batches = _joined(made) if table is None else _merged(table, made, taken)
    to_parquet(pyarrow.RecordBatchReader.from_batches(first.schema, batches), path)


def _fitting(rows: Rows, schema: pyarrow.Schema, table: pyarrow.Table) -> pyarrow.Table | None:
    """The rows of an earlier inventory with this schema; None where they may not stand in such a table."""
    if table.schema.names != schema.names:
        return None
    try:
        # Parquet calls the values of a list otherwise
        table = table.cast(schema)
    except (pyarrow.ArrowException, ValueError):
        return None
    names = ("embedcube:archive", "embedcube:asked", "embedcube:made_for")
    kinds = table.group_by([*names]).aggregate([]).to_pylist()
    fits = all(rows.asked.get(one[names[0]]) == one[names[1]] and one[names[2]] == rows.extent for one in kinds)
    return table if fits else None


def _merged(
    earlier: pyarrow.Table, made: Iterable[pyarrow.RecordBatch], taken: Sequence[int | None]
) -> Iterator[pyarrow.RecordBatch]:
    """The rows of a table in order: those that are taken from an earlier one by number, the others as they are made."""
    both = pyarrow.concat_tables([earlier, pyarrow.Table.from_batches(made, earlier.schema)]).combine_chunks()
    following = iter(range(len(earlier), len(both)))
    numbers = [next(following) if row is None else row for row in taken]
    for i in range(0, len(numbers), _ROWS):
        yield from both.take(numbers[i : i + _ROWS]).combine_chunks().to_batches()


def _joined(batches: Iterable[pyarrow.RecordBatch]) -> Iterator[pyarrow.RecordBatch]:
    """The same rows, as many at a time as are written at once."""
    waiting = iter(batches)
    while some := list(islice(waiting, _ROWS // _PIECE)):
        yield from pyarrow.Table.from_batches(some).combine_chunks().to_batches()
