"""A campaign that runs in seconds, the state of its run folder after each stage, and its undisturbed cube."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from tests.conftest import cube_bytes
from tests.fuzz.images import BANDS, CRS, DAYS, NORTH, TIFF, WEST, texture, write_band

from embedcube.campaign.run_folder import RunDir

Stage = Literal["index", "fit", "plan", "embed", "consolidate", "verify"]

SIDE_PX, CHIP_PX = 384, 64
EMBEDCUBE = Path(sys.executable).parent / "embedcube"

CAMPAIGN: dict[str, Any] = {
    "campaign": "small",
    "grid": {"crs": CRS, "pixel": 10, "origin": [WEST, NORTH]},
    "region": {"bbox": [WEST, NORTH - SIDE_PX * 10, WEST + SIDE_PX * 10, NORTH], "crs": CRS},
    "windows": [["2023-06-01", "2023-07-01"], ["2023-07-01", "2023-08-01"]],
    "layers": {
        "s2": {
            "archives": "s2", "backbone": {"name": "mosaiks", "filters": 4}, "chip_px": CHIP_PX + 2, "halo_px": 1,
            "cell_px": 16, "shard_chips": 1, "batch": 2,
        }
    },
    "how": {"ranks": 2, "threads": 1, "mem_gb": 4},
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The campaign undisturbed."""

    document: dict[str, Any]
    """of the campaign file; paths of archives are absolute"""
    stations: Path
    """for each stage a folder: the run folder as that stage finds it"""
    seconds: dict[Stage, float]
    """that each stage takes"""
    cube: dict[str, str]
    """digests of the cube's files, without provenance"""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A campaign in a folder of its own, about to be disturbed."""

    folder: Path

    @property
    def file(self) -> Path:
        """The campaign file."""
        return self.folder / "campaign.yaml"

    @property
    def run(self) -> RunDir:
        """The run folder."""
        return RunDir(self.folder / "runs" / yaml.safe_load(self.file.read_text())["campaign"])

    def start(self, verb: str, environment: dict[str, str] | None = None) -> "subprocess.Popen[str]":
        """Start a verb in a process group of its own."""
        return subprocess.Popen(
            [EMBEDCUBE, verb, self.file],
            env=os.environ | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )


def make_reference(folder: Path) -> Reference:
    """Write the archive and run the campaign, with a copy of the run folder before each stage."""
    archive = folder / "archive"
    for number, day in enumerate(DAYS):
        for place, band in enumerate(BANDS):
            name = f"T32ULB_{day}T103629"
            write_band(archive / name / f"{name}_{band}.tif", texture(2 * number + place, SIDE_PX), **TIFF)
    source = {"source": "sentinel2", "path": str(archive), "bands": list(BANDS), "offset": 0}
    document = CAMPAIGN | {"archives": {"s2": source}}
    undisturbed = _placed(document, folder / "undisturbed")
    seconds: dict[Stage, float] = {}
    for stage in get_args(Stage):
        if undisturbed.run.root.exists():
            shutil.copytree(undisturbed.run.root, folder / "stations" / stage, symlinks=True)
        began_s, process = time.monotonic(), undisturbed.start(stage)
        said, _ = process.communicate(timeout=300)
        if process.returncode:
            raise RuntimeError(f"{stage} of the undisturbed campaign ended with {process.returncode}: {said}")
        seconds[stage] = time.monotonic() - began_s
    return Reference(
        document=document,
        stations=folder / "stations",
        seconds=seconds,
        cube=cube_bytes(undisturbed.run.newest_cube),
    )


def trial_at(reference: Reference, stage: Stage, folder: Path) -> Trial:
    """A campaign in a new folder whose next stage is `stage`."""
    trial = _placed(reference.document, folder)
    if (station := reference.stations / stage).exists():
        shutil.copytree(station, trial.run.root, symlinks=True)
    return trial


def _placed(document: dict[str, Any], folder: Path) -> Trial:
    folder.mkdir(parents=True)
    trial = Trial(folder=folder)
    trial.file.write_text(yaml.safe_dump(document, sort_keys=False))
    return trial
