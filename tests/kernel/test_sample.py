"""Reading a shard with many threads: the sample is the same, and after an error no thread goes on reading."""

import shutil
import threading
import time
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import Campaign

from embedcube.backbones.base import Weights, make_inputs
from embedcube.campaign.load import load_campaign
from embedcube.campaign.plan import Shard
from embedcube.campaign.scene import Scene
from embedcube.errors import CorruptInput
from embedcube.grid import Grid, PixelArea
from embedcube.kernel import frames as frames_module
from embedcube.kernel.layer import LayerContext, LayerInput
from embedcube.kernel.load import make_context
from embedcube.kernel.sample import Sample, read_sample
from embedcube.prepare.index import index
from embedcube.prepare.shards import cut
from embedcube.sources.base import Observation
from embedcube.sources.reader import RasterReader
from embedcube.sources.sentinel2.source import Sentinel2
from embedcube.windows import Window


@pytest.fixture(scope="module")
def worst(demo_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[LayerContext, Shard, list[Scene]]:
    """The shard of the demo with the most scenes, cloudy ones of several tiles, and its context."""
    campaign = Campaign(tmp_path_factory.mktemp("worst") / "campaign.yaml")
    shutil.copy(demo_archive / "campaign.yaml", campaign.file)

    def change(document: dict[str, Any]) -> None:
        document["archives"]["s2"]["path"] = str(demo_archive / "archive" / "sentinel2")
        document["windows"] = [["2023-01-01", "2024-01-01"]]

    campaign.change(change)
    resolved = load_campaign(campaign.file)
    campaign.run.root.mkdir(parents=True)
    scenes = index(resolved, campaign.run)
    (name,) = resolved.layers
    bands = np.ones(make_inputs(resolved, name).channels, dtype=np.float32)
    weights = Weights(mean=0 * bands, std=bands, tensors={})
    context = make_context(resolved, name, ["grid"], weights, torch.nn.Identity(), torch.device("cpu"), batch=2)
    found = cut(resolved, name, context.grids["grid"], scenes)
    assert found is not None
    shards, _ = found
    most = int(np.diff(shards.first).argmax())
    linked = tuple(shards.scenes[shards.first[most] : shards.first[most + 1]].tolist())
    shard = Shard(
        layer=name, zone="grid", t=int(shards.t[most]), row=int(shards.row[most]), col=int(shards.col[most]), iy=0,
        ix=0, recipe="", scenes=linked,
    )  # fmt: skip
    return context, shard, [scenes[i] for i in linked]


def sample_of(worst: tuple[LayerContext, Shard, list[Scene]], threads: int) -> Sample:
    context, shard, scenes = worst
    reader = RasterReader(threads, attempts=1)
    try:
        return read_sample(shard, scenes, context, reader)
    finally:
        reader.close()


@pytest.mark.parametrize(("threads", "strip_bytes"), [(8, 1 << 19), (1, 1), (8, 5000)])
def test_a_sample_is_the_same_with_any_threads_and_strips(
    threads: int,
    strip_bytes: int,
    worst: tuple[LayerContext, Shard, list[Scene]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(frames_module, "_STRIP_BYTES", 1 << 40)
    expected = sample_of(worst, threads=1)
    assert len(worst[2]) > 8
    assert 0 < np.isnan(expected.x_tcyx).mean() < 1
    assert expected.n_obs_yx.max() > 2
    monkeypatch.setattr(frames_module, "_STRIP_BYTES", strip_bytes)
    found = sample_of(worst, threads)
    for field in fields(Sample):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(expected, field.name), err_msg=field.name)


class Failing(Sentinel2):
    """A source that fails for some scenes before others are read."""

    def __init__(self, source: Any, failures: dict[str, Exception]) -> None:
        self.__dict__.update(source.__dict__)
        self.failures = failures
        self.reading = 0
        self._lock = threading.Lock()

    def observe(self, scene: Scene, frame: Window, grid: Grid, area: PixelArea, reader: RasterReader) -> Observation:
        if scene.id in self.failures:
            raise self.failures[scene.id]
        with self._lock:
            self.reading += 1
        try:
            time.sleep(0.02)
            return super().observe(scene, frame, grid, area, reader)
        finally:
            with self._lock:
                self.reading -= 1


def with_source(context: LayerContext, source: Any) -> LayerContext:
    (one,) = context.inputs
    return replace(
        context, inputs=(LayerInput(archive=one.archive, source=source, channels=one.channels, counts=one.counts),)
    )


def test_scenes_that_are_corrupt_cost_the_others_nothing(worst: tuple[LayerContext, Shard, list[Scene]]) -> None:
    context, shard, scenes = worst
    bad = {scenes[2].id: CorruptInput("torn"), scenes[0].id: CorruptInput("empty")}
    source = Failing(context.inputs[0].source, dict(bad))
    found = sample_of((with_source(context, source), shard, scenes), threads=4)
    assert {i: reason.words for i, reason in found.quarantined} == {shard.scenes[0]: "empty", shard.scenes[2]: "torn"}
    rest = [i for i in range(len(scenes)) if i not in (0, 2)]
    without = replace(shard, scenes=tuple(shard.scenes[i] for i in rest))
    expected = sample_of((context, without, [scenes[i] for i in rest]), threads=1)
    np.testing.assert_array_equal(found.x_tcyx, expected.x_tcyx)


def test_a_passing_failure_ends_the_shard_when_no_read_goes_on(
    worst: tuple[LayerContext, Shard, list[Scene]],
) -> None:
    context, shard, scenes = worst
    source = Failing(context.inputs[0].source, {scenes[0].id: OSError("stale handle")})
    reader = RasterReader(threads=4, attempts=1)
    try:
        with pytest.raises(OSError, match="stale handle"):
            read_sample(shard, scenes, with_source(context, source), reader)
        assert source.reading == 0
    finally:
        reader.close()


def test_calls_together_wait_for_one_another_and_come_in_their_order() -> None:
    reader = RasterReader(threads=3)
    met = threading.Barrier(3, timeout=20)

    def call(number: int) -> int:
        met.wait()
        return number

    try:
        assert reader.together([partial(call, number) for number in range(9)]) == list(range(9))
    finally:
        reader.close()
