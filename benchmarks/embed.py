"""`embed` beside its bound and beside plain xarray + Dask, paired in one run. `python -m benchmarks.embed`.

The seconds of all three leave out the start of the interpreter and its imports, which are printed on their own.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from benchmarks.work import ENCODERS, Encoder, prepare
from embedcube.campaign.load import load_campaign
from embedcube.campaign.parts import scan_records
from embedcube.campaign.plan import read_plan
from embedcube.campaign.run_folder import RunDir
from embedcube.jobs.profile import profile
from embedcube.timings import DEVICE

ROOT = Path(__file__).parents[1]
PATHS = (str(ROOT / "tests" / "plugins"), str(ROOT), os.environ.get("PYTHONPATH"))
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, PATHS))}


def main() -> None:
    """Measure every encoder and print a table of medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--encoder", choices=sorted(ENCODERS), action="append")
    arguments = parser.parse_args()
    cores = os.cpu_count() or 1
    print(f"chips of 224 px, six tiled uint16 GeoTIFFs, {cores} cores; medians of {arguments.repeat} rounds")
    terratorch = importlib.util.find_spec("terratorch") is not None
    possible = [name for name, encoder in sorted(ENCODERS.items()) if terratorch or not _of_terratorch(encoder)]
    for name in arguments.encoder or possible:
        with tempfile.TemporaryDirectory() as folder:
            rounds = list(measure(Path(folder), ENCODERS[name], cores, arguments.repeat))
        print(f"\n{name}  {ENCODERS[name].backbone}, {ENCODERS[name].chips ** 2} chips")
        for figure in rounds[0]:
            values = [one[figure] for one in rounds]
            print(f"  {figure:<42}{statistics.median(values):8.2f}   ({min(values):.2f} .. {max(values):.2f})")


def measure(folder: Path, encoder: Encoder, cores: int, repeat: int) -> Iterator[dict[str, float]]:
    """One dictionary of figures for each round; all contenders take their turn in every round."""
    campaign_file = prepare(folder, encoder, cores)
    for stage in ("index", "fit", "plan"):
        run_command(str(Path(sys.executable).parent / "embedcube"), stage, str(campaign_file))
    campaign = load_campaign(campaign_file)
    run = RunDir(campaign.run_folder)
    price = read_plan(campaign, run).price
    for i in range(repeat):
        before = bound(campaign_file, cores)
        ours = embed_once(run, campaign_file)
        after = bound(campaign_file, cores)
        parts = {step: (before[step] + after[step]) / 2 for step in before}
        plain = json.loads(run_module("benchmarks.plain_dask", campaign_file, folder / f"plain{i}.zarr", 1))["wall_s"]
        tuned = json.loads(run_module("benchmarks.plain_dask", campaign_file, folder / f"tuned{i}.zarr", 4))["wall_s"]
        least_s = sum(parts.values()) / cores
        alone_s = sum(bound(campaign_file, 1).values()) / cores
        peer = {}
        if _of_terratorch(encoder):
            seconds = json.loads(run_module("benchmarks.terratorch_task", campaign_file, folder / f"task{i}"))
            peer = {"TerraTorch's task / embed": min(seconds.values()) / ours["wall_s"]}
        spent = profile(campaign, run).all
        yield {
            "embed, s": ours["wall_s"],
            "start-up of processes, s": ours["start_s"],
            "bound: (forward + decode + encode) / cores, s": least_s,
            "  forward, CPU s": parts["forward_s"],
            "  decode once, CPU s": parts["decode_s"],
            "  encode, CPU s": parts["encode_s"],
            "embed / bound": ours["wall_s"] / least_s,
            "embed / bound of one process alone": ours["wall_s"] / alone_s,
            "plain Dask (block = chip) / embed": plain / ours["wall_s"],
            "tuned Dask (block = shard) / embed": tuned / ours["wall_s"],
            "peak memory of a rank / its price": ours["rank_bytes"] / price.rank_bytes,
            "steps of --profile / wall": sum(spent.seconds[step] for step in DEVICE) / spent.wall_s,
        } | peer


def _of_terratorch(encoder: Encoder) -> bool:
    return encoder.backbone["name"] == "terratorch"


def bound(campaign_file: Path, processes: int) -> dict[str, float]:
    """CPU seconds of the whole work by step, shared by some processes that begin at once."""
    started: list[subprocess.Popen[str]] = []
    for part in range(processes):
        command = (sys.executable, "-m", "benchmarks.bound", str(campaign_file), str(part), str(processes))
        started.append(
            subprocess.Popen(command, env=ENVIRONMENT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        )
    for process in started:
        assert process.stdin
        assert process.stdout
        if process.stdout.readline() != "ready\n":
            raise SystemExit(f"{process.args!r} did not begin")
    for process in started:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    parts = [json.loads(process.communicate()[0]) for process in started]
    return {step: sum(part[step] for part in parts) for step in parts[0]}


def embed_once(run: RunDir, campaign_file: Path) -> dict[str, float]:
    """Run the verb on a folder without parts; seconds from the first read to the last record."""
    subprocess.run(["rm", "-rf", str(run.parts)], check=True)
    start = time.perf_counter()
    run_command(str(Path(sys.executable).parent / "embedcube"), "embed", str(campaign_file))
    whole = time.perf_counter() - start
    records = [record for _, record in scan_records(run)]
    first = min(datetime.fromisoformat(record.started) for record in records)
    last = max(datetime.fromisoformat(record.finished) for record in records)
    wall = (last - first).total_seconds()
    peak = max(record.peak_bytes for record in records)
    return {"wall_s": wall, "start_s": whole - wall, "rank_bytes": peak}


def run_command(*command: str) -> str:
    """Its standard output; a failure shows what it said."""
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def run_module(module: str, *arguments: object) -> str:
    """A measurement in a process of its own."""
    return run_command(sys.executable, "-m", module, *map(str, arguments))


if __name__ == "__main__":
    main()
