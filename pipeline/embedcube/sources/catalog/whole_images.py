"""Products of images that hold all bands of a scene, or a series of scenes: found by descriptions or numbers."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from embedcube.printable import printable
from embedcube.sources.catalog.bands import Bands, Step, bands_in, descriptions_of, shown, stacked
from embedcube.sources.catalog.beside import sensed
from embedcube.sources.catalog.dates import time_in
from embedcube.sources.catalog.notes import Notes, undated
from embedcube.sources.catalog.pool import spread
from embedcube.sources.catalog.products import File, Names, Product, unusable
from embedcube.sources.catalog.told import Told


def described(paths: Sequence[Path]) -> Iterator[list[str]]:
    """The descriptions of the bands of each image; none for an image that does not open.

    Raises:
        OSError: a file could not be read for a reason that may pass.
    """
    yield from spread(_described, paths, lost=lambda *_: [], name=str)


def _described(paths: Sequence[Path]) -> list[list[str]]:
    return [descriptions_of(path) or [] for path in paths]


def whole_products(
    path: Path, bands: Sequence[str], root: Path, names: Names, told: Told, notes: Notes
) -> Iterator[Product]:
    """The product of an image with these `bands`, or one for each step of a series that is stacked as bands.

    The time is that in the name of the file or its folder, else the time told; without any, the image is left out. An
    image that does not open has no bands; its product names the file, so that it gets a verdict.
    """
    name, id = printable(path.name), notes.id_of(path.stem, path.parent, root)
    steps = stacked(bands, names, len(told.steps))
    if steps or (told.steps and bands):
        yield from _series(path, id, bands, steps, names, told, notes)
        return
    try:
        when, said = sensed(told, path.stem, path.parent, notes.beside)
    except ValueError as error:
        yield unusable(path.stem, f"{name}: {error}", time_in(path.stem))
        return
    if when is None:
        notes.left[path] = undated(path.name)
        return
    found = bands_in(bands, names) if bands else Bands(index={next(iter(names)): 1}, fault="")
    _note_unused(path, len(found.index), len(bands), notes)
    yield Product(
        id=id,
        time=when.time,
        end=when.end,
        files={band: File(path=path, index=found.index[band]) for band in names if band in found.index},
        fault=f"{name}: {found.fault}" if found.fault else "",
        properties=said.properties,
    )


def _series(
    path: Path, id: str, bands: Sequence[str], steps: Sequence[Step], names: Names, told: Told, notes: Notes
) -> Iterator[Product]:
    """A product for each step; a single one, with the reason, where it is not known when the steps are."""
    name = printable(path.name)
    times = told.steps or [step.when for step in steps if step.when is not None]
    if len(times) != len(steps) or not steps:
        if told.steps:
            words = f"its bands are {len(steps) or 'no'} steps, and options.steps has {len(told.steps)} times"
        else:
            first = next(iter(steps[0].index))
            series = [bands[step.index[first] - 1] for step in steps if first in step.index]
            words = (
                f"its bands are a series of {len(steps)} steps ({shown(series)}), of which one would leave "
                f"{len(bands) - len(steps[0].index)} of {len(bands)} bands unused: options.steps takes their times, "
                "in this order"
            )
        yield unusable(path.stem, f"{name}: {words}", time_in(path.stem))
        return
    _note_unused(path, sum(len(step.index) for step in steps), len(bands), notes)
    for step, when in zip(steps, times, strict=True):
        yield Product(
            id=f"{id}_{when.time:%Y%m%dT%H%M%S}",
            time=when.time,
            end=when.end,
            files={band: File(path=path, index=step.index[band]) for band in names if band in step.index},
            missing={band: f"{name} has no such band of this step" for band in names if band not in step.index},
            properties={},
        )


def _note_unused(path: Path, used: int, of: int, notes: Notes) -> None:
    if 0 < used < of:
        notes.unused[path] = of - used, of
