"""EOF: empirical orthogonal functions, the principal components of a chip's fields.

Lorenz (1956); von Storch and Zwiers (1999), Statistical Analysis in Climate Research, chapter 13.

Each chip of the period of fitting is one row of a matrix: its T frames, C bands and pixels, minus the mean over all
rows, times sqrt(cos(latitude)), which weights a pixel by its area. The right singular vectors of the matrix are the
basis; a vector holds the scores of a chip on the first basis vectors.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from embedcube.backbones.base import Chips, FitSample, Inputs, ModelCard, Weights
from embedcube.campaign.options import PluginOptions, check_options
from embedcube.grid import ShardLayout

_STEADY = 1e-9
"""largest relative difference between the latitude steps of a regular grid; those of a projection differ by more"""


class Options(PluginOptions):
    """Options of the backbone `eof`."""

    components: int = Field(16, ge=1)
    """numbers in a vector: principal components that are kept"""
    standardise: bool = False
    """divide each band by its standard deviation first; without it, the band with the largest variance dominates"""


class Eof:
    """The backbone `eof`."""

    options = Options
    """options of the YAML block"""

    software: tuple[str, ...] = ()
    """no package beyond torch computes vectors"""

    @staticmethod
    def cards() -> tuple[ModelCard, ...]:
        """One card, as `eof` is a single model."""
        return (
            ModelCard(
                model="",
                inputs="any bands, any number of frames, on longitudes and latitudes",
                cell="the chip, without a halo",
                dimensions="components (16)",
                normalisation="fitted to the archives",
            ),
        )

    def __init__(self, options: dict[str, Any], layout: ShardLayout, inputs: Inputs) -> None:
        """Refuse wrong options, and chips that are not one cell without a halo."""
        self._options = check_options(Options, options, "eof")
        self._inputs = inputs
        if layout.halo_px or layout.cell_px != layout.chip_px:
            raise ValueError(
                f"eof makes one vector per chip: it needs halo_px 0 and cell_px = chip_px = {layout.chip_px}, "
                f"they are {layout.halo_px} and {layout.cell_px}"
            )

    def dimensions(self, weights: Weights) -> int:
        """Number of values in a vector: one score for each basis vector."""
        return self._options.components

    @property
    def model(self) -> str:
        """URI of the textbook."""
        return "https://doi.org/10.1017/CBO9780511612336"

    @property
    def fit_chips(self) -> None:
        """None: the fit uses all chips of the period."""
        return

    def load(self, checkpoint: bytes) -> Weights:
        """Raise a ValueError: no basis is published for these chips."""
        raise ValueError("not a weights file of embedcube; eof reads no other, leave out `weights` to fit one")

    def fit(self, sample: FitSample) -> Weights:
        """Mean field and basis, in float64 on one thread, stored in float32.

        Masked values count as the mean. The sign of each basis vector makes its largest value (in magnitude) positive.
        """
        step = _step_of(sample.lat_ny)
        x_ntcyx = sample.x_ntcyx.astype(np.float64)
        known = np.isfinite(x_ntcyx)
        mean, std = _band_statistics(x_ntcyx, known)
        scale = std.astype(np.float64) if self._options.standardise else np.ones(len(std))
        counted = np.maximum(known.sum(axis=0), 1)
        centre = np.where(known, x_ntcyx - mean[:, None, None], 0).sum(axis=0) / counted
        anomaly = np.where(known, x_ntcyx - mean[:, None, None] - centre, 0) / scale[:, None, None]
        weight = np.sqrt(np.cos(np.radians(sample.lat_ny)).clip(min=0))
        basis = self._basis((anomaly * weight[:, None, None, :, None]).reshape(len(anomaly), -1))
        shape = (len(basis), *centre.shape)
        return Weights(
            mean=mean,
            std=std,
            tensors={
                # in the units of the module, whose chips are (pixel - mean) / std
                "centre": (centre / std[:, None, None]).astype(np.float32),
                "basis": (basis.reshape(shape) * (std / scale)[:, None, None]).astype(np.float32),
                "latitude_step": np.array([step], dtype=np.float32),
            },
        )

    def _basis(self, rows_nd: NDArray[np.float64]) -> NDArray[np.float64]:
        """The first right singular vectors (component, value)."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            _, values, vectors = torch.linalg.svd(torch.from_numpy(rows_nd), full_matrices=False)
        finally:
            torch.set_num_threads(threads)
        rank = int((values > values[0] * max(rows_nd.shape) * np.finfo(np.float64).eps).sum())
        if rank < self._options.components:
            raise ValueError(
                f"eof: components {self._options.components}, but {len(rows_nd)} chips span only {rank}: lower "
                "components, or fit on a longer period"
            )
        # contiguous, as the weights' file keeps them
        basis = np.ascontiguousarray(vectors[: self._options.components].numpy())
        largest = np.take_along_axis(basis, np.abs(basis).argmax(axis=1)[:, None], axis=1)
        return np.asarray(basis * np.sign(largest))

    def module(self, weights: Weights) -> torch.nn.Module:
        """Projection of chips on the basis."""
        return _Scores({name: torch.from_numpy(t) for name, t in weights.tensors.items()}, self._inputs).eval()


