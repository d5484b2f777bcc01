"""What a machine with a GPU gives, in less than eight minutes: `make gpu`, or `python -m benchmarks.gpu`.

Tests that need a GPU, copies from pinned memory, NCCL, a ViT-base in float32, in bfloat16 and compiled, and `embed` of
it from tiled GeoTIFFs beside its forward passes alone, with the share of the time that the GPU is busy and its energy.
The table is written as Markdown and JSON. Without a GPU it says so and ends with 2; `--dry` does on the CPU, with a
small model, all that needs no GPU: that shows whether the script works, and its figures say nothing.
"""

import argparse
import importlib.util
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import cache
from pathlib import Path

import numpy as np
import rasterio
import torch
import torch.multiprocessing
import yaml
from torch import distributed

from benchmarks.archive import BANDS, NORTH, WEST, write_archive
from benchmarks.work import chips_of
from embedcube.backbones.weights import read_weights
from embedcube.campaign.parts import scan_records
from embedcube.campaign.plan import read_plan
from embedcube.campaign.resolve import open_run
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.schema import Campaign
from embedcube.cli import stages
from embedcube.kernel.device import OnDevice, device_class, exact_arithmetic, host_empty
from embedcube.kernel.embed import forward
from embedcube.kernel.layer import LayerContext
from embedcube.kernel.load import load_context
from embedcube.kernel.quantise import quantise
from embedcube.workers.starting import servers_kept

ROOT = Path(__file__).parents[1]
PLUGINS = ROOT / "tests" / "plugins"
LAST_START_S = 360.0
"""nothing is begun later: what a part takes at most fits into the rest of the eight minutes"""
PART_S = 120.0
"""limit of a part that is a process of its own"""
LAYER = "layer"


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


@dataclass(kw_only=True)
class Part:
    """One part of the measurement."""

    name: str
    rows: dict[str, float | int | str] = field(default_factory=dict)
    """what was found, by its name with its unit"""
    left_out: str = ""
    """why it was not done here"""
    failed: str = ""
    """how it failed"""
    seconds: float = 0.0


