"""The contract of a backbone, and its data types. `mosaiks.py` beside this file is a small real one.

Names of arrays carry their axes: b chip of the batch, n chip of a sample, t frame, c channel (band), s archive, y row,
x column, m (beginning, middle), d (year, month, day of the year).
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from embedcube.grid import ShardLayout


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Bands and frames of a layer's chips: known before any pixel is read."""

    bands: tuple[tuple[str, ...], ...]
    """names of the bands, one tuple per archive, in the campaign's order"""
    frames: int = 1
    """number of frames in a window (T)"""
    archives: tuple[str, ...] = ()
    """names of the archives, in the same order; none where nobody gives them"""

    @property
    def channels(self) -> int:
        """Number of channels (C): the bands of all archives, one archive after the other."""
        return sum(map(len, self.bands))


@dataclass(frozen=True, kw_only=True)
class Chips:
    """A batch of chips, the input of a module. All tensors are on the module's device."""

    x_btcyx: torch.Tensor
    """float32 (B, T, C, chip_px, chip_px): normalised pixels; 0 where masked"""
    clear_btsyx: torch.Tensor
    """bool (B, T, archives, chip_px, chip_px): True where archive s has a clear pixel in frame t"""
    lonlat_byxn: torch.Tensor
    """float32 (B, chip_cells, chip_cells, 2): longitude and latitude of the cells' centres, in degrees"""
    dates_tmd: torch.Tensor
    """int64 (T, 2, 3): year, month and day of the year, of the beginning and of the middle of each frame; months and
    days count from 1"""


@dataclass(frozen=True, kw_only=True)
class FitSample:
    """A sample of chips, the input of a fit."""

    x_ntcyx: NDArray[np.float32]
    """float32 (N, T, C, chip_px, chip_px): pixels in the archives' units, not normalised; NaN where masked"""
    lat_ny: NDArray[np.float64]
    """float64 (N, chip_px): latitude of each row of pixels, in degrees"""
    clear_ntsyx: NDArray[np.bool_] | None = None
    """bool (N, T, archives, chip_px, chip_px): as in `Chips`; None where nobody gives it"""
    lonlat_nyxk: NDArray[np.float32] | None = None
    """float32 (N, chip_cells, chip_cells, 2): as in `Chips`"""
    dates_ntmd: NDArray[np.int64] | None = None
    """int64 (N, T, 2, 3): as in `Chips`, of the window of each chip"""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Frozen weights: the normalisation of the bands, and the tensors of the module."""

    mean: NDArray[np.float32]
    """float32 (C,): subtracted from each band; a masked pixel enters the module as this value, which is 0 then"""
    std: NDArray[np.float32]
    """float32 (C,): divides each band; positive"""
    tensors: dict[str, NDArray[Any]]
    """the module's tensors, by name; no name begins with "embedcube." """


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """One line of `embedcube models`: a description of a model, made without loading it."""

    model: str
    """value of the backbone's option `model`; empty for a backbone that is one model"""
    inputs: str
    """bands or modalities, and number of frames"""
    cell: str
    """size of a cell: a pixel, a token, or the chip"""
    dimensions: str
    """numbers in a vector, and the options they depend on"""
    normalisation: str
    """origin of the bands' mean and standard deviation"""
    hub: tuple[str, str] | None = None
    """repository and file on the Hugging Face Hub from which `embedcube weights` fetches published weights"""


class Backbone(Protocol):
    """An encoder with its options, for chips of one layout and of given bands.

    A class is registered as an entry point of the group `embedcube.backbones` and is called as
    `Backbone(options, layout, inputs)`. It may have two more attributes: `masks = True` (`leaves_masked_out`), and
    `options`, the class of its options (`PluginOptions`), which the JSON Schema of campaigns shows.

    Errors in the request (options, layout, bands, a checkpoint) are ValueErrors: embedcube adds the layer's name and
    exits with 2. Any other exception of the constructor, except an OSError, is reported as a bug of the plugin
    (exit 1).
    """

    def __init__(self, options: dict[str, Any], layout: ShardLayout, inputs: Inputs) -> None:
        """Check `options`: the campaign's block `backbone` without its `name`. One command may call this several times.

        Raises:
            ValueError: an option is unknown or wrong, or `layout` or `inputs` do not suit the model.
        """
        ...

    @staticmethod
    def cards() -> tuple[ModelCard, ...]:
        """Models of this backbone, for `embedcube models`; must import no package beyond those of embedcube."""
        ...

    @property
    def software(self) -> tuple[str, ...]:
        """Names of further packages that compute vectors (not torch).

        Their versions enter the recipes; a rank with other versions refuses to start.
        """
        ...

    def dimensions(self, weights: Weights) -> int:
        """Number of values in a vector. The weights are given because they may decide it."""
        ...

    @property
    def model(self) -> str:
        """URI of the model's paper, code or model card; the cube's metadata name it. Of several, spaces between."""
        ...

    @property
    def fit_chips(self) -> int | None:
        """Number of chips in the sample of a fit; 0 where nothing is fitted, None for all chips of the period.

        For None, `fit` refuses a sample whose decomposition would not fit into memory (`prepare/price.py`).
        """
        ...

    def fit(self, sample: FitSample) -> Weights:
        """Frozen weights from a sample of chips.

        The same sample must give the same bytes, whatever the number of threads and the state of random generators.

        Raises:
            ValueError: the sample does not suffice, or this backbone is not fitted.
        """
        ...

    def load(self, checkpoint: bytes) -> Weights:
        """Frozen weights from the bytes of a published checkpoint. Must not run code from the file.

        Raises:
            ValueError: the bytes are not a checkpoint of this backbone.
        """
        ...

    def module(self, weights: Weights) -> torch.nn.Module:
        """The module with these weights, in evaluation mode and on the CPU; embedcube moves it to the device.

        It maps `Chips` to float32 vectors (B, chip_cells, chip_cells, dimensions) of the chips' kept centres. A chip's
        vectors must be the same bits whatever else is in the batch, at any place in it, and for any number of threads;
        they must be finite, except for cells that a backbone that masks has no pixel of (`leaves_masked_out`).
        `embedcube.testing.check_backbone` tests this.
        """
        ...


def leaves_masked_out(backbone: Backbone) -> bool:
    """Whether the backbone says, by `masks = True`, that its vectors do not depend on what masked pixels hold.

    Its module reads `clear_btsyx`, and gives NaN in all values of a cell of which it can use no pixel. That cell has no
    vector, and the status that it would have without a clear pixel: masked or no_data. A backbone without the attribute
    takes masked pixels as their band's mean; a vector with NaN is a failure then.
    """
    return bool(getattr(backbone, "masks", False))
