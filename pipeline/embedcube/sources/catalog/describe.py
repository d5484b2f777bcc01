"""Describe products: the geometry, type and digest of each band's file, read from its header."""

import logging
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from pyproj.exceptions import CRSError, ProjError

from embedcube.campaign.boxes import Box
from embedcube.campaign.remembered import Entry, memory_in_use
from embedcube.campaign.scene import NOWHERE, Asset, unforeseen
from embedcube.errors import CorruptInput
from embedcube.grid import to_degrees
from embedcube.printable import listed, printable
from embedcube.sources.catalog.checksums import refuse_flipped
from embedcube.sources.catalog.digests import Look, digest_of_file, member_size, refuse_other_bytes
from embedcube.sources.catalog.files import lasting, unusable_name
from embedcube.sources.catalog.footprints import refuse_apart
from embedcube.sources.catalog.missing import mask_of, numbers_of
from embedcube.sources.catalog.pool import spread
from embedcube.sources.catalog.products import File, Product, Stated, StatedRaster
from embedcube.sources.catalog.remembered_product import forget_item
from embedcube.sources.catalog.tiff_header import geometry_of
from embedcube.sources.catalog.unchanged import (
    assets_from,
    assets_text,
    files_token,
    has_sidecar,
    has_world_file,
    is_unchanged,
    key_of,
    settled,
)
from embedcube.sources.huge_blocks import block_bytes_of
from embedcube.sources.masks import BESIDE
from embedcube.sources.opening import open_raster, raster_settings
from embedcube.sources.reader import judge, retried

_TILES = 1 << 15
"""headers and bounds that are cached: more than the tiles and pixel sizes of any archive but a global one"""

log = logging.getLogger(__name__)


def describe(
    products: Sequence[Product],
    root: Path,
    *,
    full_digests: bool,
    nodata: float | None = None,
    packed: bool = False,
    one_footprint: bool = False,
) -> Iterator[tuple[tuple[Asset, ...], str]]:
    """For each product its assets, in the order of its files, and the reasons why others cannot be used.

    `nodata` is the number that means no data in all files whose type can hold it; without it, those that the file and
    its catalogue state, else NaN or 0. With `packed`, scale and offset that a catalogue states count as those of the
    file, and must not differ from them. With `one_footprint`, the files of a product must cover the same place, and it
    must be the place that the catalogue states, if it states one. Products are spread over the cores.

    They are described by place and not in their order: all descriptions are held before the first is given.

    Raises:
        OSError: a file could not be read for a reason that may pass.
    """
    # by place, so that the header of a tile is opened in one process, and what its files share is sent back once
    memory = memory_in_use()
    how = _How(root=str(root), nodata=nodata, packed=packed, full_digests=full_digests, remembered=bool(memory))
    by_place: dict[int, tuple[tuple[Asset, ...], str]] = {}
    order = sorted(range(len(products)), key=lambda i: (products[i].bbox or (), i))
    requests = [
        _Request(
            files=product.files,
            faults=_faults(product),
            bbox=product.bbox,
            raster=product.item.raster if product.item else None,
            one_footprint=one_footprint,
            before=memory.get("files", key_of(product.files)) if memory else None,
        )
        for product in map(products.__getitem__, order)
    ]
    described = spread(
        partial(_describe, how=how), requests, lost=_lost, name=_name_of, told=lambda done, of: (done, of)
    )
    for place, request, found in zip(order, requests, described, strict=True):
        entry = Entry(token=found.token, text=found.text) if found.text else request.before if found.unchanged else None
        if memory and entry:
            memory.keep("files", key_of(request.files), entry)
        elif memory:
            forget_item(memory, products[place])
        by_place[place] = (assets_from(entry.text), "") if entry else (found.assets, found.faults)
    yield from map(by_place.pop, range(len(products)))


@dataclass(frozen=True, kw_only=True)
class _How:
    """How all products are described; see `describe`."""

    root: str
    nodata: float | None
    packed: bool
    full_digests: bool
    remembered: bool
    """whether descriptions are remembered"""


@dataclass(frozen=True, kw_only=True)
class _Request:
    """The part of a product that is needed to describe it, small enough to send to another process."""

    files: dict[str, File]
    faults: list[str]
    bbox: Box | None
    raster: StatedRaster | None
    one_footprint: bool
    before: Entry | None
    """what is remembered of a description of these files"""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """The description of a product."""

    assets: tuple[Asset, ...] = ()
    """none where there is a `text`, or it is `unchanged`"""
    faults: str = ""
    unchanged: bool = False
    """whether it is what is remembered"""
    token: bytes = b""
    """with `text` to be remembered; empty for what is not"""
    text: str = ""
    """the assets as JSON, which takes less time to send than objects"""


def _lost(product: _Request, words: str) -> _Found:
    return _Found(faults="; ".join((*product.faults, f"{printable(Path(_name_of(product)).name)}: {words}")))


def _name_of(product: _Request) -> str:
    return next((str(file.path) for file in product.files.values()), "a product")


