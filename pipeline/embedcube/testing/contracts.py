"""Contract checks for authors of plugins: call them in a test. An AssertionError names the broken promise.

from embedcube.grid import Grid, ShardLayout
from embedcube.testing import check_backbone, check_source

def test_my_backbone():
    layout = ShardLayout(chip_px=64, halo_px=16, cell_px=16, chips=2)
    inputs = Inputs(bands=(("B02", "B03"), ("VV",)), frames=2)
    check_backbone(lambda: MyBackbone({"width": 64}, layout, inputs), layout=layout, inputs=inputs)

def test_my_source(archive):
    check_source(MySource("s2", archive), Grid(crs="EPSG:32632", pixel=10))
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray

from embedcube.backbones.base import Backbone, Chips, FitSample, Inputs, Weights, leaves_masked_out
from embedcube.campaign.options import PluginOptions
from embedcube.campaign.scene import Scene
from embedcube.errors import CorruptInput
from embedcube.grid import Grid, PixelArea, ShardLayout
from embedcube.kernel.device import exact_arithmetic
from embedcube.sources.base import Observation, Source
from embedcube.sources.reader import RasterReader
from embedcube.windows import Duration, Window, dates_of, windows_every

_START, _MONTH, _DAY = datetime(2023, 1, 1, tzinfo=UTC), Duration(months=1, hours=0), timedelta(days=1)


def check_backbone(
    make: Callable[[], Backbone], *, layout: ShardLayout, inputs: Inputs, batch: int = 4, checkpoint: bytes = b""
) -> None:
    """Check the contract of a backbone (`embedcube.backbones.base.Backbone`), bit for bit.

    Args:
        make: returns a new backbone for chips of `layout` and `inputs`; called several times.
        layout: sizes of the chips and cells.
        inputs: bands and frames of the chips.
        batch: chips in a batch, at least 2.
        checkpoint: bytes of a published checkpoint, for a backbone that cannot be fitted.


    Raises:
        AssertionError: names the first promise that is broken.
    """
    backbone = make()
    _require("://" in backbone.model, f'model is "{backbone.model}", not a URI')
    rng, side, cells = np.random.default_rng(0), layout.chip_px, layout.chip_cells
    sample = rng.uniform(100, 4000, (8, inputs.frames, inputs.channels, side, side)).astype(np.float32)
    sample[0, ..., : side // 3, : side // 4] = np.nan
    latitudes = np.linspace(40, 41, 8 * side).reshape(8, side)
    x_btcyx = torch.from_numpy(
        rng.standard_normal((batch, inputs.frames, inputs.channels, side, side), dtype=np.float32)
    )
    clear_btsyx = torch.ones((batch, inputs.frames, len(inputs.bands), side, side), dtype=torch.bool)
    x_btcyx[1, ..., : side // 2], clear_btsyx[1, ..., : side // 2] = 0, False  # masked
    months = windows_every(datetime(2023, 1, 1, tzinfo=UTC), datetime(2043, 1, 1, tzinfo=UTC), _MONTH)
    chips = Chips(
        x_btcyx=x_btcyx,
        clear_btsyx=clear_btsyx,
        lonlat_byxn=torch.from_numpy(rng.uniform(-60, 60, (batch, cells, cells, 2)).astype(np.float32)),
        dates_tmd=torch.from_numpy(dates_of(months[: inputs.frames])),
    )
    with _settings_given_back():
        weights = _fitted(make, _sample(sample, latitudes, layout, inputs), inputs.channels, checkpoint)
        dimensions = backbone.dimensions(weights)
        _require(dimensions > 0, f"dimensions is {dimensions}, not positive")
        shape = (batch, cells, cells, dimensions)
        _check_vectors(lambda: make().module(weights), chips, shape, masks=leaves_masked_out(backbone))
        if leaves_masked_out(backbone):
            _check_masking(backbone.module(weights), chips)


def _sample(
    x_ntcyx: NDArray[np.float32], latitudes: NDArray[np.float64], layout: ShardLayout, inputs: Inputs
) -> FitSample:
    """Chips of one month each frame, clear where every band of an archive has a value."""
    firsts = np.cumsum([0, *map(len, inputs.bands)])[:-1]
    finite = np.add.reduceat(~np.isfinite(x_ntcyx), firsts, axis=2) == 0
    count, cells = len(x_ntcyx), layout.chip_cells
    dates = dates_of(windows_every(_START, _MONTH.after(_START, inputs.frames), _MONTH))
    return FitSample(
        x_ntcyx=x_ntcyx,
        lat_ny=latitudes,
        clear_ntsyx=finite,
        lonlat_nyxk=np.full((count, cells, cells, 2), 40, dtype=np.float32),
        dates_ntmd=np.stack([dates] * count),
    )


def check_source(source: Source, grid: Grid, *, area_px: int = 96, scenes: int = 3) -> None:
    """Check the contract of a source (`embedcube.sources.base.Source`).

    Squares of `area_px` pixels of `grid` are read, from the first `scenes` scenes that can be read.

    Raises:
        AssertionError: names the first promise that is broken.
    """
    _require("://" in source.collection, f'collection is "{source.collection}", not a URI')
    declared = PluginOptions in getattr(source.options, "__mro__", ())
    _require(declared, f"options is {source.options!r}, not a class of options (`PluginOptions`)")
    listed = list(source.scenes(full_digests=False))
    _require(bool(listed), "no scenes")
    ids = [scene.id for scene in listed]
    # by digests: "no data" may be NaN, which equals nothing
    again = [(scene.id, scene.digest) for scene in source.scenes(full_digests=False)]
    _require(again == [(s.id, s.digest) for s in listed], "scenes or their order changed between two calls")
    _require(len(set(ids)) == len(ids), f"scenes are not unique: {sorted({i for i in ids if ids.count(i) > 1})}")
    reader = RasterReader(threads=2)
    read: dict[str, int] = {}
    try:
        for scene in listed:
            if len(read) < scenes:
                bands = _check_scene(source, scene, grid, area_px, reader)
                _require(not (bands and scene.verdict), f"{scene.id}: read in spite of its verdict: {scene.verdict}")
                read |= {scene.id: bands} if bands else {}
    finally:
        reader.close()
    _require(bool(read), f"none of {len(listed)} scenes could be read")
    _require(len(set(read.values())) == 1, f"scenes differ in their number of bands: {read}")


def _fitted(make: Callable[[], Backbone], sample: FitSample, bands: int, checkpoint: bytes) -> Weights:
    """Weights, fitted or loaded twice, and read back from the bytes of their file."""
    files = []
    for threads, seed in ((1, 1), (2, 2)):
        exact_arithmetic(threads)
        torch.manual_seed(seed)
        weights = make().load(checkpoint) if checkpoint else make().fit(replace(sample, x_ntcyx=sample.x_ntcyx.copy()))
        for key, vector in {"mean": weights.mean, "std": weights.std}.items():
            good = vector.shape == (bands,) and vector.dtype == np.float32 and bool(np.isfinite(vector).all())
            _require(good, f"fit: {key} is not ({bands},) float32, finite: {vector!r}")
        _require(bool((weights.std > 0).all()), f"fit: std is not positive: {weights.std}")
        files.append(safetensors.numpy.save(weights.tensors))
    _require(files[0] == files[1], "fit: two fits of one sample differ (1 and 2 threads, other random states)")
    tensors = safetensors.numpy.load(files[0])
    for key, tensor in weights.tensors.items():
        good = tensor.dtype == tensors[key].dtype and np.array_equal(tensor, tensors[key])
        _require(good and not key.startswith("embedcube."), f'fit: tensor "{key}" does not survive the weights\' file')
    return replace(weights, tensors=tensors)


def _check_vectors(make: Callable[[], torch.nn.Module], chips: Chips, shape: tuple[int, ...], *, masks: bool) -> None:
    exact_arithmetic(threads=1)
    module = make()
    _require(not any(m.training for m in module.modules()), "module is in training mode; call .eval()")

    def run(chips: Chips, module: torch.nn.Module = module) -> torch.Tensor:
        with torch.inference_mode():
            vectors: torch.Tensor = module(replace(chips, x_btcyx=chips.x_btcyx.clone()))
        return vectors

    plain = run(chips)
    _require(plain.shape == shape, f"vectors have the shape {tuple(plain.shape)}, not {shape}")
    _require(plain.dtype == torch.float32, f"vectors are {plain.dtype}, not float32")
    finite = plain.isfinite().all(dim=-1)
    usable = finite | (plain.isnan().all(dim=-1) & (torch.arange(shape[0]) == 1)[:, None, None] & masks)
    _require(bool(usable.all()), "vectors of finite chips are not finite")
    _require_equal(plain, run(chips), "a second pass over one batch differs")
    _require_equal(plain, run(chips, make()), "a second module of the same weights differs")
    for i in range(shape[0]):
        for what, factor, seen in (("other chips", 1000, True), ("padding", 0, False)):
            mixed = run(_with_others(chips, i, factor, seen))
            _require_equal(plain[i], mixed[i], f"chip {i} depends on what else is in the batch ({what})")
    moved = run(_rolled(chips)).roll(-1, dims=0)
    _require_equal(plain, moved, "a chip depends on its position in the batch")
    for threads in (2, 3):
        exact_arithmetic(threads)
        _require_equal(plain, run(chips), f"{threads} threads give other bits than 1")


def _check_masking(module: torch.nn.Module, chips: Chips) -> None:
    """Check that what masked pixels hold reaches no vector, and that a chip without a clear pixel has none."""
    masked = ~chips.clear_btsyx.all(dim=2, keepdim=True)
    with torch.inference_mode():
        plain, other = (
            module(replace(chips, x_btcyx=torch.where(masked, value, chips.x_btcyx))) for value in (0.0, 3.0)
        )
        dark = module(replace(chips, clear_btsyx=torch.zeros_like(chips.clear_btsyx)))
    _require_equal(plain, other, "masks is True, and what masked pixels hold changes vectors")
    _require(bool(dark.isnan().all()), "masks is True, and a chip without a clear pixel has vectors: they must be NaN")


def _with_others(chips: Chips, kept: int, factor: float, seen: bool) -> Chips:
    """The same chip number `kept` in a batch whose other chips are changed."""
    here = torch.arange(len(chips.x_btcyx)) == kept
    return replace(
        chips,
        x_btcyx=torch.where(here.view(-1, 1, 1, 1, 1), chips.x_btcyx, (chips.x_btcyx + 1) * factor),
        clear_btsyx=torch.where(here.view(-1, 1, 1, 1, 1), chips.clear_btsyx, torch.tensor(seen)),
        lonlat_byxn=torch.where(here.view(-1, 1, 1, 1), chips.lonlat_byxn, torch.zeros(())),
    )


def _rolled(chips: Chips) -> Chips:
    """The same chips, each moved to the next place of the batch."""
    return replace(
        chips,
        x_btcyx=chips.x_btcyx.roll(1, dims=0),
        clear_btsyx=chips.clear_btsyx.roll(1, dims=0),
        lonlat_byxn=chips.lonlat_byxn.roll(1, dims=0),
    )


def _check_scene(source: Source, scene: Scene, grid: Grid, side: int, reader: RasterReader) -> int:
    """Number of bands of the scene, after checking it; 0 where the scene is corrupt."""
    xmin, ymin, xmax, ymax = scene.boxes_in(grid)[0]
    rows, cols = grid.rows_cols(np.array([xmin, xmax]), np.array([ymax, ymin]))
    out = side // 3  # pixels of the second area that lie outside of the footprint
    try:
        for row, col in ((rows.sum() // 2 + 5, cols.sum() // 2 + 3), (rows[0] - out, cols[0] - out)):
            area = PixelArea(row=int(row), col=int(col), rows=side, cols=side)
            whole = _observed(source, scene, grid, area, reader)
            halves = [
                replace(area, rows=out + 1),
                replace(area, row=area.row + out + 1, rows=side - out - 1),
                replace(area, cols=out + 1),
                replace(area, col=area.col + out + 1, cols=side - out - 1),
            ]
            for half in halves:
                part = _observed(source, scene, grid, half, reader)
                inside = np.s_[
                    half.row - area.row : half.row - area.row + half.rows,
                    half.col - area.col : half.col - area.col + half.cols,
                ]
                same = (
                    np.array_equal(whole.seen_yx[inside], part.seen_yx)
                    and np.array_equal(whole.clear_yx[inside], part.clear_yx)
                    and np.array_equal(whole.values_cyx[:, *inside][:, part.seen_yx], part.values_cyx[:, part.seen_yx])
                )
                _require(same, f"{scene.id}: {half} alone differs from the same pixels of {area}")
                pictures = [source.composite(_with_another(scene, one)).x_cyx for one in (whole, part)]
                same = np.array_equal(pictures[0][:, *inside], pictures[1], equal_nan=True)
                _require(same, f"{scene.id}: the composite of {half} differs from the same pixels of that of {area}")
    except CorruptInput:
        return 0
    beyond = whole.seen_yx[: out - 1].any() or whole.seen_yx[:, : out - 1].any()
    _require(not beyond, f"{scene.id}: data is seen outside of the scene's footprint")
    return len(whole.values_cyx)


def _with_another(scene: Scene, observation: Observation) -> list[tuple[str, Observation]]:
    """The observation, and one of a made-up acquisition that is clear where this one is not."""
    clear_yx = observation.seen_yx & ~observation.clear_yx
    other = replace(observation, values_cyx=observation.values_cyx + 1, clear_yx=clear_yx)
    return [(scene.acquisition, observation), (f"after {scene.acquisition}", other)]


def _observed(source: Source, scene: Scene, grid: Grid, area: PixelArea, reader: RasterReader) -> Observation:
    """One observation, with its shapes and types checked."""
    observation = source.observe(scene, Window(scene.time, scene.time + _DAY), grid, area, reader)
    shape, values = (area.rows, area.cols), observation.values_cyx
    masks: dict[str, NDArray[Any]] = {"seen_yx": observation.seen_yx, "clear_yx": observation.clear_yx}
    for key, mask in masks.items():
        good = mask.shape == shape and mask.dtype == np.bool_
        _require(good, f"{scene.id}: {key} is {mask.dtype} {mask.shape}, not bool {shape}")
    _require(values.ndim == 3 and values.shape[1:] == shape, f"{scene.id}: values_cyx is {values.shape} on {shape}")
    _require(values.dtype.kind in "iuf", f"{scene.id}: values_cyx is {values.dtype}, not real numbers")
    _require(not (observation.clear_yx & ~observation.seen_yx).any(), f"{scene.id}: a pixel is clear that is not seen")
    _require(bool(np.isfinite(values[:, observation.seen_yx]).all()), f"{scene.id}: a value that is seen is not finite")
    return observation


@contextmanager
def _settings_given_back() -> Iterator[None]:
    """Restore the number of threads, deterministic algorithms and the random state at the end."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic)
        torch.set_num_threads(threads)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)


def _require_equal(one: torch.Tensor, other: torch.Tensor, message: str) -> None:
    # NaN stands for a cell of which no pixel can be used
    if not torch.allclose(one, other, rtol=0, atol=0, equal_nan=True):
        unequal, most = int((one != other).sum()), float((one - other).abs().nan_to_num().max())
        raise AssertionError(f"{message}: {unequal} of {one.numel()} numbers differ, by up to {most:.3g}")
