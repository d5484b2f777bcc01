"""The work that is measured: a campaign over the archive of `archive.py`, for a cheap and for a dear encoder."""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import yaml

from benchmarks.archive import BANDS, NORTH, WEST, write_archive
from embedcube.backbones.base import Chips
from embedcube.backbones.weights import read_weights
from embedcube.campaign.load import load_campaign
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.schema import Campaign
from embedcube.kernel.layer import LayerContext
from embedcube.kernel.load import load_context
from embedcube.windows import dates_of

BATCH = 8
SHARD_CHIPS = 4


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """A backbone block and the layout that goes with it; chips are 224 px for both."""

    name: str
    backbone: dict[str, str | int]
    halo_px: int
    cell_px: int
    compile: bool = False
    chips: int
    """along one side of the scene: some ten seconds of work at least, so that filling the pipeline does not show"""

    @property
    def keep_px(self) -> int:
        """Side of a chip's kept centre."""
        return 224 - 2 * self.halo_px


_PRITHVI = Encoder(
    name="prithvi",
    backbone={"name": "terratorch", "model": "prithvi_eo_v2_tiny_tl", "random_seed": 0},
    halo_px=0,
    cell_px=16,
    chips=32,
)

ENCODERS = {
    "mosaiks": Encoder(name="mosaiks", backbone={"name": "mosaiks", "filters": 4}, halo_px=1, cell_px=222, chips=32),
    "vit": Encoder(
        name="vit",
        backbone={"name": "tiny_vit", "width": 192, "depth": 12, "heads": 3},
        halo_px=0,
        cell_px=16,
        chips=32,
    ),
    "prithvi": _PRITHVI,
    "prithvi_compiled": replace(_PRITHVI, name="prithvi_compiled", compile=True),
}
"""`mosaiks` with few filters and one vector for a chip is the cheap one; `vit` has the shape of a ViT-tiny, and so has
`prithvi`, which is TerraTorch's, and is measured where that is installed; the peers never run a compiled module."""


def prepare(folder: Path, encoder: Encoder, ranks: int) -> Path:
    """Write archive and campaign file below `folder`; returns the file."""
    write_archive(folder / "archive", side_px=encoder.chips * encoder.keep_px)
    layer = {
        "archives": ["s2"],
        "backbone": encoder.backbone,
        "chip_px": 224,
        "halo_px": encoder.halo_px,
        "cell_px": encoder.cell_px,
        "shard_chips": SHARD_CHIPS,
        "batch": BATCH,
        "compile": encoder.compile,
    }
    document = {
        "campaign": "bench",
        "archives": {"s2": {"source": "sentinel2", "path": "archive", "bands": list(BANDS)}},
        "grid": {"crs": "EPSG:32632", "pixel": 10, "origin": [WEST, NORTH]},
        "windows": [["2023-06-01", "2023-07-01"]],
        "layers": {"layer": layer},
        "how": {"ranks": ranks, "threads": 1},
    }
    path = folder / "campaign.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def campaign_of(path: str) -> Campaign:
    """The campaign file named on the command line of a measurement."""
    return load_campaign(Path(path))


def kernel_of(campaign: Campaign, program: bytes = b"") -> LayerContext:
    """The kernel of the only layer, on the CPU; of its module, unless the plan's program of it is given."""
    weights, _ = read_weights(campaign, RunDir(campaign.run_folder), "layer")
    return load_context(campaign, "layer", ["grid"], weights, torch.device("cpu"), BATCH, program)


def chips_of(context: LayerContext, x_btcyx: torch.Tensor) -> Chips:
    """Normalised pixels as chips that are seen everywhere."""
    batch, frames, _, *side = x_btcyx.shape
    cells = context.layout.chip_cells
    return Chips(
        x_btcyx=x_btcyx,
        clear_btsyx=torch.ones((batch, frames, len(context.inputs), *side), dtype=torch.bool),
        lonlat_byxn=torch.zeros((batch, cells, cells, 2)),
        dates_tmd=torch.from_numpy(dates_of(context.frames[0])),
    )


def report(figures: dict[str, float]) -> None:
    """How a measurement's process answers."""
    json.dump(figures, sys.stdout)
