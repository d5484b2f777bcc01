"""Apply a decoder to a cube, shard by shard: maps as COG, a Zarr layer, or a table of samples, with provenance.

A piece of work is one shard of cells in one window, whatever region or workers are asked for: so its numbers are, too.
Workers return numbers, one process writes them: no two processes ever write one file.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedcube.campaign.load import load_campaign
from embedcube.campaign.run_folder import RunDir
from embedcube.consolidate.dask import dask_client
from embedcube.consolidate.endings import results
from embedcube.cube.listed import is_list
from embedcube.cube.reader import Cube
from embedcube.cube.store import Time
from embedcube.cube.within import Area, Within, area_in
from embedcube.errors import RequestError
from embedcube.progress import Progress, silent
from embedcube.uses.decode.file import Decoder, check_fits, read_decoder
from embedcube.uses.decode.heads import softmax
from embedcube.uses.decode.maps import Maps
from embedcube.uses.decode.pixels import interpolated
from embedcube.uses.decode.rectangles import said_of
from embedcube.uses.decode.sample_rows import SUFFIXES, SampleRows, SamplesInside, samples_inside
from embedcube.uses.decode.zarr_layer import ZarrLayer

_AT_ONCE = 64
"""pieces that are given to workers together"""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One shard of cells in one window."""

    cube: str
    decoder: str
    zone: str
    t: int
    y: tuple[int, int]
    x: tuple[int, int]
    """first row and column, and those after the last"""
    finer: int = 1
    """pixels along a side of each cell, onto which logits are interpolated"""


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """What a decoder says of the cells of a piece."""

    piece: Piece
    values: NDArray[np.float32]
    """(y, x, output): probabilities or shares of classes, or one number; NaN where a layer has no vector"""


def decoded(piece: Piece) -> Decoded:
    """Decode one piece; needs NumPy and zarr only."""
    cube, decoder, place = _opened(piece.cube), _loaded(piece.decoder), (piece.zone, piece.t)
    if piece.finer == 1:
        return Decoded(piece=piece, values=said_of(cube, decoder, place, piece.y, piece.x, decoder.head))
    # with the cells around the piece: an interpolated number does not depend on how cells are cut into pieces
    rows, columns = cube.array(piece.zone, "status").shape[1:]
    y = max(piece.y[0] - 1, 0), min(piece.y[1] + 1, rows)
    x = max(piece.x[0] - 1, 0), min(piece.x[1] + 1, columns)
    logits = said_of(cube, decoder, place, y, x, decoder.head.logits)
    fine = softmax(interpolated(logits.astype(np.float64), piece.finer)).astype(np.float32)
    inner = (slice((one[0] - all_[0]) * piece.finer, (one[1] - all_[0]) * piece.finer)
             for one, all_ in ((piece.y, y), (piece.x, x)))  # fmt: skip
    return Decoded(piece=piece, values=fine[tuple(inner)])


@lru_cache(maxsize=4)
def _opened(cube: str) -> Cube:
    return Cube(cube)


@lru_cache(maxsize=4)
def _loaded(decoder: str) -> Decoder:
    return read_decoder(Path(decoder))


def pieces(
    cube: Cube, decoder: Path, layer: str, within: Within | None, time: Time, finer: int = 1
) -> dict[tuple[str, int], list[Piece]]:
    """The pieces of each zone and window that hold a cell of the region; all cells where `within` is None.

    Raises:
        RequestError: no cell lies in the region, or no window in the time.
    """
    found: dict[tuple[str, int], list[Piece]] = {}
    for zone in cube.zones_of(layer):
        area = None if within is None else area_of(cube, zone, within)
        if within is not None and area is None:
            continue
        side = cube.shard_cells(zone)
        rows, columns = cube.array(zone, "status").shape[1:]
        for t in cube.windows_of(zone, time):
            for top in range(0, rows, side):
                for left in range(0, columns, side):
                    y, x = (top, min(top + side, rows)), (left, min(left + side, columns))
                    if area is None or area.cut(slice(*y), slice(*x)).any():
                        piece = Piece(cube=str(cube.path), decoder=str(decoder), zone=zone, t=t, y=y, x=x, finer=finer)
                        found.setdefault((zone, t), []).append(piece)
    if not found:
        raise RequestError(f"{cube.address}: no cell of {layer} lies in {within}; a region is in degrees")
    return found


