"""A shard that kills its rank: found out by embedding suspects alone, quarantined after two hosts or three times."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import Campaign, run_cli

from embedcube.campaign.load import load_campaign
from embedcube.campaign.parts import crash_files, scan_records
from embedcube.campaign.plan import Shard, read_plan, read_shards
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.schema import make_grid, make_layout
from embedcube.campaign.seals import read_sealed, write_sealed
from embedcube.cube.encoding import FAILED, VALID
from embedcube.cube.reader import Cube
from embedcube.workers.crashes import Crash, Held, blame, crashes_by_shard, write_crash

KILL = int(signal.SIGKILL)


def deadly(campaign: Campaign) -> Campaign:
    """With the backbone that some chips kill."""

    def change(document: dict[str, Any]) -> None:
        document["layers"]["s2_mosaiks"] |= {"backbone": {"name": "deadly"}, "chip_px": 160, "halo_px": 16}
        # all scenes of the window cannot be used for that shard
        document["how"].update(error_budget=1.0)

    campaign.change(change)
    return campaign


def a_shard(campaign: Campaign) -> tuple[Shard, str]:
    """One of June, whose scenes are whole, and what DEADLY must be for it."""
    loaded = load_campaign(campaign.run.campaign)
    shards = [s for group in read_shards(campaign.run, read_plan(loaded, campaign.run)) for s in group]
    june = [shard for shard in shards if shard.t == 0]
    shard = june[len(june) // 2]
    layout = make_layout(loaded.layers[shard.layer])
    area = layout.shard_area(shard.row, shard.col)
    lon, lat = make_grid(loaded, shard.layer, shard.zone).degrees(area, layout.cell_px)
    middle = layout.shard_cells // 2
    day = loaded.all_windows[shard.t].start
    return shard, f"{lon[middle, middle]} {lat[middle, middle]} {day:%Y-%m-%d}"


def crashes(campaign: Campaign) -> list[Path]:
    """Their files, the oldest first."""
    return sorted(campaign.run.parts.rglob("crash.json"), key=lambda path: path.stat().st_mtime)


@pytest.mark.chaos
@pytest.mark.slow
def test_a_shard_that_kills_on_two_hosts_is_quarantined(demo: Campaign) -> None:
    deadly(demo).cli("run", "--until", "plan")
    killer, environment = a_shard(demo)

    def embed() -> int:
        return run_cli("embed", demo.file, "--ranks", "1", environment={"DEADLY": environment}).returncode

    def undone() -> set[str]:
        return {s.recipe for s in planned} - {record.recipe for _, record in scan_records(demo.run)}

    loaded = load_campaign(demo.run.campaign)
    planned = [s for group in read_shards(demo.run, read_plan(loaded, demo.run)) for s in group]

    assert embed() == 75
    in_hand = json.loads(crashes(demo)[0].read_text())
    assert in_hand["signal"] == KILL
    assert killer.recipe in in_hand["shards"]
    assert 1 <= len(in_hand["shards"]) <= 5

    # what was in hand with it, is done alone; at the latest after the killer had its turn
    assert embed() == 75
    assert embed() == 75
    assert undone() == {killer.recipe}

    def alone_in_hand() -> list[Path]:
        return [path for path in crashes(demo) if read_sealed(path, "embed")["alone"]]

    # twice on one host, the host may be to blame
    assert alone_in_hand()
    while len(alone_in_hand()) < 2:
        assert embed() == 75
    alone = alone_in_hand()
    assert undone() == {killer.recipe}
    assert len(alone) == 2

    write_sealed(alone[-1], read_sealed(alone[-1], "embed") | {"host": "another"})
    assert embed() == 0
    demo.cli("consolidate")
    demo.cli("verify")
    cube = Cube(demo.run.newest_cube)
    status = cube.array(f"{killer.layer}/{killer.zone}", "status")
    cells = make_layout(loaded.layers[killer.layer]).shard_cells
    killed = np.s_[killer.t, killer.iy * cells : (killer.iy + 1) * cells, killer.ix * cells : (killer.ix + 1) * cells]
    assert set(np.unique(status[killed])) <= {FAILED, 0, 2}
    assert (status[killed] == FAILED).any()
    assert (np.asarray(status) == VALID).any()
    (record,) = (record for _, record in scan_records(demo.run) if record.recipe == killer.recipe)
    assert len(record.quarantined) == len(killer.scenes)
    reason = record.quarantined[0].reason
    assert reason.startswith("this shard alone killed the rank that read it (")
    assert "SIGKILL on another" in reason

    # mended, it is asked for again, and the cube is what it had been
    demo.cli("embed", "--retry-quarantined")
    assert not [r for _, r in scan_records(demo.run) if r.recipe == killer.recipe][-1].quarantined


def held(*recipes: str, suspect: bool = False) -> tuple[Held, ...]:
    return tuple(Held(recipe=recipe, shard=recipe, suspect=suspect) for recipe in recipes)


def test_only_a_suspect_that_was_alone_on_two_hosts_or_three_times_is_to_blame() -> None:
    one = Crash.of("a", KILL, held("x", suspect=True))
    two = Crash.of("b", int(signal.SIGSEGV), held("x", suspect=True))
    by_chance = Crash.of("c", KILL, held("x"))
    crowd = Crash.of("d", KILL, (*held("x", suspect=True), *held("y")))
    assert blame([]) == ""
    assert blame([one, one]) == ""
    assert blame([one, one, by_chance, crowd]) == "", "twice alone, on one host"
    assert "(SIGKILL on a, 3 times)" in blame([one, one, one]), "there may be one host only"
    assert blame([one, crowd]) == ""
    assert blame([one, by_chance]) == "", "the only shard in hand is no suspect yet"
    assert "(SIGKILL on a, SIGSEGV on b)" in blame([one, two])


def test_crashes_are_found_by_shard(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    first, second = Crash.of("a", KILL, held("x", "y")), Crash.of("b", KILL, held("y", suspect=True))
    write_crash(run.part(0, "1-0", 0), first)
    write_crash(run.part(3, "2-0", 1), second)
    assert crashes_by_shard(crash_files(run), ["x", "y", "z"]) == {"x": [first], "y": [first, second]}
    assert crashes_by_shard(crash_files(run), ["z"]) == {}


@pytest.mark.parametrize(
    "damaged",
    [b"", b"{}", b"[]", b"\xff{", b'{"host": "a", "signal": 999, "shards": ["x"]}', b'{"host": "a", "signal"'],
)
def test_a_damaged_crash_accuses_nobody(tmp_path: Path, damaged: bytes) -> None:
    run, whole = RunDir(tmp_path), Crash.of("a", KILL, held("x"))
    write_crash(run.part(0, "1-0", 0), whole)
    write_crash(run.part(0, "1-0", 1), whole)
    (run.part(0, "1-0", 1) / "crash.json").write_bytes(damaged)
    assert crashes_by_shard(crash_files(run), ["x"]) == {"x": [whole]}
