"""Same bytes: whatever the ranks, threads, tasks and order, and the same cells whatever the shards and the region.

A backbone of the package and one that is plugged in run side by side, each in a layer of its own. Kernels that are
wrong on purpose show that the comparison would see it.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
import xarray
from tests.conftest import Campaign, change_rows, cube_bytes

from embedcube.backbones.base import Chips, make_backbone
from embedcube.backbones.weights import read_weights
from embedcube.campaign.inventory import read_inventory
from embedcube.campaign.load import dump_campaign, load_campaign
from embedcube.campaign.parts import scan_records
from embedcube.campaign.plan import read_plan, read_shards
from embedcube.campaign.plugins import plugin
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.schema import Campaign as Document
from embedcube.consolidate.consolidate import consolidate
from embedcube.cube.encoding import VALID, decode
from embedcube.cube.reader import Cube
from embedcube.kernel.device import exact_arithmetic
from embedcube.kernel.embed import ReadShard, embed_stage, read_stage
from embedcube.kernel.layer import LayerContext
from embedcube.kernel.load import make_context
from embedcube.prepare.fit import fit
from embedcube.prepare.index import index
from embedcube.prepare.plan import plan
from embedcube.sources.reader import RasterReader
from embedcube.windows import dates_of

pytestmark = pytest.mark.slow

BATCH = 4
CLEAR = [["2023-06-01", "2023-06-20"], ["2023-06-05", "2023-07-01"]]
"""windows in which every cell has a vector"""
CLOUDY = [["2023-06-10", "2023-07-01"]]
"""and one in which many have none"""
PLACE = (399_360, 5_633_280, 403_200, 5_637_120)
"""12 x 12 chips of 32 px: whole shards of 2, 3 and 4 chips"""
LAYERS: dict[str, dict[str, Any]] = {
    "mosaiks": {"backbone": {"name": "mosaiks", "filters": 64}, "chip_px": 34, "halo_px": 1},
    # wide enough that a matrix product is split between threads
    "tiny_vit": {
        "backbone": {"name": "tiny_vit", "width": 512, "depth": 1},
        "chip_px": 64,
        "halo_px": 16,
        "encoding": "float32",
    },
    # torch computes a 3 x 3 convolution of one small chip otherwise than of several
    "stem": {"backbone": {"name": "tiny_vit", "stem": 8}, "chip_px": 64, "halo_px": 16, "encoding": "float32"},
}
each_backbone = pytest.mark.parametrize("layer", ["mosaiks", "tiny_vit"])


# --- a campaign, indexed and fitted once ----------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def settings_given_back() -> Iterator[None]:
    """Torch's settings are as before."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def fitted(demo_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """A campaign on the demo archive with an inventory and weights."""
    campaign = Campaign(tmp_path_factory.mktemp("cutting") / "campaign.yaml")
    shutil.copy(demo_archive / "campaign.yaml", campaign.file)

    def change(document: dict[str, Any]) -> None:
        common = {"archives": ["s2"], "cell_px": 16, "shard_chips": 3, "batch": BATCH}
        document["archives"]["s2"]["path"] = str(demo_archive / "archive" / "sentinel2")
        document["layers"] = {name: layer | common for name, layer in LAYERS.items()}
        document["region"] = {"bbox": list(PLACE), "crs": "EPSG:32632"}
        document["windows"] = CLOUDY

    campaign.change(change)
    resolved = load_campaign(campaign.file)
    campaign.run.root.mkdir(parents=True)
    index(resolved, campaign.run, full_digests=False)
    fit(resolved, campaign.run)
    return campaign


def variant(fitted: Campaign, folder: Path, change: Callable[[dict[str, Any]], None]) -> Campaign:
    """The same campaign but for `change`, in a new folder, with the same inventory and weights."""
    copied = Campaign(folder / "campaign.yaml")
    folder.mkdir(parents=True)
    shutil.copy(fitted.file, copied.file)
    copied.change(change)
    shutil.copytree(fitted.run.root, copied.run.root, copy_function=os.link)
    return copied


