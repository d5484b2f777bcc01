"""What is asked of a file of labels, and the labelled cells that come of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from embedcube.uses.decode.examples import Cells, Task

Align = Literal["nearest", "majority", "mean"]


class Request(BaseModel):
    """What is asked of the labels; a decoder's file keeps it, so that `score` asks the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Task
    column: str | None = None
    """of a table: the column of the label"""
    crs: str | None = None
    """CRS of the positions, where it is said"""
    time: str | None = None
    """windows that labels without a date hold for; None for all"""
    date: str | None = None
    """of a table: the column of the date of each label"""
    groups: str | None = None
    """of a table: the column of groups that are never divided among folds"""
    classes: Mapping[str, tuple[int, ...]] = {}
    """of a raster: names of classes, and the values of each; empty for every value its own"""
    share: tuple[int, ...] = ()
    """of a raster: the label is the share of the pixels with one of these values"""
    align: Align | None = None
    """of a raster: how its pixels become one label of a cell"""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Labelled cells."""

    cells: Cells
    target: NDArray[np.float64]
    """as `Examples.target`"""
    classes: tuple[str, ...]
    part: NDArray[np.int64]
    group: NDArray[np.str_] | None
    outside: int
    """labels that lie outside of the layer, or outside of its windows"""
    left_out: dict[str, int] = field(default_factory=dict)
