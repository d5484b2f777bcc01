"""One kernel: ranks, `verify` and tests go through the same stages, so a change of one changes them all."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import Campaign

from embedcube.backbones.weights import read_weights
from embedcube.campaign.inventory import read_inventory
from embedcube.campaign.load import load_campaign
from embedcube.campaign.parts import PartWriter, best_records
from embedcube.campaign.plan import Shard, read_plan, read_shards
from embedcube.campaign.recipes import PlannedRecipes
from embedcube.campaign.scene import Scene
from embedcube.consolidate.verify import verify_run
from embedcube.cube.arrays import ShardEncoder
from embedcube.kernel import embed
from embedcube.kernel.device import exact_arithmetic
from embedcube.kernel.embed import run_shard
from embedcube.kernel.layer import LayerContext
from embedcube.kernel.load import load_context
from embedcube.kernel.sample import read_sample
from embedcube.sources.reader import RasterReader
from embedcube.workers.crashes import CrashHistory, Held
from embedcube.workers.energy import EnergyMeter
from embedcube.workers.pipeline import Pipeline
from embedcube.workers.protocol import Place
from embedcube.workers.queue import RankDraws
from embedcube.workers.recorder import Recorder
from embedcube.workers.stopping import Stop

PLACE = {"bbox": [399_460, 5_629_540, 403_100, 5_637_020], "crs": "EPSG:32632"}
"""two of the demo's fifteen shards: the overlap of its tiles, and the torn band"""