# --- whole runs -----------------------------------------------------------------------------------

HOW: dict[str, dict[str, int]] = {
    "three tasks": {"tasks": 3, "ranks": 1, "threads": 2},
    "two ranks, shuffled": {"tasks": 1, "ranks": 2, "threads": 3},
    "three ranks, last first": {"tasks": 1, "ranks": 3, "threads": 1},
}
ORDER: dict[str, Callable[[int], list[int]]] = {
    "three tasks": lambda n: list(range(n)),
    "two ranks, shuffled": lambda n: np.random.default_rng(0).permutation(n).tolist(),
    "three ranks, last first": lambda n: list(range(n))[::-1],
}
FIRST = next(iter(HOW))
others = pytest.mark.parametrize("how", list(HOW)[1:])


@pytest.fixture(scope="module")
def runs(fitted: Campaign, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Campaign]:
    """The same campaign computed in three ways."""
    return {how: _run(fitted, tmp_path_factory.mktemp("how") / "run", how) for how in HOW}


def _run(fitted: Campaign, folder: Path, how: str) -> Campaign:
    def change(document: dict[str, Any]) -> None:
        document |= {"how": HOW[how], "windows": CLEAR}
        del document["layers"]["stem"]

    campaign = variant(fitted, folder, change)
    resolved = load_campaign(campaign.file)
    campaign.run.campaign.write_text(dump_campaign(resolved))
    plan(resolved, campaign.run)
    change_rows(campaign.run, partial(_permuted, ORDER[how]))
    plugin("executors", "local")().run(resolved, campaign.run, list(range(resolved.how.tasks)), lambda *_: None)
    consolidate(resolved, campaign.run, lambda *_: None)
    return campaign


def _permuted(order: Callable[[int], list[int]], table: pyarrow.Table) -> pyarrow.Table:
    """The rows with another order of the draw groups of each task; no option does that."""
    task, draw = table["task"].to_numpy(), table["draw"].to_numpy().copy()
    for one in np.unique(task):
        new = np.array(order(int(draw[task == one].max()) + 1))
        draw[task == one] = new[draw[task == one]]
    table = table.set_column(table.schema.get_field_index("draw"), "draw", pyarrow.array(draw))
    return table.take(np.lexsort((draw, task)))


@others
@each_backbone
def test_a_cube_has_the_same_bytes_however_it_is_computed(runs: dict[str, Campaign], layer: str, how: str) -> None:
    one, other = (
        {
            path: digest
            for path, digest in cube_bytes(runs[name].run.newest_cube).items()
            if path.startswith(f"{layer}/grid")
        }
        for name in (FIRST, how)
    )
    assert {path.split("/")[2] for path in one} >= {"embedding", "status", "n_obs", "x", "y", "time"}
    assert [path for path in one.keys() | other.keys() if one.get(path) != other.get(path)] == []


@others
def test_the_rest_of_a_cube_too(runs: dict[str, Campaign], how: str) -> None:
    one, other = (runs[name].run.newest_cube for name in (FIRST, how))
    assert "zarr.json" in cube_bytes(one)
    assert cube_bytes(one) == cube_bytes(other)
    assert one.resolve().name == other.resolve().name, "the version is named by what is in it"


@pytest.mark.parametrize("how", HOW)
def test_every_rank_took_part_and_every_shard_needs_several_batches(runs: dict[str, Campaign], how: str) -> None:
    records = [record for _, record in scan_records(runs[how].run)]
    assert len(records) == 2 * 2 * 16
    assert {record.rank for record in records} == set(range(HOW[how]["ranks"]))
    assert len(list(runs[how].run.parts.iterdir())) == HOW[how]["tasks"]
    assert {record.counts["chips"] for record in records} == {9}
    assert 9 % BATCH == 1, "the last batch of a shard is all padding but one chip"


