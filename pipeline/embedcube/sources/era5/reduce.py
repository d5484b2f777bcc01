"""The steps of a frame become one field: a mean, a sum or an extreme, with the share of the frame that they fill."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from embedcube.sources.era5.series import Series, Variable
from embedcube.sources.era5.steps import JOIN, NOTHING, Method, averaged
from embedcube.sources.era5.timeline import DAY_S, Floats, Ints


@dataclass(frozen=True, kw_only=True)
class Reduced:
    """The steps of a frame as one field."""

    values_yx: Floats
    """mean, sum or extreme; NaN where no step has a value"""
    share_yx: Floats
    """share of the frame that the steps with a value fill"""

    @property
    def nbytes(self) -> int:
        """Memory of both fields."""
        return self.values_yx.nbytes + self.share_yx.nbytes


@dataclass(frozen=True, kw_only=True)
class Reduction:
    """What becomes of the steps of a band in a frame."""

    method: Method
    steps: Ints
    """numbers of the steps, from the first that is used of the file"""
    seconds: Floats
    """time of the frame that each step fills; negative for a running sum that is subtracted"""
    frame_s: float
    """length of the frame (s)"""
    per_day: bool
    """whether a value is an amount per day, to be multiplied with its days"""
    factor: float
    """what values are multiplied with, to be in the units of ERA5's table"""
    term: float
    """what is added then"""

    @property
    def share(self) -> float:
        """Share of the frame that the steps fill."""
        return float(self.seconds.sum()) / self.frame_s

    def of(self, series: Series, variable: Variable, first: int, rows: slice, runs: list[slice]) -> Reduced:
        """The reduction of a part of a field, step by step, so that a point has the same bits whatever is read with it.

        `first` is the number of the first step of the file that is used.

        Raises:
            ValueError: the bytes of a field do not decode.
        """
        shape = rows.stop - rows.start, sum(run.stop - run.start for run in runs)
        total, filled = np.full(shape, NOTHING[self.method]), np.zeros(shape)
        longest_s = float(np.abs(self.seconds).max())
        for steps, seconds in self._runs():
            together = range(first + int(steps[0]), first + int(steps[-1]) + 1)
            for values, second in zip(series.fields(variable, together, rows, runs), seconds.tolist(), strict=True):
                finite = np.isfinite(values)
                JOIN[self.method](total, values * self._weight(second, longest_s), out=total, where=finite)
                # equal steps count as ones: exact
                filled += np.where(finite, second / longest_s, 0.0)
        if averaged(self.method):
            total = np.divide(total, filled, out=np.full(shape, np.nan), where=filled != 0)
        share = filled * (longest_s / self.frame_s)
        total = total if (self.factor, self.term) == (1.0, 0.0) else total * self.factor + self.term
        return Reduced(values_yx=np.where(share != 0, total, np.nan), share_yx=share)

    def _weight(self, second: float, longest_s: float) -> float:
        if averaged(self.method):
            return second / longest_s
        if self.per_day:
            return second / DAY_S
        return -1.0 if second < 0 else 1.0

    def _runs(self) -> Iterator[tuple[Ints, Floats]]:
        """Steps that follow one another, which are read together."""
        order = np.argsort(self.steps, kind="stable")
        steps, seconds = self.steps[order], self.seconds[order]
        after = np.nonzero(np.diff(steps) > 1)[0] + 1
        yield from zip(np.split(steps, after), np.split(seconds, after), strict=True)
