"""A campaign that runs in seconds, the state of its run folder after each stage, and its undisturbed cube."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import rasterio
import yaml
from tests.chaos.processes import LATE_S
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
    "how": {"ranks": 2, "threads": 1, "mem_gb": 4, "error_budget": 0.4},
}  # fmt: skip

BROKEN = "20230718"
"""day of a scene one block of which does not decode: shards quarantine it, and are embedded again without it"""


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
    patience: float = 1.0
    """factor of all time limits, for a machine that does other work too"""

    def limit_s(self, *stages: Stage) -> float:
        """Seconds after which a process that goes through these stages is late."""
        return self.patience * (LATE_S + 4 * sum(self.seconds[stage] for stage in stages))


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

    def name_of(self, path: Path) -> str:
        """A path of the run folder without what is drawn anew in each run."""
        inside = path.relative_to(self.run.root) if path.is_relative_to(self.run.root) else path
        return "/".join(part if len(part) < 24 else f"{part[:8]}..." for part in inside.parts)

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


def make_reference(folder: Path, patience: float = 1.0) -> Reference:
    """Write the archive and run the campaign, with a copy of the run folder before each stage."""
    archive = folder / "archive"
    _write_scenes(archive)
    source = {"source": "sentinel2", "path": str(archive), "bands": list(BANDS), "offset": 0}
    document = CAMPAIGN | {"archives": {"s2": source}}
    undisturbed = _placed(document, folder / "undisturbed")
    seconds: dict[Stage, float] = {}
    for stage in get_args(Stage):
        if undisturbed.run.root.exists():
            shutil.copytree(undisturbed.run.root, folder / "stations" / stage, symlinks=True)
        began_s, process = time.monotonic(), undisturbed.start(stage)
        said, _ = process.communicate(timeout=300 * patience)
        if process.returncode:
            raise RuntimeError(f"{stage} of the undisturbed campaign ended with {process.returncode}: {said}")
        seconds[stage] = time.monotonic() - began_s
    return Reference(
        document=document,
        stations=folder / "stations",
        seconds=seconds,
        cube=cube_bytes(undisturbed.run.newest_cube),
        patience=patience,
    )


def _write_scenes(archive: Path) -> None:
    for number, day in enumerate((*DAYS, BROKEN)):
        for place, band in enumerate(BANDS):
            name = f"T32ULB_{day}T103629"
            path = archive / name / f"{name}_{band}.tif"
            write_band(path, texture(2 * number + place, SIDE_PX), compress="deflate", **TIFF)
    with rasterio.open(path) as last:
        at = int(last.get_tag_item("BLOCK_OFFSET_5_5", "TIFF", bidx=1))
    data = bytearray(path.read_bytes())
    data[at : at + 8] = bytes(8)  # the header of a deflate stream
    path.write_bytes(data)


def trial_at(reference: Reference, stage: Stage, folder: Path) -> Trial:
    """A campaign in a new folder whose next stage is `stage`."""
    trial = _placed(reference.document, folder)
    put_station(reference, stage, trial)
    return trial


def put_station(reference: Reference, stage: Stage, trial: Trial) -> None:
    """Make the run folder the one that `stage` finds."""
    if trial.run.root.exists():
        shutil.rmtree(trial.run.root)
    if (station := reference.stations / stage).exists():
        shutil.copytree(station, trial.run.root, symlinks=True)


def _placed(document: dict[str, Any], folder: Path) -> Trial:
    folder.mkdir(parents=True)
    trial = Trial(folder=folder)
    trial.file.write_text(yaml.safe_dump(document, sort_keys=False))
    return trial
