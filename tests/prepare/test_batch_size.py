"""`batch: auto`: the fastest batch is measured once, and is then part of every recipe."""

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from tests.conftest import Campaign, demo_in
from tests.edge.contexts import bare_context

from embedcube.backbones.base import Chips
from embedcube.campaign.load import load_campaign
from embedcube.campaign.plan import read_plan, read_recipes
from embedcube.grid import ShardLayout
from embedcube.kernel.layer import LayerContext
from embedcube.prepare.batch_size import best_batch
from embedcube.prepare.price import Activations


class Takes(torch.nn.Module):
    """A module whose pass takes `pass_ms` ms, and `chip_ms` ms more for each chip, so that the best batch is known."""

    def __init__(self, pass_ms: float, chip_ms: float) -> None:
        super().__init__()
        self.pass_ms, self.chip_ms, self.seen = pass_ms, chip_ms, set[int]()

    def forward(self, chips: Chips) -> torch.Tensor:
        batch = len(chips.x_btcyx)
        self.seen.add(batch)
        time.sleep((self.pass_ms + self.chip_ms * batch) / 1000)
        return torch.zeros((batch, 1, 1, 3))


def context(module: torch.nn.Module, chips: int) -> LayerContext:
    layout = ShardLayout(chip_px=4, halo_px=0, cell_px=4, chips=chips)
    return bare_context(module, layout, bands=1, batch=2, dimensions=3)


def probed(module: torch.nn.Module, *, chips: int = 8, bytes_per_chip: int = 0, memory_bytes: float = 1e9) -> int:
    return best_batch(context(module, chips), Activations(pass_bytes=0, chip_bytes=bytes_per_chip), memory_bytes)


def test_a_dear_start_of_a_pass_asks_for_large_batches() -> None:
    module = Takes(pass_ms=8, chip_ms=0.01)
    assert probed(module) == 64
    assert max(module.seen) == 64, "no batch that a shard's 64 chips cannot fill"


def test_where_only_chips_cost_the_smallest_does_and_the_search_ends_soon() -> None:
    module = Takes(pass_ms=0, chip_ms=10)
    assert probed(module) <= 4, "2, but for what else this machine does"
    assert max(module.seen) <= 16


def test_a_batch_does_not_fill_the_memory() -> None:
    assert probed(Takes(pass_ms=8, chip_ms=0.01), bytes_per_chip=1 << 20, memory_bytes=17 << 20) == 16


def test_padding_of_a_shards_last_batch_is_counted() -> None:
    # 9 chips: five passes of 2, three of 4, two of 8, one of 16
    assert probed(Takes(pass_ms=2, chip_ms=4), chips=3) in (2, 4)
    assert probed(Takes(pass_ms=40, chip_ms=0.01), chips=3) == 16


def test_out_of_memory_ends_the_search() -> None:
    class Small(Takes):
        def forward(self, chips: Chips) -> torch.Tensor:
            if len(chips.x_btcyx) > 8:
                raise torch.cuda.OutOfMemoryError("no room")
            return super().forward(chips)

    assert probed(Small(pass_ms=8, chip_ms=0.01)) == 8


@pytest.fixture(scope="module")
def planned(demo_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """The demo with `batch: auto`, as far as its plan. Do not change anything in it: copy."""
    campaign = demo_in(tmp_path_factory.mktemp("planned"), demo_archive)
    campaign.change(lambda document: document["layers"]["s2_mosaiks"].update(batch="auto"))
    campaign.cli("run", "--until", "plan")
    return campaign


@pytest.fixture
def probing(planned: Campaign, tmp_path: Path) -> Campaign:
    """A copy of it."""
    shutil.copytree(planned.file.parent, tmp_path, dirs_exist_ok=True)
    return Campaign(tmp_path / planned.file.name)


def batch_of(campaign: Campaign) -> int:
    return int(json.loads(campaign.run.plan_summary.read_text())["layers"]["s2_mosaiks"]["batch"])


def recipes(campaign: Campaign) -> set[str]:
    return set(read_recipes(campaign.run, read_plan(load_campaign(campaign.file), campaign.run)))


def test_a_campaign_keeps_the_batch_that_was_found_for_it(probing: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    first, found = recipes(probing), batch_of(probing)
    monkeypatch.setattr("embedcube.prepare.plan.best_batch", lambda *_: pytest.fail("probed again"))
    probing.cli("plan")
    assert batch_of(probing) == found
    assert recipes(probing) == first


def test_the_batch_that_was_found_is_in_the_recipes_as_if_it_had_been_written(probing: Campaign) -> None:
    automatic = recipes(probing)
    probing.change(lambda document: document["layers"]["s2_mosaiks"].update(batch=batch_of(probing)))
    probing.cli("plan")
    assert recipes(probing) == automatic
    probing.change(lambda document: document["layers"]["s2_mosaiks"].update(batch=2 * batch_of(probing)))
    probing.cli("plan")
    assert automatic.isdisjoint(recipes(probing))


def test_another_layer_is_probed_again(probing: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    found = batch_of(probing)
    monkeypatch.setattr("embedcube.prepare.plan.best_batch", lambda *_: 2 * found)
    probing.change(lambda document: document["layers"]["s2_mosaiks"].update(precision="bfloat16"))
    probing.cli("plan")
    assert batch_of(probing) == 2 * found


def test_a_batch_that_was_written_was_not_found(probing: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    probing.change(lambda document: document["layers"]["s2_mosaiks"].update(batch=2))
    probing.cli("plan")
    monkeypatch.setattr("embedcube.prepare.plan.best_batch", lambda *_: 64)
    probing.change(lambda document: document["layers"]["s2_mosaiks"].update(batch="auto"))
    probing.cli("plan")
    assert batch_of(probing) == 64


@pytest.mark.slow
def test_ranks_and_verify_take_the_batch_of_the_plan(probing: Campaign) -> None:
    # verify embeds a shard again and compares bytes
    assert "verify" in probing.cli("run")
