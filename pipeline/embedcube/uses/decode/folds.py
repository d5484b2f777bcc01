"""Folds: which rows are held out together. Blocks and groups do not leak; random folds do, and are shown beside."""

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from embedcube.errors import RequestError
from embedcube.uses.decode.examples import Examples

EARTH_M = 6_371_008.8
"""mean radius"""

FOLDS = 5

LEAST_CELLS = 4
"""side in cells of the smallest blocks that are chosen by default"""

FEWEST_GROUPS = 3
"""blocks, groups or years, below which their folds say nothing"""

Kind = Literal["blocks", "groups", "years", "random"]


@dataclass(frozen=True, kw_only=True)
class Folds:
    """How rows are divided."""

    kind: Kind
    words: str
    """as a report says it: "blocks of 0.1 degrees" """
    groups: int
    """how many blocks, groups or years there are; of random folds the rows"""
    fold: NDArray[np.int64]
    """number of the fold of each row"""

    @property
    def count(self) -> int:
        """How many folds there are."""
        return int(self.fold.max()) + 1


@dataclass(frozen=True, kw_only=True)
class Size:
    """Side of square blocks."""

    number: float
    unit: Literal["degrees", "m"]

    def __str__(self) -> str:
        return f"{self.number:g} {self.unit}"


def size_in(text: str) -> Size:
    """The side of blocks that a text names: "0.1deg", "0.1", "2km", "500m"; a RequestError gives examples."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(deg|degrees|km|m)?\s*", text)
    if match is None or float(match[1]) <= 0:
        raise RequestError(f'--blocks "{text}" is no size; write degrees or metres, for example 0.1deg, 2km or 500m')
    number, unit = float(match[1]), match[2] or "deg"
    if unit in ("km", "m"):
        return Size(number=number * (1000 if unit == "km" else 1), unit="m")
    return Size(number=number, unit="degrees")


def default_size(examples: Examples) -> Size:
    """0.1 degrees, or less where that would be fewer than ten blocks: the largest of 0.1, 0.05, 0.02, 0.01, ... .

    Blocks are never narrower than four cells: neighbours across their borders would be most of what they hold.
    """
    least_m = LEAST_CELLS * examples.cell_m
    metres = EARTH_M * np.radians(1) * max(float(np.cos(np.radians(np.abs(examples.lat).max()))), 0.01)
    sizes = (Size(number=step * 10.0 ** -(exponent + 1), unit="degrees") for exponent in range(1, 6)
             for step in (10, 5, 2))  # fmt: skip
    found = Size(number=float(np.ceil(least_m)) or 1.0, unit="m")
    for size in sizes:
        if size.number * metres < least_m:
            break
        found = size
        if len(np.unique(blocks_of(examples, size))) >= 2 * FOLDS:
            break
    return found


def blocks_of(examples: Examples, size: Size) -> NDArray[np.int64]:
    """Number of the block of each row. All cells of one polygon are in the block of their middle.

    Blocks are counted from 0 degrees. Those in metres are as high as wide in every latitude.
    """
    count = np.bincount(examples.part)[examples.part]
    lon, lat = (np.bincount(examples.part, degrees)[examples.part] / count for degrees in (examples.lon, examples.lat))
    metre = np.degrees(1 / EARTH_M)
    height = size.number if size.unit == "degrees" else size.number * metre
    row = np.floor(lat / height)
    middle = np.clip((row + 0.5) * height, -89.9, 89.9)
    width = height if size.unit == "degrees" else height / np.cos(np.radians(middle))
    column = np.floor(lon / width)
    return np.unique(np.stack([row, column], axis=1), axis=0, return_inverse=True)[1].ravel().astype(np.int64)


def folds_of(
    examples: Examples, *, blocks: Size | None, groups: bool, years: bool, count: int = FOLDS, seed: int = 0
) -> Folds:
    """The folds that are asked for: groups, years, or else blocks.

    Raises:
        RequestError: there are fewer than three blocks, groups or years.
    """
    if years:
        names = (1970 + examples.seconds.astype("datetime64[s]").astype("datetime64[Y]").astype(np.int64)).astype(str)
        return _whole("years", "years", names, len(np.unique(names)), seed)
    if groups:
        if examples.group is None:
            raise RequestError("the labels have no column of groups; name it with --groups when you fit")
        return _whole("groups", "groups", examples.group, count, seed)
    if not np.isfinite(examples.lon).all():
        nowhere = int((~np.isfinite(examples.lon)).sum())
        raise RequestError(
            f"{nowhere} of {len(examples)} labelled samples have no place, so they lie in no block: hold out groups of "
            "a column (`decode fit --groups COLUMN`, `decode score --groups`), or --years"
        )
    size = blocks or default_size(examples)
    return _whole("blocks", f"blocks of {size}", blocks_of(examples, size).astype(str), count, seed)


def _whole(kind: Kind, words: str, names: NDArray[np.str_], count: int, seed: int) -> Folds:
    """Whole groups dealt to folds of about equal size: the largest first, each to the fold that has least."""
    number, sizes = np.unique(names, return_inverse=True, return_counts=True)[1:]
    if len(sizes) < FEWEST_GROUPS:
        raise RequestError(
            f"the labels lie in {len(sizes)} {words}, held-out folds need at least {FEWEST_GROUPS}; "
            + (
                "choose smaller blocks with --blocks, or label a larger area"
                if kind == "blocks"
                else "fold by --blocks instead"
            )
        )
    order = np.random.default_rng(seed).permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    held, fold = np.zeros(min(count, len(sizes)), np.int64), np.empty(len(sizes), np.int64)
    for group in order:
        fold[group] = held.argmin()
        held[fold[group]] += sizes[group]
    return Folds(kind=kind, words=words, groups=len(sizes), fold=fold[number.ravel()])


def random_folds(examples: Examples, *, count: int = FOLDS, seed: int = 0) -> Folds:
    """Rows dealt at random: neighbours of what is held out are learned from, so the score is too good."""
    count = min(count, len(examples))
    fold = np.random.default_rng(seed).permutation(np.arange(len(examples)) % count)
    return Folds(kind="random", words="random", groups=len(examples), fold=fold)