class LeftOut(Exception):
    """A part cannot be done here; the message says why."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do all parts, print and write the table; 0, 1 where a part failed, 2 where there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="on the CPU, with small sizes: tries the script alone")
    parser.add_argument("--out", type=Path, default=ROOT / "build", help="folder of gpu.md and gpu.json")
    parser.add_argument("--image", type=Path, help="an Apptainer image of embedcube (containers/build.sh)")
    asked = parser.parse_args(arguments)
    if not (asked.dry or torch.cuda.is_available()):
        print(
            "benchmarks.gpu: torch finds no GPU here, so nothing was measured. On a machine with one, install a torch "
            "for CUDA into .venv; `python -m benchmarks.gpu --dry` tries the script on the CPU",
            file=sys.stderr,
        )
        return 2
    sizes = DRY if asked.dry else full_sizes()
    # the backbone is a plugin of the tests, which ranks find by its entry point, too
    sys.path.insert(0, str(PLUGINS))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(PLUGINS), os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryDirectory() as folder, servers_kept():
        parts = measure(sizes, Path(folder), asked.image)
    lines = table(parts, dry=asked.dry)
    print("\n".join(lines))
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "gpu.md").write_text("\n".join(lines) + "\n")
    (asked.out / "gpu.json").write_text(json.dumps([asdict(part) for part in parts], indent=1) + "\n")
    return int(any(part.failed for part in parts))


def measure(sizes: Sizes, folder: Path, image: Path | None) -> list[Part]:
    """All parts in turn; one that fails does not end the others."""
    work = _Work(sizes, folder)
    todo: dict[str, Callable[[], dict[str, float | int | str]]] = {
        "machine": lambda: machine(sizes),
        "copies to the device": lambda: copies(sizes),
        "broadcast between ranks": lambda: collective(sizes, folder),
        "forward passes": lambda: forwards(work),
        "embed in float32": lambda: embedding(work, "float32"),
        "embed in bfloat16": lambda: embedding(work, "bfloat16"),
        "image": lambda: in_image(sizes, image),
        "tests that need a GPU": lambda: gpu_tests(sizes),
    }
    began_s, parts = time.monotonic(), []
    for name, do in todo.items():
        part, start_s = Part(name=name), time.monotonic()
        try:
            if start_s - began_s > LAST_START_S:
                raise LeftOut(f"{LAST_START_S:.0f} s were over")
            part.rows = do()
        except LeftOut as reason:
            part.left_out = str(reason)
        except Exception as error:
            traceback.print_exc()
            part.failed = f"{type(error).__name__}: {error}".splitlines()[0]
        part.seconds = time.monotonic() - start_s
        print(f"{name}: {part.failed or part.left_out or 'done'}, {part.seconds:.0f} s", file=sys.stderr, flush=True)
        parts.append(part)
    return parts


def table(parts: Sequence[Part], *, dry: bool) -> list[str]:
    """The parts as lines of Markdown."""
    lines = ["A dry run on a CPU with a small model: the figures say nothing.", ""] if dry else []
    lines += ["| part | what | value |", "|---|---|---:|"]
    for part in parts:
        if part.failed or part.left_out:
            lines.append(
                f"| {part.name} | {'FAILED' if part.failed else 'not done'} | {part.failed or part.left_out} |"
            )
        for what, value in part.rows.items():
            lines.append(f"| {part.name} | {what} | {f'{value:,.6g}' if isinstance(value, float) else value} |")
    return lines


def machine(sizes: Sizes) -> dict[str, float | int | str]:
    """What was measured on."""
    device = torch.device(sizes.device)
    rows: dict[str, float | int | str] = {
        "device class": device_class(device),
        "torch": torch.__version__,
        "cores": os.cpu_count() or 1,
    }
    if sizes.device == "cuda":
        rows |= {
            "GPUs": torch.cuda.device_count(),
            "GPU": torch.cuda.get_device_name(0),
            "memory of a GPU, GB": torch.cuda.get_device_properties(0).total_memory / 1e9,
            "CUDA": str(torch.version.cuda),
            "NCCL": ".".join(map(str, torch.cuda.nccl.version())),
        }
    return rows


def copies(sizes: Sizes) -> dict[str, float | int | str]:
    """GB a second to the device, of memory as a rank allocates it (pinned) and of common memory."""
    device = torch.device(sizes.device)
    pinned = host_empty((sizes.copied_bytes,), np.uint8, device)
    common = np.ones(sizes.copied_bytes, np.uint8)
    pinned[:] = common
    found: dict[str, float | int | str] = {}
    for name, source in (("pinned", pinned), ("common", common)):
        seconds = []
        for _ in range(sizes.repeat):
            _wait(device)
            start_s = time.perf_counter()
            copied = OnDevice({"x": source}, device).tensors()["x"]
            _wait(device)
            seconds.append(time.perf_counter() - start_s)
            if int(copied[-1]) != 1:
                raise ValueError("what arrived is not what was sent")
        found[f"{name} memory, GB/s"] = sizes.copied_bytes / statistics.median(seconds) / 1e9
    return found


def collective(sizes: Sizes, folder: Path) -> dict[str, float | int | str]:
    """A broadcast as weights are handed out, with a rank on each GPU: NCCL, or gloo in a dry run."""
    store = folder / "store"
    if sizes.ranks == 1:
        _broadcast(0, sizes, str(store))
    else:
        torch.multiprocessing.spawn(_broadcast, (sizes, str(store)), nprocs=sizes.ranks)
    backend = "nccl" if sizes.device == "cuda" else "gloo"
    return {"backend": backend, "ranks": sizes.ranks, "GB/s": float((folder / "store.speed").read_text())}


def _broadcast(rank: int, sizes: Sizes, store: str) -> None:
    """What one rank of `collective` does; rank 0 writes the speed."""
    on_gpu = sizes.device == "cuda"
    device = torch.device("cuda", rank) if on_gpu else torch.device("cpu")
    distributed.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=distributed.FileStore(store, sizes.ranks),
        rank=rank,
        world_size=sizes.ranks,
        device_id=device if on_gpu else None,
    )
    body = torch.full((sizes.copied_bytes,), rank, dtype=torch.uint8, device=device)
    seconds = []
    for _ in range(sizes.repeat):
        distributed.barrier()
        start_s = time.perf_counter()
        distributed.broadcast(body, 0)
        _wait(device)
        seconds.append(time.perf_counter() - start_s)
    if int(body.max()):
        raise ValueError(f"rank {rank} did not get what rank 0 sent")
    if rank == 0:
        Path(f"{store}.speed").write_text(str(sizes.copied_bytes / statistics.median(seconds) / 1e9))
    distributed.destroy_process_group()


class _Work:
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


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def forwards(work: _Work) -> dict[str, float | int | str]:
    """Chips a second of each way to compute the layer, and how far its vectors are from float32."""
    sizes, rows = work.sizes, dict[str, float | int | str]()
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
    _wait(context.device)
    start_s = time.perf_counter()
    for _ in range(repeat):
        forward(context, chips)
    _wait(context.device)
    return repeat * context.batch / (time.perf_counter() - start_s), vectors


def embedding(work: _Work, way: str) -> dict[str, float | int | str]:
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
    on_device = sum(record.seconds.get(step, 0.0) for record in records for step in ("copy", "forward", "quantise"))
    energy = [record.energy_j for record in records if record.energy_j is not None]
    rows: dict[str, float | int | str] = {
        "ranks, forked": len({record.rank for record in records}),
        "chips": chips,
        "wall, s": wall_s,
        "forward passes alone, s": forward_s,
        "wall / forward alone": wall_s / forward_s,
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
    if sizes.device == "cpu" or importlib.util.find_spec("pynvml") is None:
        yield samples
        return
    import pynvml

    pynvml.nvmlInit()
    handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
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


def in_image(sizes: Sizes, image: Path | None) -> dict[str, float | int | str]:
    """Whether embedcube runs inside the image, and sees the GPU there."""
    if shutil.which("apptainer") is None:
        raise LeftOut("no apptainer here")
    if image is None:
        raise LeftOut("no --image")
    command = ("apptainer", "exec", *["--nv"] * (sizes.device == "cuda"), str(image))
    code = "import torch; print(torch.__version__, torch.cuda.is_available())"
    seen = _output(*command, "python3", "-c", code)
    if sizes.device == "cuda" and not seen.endswith("True"):
        raise ValueError(f"the image does not see the GPU: {seen}")
    return {"embedcube": _output(*command, "embedcube", "--version"), "torch, sees a GPU": seen}


def gpu_tests(sizes: Sizes) -> dict[str, float | int | str]:
    """The tests that are marked `gpu`."""
    if sizes.device == "cpu":
        raise LeftOut("they skip without a GPU")
    return {"pytest": _output(sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/kernel").splitlines()[-1]}


def _output(*command: str) -> str:
    """Standard output of a command; what it said where it fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PART_S, check=False)
    if done.returncode:
        raise ValueError(f"{command[0]} ended with {done.returncode}: {(done.stdout + done.stderr).strip()[-300:]}")
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
