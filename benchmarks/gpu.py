"""What a machine with a GPU gives, in less than eight minutes: `make gpu`, or `python -m benchmarks.gpu`.

Tests that need a GPU, copies from pinned memory, NCCL, a ViT-base in float32, in bfloat16 and compiled, and `embed` of
it from tiled GeoTIFFs beside its forward passes alone, with the share of the time that the GPU is busy and its energy.
The table is written as Markdown and JSON. Without a GPU it says so and ends with 2; `--dry` does on the CPU, with a
small model, all that needs no GPU: that shows whether the script works, and its figures say nothing.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.multiprocessing
import yaml
from torch import distributed

from benchmarks.gpu_work import DRY, LeftOut, Rows, Sizes, Work, embedding, forwards, full_sizes, wait_for
from embedcube.kernel.device import OnDevice, device_class, host_empty
from embedcube.workers.starting import servers_kept

ROOT = Path(__file__).parents[1]
PLUGINS = ROOT / "tests" / "plugins"
LAST_START_S = 360.0
"""nothing is begun later: what a part takes at most fits into the rest of the eight minutes"""
PART_S = 120.0
"""limit of a part that is a process of its own"""


@dataclass(kw_only=True)
class Part:
    """One part of the measurement."""

    name: str
    rows: Rows = field(default_factory=dict)
    """what was found, by its name with its unit"""
    left_out: str = ""
    """why it was not done here"""
    failed: str = ""
    """how it failed"""
    seconds: float = 0.0


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
    work = Work(sizes, folder)
    todo: dict[str, Callable[[], Rows]] = {
        "machine": lambda: machine(sizes),
        "copies to the device": lambda: copies(sizes),
        "broadcast between ranks": lambda: collective(sizes, folder),
        "forward passes": lambda: forwards(work),
        "embed in float32": lambda: embedding(work, "float32"),
        "embed in bfloat16": lambda: embedding(work, "bfloat16"),
        "image": lambda: in_image(sizes, folder, image),
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


def machine(sizes: Sizes) -> Rows:
    """What was measured on."""
    device = torch.device(sizes.device)
    rows: Rows = {
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


def copies(sizes: Sizes) -> Rows:
    """GB a second to the device, of memory as a rank allocates it (pinned) and of common memory."""
    device = torch.device(sizes.device)
    pinned = host_empty((sizes.copied_bytes,), np.uint8, device)
    common = np.ones(sizes.copied_bytes, np.uint8)
    pinned[:] = common
    found: Rows = {}
    for name, source in (("pinned", pinned), ("common", common)):
        seconds = []
        for _ in range(sizes.repeat):
            wait_for(device)
            start_s = time.perf_counter()
            copied = OnDevice({"x": source}, device).tensors()["x"]
            wait_for(device)
            seconds.append(time.perf_counter() - start_s)
            if int(copied[-1]) != 1:
                raise ValueError("what arrived is not what was sent")
        found[f"{name} memory, GB/s"] = sizes.copied_bytes / statistics.median(seconds) / 1e9
    return found


def collective(sizes: Sizes, folder: Path) -> Rows:
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
    if on_gpu:
        torch.cuda.set_device(device)
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
        wait_for(device)
        seconds.append(time.perf_counter() - start_s)
    if int(body.max()):
        raise ValueError(f"rank {rank} did not get what rank 0 sent")
    if rank == 0:
        Path(f"{store}.speed").write_text(str(sizes.copied_bytes / statistics.median(seconds) / 1e9))
    distributed.destroy_process_group()


def in_image(sizes: Sizes, folder: Path, image: Path | None) -> Rows:
    """Whether the demo runs inside the image, on the GPU there."""
    if shutil.which("apptainer") is None:
        raise LeftOut("no apptainer here")
    if image is None:
        raise LeftOut("no --image")
    inside = ("apptainer", "exec", *["--nv"] * (sizes.device == "cuda"), "--bind", str(folder), str(image))
    code = "import embedcube, torch; print(embedcube.__version__, torch.__version__, torch.cuda.is_available())"
    version, torch_version, sees_gpu = _output(*inside, "python3", "-c", code).split()
    if sizes.device == "cuda" and sees_gpu != "True":
        raise ValueError("torch in the image does not see the GPU")
    campaign = folder / "demo" / "campaign.yaml"
    _output(*inside, "embedcube", "demo", str(campaign.parent), "--only", "sentinel2")
    document = yaml.safe_load(campaign.read_text())
    document["how"] = {"device": sizes.device, "ranks": sizes.ranks}
    campaign.write_text(yaml.safe_dump(document))
    start_s = time.monotonic()
    _output(*inside, "embedcube", "run", str(campaign))
    return {"embedcube": version, "torch": torch_version, "the demo on the GPU, s": time.monotonic() - start_s}


def gpu_tests(sizes: Sizes) -> Rows:
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
