"""A vector that the encoding cannot hold is a failed cell with its reason, or refused by `plan`; it is not changed."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pyproj import Transformer
from tests.conftest import Campaign, call_cli, in_shards
from tests.edge.scenes import Scene, two_bands_of, write_scene
from torch import Tensor, nn

from embedcube.campaign.plan import Shard
from embedcube.consolidate.recomputed import _bound
from embedcube.kernel.embed import Cells

WEST, NORTH, CELL_PX = 600_000.0, 5_200_000.0, 16

MEANS = np.array([[1000, 65504, 65505, 65519], [65520, 65535, 3, 40000]], dtype=np.uint16)
"""value of B02 in each cell; float16 holds 65,504, and would round all up to 65,519 to that"""

TOO_LARGE = MEANS > 65504

REASON = "the backbone gave a number above 65,504, the largest of float16; write int8 or float32"


class MeanOfCells(nn.Module):
    """Means of the bands in each cell, times a gain, and more."""

    def __init__(self, gain: float, more: float) -> None:
        super().__init__()
        self.gain, self.more = nn.Parameter(torch.tensor(gain)), nn.Parameter(torch.tensor(more))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x, CELL_PX) * self.gain + self.more


def campaign_in(folder: Path, programs: dict[str, tuple[float, float]], encodings: tuple[str, ...]) -> Campaign:
    """A campaign whose vectors are the means of two bands in each cell: a layer for each program and encoding.

    `programs` are gain and summand of each.
    """
    b02 = MEANS.repeat(CELL_PX, axis=0).repeat(CELL_PX, axis=1)
    bands = {"B02": b02, "B03": np.full_like(b02, 7)}
    write_scene(folder / "archive", Scene(id="one", time="2023-06-05T10:00:00Z", west=WEST, north=NORTH, bands=bands))
    any_batch = ({0: torch.export.Dim.DYNAMIC},)
    for name, numbers in programs.items():
        module = MeanOfCells(*numbers).eval()
        program = torch.export.export(module, (torch.zeros(2, 2, 64, 64),), dynamic_shapes=any_batch)
        torch.export.save(program, folder / f"{name}.pt2")
    layers = {
        f"{name}_{encoding}": {
            "archives": "s2", "backbone": {"name": "torch", "normalisation": "none"}, "weights": f"{name}.pt2",
            "chip_px": 64, "halo_px": 0, "cell_px": CELL_PX, "shard_chips": 1, "batch": 2, "encoding": encoding,
        }
        for name in programs
        for encoding in encodings
    }  # fmt: skip
    campaign = two_bands_of(folder, (WEST, NORTH))
    campaign.change(lambda document: document.update(layers=layers))
    return campaign


@dataclass(frozen=True)
class Finished:
    """A finished campaign, and what `run` printed."""

    campaign: Campaign
    said: str

    def array(self, layer: str, name: str) -> NDArray[Any]:
        """An array of a layer, in the cells that the scene shows."""
        rows, cols = MEANS.shape
        return np.asarray(in_shards(self.campaign.run.newest_cube, f"{layer}/grid")[name][0, :rows, :cols])

    def explained(self, layer: str, row: int, col: int) -> dict[str, Any]:
        """The answer of `explain` for a cell."""
        x, y = WEST + (col + 0.5) * CELL_PX * 10, NORTH - (row + 0.5) * CELL_PX * 10
        lon, lat = Transformer.from_crs("EPSG:32632", "EPSG:4326", always_xy=True).transform(x, y)
        place = ("--lon", str(lon), "--lat", str(lat), "--layer", layer, "--json")
        done = call_cli("explain", self.campaign.run.newest_cube, *place)
        assert not done.returncode, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    programs = {"means": (1.0, 0.0), "infinite": (1e34, 0.0)}
    campaign = campaign_in(tmp_path_factory.mktemp("held"), programs, ("int8", "float16", "float32"))
    return Finished(campaign, campaign.cli("run"))


def test_numbers_above_the_largest_of_float16_are_failed_cells(finished: Finished) -> None:
    assert f"layers.means_float16: {TOO_LARGE.sum()} cells failed: {REASON}" in finished.said
    assert finished.array("means_float16", "status").tolist() == np.where(TOO_LARGE, 4, 1).tolist()
    stored = finished.array("means_float16", "embedding")
    expected = np.where(TOO_LARGE, np.nan, MEANS.astype(np.float64)).astype(np.float16)
    np.testing.assert_array_equal(stored[..., 0], expected)
    assert np.isnan(stored[TOO_LARGE]).all(), "no part of such a vector is kept"
    failed = finished.explained("means_float16", 0, 2)
    assert (failed["status"], failed["reasons"], failed["n_obs"]) == ("failed", [REASON], 1)
    assert finished.explained("means_float16", 0, 1)["reasons"] == []


@pytest.mark.parametrize("encoding", ["int8", "float32"])
def test_other_encodings_hold_them(finished: Finished, encoding: str) -> None:
    assert f"layers.means_{encoding}:" not in finished.said
    assert (finished.array(f"means_{encoding}", "status") == 1).all()


@pytest.mark.parametrize("encoding", ["int8", "float32"])
def test_a_number_that_is_not_finite_is_told_as_such(finished: Finished, encoding: str) -> None:
    # those of 40,000 and more are infinite in float32
    infinite = np.finfo(np.float32).max < MEANS * 1e34
    assert 0 < infinite.sum() < infinite.size
    reason = "the backbone gave a number that is not finite"
    assert f"layers.infinite_{encoding}: {infinite.sum()} cells failed: {reason}" in finished.said
    assert finished.array(f"infinite_{encoding}", "status").tolist() == np.where(infinite, 4, 1).tolist()
    assert finished.explained(f"infinite_{encoding}", 1, 3)["reasons"] == [reason]


def test_verify_finds_nothing_wrong_with_failed_cells(finished: Finished) -> None:
    assert "nothing found wrong" in finished.said


def test_plan_refuses_what_no_vector_can_be_held_in(tmp_path: Path) -> None:
    campaign = campaign_in(tmp_path, {"large": (1.0, 1e5)}, ("float16",))
    for stage in ("index", "fit"):
        campaign.cli(stage)
    done = call_cli("plan", campaign.file)
    assert done.returncode == 2
    said = "layers.large_float16.encoding: float16 holds numbers up to 65,504, and the backbone gives 1e+05 for a chip"
    assert said in " ".join(done.stderr.split())
    campaign.change(lambda document: document["layers"]["large_float16"].update(encoding="int8"))
    assert not call_cli("plan", campaign.file).returncode


def test_verify_finds_a_number_that_was_cut_off() -> None:
    shard = Shard(layer="m", zone="grid", t=0, row=0, col=0, iy=0, ix=0, recipe="", scenes=())
    exact = Cells(arrays={"embedding": np.array([[[1, 65504], [2, 70000]]], np.float32)}, chips=1)
    cut_off = Cells(arrays={"embedding": np.array([[[1, 65504], [2, 65504]]], np.float16)}, chips=1)
    (finding,) = _bound(shard, cut_off, exact)
    assert finding.check == "encoding"
    assert "1 cells otherwise" in str(finding)
    cut_off.arrays["embedding"][0, 1] = np.nan
    assert list(_bound(shard, cut_off, exact)) == []
    cut_off.arrays["embedding"][0, 0] = np.nan
    assert [one.check for one in _bound(shard, cut_off, exact)] == ["encoding"], "nor is one missing that can be held"
