"""Rows of inventory.parquet: made of scenes, or taken from the inventory before this one."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import shapely
from pyproj import CRS

from embedcube.campaign.boxes import footprint, in_range
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.scene import Noted, Scene
from embedcube.campaign.seals import read_digested
from embedcube.campaign.tables import inventory_digest
from embedcube.errors import RequestError

_ROWS, _PIECE = 1 << 13, 1 << 10
"""rows of the table that are written at once, and that are made at once"""

_MOMENT = pyarrow.timestamp("us", "UTC")

_WKB = {
    "ARROW:extension:name": "geoarrow.wkb",
    "ARROW:extension:metadata": json.dumps({"crs": CRS.from_epsg(4326).to_json_dict()}),
}
"""Metadata of the column of footprints, for readers of Arrow."""


Pieces = Sequence[Sequence[Scene]]
"""Scenes in their order, some at a time"""

Spread = Callable[[Callable[[Pieces], list[pyarrow.RecordBatch]], Pieces], Iterable[pyarrow.RecordBatch]]
"""Gives what a function makes of each piece, in order, perhaps in other processes; both are picklable"""


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
            if row is None or noted[row].as_py() != noted_text(scene) or texts[row].as_py() != scene.to_json():
                continue
            self.same[scene.archive, scene.id] = row

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
        bands = tuple(dict.fromkeys(asset.band for scene in scenes for asset in scene.assets))
        return cls(asked=dict(asked), extent=extent, bands=bands, lasting=any(scene.end for scene in scenes))

    def made(self, pieces: Pieces) -> list[pyarrow.RecordBatch]:
        """The rows of each piece."""
        return [self._batch(scenes) for scenes in pieces]

    def _batch(self, scenes: Sequence[Scene]) -> pyarrow.RecordBatch:
        places = [in_range(scene.bbox) for scene in scenes]
        west, south, east, north = np.array(places).T
        nothing = pyarrow.array([[]] * len(scenes), pyarrow.list_(pyarrow.null()))
        columns = {
            "type": ["Feature"] * len(scenes),
            "stac_version": ["1.0.0"] * len(scenes),
            "id": [scene.id for scene in scenes],
            "geometry": shapely.to_wkb([footprint(place) for place in places], flavor="iso"),
            "bbox": pyarrow.StructArray.from_arrays([west, south, east, north], ["xmin", "ymin", "xmax", "ymax"]),
            "links": nothing,
            "assets": _assets(scenes, self.bands),
            "stac_extensions": nothing,
            "collection": [scene.archive for scene in scenes],
            # STAC: an Item with a beginning and an end has no datetime
            "datetime": pyarrow.array([None if scene.end else scene.time for scene in scenes], _MOMENT),
            "embedcube:archive": [scene.archive for scene in scenes],
            "embedcube:asked": [self.asked[scene.archive] for scene in scenes],
            "embedcube:made_for": [self.extent] * len(scenes),
            "embedcube:digest": [scene.digest for scene in scenes],
            "embedcube:weak": [scene.weak for scene in scenes],
            "embedcube:declared": [scene.declared for scene in scenes],
            "embedcube:verdict": [scene.verdict for scene in scenes],
            "embedcube:superseded_by": [scene.superseded_by for scene in scenes],
            "embedcube:shows": [scene.shows for scene in scenes],
            "embedcube:scene": [scene.to_json() for scene in scenes],
            "embedcube:noted": [noted_text(scene) for scene in scenes],
        }
        if self.lasting:
            columns["start_datetime"] = pyarrow.array([scene.time if scene.end else None for scene in scenes], _MOMENT)
            columns["end_datetime"] = pyarrow.array([scene.end for scene in scenes], _MOMENT)
        batch = pyarrow.RecordBatch.from_pydict(columns)
        place = batch.schema.get_field_index("geometry")
        return batch.cast(batch.schema.set(place, batch.schema.field(place).with_metadata(_WKB)))


def write_rows(
    rows: Rows, scenes: Sequence[Scene], path: Path, earlier: Earlier | None = None, spread: Spread | None = None
) -> None:
    """Write the scenes as STAC-GeoParquet; one more column holds the complete description of each scene as JSON."""
    from stac_geoparquet.arrow import to_parquet

    [first] = rows.made([scenes[:1]])
    if earlier is not None and not _fits(rows, first.schema, earlier):
        earlier = None
    taken = [earlier.same.get((scene.archive, scene.id)) if earlier else None for scene in scenes]
    new = [scene for scene, row in zip(scenes, taken, strict=True) if row is None]
    # columns, some thousand rows at a time: as dictionaries, a hundred thousand Items are a GB
    pieces = [new[i : i + _PIECE] for i in range(0, len(new), _PIECE)]
    made = spread(rows.made, pieces) if spread else (batch for one in pieces for batch in rows.made([one]))
    batches = _joined(made) if earlier is None else _merged(earlier.table, made, taken)
    to_parquet(pyarrow.RecordBatchReader.from_batches(first.schema, batches), path)


def _fits(rows: Rows, schema: pyarrow.Schema, earlier: Earlier) -> bool:
    """Whether rows of an earlier inventory may stand in a table."""
    table = earlier.table
    if not table.schema.equals(schema, check_metadata=True):
        return False
    names = ("embedcube:archive", "embedcube:asked", "embedcube:made_for")
    kinds = table.group_by([*names]).aggregate([]).to_pylist()
    return all(rows.asked.get(one[names[0]]) == one[names[1]] and one[names[2]] == rows.extent for one in kinds)


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


def _assets(scenes: Sequence[Scene], bands: tuple[str, ...]) -> pyarrow.StructArray:
    """The column of assets: one field for each band, null where a scene has no file of that band."""
    rows = [{asset.band: {"href": asset.path} for asset in scene.assets} for scene in scenes]
    of_band = pyarrow.struct([("href", pyarrow.string())])
    return pyarrow.array(rows, pyarrow.struct([(band, of_band) for band in bands]))


def noted_text(scene: Scene) -> str:
    """What was noted of each file of a scene, as JSON."""
    return json.dumps([list(vars(note).values()) for note in scene.notes])


def notes_from(text: str) -> list[Noted]:
    """The notes that `noted_text` wrote."""
    return [Noted(**dict(zip(vars(Noted()), note, strict=True))) for note in json.loads(text)]