def area_of(cube: Cube, zone: str, within: Within) -> Area | SamplesInside | None:
    """The cells of a zone, or the samples of a list, that lie in a region; None where there are none."""
    return samples_inside(cube, zone, within) if is_list(zone) else area_in(cube, zone, within)


Spread = Callable[[list[Piece]], Iterator[Any]]


@contextmanager
def spread_for(cube: Cube) -> Iterator[Spread]:
    """Dask workers as `how.dask` of the cube's campaign says; a cube outside of a run folder is decoded here."""
    run = RunDir(cube.path.parents[1])
    if not run.campaign.is_file():
        yield lambda work: map(decoded, work)
        return
    campaign = load_campaign(run.campaign, mounted=False)
    with dask_client(campaign, run) as client:
        yield lambda work: results(client.map(decoded, work, pure=False), client, campaign, run)


def _kind_of(cube: Cube, decoder: Decoder, out: Path) -> type[Maps] | type[ZarrLayer] | type[SampleRows]:
    """What writes `out`; a RequestError says which suffixes there are for this cube."""
    if is_list(zone := cube.zones_of(decoder.layers[0])[0]):
        if out.suffix not in SUFFIXES:
            named = " or ".join(SUFFIXES)
            raise RequestError(f"{out}: {zone} is a list of samples and no map: it becomes a table, write {named}")
        return SampleRows
    kinds: dict[str, type[Maps] | type[ZarrLayer]] = {".tif": Maps, ".tiff": Maps, ".zarr": ZarrLayer}
    if out.suffix not in kinds:
        raise RequestError(f"{out}: write .tif for maps (COG) or .zarr for a Zarr layer")
    return kinds[out.suffix]


def apply(
    cube: Cube, decoder_file: Path, out: Path, within: Within | None = None, time: Time = None,
    progress: Progress = silent, finer: int = 1,
) -> list[Path]:  # fmt: skip
    """Decode a cube into `out`: a .tif for each zone and window (COG), or one .zarr; returns what was written.

    Only cells inside of the region are written; what is outside, or has no vector, is nodata. Files appear whole.
    With `finer` the logits of a dense logistic or conv decoder are interpolated onto so many pixels along a side of
    each cell, and the map has their classes; vectors are never interpolated. A list of samples becomes one table, .csv
    or .parquet, of the samples that have a vector, and lie in the region.

    Raises:
        RequestError: the decoder is of another model, the region holds nothing, or `out` is neither or exists.
    """
    decoder = read_decoder(decoder_file)
    check_fits(decoder, cube, decoder_file)
    kind, about = _kind_of(cube, decoder, out), decoder.about
    if finer > 1 and (kind is not Maps or about.request.task != "dense" or not decoder.head.has_logits):
        raise RequestError("--finer is for a map (.tif) of a dense logistic or conv decoder, not for "
                           f"{about.request.task}, {about.kind}, {out.suffix}")  # fmt: skip
    work = pieces(cube, decoder_file, decoder.layers[0], within, time, finer)
    total, done = sum(map(len, work.values())), 0
    writer = kind(cube, decoder, decoder_file, out, list(work), finer)
    with writer, spread_for(cube) as spread:
        for (zone, t), own in work.items():
            area = None if within is None else area_of(cube, zone, within)
            with writer.window(zone, t) as put:
                # some at a time: what is decoded and not yet written is in memory
                for one in chain.from_iterable(spread(own[i : i + _AT_ONCE]) for i in range(0, len(own), _AT_ONCE)):
                    y, x = slice(*one.piece.y), slice(*one.piece.x)
                    if area is not None:
                        outside = ~area.cut(y, x)
                        one.values[outside.repeat(finer, axis=0).repeat(finer, axis=1)] = np.nan
                    rows, columns = (slice(axis.start * finer, axis.stop * finer) for axis in (y, x))
                    put(rows, columns, one.values)
                    done += 1
                    progress(done, total)
    return writer.files
