"""The work that `benchmarks.gpu` measures: a vision transformer over tiled GeoTIFFs, its forward passes and `embed`."""

import importlib.util
import json
import math
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import rasterio
import torch
import yaml

from benchmarks.archive import BANDS, NORTH, WEST, write_archive
from benchmarks.work import chips_of
from embedcube.backbones.weights import read_weights
from embedcube.campaign.parts import scan_records
from embedcube.campaign.plan import read_plan
from embedcube.campaign.resolve import open_run
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.schema import Campaign
from embedcube.cli import stages
from embedcube.kernel.device import exact_arithmetic
from embedcube.kernel.embed import forward
from embedcube.kernel.layer import LayerContext
from embedcube.kernel.load import load_context
from embedcube.kernel.quantise import quantise
from embedcube.timings import WITHIN_READ

Rows = dict[str, float | int | str]
"""What was found, by its name with its unit"""

LAYER = "layer"


class LeftOut(Exception):
    """A part cannot be done here; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large all is."""

    device: str
    backbone: dict[str, str | int]
    chip_px: int
    chips: int
    """along a side of the scene"""
    shard_chips: int
    batch: int
    windows: int
    """each has a scene of its own, of the same files"""
    copied_bytes: int
    repeat: int
    compiles: bool
    ranks: int


def full_sizes() -> Sizes:
    """A ViT-base on all GPUs."""
    vit: dict[str, str | int] = {"name": "tiny_vit", "width": 768, "depth": 12, "heads": 12}
    return Sizes(
        device="cuda",
        backbone=vit,
        chip_px=224,
        chips=32,
        shard_chips=8,
        batch=64,
        windows=6,
        copied_bytes=1 << 28,
        repeat=20,
        compiles=True,
        ranks=torch.cuda.device_count(),
    )


DRY = Sizes(
    device="cpu",
    backbone={"name": "tiny_vit", "width": 64, "depth": 1, "heads": 2},
    chip_px=32,
    chips=4,
    shard_chips=2,
    batch=4,
    windows=2,
    copied_bytes=1 << 20,
    repeat=2,
    compiles=False,
    ranks=1,
)


class Work:
    """The archive, and a campaign for each way to compute the layer; each is made when it is first asked for."""

    def __init__(self, sizes: Sizes, folder: Path) -> None:
        self.sizes, self._folder = sizes, folder
        self.planned = cache(self._planned)

    def _planned(self, way: str) -> tuple[Campaign, RunDir]:
        """The campaign in a precision, or `compiled`, up to its plan."""
        sizes, archive = self.sizes, self._folder / "archive"
        if not archive.exists():
            with rasterio.Env(GDAL_NUM_THREADS="ALL_CPUS"):
                write_archive(archive, side_px=sizes.chips * sizes.chip_px)
            item = json.loads((archive / "item.json").read_text())
            (archive / "item.json").unlink()
            for month in range(1, sizes.windows + 1):
                dated = item["properties"] | {"datetime": f"2023-{month:02d}-15T10:00:00Z"}
                (archive / f"{month}.json").write_text(json.dumps(item | {"id": f"m{month}", "properties": dated}))
        layer = {
            "archives": ["s2"],
            "backbone": sizes.backbone,
            "chip_px": sizes.chip_px,
            "halo_px": 0,
            "cell_px": 16,
            "shard_chips": sizes.shard_chips,
            "batch": sizes.batch,
            "precision": "float32" if way == "compiled" else way,
            "compile": way == "compiled",
        }
        document = {
            "campaign": way,
            "archives": {"s2": {"source": "sentinel2", "path": str(archive), "bands": list(BANDS)}},
            "grid": {"crs": "EPSG:32632", "pixel": 10, "origin": [WEST, NORTH]},
            "windows": {"start": "2023-01-01", "end": f"2023-{sizes.windows + 1:02d}-01", "step": "1 month"},
            "layers": {LAYER: layer},
            "how": {"device": sizes.device, "ranks": sizes.ranks},
        }
        path = self._folder / f"{way}.yaml"
        path.write_text(yaml.safe_dump(document))
        campaign, run = open_run(path)
        stages.prepare(campaign, run, _silent)
        return campaign, run

    @contextmanager
    def context(self, way: str) -> Iterator[LayerContext]:
        """The layer on the first device."""
        campaign, run = self.planned(way)
        exact_arithmetic(campaign.how.threads_per_rank)
        plan = read_plan(campaign, run).layers[LAYER]
        program = run.program(LAYER, plan.compiled_for, plan.program).read_bytes() if plan.program else b""
        weights, _ = read_weights(campaign, run, LAYER)
        yield load_context(
            campaign, LAYER, ["grid"], weights, torch.device(self.sizes.device), self.sizes.batch, program
        )
        if self.sizes.device == "cuda":
            torch.cuda.empty_cache()


def _silent(line: str) -> None:
    """The stages print nothing."""