@pytest.fixture(scope="module")
def finished(demo_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """Two layers of different backbones and encodings, embedded by two ranks. Nothing changes it."""
    campaign = Campaign(tmp_path_factory.mktemp("kernel") / "campaign.yaml")
    campaign.file.write_bytes((demo_archive / "campaign.yaml").read_bytes())

    def change(document: dict[str, Any]) -> None:
        document["archives"]["s2"]["path"] = str(demo_archive / "archive" / "sentinel2")
        layer = document["layers"]["s2_mosaiks"]
        layer["backbone"] = {"name": "mosaiks", "filters": 8}
        backbone = {"name": "tiny_vit", "width": 32, "depth": 1}
        document["layers"]["vit"] = layer | {"backbone": backbone, "chip_px": 64, "halo_px": 0, "encoding": "float32"}
        document.update(region=PLACE, how={"ranks": 2, "threads": 2}, windows=[["2023-06-01", "2023-07-01"]])

    campaign.change(change)
    campaign.cli("run")
    return campaign


@pytest.fixture(autouse=True)
def settings_given_back() -> Iterator[None]:
    """Torch's settings are as before."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """All that this process needs to embed the campaign's shards."""

    contexts: Mapping[str, LayerContext]
    groups: list[list[Shard]]
    scenes: Sequence[Scene]
    reader: RasterReader

    def run_shards(self) -> dict[str, dict[str, bytes | None]]:
        """The arrays of each shard, by its recipe."""
        return {
            shard.recipe: run_shard(
                shard, [self.scenes[i] for i in shard.scenes], self.contexts[shard.layer], self.reader
            ).arrays
            for group in self.groups
            for shard in group
        }


@pytest.fixture
def kernel(finished: Campaign) -> Iterator[Kernel]:
    """The kernel as a rank loads it, in this process."""
    campaign, run = load_campaign(finished.file), finished.run
    plan = read_plan(campaign, run)
    exact_arithmetic(campaign.how.threads_per_rank)
    reader = RasterReader(campaign.how.threads_per_rank)
    contexts = {
        name: load_context(
            campaign, name, list(layer.zones), read_weights(campaign, run, name)[0], torch.device("cpu"), layer.batch
        )
        for name, layer in plan.layers.items()
    }
    yield Kernel(contexts=contexts, groups=read_shards(run, plan), scenes=read_inventory(campaign, run), reader=reader)
    reader.close()


def digests(objects: Mapping[str, bytes | None]) -> dict[str, str]:
    """SHA-256 of each array, as records have it."""
    return {array: sha256(data or b"").hexdigest() for array, data in objects.items()}


def recorded(finished: Campaign, kernel: Kernel) -> dict[str, dict[str, str]]:
    """The digests in the records of each shard, by its recipe."""
    recipes = {shard.recipe for group in kernel.groups for shard in group}
    records = best_records(finished.run, recipes)
    return {recipe: {o.array: o.sha256 for o in record.arrays} for recipe, (_, record) in records.items()}


def test_run_shard_gives_the_objects_that_ranks_recorded(finished: Campaign, kernel: Kernel) -> None:
    computed = {recipe: digests(objects) for recipe, objects in kernel.run_shards().items()}
    assert {shard.layer for group in kernel.groups for shard in group} == {"s2_mosaiks", "vit"}
    assert {len(objects) for objects in computed.values()} == {3, 4}, "with a scale and without one"
    assert computed == recorded(finished, kernel)


# --- a change of any stage ------------------------------------------------------------------------

Change = Callable[[pytest.MonkeyPatch], None]


def brighter(patch: pytest.MonkeyPatch) -> None:
    """What is read is brighter."""

    def changed(*arguments: Any) -> Any:
        sample = read_sample(*arguments)
        return replace(sample, x_tcyx=sample.x_tcyx * 2)

    patch.setattr("embedcube.kernel.embed.read_sample", changed)


def larger(patch: pytest.MonkeyPatch) -> None:
    """Vectors are larger."""
    forward = embed.forward
    patch.setattr(embed, "forward", lambda *arguments: forward(*arguments) * 2)


def counted_twice(patch: pytest.MonkeyPatch) -> None:
    """Counts of acquisitions are encoded twice as large."""
    encode = ShardEncoder.encode
    patch.setattr(ShardEncoder, "encode", lambda self, arrays: encode(self, arrays | {"n_obs": arrays["n_obs"] * 2}))


stages = pytest.mark.parametrize("change", [brighter, larger, counted_twice])


class LoneParent:
    """A parent of one rank."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def count(self, counter: str) -> int:
        """Add 1 to a counter and return it."""
        self._counts[counter] += 1
        return self._counts[counter]

    def hold(self, held: Sequence[Held], finish_s: float) -> None:
        """Nobody asks for it."""


@stages
@pytest.mark.parametrize("busy_core", [False, True])
def test_a_rank_goes_through_the_stages_of_run_shard(
    finished: Campaign,
    kernel: Kernel,
    change: Change,
    busy_core: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Overlapped and in turn: with a stage changed, its records are those of `run_shard`, and not the old ones."""
    change(monkeypatch)
    expected = {recipe: digests(objects) for recipe, objects in kernel.run_shards().items()}
    before = recorded(finished, kernel)
    # a shard whose scenes are all cloudy may stay as it is
    assert any(expected[recipe] != before[recipe] for recipe in before)

    device, parent, part = torch.device("cpu"), LoneParent(), tmp_path / "parts" / "0" / "attempt" / "0"
    place = Place(rank=0, local_rank=0, world=1, parent=0, store="")
    left, history = {shard.recipe for group in kernel.groups for shard in group}, CrashHistory(crashes={}, refused={})
    draws = RankDraws(kernel.groups, left, history, parent, place, 1, Stop(), float("inf"))
    writer = PartWriter(part)
    recorder = Recorder(writer, EnergyMeter(device), 0, {}, device="cpu", attempt="attempt", rank=0)
    campaign = load_campaign(finished.file)
    recipes = PlannedRecipes.here(campaign, read_plan(campaign, finished.run), kernel.scenes)
    Pipeline(kernel.contexts, kernel.scenes, {}, kernel.reader, recorder, recipes).run(draws, busy_core=busy_core)
    writer.close()
    records = [json.loads(line) for line in (part / "records.jsonl").read_text().splitlines()]
    assert {r["recipe"]: {o["array"]: o["sha256"] for o in r["arrays"]} for r in records} == expected


def test_verify_finds_what_ranks_recorded(finished: Campaign) -> None:
    assert verify_run(load_campaign(finished.file), finished.run, lambda *_: None, recompute=2) == []


@stages
def test_verify_goes_through_the_stages_of_run_shard(
    finished: Campaign, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign, run = load_campaign(finished.file), finished.run
    change(monkeypatch)
    findings = verify_run(campaign, run, lambda *_: None, recompute=2)
    assert {finding.check for finding in findings} == {"same bytes"}
    assert {finding.place.partition("/")[0] for finding in findings} == {"s2_mosaiks", "vit"}