def test_the_orders_differed(runs: dict[str, Campaign]) -> None:
    orders = []
    for campaign in runs.values():
        planned = read_plan(load_campaign(campaign.file), campaign.run)
        orders.append([str(shard) for group in read_shards(campaign.run, planned) for shard in group])
    assert len({tuple(order) for order in orders}) == len(orders)
    assert len({tuple(sorted(order)) for order in orders}) == 1


# --- shards of other sizes, another region --------------------------------------------------------

Embed = Callable[[list[ReadShard], LayerContext], list[dict[str, Any]]]


def as_it_is(shards: list[ReadShard], context: LayerContext) -> list[dict[str, Any]]:
    """The kernel of the package."""
    return [embed_stage(replace(read, context=context)).cells.arrays for read in shards]


def cells(
    campaign: Campaign, layer: str, *, threads: int = 1, embed: Embed = as_it_is, batch: int = BATCH
) -> xarray.Dataset:
    """The cells of a layer with their coordinates, computed in this process."""
    resolved, run = load_campaign(campaign.file), campaign.run
    resolved = resolved.model_copy(update={"layers": {layer: resolved.layers[layer]}})
    planned = plan(resolved, run)
    place, scenes = planned.layers[layer].zones["grid"], read_inventory(resolved, run)
    shards = [shard for group in read_shards(run, planned) for shard in group]
    context = replace(kernel_of(resolved, run, layer), batch=batch)
    exact_arithmetic(threads)
    reader = RasterReader(threads)
    try:
        read = [read_stage(shard, [scenes[i] for i in shard.scenes], context, reader) for shard in shards]
    finally:
        reader.close()
    side = context.layout.shard_cells
    whole: dict[str, Any] = {}
    for shard, arrays in zip(shards, embed(read, context), strict=True):
        for name, array in arrays.items():
            shape = (place.rows * side, place.cols * side, *array.shape[2:])
            target = whole.setdefault(name, np.zeros(shape, array.dtype))
            target[shard.iy * side : (shard.iy + 1) * side, shard.ix * side : (shard.ix + 1) * side] = array
    x, y = context.grids["grid"].centres(place.area(context.layout), context.layout.cell_px)
    return _dataset(whole, y, x)


def kernel_of(campaign: Document, run: RunDir, layer: str) -> LayerContext:
    """The kernel as a rank makes it, on the CPU."""
    weights, _ = read_weights(campaign, run, layer)
    return make_context(
        campaign, layer, ["grid"], weights, make_backbone(campaign, layer).module(weights), torch.device("cpu"), BATCH
    )


def _dataset(arrays: dict[str, Any], y: Any, x: Any) -> xarray.Dataset:
    vectors = decode(arrays["embedding"], arrays.get("scale"))
    flat = {name: (("y", "x"), arrays[name]) for name in ("status", "n_obs", "scale") if name in arrays}
    return xarray.Dataset({"vector": (("y", "x", "feature"), vectors), **flat}, {"y": y, "x": x})


def differences(one: xarray.Dataset, other: xarray.Dataset) -> dict[str, int]:
    """In how many of the cells that both have does a variable differ? NaN equals NaN."""
    assert set(one) == set(other)
    one, other = xarray.align(one, other, join="inner")
    assert one.sizes["y"] >= 12, "they hardly overlap"
    assert one.sizes["x"] >= 12, "they hardly overlap"
    found = {}
    for name in one:
        a, b = one[name].values, other[name].values
        unequal = (a != b) & ~((a != a) & (b != b))
        if count := int(unequal.reshape(*unequal.shape[:2], -1).any(axis=2).sum()):
            found[str(name)] = count
    return found


def in_shards_of(chips: int, windows: list[list[str]] = CLOUDY) -> Callable[[dict[str, Any]], None]:
    """Change a campaign's shards."""

    def change(document: dict[str, Any]) -> None:
        document["windows"] = windows
        for layer in document["layers"].values():
            layer["shard_chips"] = chips

    return change


def elsewhere(document: dict[str, Any]) -> None:
    """Move a campaign's region by what is no multiple of anything."""
    west, south, east, north = PLACE
    document["region"]["bbox"] = [west + 1_130, south - 470, east + 790, north - 1_370]


