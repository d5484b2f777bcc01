"""Every registered plugin keeps its contract, and `embedcube.testing` detects each way of breaking one."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import ROOT

from embedcube.backbones.base import Chips, FitSample, Inputs, ModelCard, Weights
from embedcube.campaign.options import PluginOptions
from embedcube.campaign.plugins import names, plugin
from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Archive, Mask
from embedcube.errors import CorruptInput
from embedcube.grid import Grid, PixelArea, ShardLayout
from embedcube.sources.base import Observation
from embedcube.sources.composite import Composite, composite
from embedcube.sources.reader import RasterReader
from embedcube.testing.contracts import check_backbone, check_source
from embedcube.windows import Window

# --- all that are registered ----------------------------------------------------------------------

HALO_1 = ShardLayout(chip_px=34, halo_px=1, cell_px=16, chips=2)
HALO_16 = ShardLayout(chip_px=64, halo_px=16, cell_px=16, chips=2)
FOUR = Inputs(bands=(("B02", "B03", "B04", "B08"),))
MIXED = Inputs(bands=(("B02", "B03", "B04"), ("VV",)), frames=3)
BACKBONES: list[tuple[str, dict[str, Any], ShardLayout]] = [
    ("mosaiks", {"filters": 16}, HALO_1),
    ("mosaiks", {"filters": 40, "kernel_px": 5, "seed": 3}, ShardLayout(chip_px=96, halo_px=16, cell_px=8, chips=1)),
    ("tiny_vit", {}, HALO_16),
    ("tiny_vit", {"width": 512, "depth": 1, "stem": 8}, HALO_16),
]


@pytest.mark.parametrize("inputs", [FOUR, MIXED], ids=["one archive", "two archives, three frames"])
@pytest.mark.parametrize(("name", "options", "layout"), BACKBONES)
def test_a_registered_backbone_keeps_its_contract(
    name: str, options: dict[str, Any], layout: ShardLayout, inputs: Inputs
) -> None:
    kind = plugin("backbones", name)
    check_backbone(lambda: kind(options, layout, inputs), layout=layout, inputs=inputs)


def test_every_backbone_was_looked_at() -> None:
    others = {"concat", "eof", "presto", "terratorch", "torch"}
    faulty = {"sleepy", "deadly"}  # `tiny_vit` with a sleep in each batch, and one that kills its rank
    assert all("check_backbone(" in source_of_tests(name) for name in others), "contract tests of their own"
    assert {name for name, _, _ in BACKBONES} | others | faulty == set(names("backbones"))


def source_of_tests(name: str) -> str:
    """Text of the test file that is named after a plugin."""
    return next((ROOT / "tests").glob(f"*/test_{name}.py")).read_text("utf-8")


@pytest.fixture
def archives(demo_archive: Path) -> dict[str, Archive]:
    """An archive for each registered source that has no contract test of its own."""
    mask = Mask(band="SCL", clear=(4, 5, 6))
    return {
        "sentinel2": Archive(
            source="sentinel2", path=demo_archive / "archive" / "sentinel2", bands=("B02", "B08"), mask=mask
        )
    }


@pytest.mark.parametrize("grid", [Grid(crs="EPSG:32632", pixel=10), Grid(crs="EPSG:3035", pixel=15)], ids=str)
def test_a_registered_source_keeps_its_contract(archives: dict[str, Archive], grid: Grid) -> None:
    for name, archive in archives.items():
        check_source(plugin("sources", name)("archive", archive), grid)


def test_every_source_was_looked_at(archives: dict[str, Archive]) -> None:
    others = {"sentinel1", "fields", "era5", "snow_cover"}
    assert all("check_source(" in source_of_tests(name) for name in others), "contract tests of their own"
    # the contract is about maps; lists of samples are tested whole in tests/sources/test_samples.py
    lists = {"chips", "points", "ssl4eo"}
    assert set(archives) | others | lists == set(names("sources"))


# --- backbones that break it ----------------------------------------------------------------------


class MeanAndMost:
    """The smallest correct backbone: mean and maximum of each cell. Each broken backbone below differs in one thing."""

    model = "https://example.org/mean-and-most"
    software: tuple[str, ...] = ()
    fit_chips = 8

    def __init__(self, options: dict[str, Any], layout: ShardLayout, inputs: Inputs) -> None:
        self._layout = layout

    @staticmethod
    def cards() -> tuple[ModelCard, ...]:
        return ()

    def dimensions(self, weights: Weights) -> int:
        return 2

    def load(self, checkpoint: bytes) -> Weights:
        raise ValueError("nobody publishes such weights")

    def fit(self, sample: FitSample) -> Weights:
        mean, std = (of(sample.x_ntcyx, axis=(0, 1, 3, 4)) for of in (np.nanmean, np.nanstd))
        return Weights(mean=mean, std=std, tensors={"factor": np.ones(2, np.float32)})

    def module(self, weights: Weights) -> torch.nn.Module:
        return Pooling(self._layout, torch.from_numpy(weights.tensors["factor"]), self.change()).eval()

    def change(self) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda vectors: vectors


class Pooling(torch.nn.Module):
    def __init__(
        self, layout: ShardLayout, factor: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        super().__init__()
        self._layout, self._factor, self._change = layout, factor, change

    def forward(self, chips: Chips) -> torch.Tensor:
        halo, cell = self._layout.halo_px, self._layout.cell_px
        kept = chips.x_btcyx.mean(dim=(1, 2))[:, None, halo:-halo, halo:-halo]
        pools = (torch.nn.functional.avg_pool2d(kept, cell), torch.nn.functional.max_pool2d(kept, cell))
        return self._change(torch.cat(pools, dim=1).permute(0, 2, 3, 1) * self._factor)


def changed(change: Callable[[torch.Tensor], torch.Tensor]) -> type[MeanAndMost]:
    """`MeanAndMost` with a function that is applied to its vectors."""
    return type("Changed", (MeanAndMost,), {"change": lambda self: change})


def fitted(change: Callable[[Weights], Weights]) -> type[MeanAndMost]:
    """`MeanAndMost` with a function that is applied to its fitted weights."""
    return type("Fitted", (MeanAndMost,), {"fit": lambda self, sample: change(MeanAndMost.fit(self, sample))})


class Drawn(MeanAndMost):
    def change(self) -> Callable[[torch.Tensor], torch.Tensor]:
        drawn = torch.rand(1)
        return lambda vectors: vectors + drawn


class Counting(MeanAndMost):
    def change(self) -> Callable[[torch.Tensor], torch.Tensor]:
        calls: list[int] = []

        def change(vectors: torch.Tensor) -> torch.Tensor:
            calls.append(1)
            return vectors + len(calls)

        return change


class Crowd(MeanAndMost):
    """A backbone whose vectors depend on the masks or the places of all chips of the batch, by the function `of`."""

    of: Callable[[Chips], torch.Tensor]

    def module(self, weights: Weights) -> torch.nn.Module:
        inner, of = super().module(weights), type(self).of

        class Looking(torch.nn.Module):
            def forward(self, chips: Chips) -> torch.Tensor:
                vectors: torch.Tensor = inner(chips) + of(chips)
                return vectors

        return Looking().eval()


class InTraining(MeanAndMost):
    def module(self, weights: Weights) -> torch.nn.Module:
        return super().module(weights).train()


class NanMean(MeanAndMost):
    def fit(self, sample: FitSample) -> Weights:
        return replace(super().fit(sample), mean=sample.x_ntcyx.mean(axis=(0, 1, 3, 4)))


class Blind(MeanAndMost):
    """A backbone that says that it masks, and takes masked pixels as 0."""

    masks = True

    def module(self, weights: Weights) -> torch.nn.Module:
        inner = super().module(weights)

        class Zeroing(torch.nn.Module):
            def forward(self, chips: Chips) -> torch.Tensor:
                clear = chips.clear_btsyx.all(dim=2, keepdim=True)
                vectors: torch.Tensor = inner(replace(chips, x_btcyx=torch.where(clear, chips.x_btcyx, 0)))
                return vectors

        return Zeroing().eval()


def random_weights(weights: Weights) -> Weights:
    return replace(weights, tensors={"factor": torch.rand(2).numpy()})


BROKEN: list[tuple[type[MeanAndMost], str]] = [
    (type("Hollow", (MeanAndMost,), {"dimensions": lambda self, weights: 0}), "dimensions is 0"),
    (
        type("Wide", (MeanAndMost,), {"dimensions": lambda self, weights: 3}),
        r"shape \(4, 2, 2, 2\), not \(4, 2, 2, 3\)",
    ),
    (type("Nameless", (MeanAndMost,), {"model": "mine"}), "not a URI"),
    (InTraining, "training mode"),
    (NanMean, r"mean is not \(3,\) float32, finite"),
    (fitted(lambda w: replace(w, mean=w.mean.astype(np.float64))), r"mean is not \(3,\) float32"),
    (fitted(lambda w: replace(w, std=w.std * 0)), "std is not positive"),
    (fitted(random_weights), "two fits of one sample differ"),
    (fitted(lambda w: replace(w, tensors=w.tensors | {"embedcube.mean": w.mean})), "does not survive"),
    (changed(lambda v: v.double()), "float64, not float32"),
    (changed(lambda v: v[:, :1]), "shape"),
    (changed(lambda v: v / v.amax(dim=(1, 2), keepdim=True) / (v != 0)), "not finite"),
    (changed(lambda v: v - v.mean(dim=0)), r"chip 0 depends on what else is in the batch \(other chips\)"),
    (changed(lambda v: v + (v[-1:] == 0)), r"chip 0 depends on what else is in the batch \(padding\)"),
    (
        type("Seeing", (Crowd,), {"of": lambda chips: chips.clear_btsyx.float().mean()}),
        r"chip 0 depends on what else is in the batch \(other chips\)",
    ),
    (
        type("Placing", (Crowd,), {"of": lambda chips: chips.lonlat_byxn[-1].mean()}),
        r"chip 0 depends on what else is in the batch \(other chips\)",
    ),
    (changed(lambda v: v + torch.arange(len(v)).view(-1, 1, 1, 1) * 1e-3), "depends on its position"),
    (changed(lambda v: v * (1 + 1e-6 * torch.get_num_threads())), "2 threads give other bits than 1"),
    (type("Filling", (MeanAndMost,), {"masks": True}), "masks is True, and what masked pixels hold changes vectors"),
    (Blind, "a chip without a clear pixel has vectors: they must be NaN"),
    (Counting, "a second pass over one batch differs"),
    (Drawn, "a second module of the same weights differs"),
]


def check(kind: type[MeanAndMost]) -> None:
    """Check a backbone with three bands and chips of 34 px."""
    inputs = Inputs(bands=(("B02", "B03", "B04"),))
    check_backbone(lambda: kind({}, HALO_1, inputs), layout=HALO_1, inputs=inputs)


def test_a_backbone_of_nothing_keeps_the_contract() -> None:
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    deterministic = torch.are_deterministic_algorithms_enabled()
    check(MeanAndMost)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.are_deterministic_algorithms_enabled() == deterministic


@pytest.mark.parametrize(("kind", "complaint"), BROKEN, ids=[complaint for _, complaint in BROKEN])
def test_a_broken_backbone_is_seen(kind: type[MeanAndMost], complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check(kind)


# --- sources that break it ------------------------------------------------------------------------

GRID = Grid(crs="EPSG:4326", pixel=0.01)


class Slope:
    """The smallest correct source: two scenes of 3 x 2 degrees. Each broken source below differs in one thing."""

    options = PluginOptions
    collection = "https://example.org/slopes"
    counted = True
    verdict = ""

    def scenes(self, *, full_digests: bool) -> Iterator[Scene]:
        for day in (1, 2):
            time = datetime(2023, 6, day, tzinfo=UTC)
            bbox = (7.0, 50.0, 10.0, 52.0)
            yield Scene(
                id=f"slope-{day}", archive="a", time=time, acquisition=str(day), bbox=bbox, verdict=self.verdict
            )

    def observe(self, scene: Scene, frame: Window, grid: Grid, area: PixelArea, reader: RasterReader) -> Observation:
        rows, cols = np.mgrid[area.row : area.row + area.rows, area.col : area.col + area.cols]
        seen = (rows >= -5200) & (rows < -5000) & (cols >= 700) & (cols < 1000)
        return Observation(
            values_cyx=np.stack([rows, cols]).astype(np.float32), seen_yx=seen, clear_yx=seen & (cols % 7 > 2)
        )

    def composite(self, observations: Sequence[tuple[str, Observation]]) -> Composite:
        return composite(observations, "mean")


class Restless(Slope):
    def __init__(self) -> None:
        self._calls = 0

    def scenes(self, *, full_digests: bool) -> Iterator[Scene]:
        self._calls += 1
        yield from sorted(super().scenes(full_digests=False), key=lambda scene: scene.id, reverse=self._calls > 1)


class Doubled(Slope):
    def scenes(self, *, full_digests: bool) -> Iterator[Scene]:
        for scene in super().scenes(full_digests=False):
            yield from (scene, scene)


class Gone(Slope):
    def observe(self, scene: Scene, frame: Window, grid: Grid, area: PixelArea, reader: RasterReader) -> Observation:
        raise CorruptInput("gone")


class Levelled(Slope):
    def composite(self, observations: Sequence[tuple[str, Observation]]) -> Composite:
        whole = super().composite(observations)
        return replace(whole, x_cyx=whole.x_cyx - np.nanmean(whole.x_cyx))


class Choosy(Slope):
    def composite(self, observations: Sequence[tuple[str, Observation]]) -> Composite:
        return composite([max(observations, key=lambda one: one[1].clear_yx.mean())], "mean")


class Uneven(Slope):
    def observe(self, scene: Scene, frame: Window, grid: Grid, area: PixelArea, reader: RasterReader) -> Observation:
        whole = super().observe(scene, frame, grid, area, reader)
        return replace(whole, values_cyx=whole.values_cyx[: int(scene.acquisition)])


def seeing(change: Callable[[Observation], Observation]) -> Slope:
    """`Slope` with a function that is applied to its observations."""

    class Seeing(Slope):
        def observe(
            self, scene: Scene, frame: Window, grid: Grid, area: PixelArea, reader: RasterReader
        ) -> Observation:
            return change(super().observe(scene, frame, grid, area, reader))

    return Seeing()


BROKEN_SOURCES: list[tuple[Slope, str]] = [
    (type("Unnamed", (Slope,), {"collection": "mine"})(), "not a URI"),
    (type("Empty", (Slope,), {"scenes": lambda self, full_digests: iter(())})(), "no scenes"),
    (Restless(), "order changed"),
    (Doubled(), "not unique"),
    (Gone(), "none of 2 scenes could be read"),
    (type("Judged", (Slope,), {"verdict": "torn"})(), "in spite of its verdict: torn"),
    (type("Undeclared", (Slope,), {"options": {"add": float}})(), "options is .* not a class of options"),
    (Levelled(), "the composite of .* differs"),
    (Choosy(), "the composite of .* differs"),
    (Uneven(), "differ in their number of bands"),
    (seeing(lambda o: replace(o, clear_yx=~o.seen_yx)), "clear that is not seen"),
    (seeing(lambda o: replace(o, clear_yx=o.clear_yx.astype(int))), "clear_yx is int64"),
    (seeing(lambda o: replace(o, seen_yx=o.seen_yx[1:])), "seen_yx is bool"),
    (seeing(lambda o: replace(o, values_cyx=o.values_cyx[0])), "values_cyx is"),
    (seeing(lambda o: replace(o, values_cyx=o.values_cyx.astype(str))), "not real numbers"),
    (seeing(lambda o: replace(o, values_cyx=o.values_cyx * np.nan)), "not finite"),
    (seeing(lambda o: replace(o, seen_yx=np.ones_like(o.seen_yx))), "outside of the scene's footprint"),
    (seeing(lambda o: replace(o, values_cyx=o.values_cyx - o.values_cyx.mean())), "alone differs"),
    (seeing(lambda o: replace(o, seen_yx=o.seen_yx | (np.eye(*o.seen_yx.shape) > 0))), "alone differs"),
    (seeing(lambda o: replace(o, clear_yx=o.clear_yx & (o.clear_yx.shape[0] == o.clear_yx.shape[1]))), "alone differs"),
]


def test_a_source_of_nothing_keeps_the_contract() -> None:
    check_source(Slope(), GRID)


@pytest.mark.parametrize(("source", "complaint"), BROKEN_SOURCES, ids=[complaint for _, complaint in BROKEN_SOURCES])
def test_a_broken_source_is_seen(source: Slope, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_source(source, GRID)
