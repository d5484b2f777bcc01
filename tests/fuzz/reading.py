"""Reads an archive as `index`, `plan` and a rank do, and compares what comes of a damaged one with the clean one.

index               prepare/index.py      archive -> inventory
plan                prepare/plan.py       inventory -> shards, with the price of a rank
read_sample         kernel/sample.py      a shard's scenes -> its pixels, and what was quarantined
"""

import hashlib
import logging
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import xarray
from numpy.typing import NDArray

from embedcube.backbones.weights import read_weights
from embedcube.campaign import plugins
from embedcube.campaign.inventory import read_inventory
from embedcube.campaign.load import load_campaign
from embedcube.campaign.plan import read_plan, read_shards
from embedcube.campaign.run_folder import RunDir
from embedcube.errors import EmbedcubeError
from embedcube.kernel.load import make_context
from embedcube.kernel.sample import Sample, read_sample
from embedcube.prepare.fit import fit
from embedcube.prepare.index import index
from embedcube.prepare.plan import plan
from embedcube.sources.catalog import netcdf
from embedcube.sources.era5 import apart
from embedcube.sources.reader import RasterReader

LAYER = "layer"

When = Literal["before index", "before index, full digests", "after plan"]
"""When the file is damaged."""

Outcome = Literal[
    "equal", "refused", "other", "left out", "vanished", "spread", "stopped", "traceback", "crash", "hang", "memory"
]
"""What came of a damaged file:

equal       the same pixels as from the clean file: the damage lies where nothing is read
refused     a verdict of `index`, or a quarantine by the rank
other       other pixels, valid, without a word
left out    a scene fewer, and a warning
vanished    a scene fewer, without a word
spread      refused, and the pixels of another scene changed
stopped     the stage ended with an error in words, as if nothing of the archive could be used
traceback   an exception that no code expects
crash       a signal or a sudden end
hang        not done within the time
memory      more memory than how.mem_gb
"""

FORBIDDEN: tuple[Outcome, ...] = ("vanished", "spread", "stopped", "traceback", "crash", "hang", "memory")
"""None of these may come of any input."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What was read of an archive."""

    scenes: dict[str, str]
    """for each scene the verdict, or the reason of its quarantine; empty for one that was used"""
    windows: dict[str, dict[str, str]]
    """for each shard that was read, digests of its values, of where it is clear, and of the status of its cells"""
    warnings: list[str] = field(default_factory=list)


def load_plugins() -> None:
    """Look at every installed package once, which takes long, before the process is forked for each input."""
    for room in get_args(plugins.Room):
        plugins.names(room)
    xarray.backends.list_engines()


def open_here() -> None:
    """Open all files in this process, which `index` leaves to another one: to start that takes longer than a trial."""
    for module in (apart, netcdf):
        vars(module)["apart"] = lambda work, size, *args: work(*args)


def prepare(campaign_file: Path) -> None:
    """Fit the weights of a clean archive once: what is read of it later does not depend on them, `plan` needs them."""
    campaign = load_campaign(campaign_file)
    run = RunDir(campaign.run_folder)
    run.root.mkdir(parents=True, exist_ok=True)
    index(campaign, run)
    fit(campaign, run)


def read(campaign_file: Path, when: When = "before index", damage: Callable[[], None] = lambda: None) -> Reading:
    """Index, plan and read an archive; `damage` is called at the time that `when` names."""
    heard = _Heard()
    logging.getLogger("embedcube").addHandler(heard)
    campaign = load_campaign(campaign_file)
    run = RunDir(campaign.run_folder)
    if when != "after plan":
        damage()
    index(campaign, run, full_digests=when == "before index, full digests")
    plan(campaign, run)
    if when == "after plan":
        damage()
    planned, scenes = read_plan(campaign, run), read_inventory(campaign, run)
    said = {scene.id: scene.verdict for scene in scenes}
    weights, _ = read_weights(campaign, run, LAYER)
    zones = list(planned.layers[LAYER].zones)
    context = make_context(campaign, LAYER, zones, weights, torch.nn.Identity(), torch.device("cpu"), batch=2)
    reader, windows = RasterReader(1, attempts=2, wait_s=0.01), {}
    try:
        for shard in (shard for group in read_shards(run, planned) for shard in group):
            sample = read_sample(shard, [scenes[i] for i in shard.scenes], context, reader)
            said.update({scenes[i].id: reason.words for i, reason in sample.quarantined})
            windows[f"{shard.t} {shard.row} {shard.col}"] = _digests(sample)
    finally:
        reader.close()
    return Reading(scenes=said, windows=windows, warnings=heard.said)


def outcome_of(
    clean: Reading, campaign_file: Path, when: When, damage: Callable[[], None], spared: tuple[str, ...]
) -> dict[str, Any]:
    """The outcome of a damaged file, and the words that go with it; `spared` are windows that it does not feed."""
    try:
        reading = read(campaign_file, when, damage)
    except (EmbedcubeError, OSError) as error:
        return _answer("stopped", f"{type(error).__name__}: {error}")
    except Exception as error:
        return _answer("traceback", f"{type(error).__name__}: {error}", traceback.format_exc(limit=-6))
    return _answer(*_compared(clean, reading, spared))


def reference_of(campaign_file: Path) -> dict[str, Any]:
    """What the clean archive gives, as a document."""
    return asdict(read(campaign_file))


def _compared(clean: Reading, reading: Reading, spared: tuple[str, ...]) -> tuple[Outcome, str]:
    reasons = [reason for name, reason in sorted(reading.scenes.items()) if reason and not clean.scenes.get(name)]
    changed = {
        f"{part} of window {window.split()[0]}"
        for window in clean.windows.keys() | reading.windows.keys()
        for part in ("values", "clear", "status")
        if clean.windows.get(window, {}).get(part) != reading.windows.get(window, {}).get(part)
    }
    if len(reading.scenes) < len(clean.scenes):
        return ("left out", reading.warnings[0]) if reading.warnings else ("vanished", "a scene fewer, and no word")
    if reasons:
        # a file whose time is not known may have fed any window: then the status of every cell says so
        hurt = sorted(words for words in changed if words.endswith(spared) and not words.startswith("status"))
        return ("spread", f"{', '.join(hurt)}; {reasons[0]}") if hurt else ("refused", reasons[0])
    return ("other", ", ".join(sorted(changed))) if changed else ("equal", "")


def _answer(outcome: Outcome, words: str, stack: str = "") -> dict[str, Any]:
    return {"outcome": outcome, "words": words[:400], "stack": stack}


def _digests(sample: Sample) -> dict[str, str]:
    clear = np.asarray(sample.clear_tsyx.any(axis=1))[:, None]
    return {
        "values": _sha256(np.where(clear, sample.x_tcyx, 0)),
        "clear": _sha256(sample.clear_tsyx),
        "status": _sha256(sample.status_yx),
    }


def _sha256(array: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


class _Heard(logging.Handler):
    """Keeps the warnings of the package."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())
