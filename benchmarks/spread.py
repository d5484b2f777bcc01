"""Do ranks end together? And how long does an array take to submit? `python -m benchmarks.spread`.

Sixteen ranks on this machine draw the shards of the demo, whose batches sleep instead of computing: so sixteen fit on
few cores, and a shard takes as long as it has chips that see the ground. Printed are the spread of the ranks' last
records in units of the longest shard (at most one is promised), and the time of the slowest rank over the mean: as
drawn, and as the same shards would have taken in a static split, in blocks or dealt out one by one.

With --lab an array of 200 elements is submitted to the real Slurm of tests/slurm, and cancelled.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from embedcube.campaign.load import load_campaign
from embedcube.campaign.parts import Record, scan_records
from embedcube.campaign.plan import read_plan, read_shards
from embedcube.campaign.run_folder import RunDir
from embedcube.testing.demo import write_demo

EMBEDCUBE = Path(sys.executable).parent / "embedcube"
PLUGINS = Path(__file__).parents[1] / "tests" / "plugins"
ARRAY = 200


def main() -> None:
    """Print a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=16)
    parser.add_argument("--batch-s", type=float, default=0.5)
    parser.add_argument("--lab", action="store_true")
    arguments = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(PLUGINS), os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryDirectory() as name:
        if arguments.lab:
            submit_array(Path(name))
        else:
            how = {"ranks": arguments.ranks, "threads": 1, "cache_mb": 64, "mem_gb": 2}
            print_spread(write_campaign(Path(name), 4, how), arguments.ranks, arguments.batch_s)


def write_campaign(folder: Path, shard_chips: int, how: dict[str, Any]) -> Path:
    """The demo in shards of so many chips a side, planned; `how` is that part of the campaign file."""
    write_demo(folder / "demo", only="sentinel2")
    path = folder / "demo" / "campaign.yaml"
    document = yaml.safe_load(path.read_text())
    (layer,) = document["layers"].values()
    layer |= {"backbone": {"name": "sleepy", "width": 16}, "chip_px": 96, "halo_px": 16, "batch": 2}
    layer["shard_chips"] = shard_chips
    document["how"] = how
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    subprocess.run([EMBEDCUBE, "run", path, "--until", "plan"], check=True, stdout=subprocess.DEVNULL)
    return path


def write_site(folder: Path) -> Path:
    """The site file of the Slurm of tests/slurm."""
    site: dict[str, Any] = {"site": "lab", "partition": "debug", "cpus_per_node": 2, "mem_gb_per_node": 3.5}
    path = folder / "lab.yaml"
    path.write_text(yaml.safe_dump(site | {"exclusive": False, "max_time_min": 60, "lead_s": 60}))
    return path


def print_spread(campaign: Path, ranks: int, batch_s: float) -> None:
    """Embed, and compare when the ranks ended."""
    environment = os.environ | {"SLEEPY_S": str(batch_s)}
    subprocess.run([EMBEDCUBE, "embed", campaign], check=True, stdout=subprocess.DEVNULL, env=environment)
    loaded = load_campaign(campaign)
    run = RunDir(loaded.run_folder)
    records = {record.recipe: record for _, record in scan_records(run)}
    planned = [s.recipe for group in read_shards(run, read_plan(loaded, run)) for s in group]
    seconds = np.array([busy(records[recipe]) for recipe in planned])
    ended: dict[int, float] = defaultdict(float)
    for record in records.values():
        ended[record.rank] = max(ended[record.rank], datetime.fromisoformat(record.finished).timestamp())
    drawn = np.bincount([records[recipe].rank for recipe in planned], seconds, minlength=ranks)
    spread = max(ended.values()) - min(ended.values())
    print(f"{len(planned)} shards of {seconds.min():.1f} to {seconds.max():.1f} s on {len(ended)} ranks")
    print(f"last records within {spread:.1f} s: {spread / seconds.max():.2f} x the longest shard")
    blocks = np.arange(len(planned)) * ranks // len(planned)
    place = {"drawn": drawn, "blocks": split(seconds, blocks, ranks)}
    place["dealt out"] = split(seconds, np.arange(len(planned)) % ranks, ranks)
    for name, loads in place.items():
        print(f"{name:<10} slowest rank {loads.max() / loads.mean():.2f} x the mean of all")


def busy(record: Record) -> float:
    """Seconds that a shard kept its device, which sleeps: reading the next one overlaps."""
    return record.seconds["forward"]


def split(seconds: NDArray[np.float64], rank: NDArray[np.int64], ranks: int) -> NDArray[np.float64]:
    """What each rank would have to do."""
    return np.bincount(rank, seconds, minlength=ranks).astype(np.float64)


def submit_array(folder: Path) -> None:
    """How long `submit` takes for an array of many elements, beside what it takes for one."""
    from tests.slurm.cluster import running_cluster

    how = {"ranks": 1, "threads": 1, "site": str(write_site(folder))}
    with running_cluster(nodes=4) as cluster:
        for tasks in (1, ARRAY):
            # small shards: an array wants a group of them for each of its elements
            campaign = write_campaign(folder / str(tasks), 2, how | {"tasks": tasks})
            began = time.perf_counter()
            asked = json.loads(cluster.run(str(EMBEDCUBE), "submit", str(campaign), "--json"))
            print(f"{len(asked['tasks'])} elements submitted in {time.perf_counter() - began:.1f} s")
            cluster.run(str(EMBEDCUBE), "cancel", str(campaign))


if __name__ == "__main__":
    main()
