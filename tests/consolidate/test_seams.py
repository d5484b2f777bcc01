"""What `verify` finds in cubes whose bytes are right and whose vectors are not, and that it finds nothing in good ones."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from tests.conftest import Campaign
from tests.edge.scenes import Scene, write_scene

from embedcube.errors import WorkError

WEST, NORTH, SIDE_PX = 400_000.0, 5_600_000.0, 512
MOSAIKS = {"backbone": {"name": "mosaiks", "filters": 8}, "chip_px": 34, "halo_px": 1, "cell_px": 8}
VIT = {"backbone": {"name": "tiny_vit", "width": 32, "depth": 1}, "chip_px": 96, "halo_px": 16, "cell_px": 16}

JUNE, JULY = "2023-06-10T10:00:00Z", "2023-07-10T10:00:00Z"


def land(side: int, seed: int = 0) -> NDArray[np.float64]:
    """Reflectance x 10000 of two bands (band, y, x): patches of several sizes, and grain."""
    rng = np.random.default_rng(seed)
    total = np.zeros((2, side, side))
    for count, weight in ((7, 600.0), (31, 400.0), (119, 250.0), (side, 150.0)):
        size = -(-side // count)
        coarse = rng.standard_normal((2, count, count))
        # rolled, so that the patches' edges are no chips' edges
        patches = np.kron(coarse, np.ones((size, size)))
        total += weight * np.roll(patches, (size * 3 // 7, size * 2 // 5), axis=(1, 2))[:, :side, :side]
    return np.clip(2200 + total, 50, 9000)


def as_bands(pixels: NDArray[np.float64]) -> Mapping[str, NDArray[Any]]:
    """The two bands as they are stored."""
    return dict(zip(("B02", "B03"), np.rint(pixels).astype(np.uint16), strict=True))


def campaign_of(folder: Path, scenes: list[Scene], layer: dict[str, Any]) -> Campaign:
    """A campaign over some scenes in the windows June and July, of which only those with scenes are asked."""
    for scene in scenes:
        write_scene(folder / "archive", scene)
    months = {"06": ["2023-06-01", "2023-07-01"], "07": ["2023-07-01", "2023-08-01"]}
    document = {
        "campaign": "seams",
        "archives": {"s2": {"source": "sentinel2", "path": "archive", "bands": ["B02", "B03"], "offset": 0}},
        "grid": {"crs": "EPSG:32632", "pixel": 10, "origin": [WEST, NORTH]},
        "region": {"bbox": [WEST, NORTH - SIDE_PX * 10, WEST + SIDE_PX * 10, NORTH], "crs": "EPSG:32632"},
        "windows": [months[month] for month in sorted({scene.time[5:7] for scene in scenes})],
        "layers": {"m": {"archives": "s2", "shard_chips": 4, "batch": 4} | layer},
        "how": {"ranks": 1, "threads": 1},
    }
    campaign = Campaign(folder / "campaign.yaml")
    campaign.file.write_text(yaml.safe_dump(document))
    return campaign


def scene_of(pixels: NDArray[np.float64], time: str = JUNE, **place: Any) -> Scene:
    """A scene of all the land, or of a part of it."""
    corner = {"west": WEST, "north": NORTH} | place
    name = f"S2A_{time[:10]}_{corner['west']:.0f}"
    return Scene(id=name, time=time, bands=as_bands(pixels), datatake=f"take of {time}", **corner)


def findings_of(campaign: Campaign) -> list[str]:
    """Findings of a run, after which the same ones must be those of the cube alone."""
    try:
        campaign.cli("run")
    except WorkError:
        pass
    report = json.loads((campaign.run.report / "verify.json").read_text())["findings"]
    return [f"{one['check']}: {one['place']}: {one['found']}" for one in report]


def figures_of(campaign: Campaign) -> dict[str, Any]:
    """The figures that `verify` keeps."""
    figures: dict[str, Any] = json.loads((campaign.run.report / "seams.json").read_text())["m"]
    return figures


def test_a_halo_of_0_shows_the_chips_of_a_transformer(tmp_path: Path) -> None:
    scenes = [scene_of(land(SIDE_PX))]
    whole = campaign_of(tmp_path / "whole", scenes, VIT)
    none = campaign_of(tmp_path / "none", scenes, VIT | {"chip_px": 64, "halo_px": 0})
    print(findings_of(whole), figures_of(whole)["seams"])
    print(findings_of(none), figures_of(none)["seams"])
    assert findings_of(whole) == []


def test_a_tile_off_by_half_a_pixel_shows_its_edge(tmp_path: Path) -> None:
    fine = land(2 * SIDE_PX)  # pixels of 5 m
    half = SIDE_PX // 2
    averaged = fine.reshape(2, SIDE_PX, 2, SIDE_PX, 2).mean(axis=(2, 4))
    moved = fine[:, :, 1:-1].reshape(2, SIDE_PX, 2, SIDE_PX - 1, 2).mean(axis=(2, 4))
    west = scene_of(averaged[:, :, : half + 32])
    on_grid = scene_of(averaged[:, :, half:], west=WEST + half * 10)
    between = scene_of(moved[:, :, half:], west=WEST + half * 10 + 5)
    good = campaign_of(tmp_path / "good", [west, on_grid], MOSAIKS)
    bad = campaign_of(tmp_path / "bad", [west, between], MOSAIKS)
    print(findings_of(good), figures_of(good)["seams"])
    print(findings_of(bad), figures_of(bad)["seams"])


def test_a_window_without_its_offset_drifts(tmp_path: Path) -> None:
    june, july = land(SIDE_PX), land(SIDE_PX) * 1.1
    good = campaign_of(tmp_path / "good", [scene_of(june), scene_of(july, JULY)], VIT)
    bad = campaign_of(tmp_path / "bad", [scene_of(june), scene_of(july + 1000, JULY)], VIT)
    print(findings_of(good), figures_of(good)["drift"])
    print(findings_of(bad), figures_of(bad)["drift"])
