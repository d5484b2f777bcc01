"""`plan` says when shards decode blocks again and again, and which `shard_chips` cures it."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import Campaign
from tests.edge.scenes import Scene, two_bands_of, write_scene

from embedcube.campaign.plan import read_any_plan
from embedcube.prepare import blocks
from embedcube.prepare.shards import cut_in_pieces

WEST, NORTH, BLOCK_PX = 600_000.0, 5_200_000.0, 512
ROWS, COLS = 3 * BLOCK_PX, 2 * BLOCK_PX

ADVICE = re.compile(
    r"layers\.m: shards of (\d+) px decode each block of the files ([\d.]+) times, `shard_chips: (\d+)` decodes them "
    r"([\d.]+) times"
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """A campaign over one scene of six blocks, indexed and fitted; a shard is as many times 16 px as it has chips."""
    folder = tmp_path_factory.mktemp("blocks")
    pixels = np.random.default_rng(0).integers(500, 3000, (ROWS, COLS)).astype(np.uint16)
    scene = Scene(
        id="one", time="2023-06-05T10:00:00Z", west=WEST, north=NORTH, bands={"B02": pixels, "B03": pixels},
    )  # fmt: skip
    write_scene(folder / "archive", scene, tiled=True, blockxsize=BLOCK_PX, blockysize=BLOCK_PX)
    campaign = two_bands_of(folder, (WEST, NORTH))
    for stage in ("index", "fit"):
        campaign.cli(stage)
    return campaign


@pytest.fixture
def any_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Advice also where it spares less than a minute, as in all campaigns of these tests."""
    monkeypatch.setattr(blocks, "_LEAST_GAIN_S", 0.0)


def planned(campaign: Campaign, chips: int, **how: Any) -> str:
    """What `plan` prints with shards of so many chips along a side."""

    def change(document: dict[str, Any]) -> None:
        document["layers"]["m"]["shard_chips"] = chips
        document["how"].update({"mem_gb": 100, "ranks": 1} | how)

    campaign.change(change)
    return campaign.cli("plan")


def decoded_once(campaign: Campaign) -> float:
    """Decoded bytes of the newest plan, relative to those of all blocks of both files."""
    price = read_any_plan(campaign.run).price
    assert price.needed_bytes == 2 * 2 * ROWS * COLS
    return price.decoded_bytes / price.needed_bytes


def test_nothing_is_said_where_nothing_is_to_be_gained(prepared: Campaign) -> None:
    """These shards decode blocks again and again, in less than a second."""
    assert "decode each block" not in planned(prepared, 4, ranks=8)
    assert decoded_once(prepared) > 1.3


@pytest.mark.usefixtures("any_gain")
def test_of_a_large_campaign_some_windows_are_tried(
    prepared: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The advice is the same, and no other size is tried with all windows."""
    windows: list[int] = []

    def counted(campaign: Any, *rest: Any) -> Any:
        windows.append(len(campaign.all_windows))
        return cut_in_pieces(campaign, *rest)

    monkeypatch.setattr(blocks, "cut_in_pieces", counted)
    shutil.copytree(prepared.file.parent, tmp_path / "copy")
    whole = Campaign(tmp_path / "copy" / prepared.file.name)
    days = [[f"2023-06-{day:02d}", f"2023-07-{day:02d}"] for day in range(1, 5)]
    whole.change(lambda document: document.update(windows=days))
    whole.cli("index")
    whole.cli("fit")
    all_tried = ADVICE.search(planned(whole, 8, ranks=8))
    assert set(windows) == {4}
    monkeypatch.setattr(blocks, "_MOST_LINKS", 1)
    windows.clear()
    some_tried = ADVICE.search(planned(whole, 8, ranks=8))
    assert set(windows) == {1}
    assert all_tried is not None
    assert some_tried is not None
    assert some_tried[0] == all_tried[0]


@pytest.mark.usefixtures("any_gain")
@pytest.mark.parametrize("chips", [4, 8, 20], ids=lambda chips: f"{16 * chips} px")
def test_shards_that_read_blocks_again_and_again_are_told_a_size_that_does_not(prepared: Campaign, chips: int) -> None:
    # with four groups for each of many ranks, groups of shards cannot be large
    said = planned(prepared, chips, ranks=8)
    found = ADVICE.search(said)
    assert found, said
    assert int(found[1]) == 16 * chips
    assert float(found[2]) == pytest.approx(decoded_once(prepared), abs=0.05)
    assert float(found[2]) > 1.3
    assert len(found[0]) < 300
    assert read_any_plan(prepared.run).layers["m"].better_chips == int(found[3])
    cured = planned(prepared, int(found[3]), ranks=8)
    assert read_any_plan(prepared.run).layers["m"].better_chips == 0
    assert "decode each block" not in cured
    assert decoded_once(prepared) == pytest.approx(float(found[4]), abs=0.05)
    assert decoded_once(prepared) <= 1.3


def test_shards_that_read_blocks_once_are_told_nothing(prepared: Campaign) -> None:
    assert "decode each block" not in planned(prepared, COLS // 8)
    assert decoded_once(prepared) == 1


@pytest.mark.usefixtures("any_gain")
def test_no_size_is_proposed_that_does_not_fit_into_memory(prepared: Campaign) -> None:
    planned(prepared, 4, ranks=8)
    needed_gb = read_any_plan(prepared.run).price.rank_bytes / 1e9
    said = planned(prepared, 4, ranks=8, mem_gb=needed_gb + 1e-6)
    assert "shards of 64 px decode each block of the files" in said
    assert "larger ones do not fit into memory: raise how.mem_gb or how.cache_mb" in said
    assert "shard_chips" not in said
    # a little more memory: a size that helps, though not enough, and that is not refused
    said = planned(prepared, 4, ranks=8, mem_gb=needed_gb * 1.002)
    found = ADVICE.search(said)
    assert found, said
    assert "; larger ones do not fit into memory: raise how.mem_gb or how.cache_mb" in said
    assert len(found[0]) < 250
    planned(prepared, int(found[3]), ranks=8, mem_gb=needed_gb * 1.002)
    assert 1.3 < decoded_once(prepared) == pytest.approx(float(found[4]), abs=0.05)


@pytest.mark.usefixtures("any_gain")
def test_shards_without_work_for_all_ranks_are_counted(prepared: Campaign) -> None:
    said = planned(prepared, 4, ranks=64)
    found = re.search(r"decodes them [\d.]+ times, in (\d+) shards for 64 ranks", said)
    assert found, said
    assert int(found[1]) < 64