def _faults(product: Product) -> list[str]:
    if product.fault:
        return [product.fault]
    # the same reason of many bands is said once
    bands: dict[str, list[str]] = {}
    for band, reason in product.missing.items():
        bands.setdefault(reason, []).append(band)
    return [f"{listed(named, 6)}: {reason}" for reason, named in bands.items()]


def _describe(products: Sequence[_Request], *, how: _How) -> list[_Found]:
    with raster_settings():  # set for this thread only
        return [_found(product, how) for product in products]


def _found(product: _Request, how: _How) -> _Found:
    """The description of a product: what is remembered where that is still so."""
    token = b""
    if how.remembered and not product.faults and product.files:
        token = files_token(product.files, product.bbox, product.raster, product.one_footprint, vars(how))
    paths = [file.path for file in product.files.values()]
    before = product.before
    # a sidecar file may have come since
    if before and token == before.token and is_unchanged(before.text, paths) and not any(map(has_sidecar, paths)):
        return _Found(unchanged=True)
    assets, faults, alone = _described(product, how)
    if token and alone and not faults and settled(assets):
        return _Found(token=token, text=assets_text(assets))
    return _Found(assets=assets, faults=faults)


def _described(product: _Request, how: _How) -> tuple[tuple[Asset, ...], str, bool]:
    """Assets, faults, and whether these follow from the files alone, without others beside them."""
    assets, faults, root, alone = [], list(product.faults), how.root, True
    read: dict[str, set[int]] = {}
    for file in product.files.values():
        read.setdefault(str(file.path), set()).add(file.index)
    for band, file in product.files.items():
        path = str(file.path)
        inside = path.startswith(f"{root}{os.sep}")
        name = path[len(root) + 1 :] if inside else os.path.relpath(path, root)
        try:
            asset, by_header = _asset(file, band, name, frozenset(read[path]), how)
            assets.append(asset)
            alone = alone and (by_header or not (file.inner or has_sidecar(file.path) or has_world_file(file.path)))
        except CorruptInput as error:
            faults.append(str(error))
        except OSError:
            raise
        except Exception as error:
            log.debug("%s", printable(path), exc_info=True)
            faults.append(f"{band}: {printable(name)}: {unforeseen(error)}")
    if product.one_footprint:
        try:
            refuse_apart(assets, product.bbox, product.raster, _degrees)
        except CorruptInput as error:
            faults.append(str(error))
        except Exception as error:
            log.debug("", exc_info=True)
            faults.append(unforeseen(error))
    return tuple(assets), "; ".join(faults), alone


def place_of(product: Product, assets: Sequence[Asset]) -> Box:
    """West, south, east, north from the first file's header; else as the catalogue says; else NOWHERE."""
    return _degrees(assets[0].crs, assets[0].bounds) if assets else product.bbox or NOWHERE


