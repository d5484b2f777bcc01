"""Where the CPU time of a rank goes with the cheap encoder, beside the bound. `python -m benchmarks.steps`.

The shards of the work of `benchmarks.embed` go through the stages of the kernel in turn, under cProfile, in one process
that has the environment of a rank. The bound is measured in a process beside it, one after the other. Printed are CPU
milliseconds a shard; what reading waits for is the CPU time of the reading thread.
"""

import argparse
import cProfile
import json
import os
import pstats
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.embed import PATHS, run_command
from benchmarks.work import ENCODERS, campaign_of, kernel_of, prepare, report
from embedcube.campaign.inventory import scenes_as_planned
from embedcube.campaign.parts import PartWriter
from embedcube.campaign.plan import read_plan, read_shards
from embedcube.campaign.run_folder import RunDir
from embedcube.kernel.device import exact_arithmetic
from embedcube.kernel.embed import run_shard
from embedcube.sources.reader import RasterReader
from embedcube.workers.energy import EnergyMeter
from embedcube.workers.ranks import common_environment
from embedcube.workers.recorder import Recorder

FUNCTIONS = {
    "read_stage": "read",
    "_pixels": "  decoded blocks, copied",
    "_composite": "  composite",
    "embed_stage": "embed",
    "cut_chips": "  cut, normalised",
    "forward": "  forward",
    "_keep": "  quantised",
    "encode_stage": "encode",
    "write": "write, without waiting",
}
"""What is printed of each function, with all that it calls."""

OWN = ("kernel/embed.py", "kernel/frames.py", "sentinel2/source.py", "workers/recorder.py")
"""Files in which these functions are; a module has a `forward`, too."""

BOUND = {"_pixels": "decode_s", "forward": "forward_s", "encode_stage": "encode_s"}


def main() -> None:
    """Print a table for each turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chips", type=int, default=16, help="along one side of the scene")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--campaign", help="profile this one: the process that measures is started with it")
    asked = parser.parse_args()
    if asked.campaign is not None:
        report(_profiled(asked.campaign))
        return
    with tempfile.TemporaryDirectory() as folder:
        campaign = str(prepare(Path(folder), replace(ENCODERS["mosaiks"], chips=asked.chips), 1))
        for stage in ("index", "fit", "plan"):
            run_command(str(Path(sys.executable).parent / "embedcube"), stage, campaign)
        own = common_environment(campaign_of(campaign)) | {"PYTHONPATH": os.pathsep.join(filter(None, PATHS))}
        for _ in range(asked.turns):
            again = (sys.executable, "-m", "benchmarks.steps", "--campaign", campaign)
            steps = json.loads(subprocess.check_output(again, env=own, text=True))
            beside = (sys.executable, "-m", "benchmarks.bound", campaign, "0", "1")
            said = subprocess.check_output(beside, env=own, text=True, input="\n")
            bound = {name: 1e3 * s / steps["shards"] for name, s in json.loads(said.partition("\n")[2]).items()}
            print(f"\n{steps['whole']:.0f} ms a shard, {steps['whole'] / sum(bound.values()):.2f} of the bound")
            for function, words in FUNCTIONS.items():
                least = f"   bound {bound[BOUND[function]]:6.1f}" if function in BOUND else ""
                print(f"{words:<26}{steps[function]:7.1f}{least}", flush=True)


def _profiled(campaign_file: str) -> dict[str, float]:
    """CPU milliseconds a shard of each function, and of the whole; and the number of shards."""
    exact_arithmetic(1)
    campaign = campaign_of(campaign_file)
    run = RunDir(campaign.run_folder)
    plan, context = read_plan(campaign, run), kernel_of(campaign)
    scenes, reader = scenes_as_planned(campaign, run, plan), RasterReader(1)
    shards = [shard for group in read_shards(run, plan) for shard in group]
    profile = cProfile.Profile(time.process_time)
    with tempfile.TemporaryDirectory() as folder:
        part = PartWriter(Path(folder) / "part")
        recorder = Recorder(part, EnergyMeter(torch.device("cpu")), 0, {}, device="cpu", attempt="", rank=0)
        began_s = time.process_time()
        profile.enable()
        for shard in shards:
            recorder.write(run_shard(shard, [scenes[i] for i in shard.scenes], context, reader))
        profile.disable()
        whole_s = time.process_time() - began_s
        reader.close()
    spent: dict[str, float] = dict.fromkeys(FUNCTIONS, 0.0)
    stats: Any = pstats.Stats(profile)
    for (file, _, name), (*_, cumulative_s, _) in stats.stats.items():
        if name in spent and file.endswith(OWN):
            spent[name] += 1e3 * cumulative_s / len(shards)
    return spent | {"whole": 1e3 * whole_s / len(shards), "shards": len(shards)}


if __name__ == "__main__":
    main()