class _Scores(torch.nn.Module):
    def __init__(self, tensors: dict[str, torch.Tensor], inputs: Inputs) -> None:
        super().__init__()
        self.centre, self.basis, self.latitude_step = (
            torch.nn.Parameter(tensors[name], requires_grad=False) for name in ("centre", "basis", "latitude_step")
        )
        self._archive_of_band = [s for s, bands in enumerate(inputs.bands) for _ in bands]

    def forward(self, chips: Chips) -> torch.Tensor:
        """Scores of the chips. A masked pixel is 0 in a chip, the band's mean; here it counts as its place's mean."""
        clear_btcyx = chips.clear_btsyx[:, :, self._archive_of_band]
        anomaly = torch.where(clear_btcyx, chips.x_btcyx - self.centre, 0)
        anomaly *= self._weight(chips)[:, None, None, :, None]
        return (anomaly.flatten(1) @ self.basis.flatten(1).T)[:, None, None, :]

    def _weight(self, chips: Chips) -> torch.Tensor:
        """Weights (b, y) of the rows of each chip, sqrt(cos(latitude)); the chip's centre is known."""
        side = chips.x_btcyx.shape[-2]
        rows = torch.arange(side, device=self.centre.device) - (side - 1) / 2
        latitude = chips.lonlat_byxn[:, 0, 0, 1, None] + self.latitude_step * rows
        return torch.deg2rad(latitude).cos().clamp_min(0).sqrt()


def _band_statistics(
    x_ntcyx: NDArray[np.float64], known: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation of each band over its known values; the deviation of a constant band is 1."""
    bands = [x_ntcyx[:, :, band][known[:, :, band]] for band in range(x_ntcyx.shape[2])]
    if empty := [band for band, values in enumerate(bands) if not len(values)]:
        raise ValueError(f"eof: band {empty[0]} has no value in the period of fitting; name another period as `fit`")
    std = np.array([values.std() for values in bands], dtype=np.float32)
    return np.array([values.mean() for values in bands], dtype=np.float32), np.where(std > 0, std, np.float32(1))


def _step_of(lat_ny: NDArray[np.float64]) -> float:
    """Degrees of latitude from one row to the next, the same in all chips."""
    if lat_ny.shape[1] == 1:
        return 0.0
    steps = np.diff(lat_ny, axis=1)
    if np.abs(steps - steps.mean()).max() > _STEADY * np.abs(steps).max():
        raise ValueError(
            "eof weights rows by the cosine of their latitude: it needs a grid in longitude and latitude, for example "
            "EPSG:4326"
        )
    return float(steps.mean())
