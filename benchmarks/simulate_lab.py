"""Is the model right? `python -m benchmarks.simulate_lab`: campaigns on a real Slurm of four nodes, beside the model.

The Slurm is that of tests/slurm; the batches of the demo sleep, so that eight ranks fit on few cores. One rank and two
ranks of one task give what the model needs: the wait in the queue, the start of a job, the seconds of each shard.
With these it says when the last record of other runs comes: more tasks, more nodes a task, more ranks.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from tests.slurm.cluster import Cluster, running_cluster

from benchmarks.campaign_model import simulate
from benchmarks.spread import EMBEDCUBE, PLUGINS, write_campaign, write_site
from embedcube.campaign.load import load_campaign
from embedcube.campaign.parts import Record, scan_records
from embedcube.campaign.plan import read_plan, read_shards
from embedcube.campaign.run_folder import RunDir
from embedcube.prepare.makespan import Machine, Spread, Work


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How a campaign is spread over the four nodes."""

    tasks: int
    nodes: int
    """nodes of a task"""
    ranks: int
    """ranks of a node"""

    @property
    def world(self) -> int:
        """Ranks of all tasks."""
        return self.tasks * self.nodes * self.ranks

    def __str__(self) -> str:
        return f"{self.tasks} x {self.nodes} x {self.ranks}"


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a campaign took."""

    shape: Shape
    queue_s: float
    """mean wait of its tasks"""
    start_s: float
    """from the start of a task to its first shard, mean"""
    end_s: float
    """from `submit` to the last record"""
    records: dict[str, Record]
    """by recipe"""


FIT = (Shape(tasks=1, nodes=1, ranks=1), Shape(tasks=1, nodes=1, ranks=2))
COMPARE = (Shape(tasks=4, nodes=1, ranks=1), Shape(tasks=4, nodes=1, ranks=2), Shape(tasks=2, nodes=2, ranks=2))


def main() -> None:
    """Print a line for each run: measured, by the model, and the difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-s", type=float, default=1.0, help="seconds that a batch sleeps")
    asked = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(PLUGINS), os.environ.get("PYTHONPATH"))))
    os.environ["SLEEPY_S"] = str(asked.batch_s)
    with tempfile.TemporaryDirectory() as name, running_cluster(nodes=4) as cluster:
        fitted = [measure(cluster, Path(name), shape) for shape in FIT]
        order = planned(Path(name), FIT[0])
        work = work_of(fitted[0], order)
        # all nodes of this Slurm start on the same few cores: what a start takes grows with the ranks that start
        slope, base = np.polyfit([run.shape.world for run in fitted], [run.start_s for run in fitted], 1)
        queue_s = float(np.mean([run.queue_s for run in fitted]))
        print(f"{len(work)} shards of {work.device_s.min():.1f} to {work.device_s.max():.1f} s; a start takes ", end="")
        print(f"{base:.1f} s and {slope:.1f} s a rank, the queue {queue_s:.1f} s")
        for shape in (*FIT, *COMPARE):
            run = next((one for one in fitted if one.shape == shape), None) or measure(cluster, Path(name), shape)
            machine = Machine(nodes=4, ranks=shape.ranks, start_s=base + slope * shape.world, starts=0, queue_s=queue_s)
            told = simulate(work, machine, Spread(tasks=shape.tasks, nodes_of_task=shape.nodes)).end_s
            use = "fitted" if shape in FIT else "compared"
            off = 100 * (told / run.end_s - 1)
            print(f"{shape}  {use:<8}  measured {run.end_s:.1f} s, model {told:.1f} s: {off:+.1f} %", flush=True)


def planned(folder: Path, shape: Shape) -> list[list[str]]:
    """The recipes of the plan's draw groups, in order."""
    campaign = load_campaign(folder / str(shape).replace(" ", "") / "demo" / "campaign.yaml")
    run = RunDir(campaign.run_folder)
    return [[shard.recipe for shard in group] for group in read_shards(run, read_plan(campaign, run))]


def work_of(run: Run, groups: Sequence[Sequence[str]]) -> Work:
    """The shards as one rank embedded them."""
    records = [run.records[recipe] for group in groups for recipe in group]
    return Work(
        read_s=np.array([record.seconds.get("read", 0.0) for record in records]),
        device_s=np.array([record.seconds.get("forward", 0.0) for record in records]),
        read_bytes=np.zeros(len(records)),
        calls=np.zeros(len(records)),
        group=round(float(np.median([len(group) for group in groups]))),
    )


def measure(cluster: Cluster, folder: Path, shape: Shape) -> Run:
    """Embed the demo on the cluster."""
    how = {"tasks": shape.tasks, "nodes": shape.nodes, "ranks": shape.ranks, "threads": 1}
    campaign = write_campaign(folder / str(shape).replace(" ", ""), 2, how | {"site": str(write_site(folder))})
    asked = json.loads(cluster.run(str(EMBEDCUBE), "submit", str(campaign), "--json"))
    (job,) = asked["jobs"]["embed"]
    cluster.wait(job, timeout_s=1200)
    cluster.run(str(EMBEDCUBE), "cancel", str(campaign))
    loaded = load_campaign(campaign)
    records = {record.recipe: record for _, record in scan_records(RunDir(loaded.run_folder))}
    rows = {row["JobIDRaw"]: row for row in cluster.sacct(job, "JobIDRaw", "Submit", "Start")}
    submitted = min(_local(row["Submit"]) for row in rows.values())
    started = {name: _local(row["Start"]) for name, row in rows.items()}
    first: dict[str, float] = {}
    for record in records.values():
        began_s = datetime.fromisoformat(record.started).timestamp()
        first[record.job] = min(began_s, first.get(record.job, began_s))
    last = max(datetime.fromisoformat(record.finished).timestamp() for record in records.values())
    return Run(
        shape=shape,
        queue_s=float(np.mean([began - submitted for began in started.values()])),
        start_s=float(np.mean([first[name] - began for name, began in started.items()])),
        end_s=last - submitted,
        records=records,
    )


def _local(text: str) -> float:
    """Seconds since 1970 of a time as Slurm prints it."""
    return datetime.fromisoformat(text).timestamp()


if __name__ == "__main__":
    main()
