"""Products of images whose names the campaign tells by a template."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from embedcube.errors import RequestError
from embedcube.printable import printable
from embedcube.sources.catalog.bands import shown
from embedcube.sources.catalog.dates import When
from embedcube.sources.catalog.naming import Fit, Template
from embedcube.sources.catalog.netcdf import products_of
from embedcube.sources.catalog.notes import Notes, undated
from embedcube.sources.catalog.products import File, Names, Product, split_pixel_size, unusable
from embedcube.sources.catalog.told import Told
from embedcube.sources.catalog.whole_images import described, whole_products
from embedcube.sources.netcdf3 import is_netcdf

_NO_FIT = "does not fit options.names"


def named_products(
    template: Template, paths: Sequence[Path], root: Path, names: Names, told: Told, notes: Notes,
    faults: Mapping[Path, str],
) -> Iterator[Product]:  # fmt: skip
    """The products of images that fit the template; images that do not fit it are left out.

    Images whose name tells a band hold that band, and those of one scene are one product, whatever their folders.
    Other images hold all bands. `faults` says of some why they cannot be opened.

    Raises:
        RequestError: no image fits.
        OSError: a file could not be read for a reason that may pass.
    """
    every = frozenset(name for known in names.values() for name in known)
    fits: list[tuple[Path, Fit]] = []
    for path in paths:
        fit = template.fit(path.relative_to(root).as_posix(), every)
        if fit is None:
            notes.left[path] = _NO_FIT
        else:
            fits.append((path, fit))
    if paths and not fits:
        first = printable(paths[0].relative_to(root).as_posix(), 100)
        raise RequestError(
            f'options.names: "{template.text}" fits none of {len(paths)} images, the first is {first}; * stands for '
            "anything, {band} for names of the archive's bands"
        )
    yield from (_of_bands if template.by_band else _of_files)(fits, root, names, told, notes, faults)


def _of_files(
    fits: Sequence[tuple[Path, Fit]], root: Path, names: Names, told: Told, notes: Notes, faults: Mapping[Path, str]
) -> Iterator[Product]:
    """A product for each file, or for each of its steps."""
    readable = [path for path, fit in fits if path not in faults and not is_netcdf(path)]
    bands_of = dict(zip(readable, described(readable), strict=True))
    for path, fit in fits:
        when = fit.when or told.time
        # told.always: the names do not count, as that of a file that was dated once for all
        here = replace(told, time=when, always=when is not None)
        if path in faults:
            yield unusable(path.stem, f"{printable(path.name)} {faults[path]}", when.time if when else None)
        elif fit.fault and not told.always:
            yield unusable(path.stem, f"{printable(path.name)}: {fit.fault}")
        elif is_netcdf(path):
            yield from products_of(path, path.stem, names, here, notes)
        else:
            for product in whole_products(path, bands_of[path], root, names, here, notes):
                yield replace(product, properties=product.properties | fit.properties)


@dataclass(kw_only=True)
class _Scene:
    """The files of one scene."""

    fit: Fit
    path: Path
    """one of its files"""
    files: dict[str, list[tuple[int, Path]]] = field(default_factory=dict)
    """by band, files with the size of their pixels (m), or 0"""


def _of_bands(
    fits: Sequence[tuple[Path, Fit]], root: Path, names: Names, told: Told, notes: Notes, faults: Mapping[Path, str]
) -> Iterator[Product]:
    """A product for each scene, of a file for each band."""
    scenes: dict[str, _Scene] = {}
    for path, fit in fits:
        name, pixel_m = split_pixel_size(fit.band)
        for band in (band for band, known in names.items() if name in known):
            scene = scenes.setdefault(fit.scene, _Scene(fit=fit, path=path))
            scene.files.setdefault(band, []).append((pixel_m, path))
    if fits and not scenes:
        found = shown(sorted({fit.band for _, fit in fits}))
        raise RequestError(
            f"options.names fits {len(fits)} images, and none is of a band of the archive: {{band}} is {found}; "
            "options.variables says what bands are called"
        )
    for scene in scenes.values():
        when = scene.fit.when or told.time
        if scene.fit.fault and not told.always:
            yield unusable(scene.path.stem, f"{printable(scene.path.name)}: {scene.fit.fault}")
        elif when is None:
            notes.left |= {path: undated(path.name) for files in scene.files.values() for _, path in files}
        else:
            id = notes.id_of(scene.fit.id or scene.path.parent.name, scene.path.parent, root)
            yield _product(id, when, scene, names, faults)


def _product(id: str, when: When, scene: _Scene, names: Names, faults: Mapping[Path, str]) -> Product:
    files, missing = dict[str, File](), dict[str, str]()
    for band in names:
        found = sorted(scene.files.get(band, []))
        finest = [path for pixel_m, path in found if pixel_m == found[0][0]]
        if not found:
            missing[band] = "there is no file of this band"
        elif len(finest) > 1:
            both = " and ".join(printable(path.name, 60) for path in finest[:2])
            missing[band] = f"{both} are this band of one scene; {{id}} or {{tile}} in options.names tells them apart"
        elif finest[0] in faults:
            missing[band] = f"{printable(finest[0].name)} {faults[finest[0]]}"
        else:
            files[band] = File(path=finest[0])
    properties = dict(scene.fit.properties)
    return Product(id=id, time=when.time, end=when.end, files=files, missing=missing, properties=properties)