# cached because files of one tile have the same bounds
@lru_cache(maxsize=_TILES)
def _degrees(crs: str, bounds: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """Bounds in degrees; a ValueError where the projection has no such place."""
    try:
        west, south, east, north = to_degrees(crs).transform_bounds(*bounds, densify_pts=21)
    except (ProjError, CRSError) as error:
        raise ValueError(str(error)) from None
    if not np.isfinite([west, south, east, north]).all():
        raise ValueError(f"{bounds} in {crs}")
    return west, south, east, north


@dataclass(frozen=True, kw_only=True)
class _Unopened:
    """A file to be opened; two are equal if their headers describe the same geometry and type."""

    header: bytes
    """empty where the header cannot be compared"""
    index: int
    most: int | None
    nodata: float | None
    stated: Stated
    """what counts of the catalogue's numbers"""
    read: frozenset[int]
    """numbers of all bands of the file that are read"""
    file: File = field(compare=False)
    band: str = field(compare=False)
    name: str = field(compare=False)


def _asset(file: File, band: str, name: str, read: frozenset[int], how: _How) -> tuple[Asset, bool]:
    """The asset, and whether all of it is in the header."""
    if words := unusable_name(name):
        raise CorruptInput(f"{band}: {name} {words}")
    stated = file.stated
    if not how.packed and (stated.scale, stated.add) != (None, None):
        stated = replace(stated, scale=None, add=None)

    def unopened(header: bytes = b"") -> _Unopened:
        return _Unopened(
            header=header,
            index=file.index,
            most=file.most,
            nodata=how.nodata,
            stated=stated,
            read=read,
            file=file,
            band=band,
            name=name,
        )

    def described() -> tuple[Asset, bool]:
        look = Look.at(file.path)
        if file.size not in (None, actual := member_size(file) or look.size):
            raise CorruptInput(f"{band}: {file.inner or name} has {actual} bytes, its catalogue says {file.size}")
        if how.full_digests:
            refuse_other_bytes(file, band, name)
        digest = file.digest or (digest_of_file(file.path, True) if how.full_digests else look.digest)
        header = None if file.inner or has_sidecar(file.path) else geometry_of(look.head, partial(_piece, file.path))
        asset = _like_another(unopened(header)) if header else _opened(unopened())
        if asset.mask in BESIDE:
            asset = _with_mask(asset, Path(f"{file.path}{asset.mask}"), how.full_digests)
        if how.full_digests:
            refuse_flipped(file, band, name)
        own = object.__new__(Asset)
        # many files share one header: to make each asset with `replace` takes longer than all else here
        vars(own).update(
            vars(asset),
            band=band,
            path=name,
            inner=file.inner,
            size=look.size,
            digest=digest,
            declared=bool(file.digest) and not how.full_digests,
            noted=look.noted,
        )
        return own, header is not None

    def judged(error: Exception) -> CorruptInput | OSError:
        if isinstance(error, OSError) and (words := lasting(error)):
            return CorruptInput(f"{band}: {name} {words}")

        return judge(file.path, file.inner, band, name, partial(_by_header, unopened=unopened()))

    return retried(described, judged)


def _piece(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        return os.pread(file.fileno(), size, offset)


def _with_mask(asset: Asset, path: Path, full_digests: bool) -> Asset:
    """The asset with what is known of the mask beside its file."""
    look = Look.at(path)
    digest = digest_of_file(path, True) if full_digests else look.digest
    return replace(asset, mask_size=look.size, mask_digest=digest, mask_noted=look.noted)


def _opened(unopened: _Unopened) -> Asset:
    with open_raster(unopened.file.path, unopened.file.inner) as dataset:
        return _by_header(dataset, unopened)


# all dates of a tile have the same header, and opening a file takes a millisecond: `index` of 20,000 Items of two files
# takes 15 s of CPU with this cache and 48 s without
_like_another = lru_cache(maxsize=_TILES)(_opened)


def _by_header(dataset: Any, unopened: _Unopened) -> Asset:
    file, band, name = unopened.file, unopened.band, unopened.name
    if dataset.crs is None:
        points = "ground control points only; geocode it first"
        raise CorruptInput(f"{band}: {name} has {points if dataset.gcps[0] else 'no coordinate reference system'}")
    if dataset.transform.is_identity:
        raise CorruptInput(f"{band}: {name} does not say where its pixels lie")
    if not 0 < abs(dataset.transform.determinant) < math.inf:
        raise CorruptInput(f"{band}: {name} says that its pixels have no size")
    if unopened.most is not None and dataset.count > unopened.most:
        raise CorruptInput(
            f"{band}: {name} has {dataset.count} bands and the campaign names {unopened.most}, so nobody knows which "
            f'they are; write the number of each as options.variables: {{{band}: "1"}}'
        )
    if file.index > dataset.count:
        raise CorruptInput(f"{band}: {name} has {dataset.count} bands, and band number {file.index} is asked for")
    try:
        dtype = np.dtype(dataset.dtypes[file.index - 1])
    except TypeError:
        raise CorruptInput(f"{band}: {name} holds {dataset.dtypes[file.index - 1]}, which cannot be read") from None
    numbers = numbers_of(dataset, file.index, dtype, unopened.stated, unopened.nodata)
    scale, add = _packing(dataset, unopened)
    asset = Asset(
        band=band,
        path=name,
        inner=file.inner,
        index=file.index,
        crs=dataset.crs.to_string(),
        transform=tuple(dataset.transform)[:6],
        rows=dataset.height,
        cols=dataset.width,
        block_rows=dataset.block_shapes[file.index - 1][0],
        block_cols=dataset.block_shapes[file.index - 1][1],
        dtype=dtype.name,
        nodata=numbers.nodata,
        also_nodata=numbers.also,
        nodata_by=numbers.by,
        mask=mask_of(dataset, file.index, file.path, file.inner, unopened.read, f"{band}: {name}"),
        scale=scale,
        add=add,
        size=0,
        digest="",
        block_bytes=block_bytes_of(dataset, file.index),
    )
    try:
        _degrees(asset.crs, asset.bounds)
    except ValueError as error:
        raise CorruptInput(f"{band}: {name} has bounds that have no place on the Earth: {error}") from None
    return asset


def _packing(dataset: Any, unopened: _Unopened) -> tuple[float, float]:
    """Scale and offset of a band, once: as its file declares, or its catalogue states, or both."""
    index, stated = unopened.file.index, unopened.stated
    by_file = dataset.scales[index - 1], dataset.offsets[index - 1]
    by_catalogue = 1.0 if stated.scale is None else stated.scale, stated.add or 0.0
    if by_catalogue == (1.0, 0.0):
        return by_file
    if by_file != (1.0, 0.0) and not np.allclose(by_file, by_catalogue, rtol=1e-6, atol=0):
        told = [f"DN * {scale:.6g} + {add:.6g}" for scale, add in (by_file, by_catalogue)]
        raise CorruptInput(
            f"{unopened.band}: {unopened.name} declares {told[0]}, its catalogue {told[1]}; write options.packing: "
            "ignored, and the right options.scale and options.add"
        )
    return by_catalogue