@pytest.fixture(scope="module")
def plain(fitted: Campaign) -> dict[str, xarray.Dataset]:
    """The cells of each layer, in shards of 3 x 3 chips, on one thread."""
    found = {layer: cells(fitted, layer) for layer in LAYERS}
    for dataset in found.values():
        valid = (dataset["status"].values == VALID).mean()
        assert 0.2 < valid < 0.8, "cells with a vector and cells without one"
        assert len(np.unique(dataset["n_obs"].values)) > 1
    return found


@pytest.mark.parametrize(("chips", "threads"), [(2, 2), (4, 3)])
@pytest.mark.parametrize("layer", LAYERS)
def test_cells_do_not_depend_on_the_size_of_shards(
    fitted: Campaign, plain: dict[str, xarray.Dataset], tmp_path: Path, layer: str, chips: int, threads: int
) -> None:
    other = cells(variant(fitted, tmp_path / "v", in_shards_of(chips)), layer, threads=threads)
    assert differences(plain[layer], other) == {}


@each_backbone
def test_cells_do_not_depend_on_the_region(
    fitted: Campaign, plain: dict[str, xarray.Dataset], tmp_path: Path, layer: str
) -> None:
    moved = cells(variant(fitted, tmp_path / "v", elsewhere), layer)
    assert moved["x"].values[0] != plain[layer]["x"].values[0]
    assert differences(plain[layer], moved) == {}


@each_backbone
def test_a_cube_holds_the_cells_that_this_process_computes(
    fitted: Campaign, runs: dict[str, Campaign], tmp_path: Path, layer: str
) -> None:
    group: Any = Cube(runs[FIRST].run.newest_cube).group(f"{layer}/grid")
    arrays = {name: group[name][0] for name in ("embedding", "scale", "status", "n_obs") if name in group}
    here = cells(variant(fitted, tmp_path / "v", in_shards_of(4, CLEAR[:1])), layer)
    assert differences(_dataset(arrays, group["y"][:], group["x"][:]), here) == {}


# --- wrong on purpose -----------------------------------------------------------------------------

Module = Callable[[torch.Tensor], torch.Tensor]
Batches = Callable[[Module, list[torch.Tensor], int], list[torch.Tensor]]
"""(module, the chips of each shard, batch) -> the vectors of each shard"""


def padded(module: Module, shards: list[torch.Tensor], batch: int) -> list[torch.Tensor]:
    """As the package does it: to show that what follows differs in nothing else."""

    def full(chips: torch.Tensor) -> torch.Tensor:
        return torch.cat([chips, torch.zeros((batch - len(chips), *chips.shape[1:]))])

    return [torch.cat([module(full(b))[: len(b)] for b in shard.split(batch)]) for shard in shards]


def unpadded(module: Module, shards: list[torch.Tensor], batch: int) -> list[torch.Tensor]:
    """The last batch of a shard is as short as it comes."""
    return [torch.cat([module(b) for b in shard.split(batch)]) for shard in shards]


def across_shards(module: Module, shards: list[torch.Tensor], batch: int) -> list[torch.Tensor]:
    """Batches are filled from one shard after the other; the last one is as short as it comes."""
    vectors = torch.cat([module(b) for b in torch.cat(shards).split(batch)])
    return list(vectors.split([len(shard) for shard in shards]))


def alone(context: LayerContext) -> Module:
    """The kernel's module of pixels and their masks, which is all that the backbones here look at.

    The masks are the last channels.
    """

    def run(x_and_clear: torch.Tensor) -> torch.Tensor:
        batch, masks = len(x_and_clear), len(context.inputs)
        x_btcyx, clear = x_and_clear[:, :, :-masks], x_and_clear[:, :, -masks:] > 0
        cells = context.layout.chip_cells
        lonlat = torch.zeros((batch, cells, cells, 2))
        vectors: torch.Tensor = context.module(
            Chips(
                x_btcyx=x_btcyx,
                clear_btsyx=clear,
                lonlat_byxn=lonlat,
                dates_tmd=torch.from_numpy(dates_of(context.frames[0])),
            )
        )
        return vectors

    return run