def wait_for(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def forwards(work: Work) -> Rows:
    """Chips a second of each way to compute the layer, and how far its vectors are from float32."""
    sizes, rows = work.sizes, Rows()
    side = sizes.chip_px
    pixels = torch.randn((sizes.batch, 1, len(BANDS), side, side), generator=torch.Generator().manual_seed(0))
    exact = None
    for way in ("float32", "bfloat16", *["compiled"] * sizes.compiles):
        with work.context(way) as context:
            rate, vectors = _rate(context, pixels, sizes.repeat)
        rows[f"{way}, chips/s on one device"] = rate
        if exact is None:
            exact = vectors
            continue
        cosine = torch.nn.functional.cosine_similarity(exact, vectors, dim=-1)
        rows[f"{way}, least cosine to float32"] = float(cosine.min())
        stored = [quantise(one, "int8").stored.int() for one in (exact, vectors)]
        off = (stored[0] - stored[1]).abs()
        rows[f"{way}, int8 equal to float32, %"] = 100 * float((off == 0).float().mean())
        rows[f"{way}, int8 off by at most"] = int(off.max())
    return rows


def _rate(context: LayerContext, pixels: torch.Tensor, repeat: int) -> tuple[float, torch.Tensor]:
    """Chips a second of full batches one after the other, and the vectors of one on the CPU."""
    chips = chips_of(context, pixels)
    chips = replace(chips, **{name: tensor.to(context.device) for name, tensor in vars(chips).items()})
    vectors = forward(context, chips).cpu()
    wait_for(context.device)
    start_s = time.perf_counter()
    for _ in range(repeat):
        forward(context, chips)
    wait_for(context.device)
    return repeat * context.batch / (time.perf_counter() - start_s), vectors


def embedding(work: Work, way: str) -> Rows:
    """`embed` with a forked rank on each device, beside its forward passes alone."""
    sizes = work.sizes
    if way != "float32" and sizes.device == "cpu":
        raise LeftOut("on a CPU it shows no more than float32")
    campaign, run = work.planned(way)
    with work.context(way) as context:
        shape = (sizes.batch, 1, len(BANDS), sizes.chip_px, sizes.chip_px)
        rate, _ = _rate(context, torch.randn(shape), sizes.repeat)
    with _busy(sizes) as busy:
        stages.embed(campaign, run, _silent, None)
    records = [record for _, record in scan_records(run)]
    planned = read_plan(campaign, run)
    if len(records) != planned.shards:
        raise ValueError(f"{len(records)} records of {planned.shards} shards")
    first = min(datetime.fromisoformat(record.started) for record in records)
    last = max(datetime.fromisoformat(record.finished) for record in records)
    wall_s = (last - first).total_seconds()
    chips = sum(record.counts["chips"] for record in records)
    batches = sum(math.ceil(record.counts["chips"] / sizes.batch) for record in records)
    forward_s = batches * sizes.batch / rate / sizes.ranks
    threads = campaign.how.threads_per_rank
    read_s = sum(record.seconds.get(step, 0.0) for record in records for step in WITHIN_READ) / threads / sizes.ranks
    on_device = sum(record.seconds.get(step, 0.0) for record in records for step in ("copy", "forward", "quantise"))
    energy = [record.energy_j for record in records if record.energy_j is not None]
    rows: Rows = {
        "ranks, forked": len({record.rank for record in records}),
        "chips": chips,
        "wall, s": wall_s,
        "forward passes alone, s": forward_s,
        f"reading, s of {threads} threads of a rank": read_s,
        "wall / the longer of both": wall_s / max(forward_s, read_s),
        "time that a rank's device works, %": 100 * on_device / sizes.ranks / wall_s,
        "peak memory of a rank / its price": max(r.peak_bytes for r in records) / planned.price.rank_bytes,
    }
    if busy:
        rows["GPU busy by its own count (NVML), %"] = statistics.mean(busy)
    if energy:
        rows |= {"energy of the GPUs, kJ": sum(energy) / 1000, "energy of a chip, J": sum(energy) / chips}
    return rows


@contextmanager
def _busy(sizes: Sizes) -> Iterator[list[float]]:
    """Percent that the GPUs say they are busy, ten times a second from their first work to their last.

    The list is filled when the block ends; it stays empty where no GPU can be asked (NVML, the extra `energy`).
    """
    samples, ended = list[float](), threading.Event()
    handles = _meters() if sizes.device == "cuda" else []
    if not handles:
        yield samples
        return
    import pynvml

    taken = list[float]()

    def take() -> None:
        while not ended.wait(0.1):
            taken.append(statistics.mean(float(pynvml.nvmlDeviceGetUtilizationRates(one).gpu) for one in handles))

    taker = threading.Thread(target=take, daemon=True)
    taker.start()
    try:
        yield samples
    finally:
        ended.set()
        taker.join()
        working = [i for i, share in enumerate(taken) if share]
        samples += taken[working[0] : working[-1] + 1] if working else []


def _meters() -> list[Any]:
    """NVML's handles of the GPUs; none where it cannot be asked."""
    if importlib.util.find_spec("pynvml") is None:
        return []
    import pynvml

    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        # a part of a GPU (MIG) does not say how busy it is
        for handle in handles:
            pynvml.nvmlDeviceGetUtilizationRates(handle)
    except pynvml.NVMLError:
        return []
    return handles
