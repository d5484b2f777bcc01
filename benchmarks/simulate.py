"""How long would a campaign take on 1 to 1,000 nodes? `python -m benchmarks.simulate RUN`.

The shards of a finished run, with the seconds and bytes of their records, are drawn again and again for a larger
campaign, and go through the model of `campaign_model.py`. Printed is a table of makespan, efficiency, metadata calls
and tail; --plot draws how it depends on the rates of the file system. Rates of file systems, cited: DKRZ's Lustre of
2018 answers 30,000 to 35,000 metadata calls a second and server and gives 480 GB/s
(https://www.vi4io.org/hpsl/2018/deu/dkrz/lustre02); one campaign is taken to get one server and 100 GB/s of it.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.campaign_model import Outcome, like, simulate
from embedcube.campaign.parts import scan_records
from embedcube.campaign.run_folder import RunDir
from embedcube.prepare.makespan import CALLS_TO_READ, CALLS_TO_WRITE, Machine, Spread, Work

NODES = (1, 4, 16, 64, 256, 1000)

ON_DEVICE = ("forward", "quantise")
"""steps of a shard in which the device is busy; a shard without a chip to embed has none"""


@dataclass(frozen=True, kw_only=True)
class Writer:
    """How a rank starts and writes, in metadata calls."""

    name: str
    calls_a_shard: int
    starts: int
    """Python processes that a node starts"""
    start_s: float


# 14 opens with their closes, 4 renames and 11 fsyncs a shard, of four files (DESIGN 5)
FILES = Writer(name="files, ranks spawned", calls_a_shard=43, starts=5, start_s=30)
# one pack a rank, two fsyncs a shard; ranks forked from one process
PACKS = Writer(name="packs, ranks forked", calls_a_shard=CALLS_TO_WRITE, starts=Machine.starts, start_s=Machine.start_s)


def main() -> None:
    """Print the tables, and draw the plot where one is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder of a finished campaign")
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--times", type=float, default=50.0, help="how much larger a shard is than those measured")
    parser.add_argument("--files-per-scene", type=int, default=6, help="files of a scene that a shard opens")
    parser.add_argument("--nodes", type=lambda text: [int(one) for one in text.split(",")], default=NODES)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plot", type=Path, help="an SVG file: efficiency over nodes, for several rates")
    asked = parser.parse_args()
    measured = work_of(asked.run, asked.files_per_scene)
    work = like(measured, asked.shards, asked.times, asked.seed)
    print(f"{len(measured)} shards measured; {len(work):,} like them, {asked.times:g} x as large: ", end="")
    print(f"{work.device_s.sum() / 86400:.1f} device-days, {work.read_bytes.sum() / 1e12:.1f} TB to read")
    for writer in (FILES, PACKS):
        print(f"\n{writer.name}, tasks of one node")
        print("\n".join(table([(n, run(work, writer, Machine(nodes=n), asked.seed)) for n in asked.nodes])))
    most = max(asked.nodes)
    print(f"\nhow {most} nodes are used ({PACKS.name})")
    print("\n".join(ways(work, most, asked.seed)))
    if asked.plot:
        plot(work, asked.nodes, asked.seed, asked.plot)


def work_of(run: Path, files_per_scene: int) -> Work:
    """The shards of a run as its records tell of them; metadata calls are those of reading alone."""
    records = {record.recipe: record for _, record in scan_records(RunDir(run))}
    # bytes are counted for a rank, whose shards overlap: each gets its share by the scenes that it read
    scenes = np.array([len(record.scenes) for record in records.values()], float)
    total = sum(record.read_bytes for record in records.values())
    return Work(
        read_s=np.array([record.seconds.get("read", 0.0) for record in records.values()]),
        device_s=np.array([sum(r.seconds.get(step, 0.0) for step in ON_DEVICE) for r in records.values()]),
        read_bytes=total * scenes / scenes.sum(),
        calls=CALLS_TO_READ * files_per_scene * scenes,
    )


def run(work: Work, writer: Writer, machine: Machine, seed: int, spread: Spread | None = None) -> Outcome:
    """Simulate with a writer; by default a task for each node, of at least a hundred shards."""
    spread = spread or Spread(tasks=min(machine.nodes, max(1, len(work) // 100)))
    machine = replace(machine, starts=writer.starts, start_s=writer.start_s)
    return simulate(replace(work, calls=work.calls + writer.calls_a_shard), machine, spread, seed)


def table(rows: Sequence[tuple[object, Outcome]], first: str = "nodes") -> list[str]:
    """Outcomes as lines of Markdown."""
    lines = [
        f"| {first} | makespan | efficiency | metadata calls a second | read GB/s | last 1 % | jobs | shards lost |"
    ]
    lines.append("|---|" + "---:|" * 7)
    for name, out in rows:
        rate, speed = out.calls / out.end_s, out.read_bytes / out.end_s / 1e9
        lines.append(
            f"| {name} | {_span(out.end_s)} | {100 * out.efficiency:.0f} % | {rate:,.0f} | {speed:.2f} "
            f"| {_span(out.tail_s)} | {out.jobs} | {out.lost} |"
        )
    return lines


def ways(work: Work, nodes: int, seed: int) -> list[str]:
    """The same nodes used otherwise: shards given out from the start, tasks of more nodes, more tasks than nodes."""
    machine = Machine(nodes=nodes)
    rows = [
        ("a task a node, drawn", Spread(tasks=nodes)),
        ("a task a node, static", Spread(tasks=nodes, drawn=False)),
        ("four tasks a node, drawn", Spread(tasks=4 * nodes)),
        *([("tasks of four nodes, drawn", Spread(tasks=nodes // 4, nodes_of_task=4))] * (nodes >= 4)),
    ]
    return table([(name, run(work, PACKS, machine, seed, spread)) for name, spread in rows], "way")


def plot(work: Work, nodes: Sequence[int], seed: int, path: Path) -> None:
    """Draw efficiency over nodes for several rates of the file system."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    # text as text, and no date: the same figures make the same file
    plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "embedcube"}
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    calls = {f"{rate:,} calls/s": Machine(nodes=1, calls_per_s=rate) for rate in (10_000, 30_000, 100_000)}
    speeds = {f"{rate} GB/s": Machine(nodes=1, bytes_per_s=rate * 1e9) for rate in (10, 30, 100)}
    for axis, machines in zip(axes, (calls, speeds), strict=True):
        for colour, (label, machine) in enumerate(machines.items()):
            for writer, line, named in ((FILES, "--", None), (PACKS, "-", label)):
                outcomes = [run(work, writer, replace(machine, nodes=n), seed) for n in nodes]
                shares = [100 * out.efficiency for out in outcomes]
                axis.plot(nodes, shares, line, color=f"C{colour}", marker=".", label=named)
        axis.set(xscale="log", xlabel="nodes of four devices", ylim=(0, 105))
        axis.legend(title="solid: packs, dashed: files")
    axes[0].set_ylabel("time that devices compute (%)")
    figure.savefig(path, metadata={"Date": None, "Creator": None})


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 2 * 86400 else f"{seconds / 86400:.1f} days"


if __name__ == "__main__":
    main()
