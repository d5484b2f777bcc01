"""Decoded samples of a list as a table: CSV or Parquet, a row for each sample with a vector in each window."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from embedcube.campaign.run_folder import replacing, write_atomically
from embedcube.cube.listed import AsMap
from embedcube.cube.reader import Cube
from embedcube.cube.within import Within, geometry_of
from embedcube.errors import RequestError
from embedcube.uses.decode.file import Decoder
from embedcube.uses.decode.outputs import Put, provenance_of

SUFFIXES = (".csv", ".parquet")


@dataclass(frozen=True, kw_only=True)
class SamplesInside:
    """Which cells of a list are of samples inside of a region, asked as `Area` is of a map."""

    array: AsMap
    inside: NDArray[np.bool_]
    """by the number of the sample"""

    def cut(self, y: slice, x: slice) -> NDArray[np.bool_]:
        """Which cells (y, x) of a rectangle it has."""
        number = self.array.sample(*np.mgrid[y, x])
        return np.asarray(np.append(self.inside, False)[np.minimum(number, len(self.inside))])


def samples_inside(cube: Cube, zone: str, within: Within) -> SamplesInside | None:
    """The samples of a list whose place lies in a region; None where there is none."""
    samples, region = cube.samples(zone), geometry_of(within)
    lon, lat = samples.column("lon"), samples.column("lat")
    inside = np.zeros(len(lon), bool)
    for turn in (-360, 0, 360):  # a region over the antimeridian goes beyond 180 degrees
        inside |= shapely.contains_xy(region, lon + turn, lat)
    return SamplesInside(array=cube.array(zone, "status"), inside=inside) if inside.any() else None


class SampleRows:
    """Writes one table with the windows that were decoded; it appears whole."""

    def __init__(
        self, cube: Cube, decoder: Decoder, decoder_file: Path, out: Path, work: list[tuple[str, int]],
        finer: int = 1,
    ) -> None:  # fmt: skip
        """`out` is named .csv, or .parquet."""
        self._cube, self._decoder, self._out = cube, decoder, out
        self._about = provenance_of(cube, decoder, decoder_file)
        self._parts: dict[tuple[str, int, int, int], dict[str, Any]] = {}
        self.files = [out] if out.suffix == ".parquet" else [out, out.with_name(f"{out.name}.json")]

    def __enter__(self) -> "SampleRows":
        return self

    @contextmanager
    def window(self, zone: str, t: int) -> Iterator[Put]:
        """Give a function that takes a rectangle of one window, as `AsMap` has the samples of a list."""
        samples, array, window = self._cube.samples(zone), self._cube.array(zone, "status"), self._cube.windows(zone)[t]
        ids, lon, lat = np.array(samples.ids, object), samples.column("lon"), samples.column("lat")

        def put(y: slice, x: slice, values: NDArray[np.float32]) -> None:
            row, column = (axis.ravel() for axis in np.mgrid[y, x])
            flat = values.reshape(len(row), -1)
            there = np.isfinite(flat).all(axis=1)
            row, column, flat = row[there], column[there], flat[there]
            number, side = array.sample(row, column), array.sample_cells
            order = np.lexsort((column % side, row % side, number))
            number = number[order]
            place = {"lon": lon[number], "lat": lat[number]}
            if side > 1:
                place |= {"row": (row % side)[order], "column": (column % side)[order]}
            self._parts[zone, t, y.start, x.start] = {
                "id": ids[number],
                "window": np.full(len(order), str(window), object),
                **place,
            } | self._told(flat[order])

        yield put

    def _told(self, values: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Columns of what the decoder says of some rows."""
        classes = self._decoder.about.classes
        if not classes:
            return {"prediction": values[:, 0]}
        shares = {f"probability_{name}": values[:, number] for number, name in enumerate(classes)}
        return {"prediction": np.array(classes, object)[values.argmax(axis=1)], **shares}

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            return
        import pyarrow
        import pyarrow.csv
        import pyarrow.parquet

        # workers give rectangles in the order in which they are done
        parts = [part for _, part in sorted(self._parts.items()) if len(part["id"])]
        if not parts:
            raise RequestError(f"{self._cube.address}: no sample that was asked for has a vector; nothing was written")
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        about = {name: one if isinstance(one, str) else json.dumps(one) for name, one in self._about.items()}
        table = pyarrow.table(columns).replace_schema_metadata(about)
        self._out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self._out) as temporary:
            if self._out.suffix == ".parquet":
                pyarrow.parquet.write_table(table, temporary)
            else:
                pyarrow.csv.write_csv(table, temporary)
        for beside in self.files[1:]:
            write_atomically(beside, json.dumps(self._about, indent=1).encode())