def with_batches(batches: Batches) -> Embed:
    """The package's kernel, but for how it fills its batches."""

    class Meeting(torch.nn.Module):
        """First notes the chips that come, then hands out the vectors that others made of them."""

        def __init__(self, dimensions: int, layout: Any) -> None:
            super().__init__()
            self.seen: list[torch.Tensor] = []
            self.vectors = iter(torch.empty(0))
            self._empty = torch.zeros(layout.chip_cells, layout.chip_cells, dimensions)

        def forward(self, chips: Chips) -> torch.Tensor:
            x = chips.x_btcyx
            real = x.flatten(1).any(dim=1)
            self.seen.append(torch.cat([x, chips.clear_btsyx.to(x.dtype)], dim=2)[real])
            return torch.stack([next(self.vectors, self._empty) if r else self._empty for r in real.tolist()])

    def embed(shards: list[ReadShard], context: LayerContext) -> list[dict[str, Any]]:
        meeting = Meeting(context.dimensions, context.layout)
        watched = replace(context, module=meeting)
        chips = []
        for read in shards:
            meeting.seen = []
            embed_stage(replace(read, context=watched))
            if meeting.seen:
                chips.append(torch.cat(meeting.seen))
        with torch.inference_mode():
            meeting.vectors = iter(torch.cat(batches(alone(context), chips, context.batch)))
            return as_it_is(shards, watched)

    return embed


@pytest.fixture(scope="module")
def in_pairs(fitted: Campaign, tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """The campaign in shards of 2 x 2 chips."""
    return variant(fitted, tmp_path_factory.mktemp("pairs") / "v", in_shards_of(2))


@pytest.mark.parametrize("layer", LAYERS)
def test_the_copy_of_the_kernel_is_faithful(fitted: Campaign, plain: dict[str, xarray.Dataset], layer: str) -> None:
    assert differences(plain[layer], cells(fitted, layer, embed=with_batches(padded))) == {}


@pytest.mark.parametrize("batches", [unpadded, across_shards])
def test_a_kernel_that_does_not_pad_is_seen(fitted: Campaign, in_pairs: Campaign, batches: Batches) -> None:
    counts = [(cells(fitted, "stem")["status"].values == VALID).reshape(12, 2, 12, 2).any(axis=(1, 3)).sum()]
    # so that one chip is left over at the end, which one depends on the shards
    batch = BATCH if batches is unpadded else next(b for b in range(2, 1000) if counts[0] % b == 1)
    one, other = (cells(c, "stem", embed=with_batches(batches), batch=batch) for c in (fitted, in_pairs))
    found = differences(one, other)
    if not found and not _depends_on_batch(fitted):
        pytest.skip("on this machine a chip alone gets the same bits as among others")
    assert set(found) == {"vector"}


def _depends_on_batch(fitted: Campaign) -> bool:
    resolved = load_campaign(fitted.file)
    module = alone(kernel_of(resolved, fitted.run, "stem"))
    x = torch.randn(2, 1, 4, 64, 64)
    with torch.inference_mode():
        return not torch.equal(module(x[:1]), module(x)[:1])


def test_a_backbone_whose_chips_see_each_other_is_seen(fitted: Campaign, in_pairs: Campaign) -> None:
    class Leaking(torch.nn.Module):
        """Normalises over the batch, as a forgotten `train()` does."""

        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self._inner = inner

        def forward(self, chips: Chips) -> Any:
            x = chips.x_btcyx
            return self._inner(replace(chips, x_btcyx=x - x.mean(dim=0, keepdim=True)))

    def embed(shards: list[ReadShard], context: LayerContext) -> list[dict[str, Any]]:
        return as_it_is(shards, replace(context, module=Leaking(context.module)))

    one, other = (cells(campaign, "stem", embed=embed) for campaign in (fitted, in_pairs))
    assert differences(one, other)["vector"] > 100
