"""Rounds of `embed`: what one shard finds broken is out for all, whatever the shards are.

The archive has two scenes of 512 x 512 pixels. One is whole and covers the left half; the other covers all of it, and a
part of its band B02 does not decode. Where the broken part lies, only some shards read it.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import rasterio
from numpy.typing import NDArray
from pyproj import Transformer
from tests.conftest import Campaign, cube_bytes, in_shards
from tests.edge.scenes import Scene, two_bands_of, write_scene

from embedcube.campaign import plan_files, tables
from embedcube.campaign.how import How
from embedcube.campaign.inventory import read_inventory
from embedcube.campaign.load import load_campaign
from embedcube.campaign.parts import Quarantined, scan_records
from embedcube.campaign.plan import Plan, read_plan, read_recipes, tasks_of_recipes
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.seals import read_sealed, write_sealed
from embedcube.campaign.verdicts import MOST_ROUNDS, Verdict, Verdicts, recipe_without, write_verdicts
from embedcube.consolidate.accounts import account_of_run
from embedcube.errors import RequestError, WorkError
from embedcube.prepare.plan import plan as make_plan
from embedcube.workers.rounds import named, new_verdicts, next_round, recorded

CORNER = (400_000.0, 5_600_000.0)
SIDE_PX, TILE_PX, CELL_PX = 512, 256, 16
VALID_INCOMPLETE, FAILED = 5, 4

_Break = Callable[[Path], None]


def cut_in_half(path: Path) -> None:
    """Only the upper two of four tiles are left."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def garble_last_block(path: Path) -> None:
    """Other bytes at the beginning of the block at the lower right, which the file's size does not show."""
    with rasterio.open(path) as dataset:
        offset = int(dataset.get_tag_item("BLOCK_OFFSET_1_1", "TIFF", bidx=1))
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 64)


JPEG_2000 = {"driver": "JP2OpenJPEG", "compress": None, "tiled": None, "quality": 100, "reversible": True}
BROKEN: dict[str, tuple[dict[str, Any], _Break]] = {
    "JPEG 2000 cut in half": (JPEG_2000, cut_in_half),
    "GeoTIFF with one broken block": ({}, garble_last_block),
}


def bands(cols: int, seed: int) -> dict[str, NDArray[np.uint16]]:
    """B02 and B03 of a scene of SIDE_PX rows."""
    rng = np.random.default_rng(seed)
    return {name: rng.integers(500, 4000, (SIDE_PX, cols), dtype=np.uint16) for name in ("B02", "B03")}


def write_archive(folder: Path, kind: str) -> None:
    """The two scenes; the band of the broken one is broken before it is indexed."""
    profile, harm = BROKEN[kind]
    layout = {"blockxsize": TILE_PX, "blockysize": TILE_PX} | profile
    for i, (name, cols) in enumerate((("whole", SIDE_PX // 2), ("broken", SIDE_PX))):
        west, north = CORNER
        scene = Scene(id=name, time=f"2023-06-0{i + 5}T10:00:00Z", west=west, north=north, bands=bands(cols, i))
        made = write_scene(folder / "archive", scene, **layout)
    harm(made / "B02.tif")


def campaign_of(folder: Path, archive: Path, shard_chips: int = 1, **how: Any) -> Campaign:
    """A campaign over the archive; a shard has `shard_chips` x `shard_chips` chips of 128 pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    campaign = two_bands_of(folder, CORNER, error_budget=0.5, read_attempts=2, **how)

    def larger(document: dict[str, Any]) -> None:
        document["archives"]["s2"]["path"] = str(archive)
        document["layers"]["m"].update(chip_px=130, shard_chips=shard_chips, backbone={"name": "mosaiks", "filters": 2})

    campaign.change(larger)
    return campaign


def statuses(campaign: Campaign) -> NDArray[np.uint8]:
    """Status of the cells of the archive, as any reader of Zarr sees them."""
    cells = SIDE_PX // CELL_PX
    return np.asarray(in_shards(campaign.run.newest_cube, "m/grid")["status"][0, :cells, :cells])


def recipes_of_records(run: RunDir) -> Counter[str]:
    """How many records each recipe has."""
    return Counter(record.recipe for _, record in scan_records(run))


def plan_of(campaign: Campaign) -> Plan:
    """The plan with what was found."""
    return read_plan(load_campaign(campaign.file), campaign.run)


def expected_statuses() -> NDArray[np.int64]:
    """No cell is whole without the broken scene, and the left half has the other one."""
    cells = SIDE_PX // CELL_PX
    return np.broadcast_to(np.where(np.arange(cells) < cells // 2, VALID_INCOMPLETE, FAILED), (cells, cells))


def assert_one_is_broken(campaign: Campaign) -> str:
    """Every cell has the status that the broken scene leaves; returns why that scene is out."""
    np.testing.assert_array_equal(statuses(campaign), expected_statuses())
    quarantined = json.loads(campaign.cli("status", "--json"))["quarantined"]
    assert list(quarantined) == ["broken"]
    assert quarantined["broken"].startswith("B02: broken/B02.tif does not decode")
    return str(quarantined["broken"])


def test_status_does_not_depend_on_the_shards(tmp_path: Path) -> None:
    write_archive(tmp_path, "JPEG 2000 cut in half")
    reasons = set()
    for shard_chips in (1, 4):
        campaign = campaign_of(tmp_path / f"chips{shard_chips}", tmp_path / "archive", shard_chips)
        campaign.cli("run")  # verified, too
        reasons.add(assert_one_is_broken(campaign))
    assert len(reasons) == 1, "the reason names no block that only some shards have read"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """16 shards of one chip, of which one reads the broken block and four its neighbourhood; all stages are done."""
    folder = tmp_path_factory.mktemp("finished")
    write_archive(folder, "GeoTIFF with one broken block")
    campaign = campaign_of(folder / "campaign", folder / "archive")
    campaign.cli("run")
    return campaign


def copy_of(campaign: Campaign, folder: Path, *, without: tuple[str, ...] = ()) -> Campaign:
    """The campaign and its run folder in another place, some files of the run folder left out."""
    shutil.copytree(campaign.file.parent, folder, symlinks=True, ignore=shutil.ignore_patterns(*without))
    return Campaign(folder / campaign.file.name)


def test_one_broken_block_costs_the_scene_everywhere(finished: Campaign) -> None:
    assert_one_is_broken(finished)


BEFORE_EMBED = ("parts", "cubes", "cube.zarr", "report", "logs", "verdicts.json")


def test_the_shards_of_a_broken_scene_are_embedded_again_and_no_others(finished: Campaign) -> None:
    plan = plan_of(finished)
    assert plan.verdicts.round == 2
    assert [verdict.scene for verdict in plan.verdicts.scenes.values()] == ["broken"]
    first, second = read_recipes(finished.run, replace(plan, verdicts=Verdicts())), read_recipes(finished.run, plan)
    assert len(first) == len(second) == 16
    assert not set(first) & set(second), "the scene covers all shards"
    assert recipes_of_records(finished.run) == Counter({*first, *second}), "each is embedded once"
    out = next(iter(plan.verdicts.scenes.values())).scene_digest
    assert second == [recipe_without(recipe, [out]) for recipe in first], "no word of the reason is in a recipe"
    found = {record.recipe for _, record in scan_records(finished.run) if record.quarantined} & set(first)
    assert 0 < len(found) < 16, "some shards do not read the broken block"
    assert finished.cli("verify")
    assert json.loads(finished.cli("status", "--json"))["round"] == 2


def test_recipes_of_a_later_round_need_the_links_of_a_few_shards_at_once(
    finished: Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `status` reads of a plan whose links memory does not hold."""
    plan = plan_of(finished)
    assert plan.verdicts.scenes
    whole, sizes, without = [*tasks_of_recipes(finished.run, plan)], list[int](), plan_files._without_broken

    def counted(table: pyarrow.Table, verdicts: Verdicts, changed: bool) -> pyarrow.Table:
        sizes.append(len(table))
        return without(table, verdicts, changed)

    monkeypatch.setattr(tables, "_ROWS", 2)
    monkeypatch.setattr(plan_files, "_without_broken", counted)
    assert [*tasks_of_recipes(finished.run, plan)] == whole
    assert sum(sizes) == len(whole) > max(sizes) == 2


def test_explain_says_why_a_scene_is_out_where_it_would_have_been_read(finished: Campaign) -> None:
    """The place is in the first shard, which has read the scene in the first round without any complaint."""
    lon, lat = Transformer.from_crs("EPSG:32632", "EPSG:4326", always_xy=True).transform(
        CORNER[0] + 200, CORNER[1] - 200
    )
    answer = json.loads(finished_explain(finished, lon, lat))
    assert answer["status"] == "valid_incomplete"
    assert [scene["id"] for scene in answer["scenes"]] == ["whole"]
    [out] = answer["scenes_not_used"]
    assert out["id"] == "broken"
    assert out["reason"].startswith("B02: broken/B02.tif does not decode: ")
    assert answer["shares_of_frames"] == {"s2": [1.0]}


def finished_explain(campaign: Campaign, lon: float, lat: float) -> str:
    """What `explain --json` prints."""
    cube = Campaign(campaign.run.newest_cube)
    return cube.cli("explain", "--lon", str(lon), "--lat", str(lat), "--json")


@pytest.mark.slow
def test_tasks_by_hand_and_consolidate_make_the_same_cube(finished: Campaign, tmp_path: Path) -> None:
    """As on Slurm: tasks know nothing of each other, and consolidation begins the next round."""
    campaign = copy_of(finished, tmp_path / "campaign", without=BEFORE_EMBED)
    campaign.change(lambda document: document["how"].update(tasks=2))
    campaign.cli("plan")
    for _ in range(2):
        for task in ("0", "1"):
            campaign.cli("embed", "--task", task)
        if not campaign.run.verdicts.exists():
            with pytest.raises(
                WorkError, match=r"16 of 16 shards have no record in round 2, without 1 broken scene \(s2/broken: B02: "
            ):
                campaign.cli("consolidate")
            assert json.loads(campaign.cli("status", "--json"))["done"] == 0
            assert "round 2 of at most 3" in campaign.cli("status")
    campaign.cli("consolidate")
    assert cube_bytes(campaign.run.newest_cube) == cube_bytes(finished.run.newest_cube)
    assert campaign.run.newest_cube.resolve().name == finished.run.newest_cube.resolve().name
    assert max(recipes_of_records(campaign.run).values()) == 1


def test_verdicts_that_are_lost_are_found_again_without_embedding(finished: Campaign, tmp_path: Path) -> None:
    campaign = copy_of(finished, tmp_path / "campaign", without=("cubes", "cube.zarr"))
    before = recipes_of_records(campaign.run)
    written = campaign.run.verdicts.read_bytes()
    campaign.run.verdicts.unlink()
    campaign.cli("consolidate")
    assert campaign.run.verdicts.read_bytes() == written
    made = make_plan(load_campaign(campaign.file), campaign.run)
    assert campaign.run.verdicts.read_bytes() == written, "the same shards"
    assert made.verdicts == plan_of(campaign).verdicts != Verdicts(), "what `plan` does next is of the same round"
    campaign.run.verdicts.unlink()
    assert json.loads(campaign.cli("embed", "--json"))["rounds"] == 2
    campaign.cli("consolidate")
    assert recipes_of_records(campaign.run) == before
    assert campaign.run.newest_cube.resolve().name == finished.run.newest_cube.resolve().name


def test_damaged_verdicts_are_refused_and_those_of_another_plan_do_not_count(
    finished: Campaign, tmp_path: Path
) -> None:
    campaign = copy_of(finished, tmp_path / "campaign", without=("cubes", "cube.zarr"))
    document = read_sealed(campaign.run.verdicts, "plan")
    for digest in plan_of(campaign).digests:
        write_sealed(campaign.run.verdicts, document | {digest: "0" * 64})
        assert plan_of(campaign).verdicts == Verdicts(), digest
    older = {name: value for name, value in document.items() if name != "campaign"}
    write_sealed(campaign.run.verdicts, older)
    with pytest.raises(RequestError, match=r"verdicts.json: .*another version of embedcube .*`embedcube plan` again"):
        plan_of(campaign)
    data = bytearray(campaign.run.verdicts.read_bytes())
    data[data.index(b"does not decode")] ^= 1
    campaign.run.verdicts.write_bytes(data)
    for verb in ("embed", "consolidate"):
        with pytest.raises(RequestError, match=r"verdicts.json: damaged.*run `embedcube plan` again"):
            campaign.cli(verb)
    campaign.cli("plan")
    assert not campaign.run.verdicts.exists()


@pytest.mark.parametrize("change", ["a verdict too many", "another scene instead", "none"])
def test_verify_derives_the_verdicts_from_the_records(finished: Campaign, tmp_path: Path, change: str) -> None:
    campaign = copy_of(finished, tmp_path / "campaign")
    if change == "none":
        campaign.run.verdicts.unlink()
        expected = "s2/broken", "in use", "out, by the records"
    else:
        document = read_sealed(campaign.run.verdicts, "plan")
        [broken], whole = document["scenes"], next(s for s in scenes_of(campaign) if s["scene"] == "whole")
        written, expected = [broken, broken | whole], ("s2/whole", "out", "in use, by the records")
        if change == "another scene instead":
            written = [broken | {"instead": [whole["row"]], "instead_digests": [whole["scene_digest"]]}]
            used = f"instead of it {whole['row']} {whole['scene_digest'][:12]}"
            expected = "verdicts: s2/broken", used, "instead of it no scene"
        write_sealed(campaign.run.verdicts, document | {"scenes": written})
    findings = "\n".join(json.loads(campaign_verify(campaign))["findings"])
    assert all(words in findings for words in expected), findings


def scenes_of(campaign: Campaign) -> list[dict[str, Any]]:
    """The scenes of the inventory as verdicts name them."""
    from pyarrow import parquet

    table = parquet.read_table(campaign.run.inventory, columns=["id", "embedcube:digest"])
    pairs = zip(table["id"].to_pylist(), table["embedcube:digest"].to_pylist(), strict=True)
    return [{"row": row, "scene": scene, "scene_digest": digest} for row, (scene, digest) in enumerate(pairs)]


def campaign_verify(campaign: Campaign) -> str:
    """What `verify --json` prints, whatever it finds."""
    from tests.conftest import call_cli

    return call_cli("verify", campaign.file, "--json", "--recompute", "0").stdout


def test_the_reason_is_that_of_the_first_band_and_names_no_block(finished: Campaign) -> None:
    campaign, plan = load_campaign(finished.file), plan_of(finished)
    first = replace(plan, verdicts=Verdicts())
    [(row, verdict)] = plan.verdicts.scenes.items()

    def found(*reasons: str) -> dict[int, Verdict]:
        one = Quarantined(archive="s2", scene="broken", scene_digest=verdict.scene_digest, reason="")
        return new_verdicts(campaign, finished.run, first, [replace(one, reason=reason) for reason in reasons])

    blocks = [f"B02: b.tif: IReadBlock failed at X offset {x}, Y offset 1: LZW at scanline {x}" for x in (3, 1)]
    for reasons in (blocks, ["B03: b.tif is gone", *blocks], [blocks[1], "a.tif has 3 bytes"]):
        assert found(*reasons)[row].reason == "B02: b.tif: IReadBlock failed: LZW"
    of_other_bytes = Quarantined(archive="s2", scene="broken", scene_digest="0" * 64, reason="")
    assert new_verdicts(campaign, finished.run, first, [of_other_bytes]) == {}


def test_after_the_last_round_it_is_an_error_that_names_the_scenes(finished: Campaign) -> None:
    plan = plan_of(finished)
    late = {1: Verdict(archive="s2", scene="late", scene_digest="0" * 64, reason="B02: gone")}
    second = next_round(replace(plan, verdicts=Verdicts()), plan.verdicts.scenes)
    assert (second.round, second.scenes.keys()) == (2, plan.verdicts.scenes.keys())
    third = next_round(plan, late)
    assert (third.round, third.scenes) == (MOST_ROUNDS, {**plan.verdicts.scenes, **late})
    many = {row: replace(late[1], scene=f"scene{row}", reason="B02: " + "x" * 500) for row in range(9)}
    assert len(named(many)) < 300
    assert named(many).startswith("9 broken scenes (s2/scene0: B02: xxx")
    assert named(many).endswith("; s2/scene1; s2/scene2; and 6 more)")
    with pytest.raises(WorkError, match=r"round 3 of embed has found 1 broken scene \(s2/late: B02: gone\)"):
        next_round(replace(plan, verdicts=third), late)


def test_a_shard_that_kills_its_rank_is_no_verdict_on_its_scenes(finished: Campaign, tmp_path: Path) -> None:
    """Its record quarantines all of them, but nobody knows which is the cause."""
    run = RunDir(tmp_path)
    part = run.part(0, "attempt", 0)
    part.mkdir(parents=True)
    _, record = next((part, record) for part, record in scan_records(finished.run) if record.quarantined)
    for name, refused in (("refused", "this shard alone killed the rank"), ("read", "")):
        line = replace(record, recipe=name.ljust(64, "0"), refused=refused).to_line()
        with (part / "records.jsonl").open("ab") as file:
            file.write(line)
    recipes = [name.ljust(64, "0") for name in ("refused", "read")]
    both, one = recorded(run, recipes), recorded(run, recipes[:1])
    assert (both.count, len(both.unusable), len(both.broken)) == (2, 2, 1)
    assert (one.count, len(one.unusable), len(one.broken)) == (1, 1, 0)


def test_the_next_older_version_is_used_instead_of_one_that_is_found_broken(tmp_path: Path) -> None:
    """Three processings of one tile and pass: pixels of the newest do not decode, in a block that one shard reads."""
    west, north = CORNER
    ids = [f"S2A_MSIL2A_20230605T100000_N{n}_R079_T32ULB_20230606T000000" for n in ("0205", "0400", "0509")]
    for seed, (id, baseline) in enumerate(zip(ids, ("02.05", "04.00", "05.09"), strict=True)):
        scene = Scene(
            id=id, time="2023-06-05T10:00:00Z", west=west, north=north, bands=bands(SIDE_PX, seed),
            datatake="GS2A_20230605T100000_041483_N00.00", properties={"s2:processing_baseline": baseline},
        )  # fmt: skip
        made = write_scene(tmp_path / "archive", scene)
    garble_last_block(made / "B02.tif")
    campaign = campaign_of(tmp_path / "campaign", tmp_path / "archive")
    campaign.change(lambda document: document["how"].update(error_budget=1))
    campaign.cli("run")  # verified, too
    plan = plan_of(campaign)
    [verdict] = plan.verdicts.scenes.values()
    assert verdict.scene == ids[2]
    np.testing.assert_array_equal(np.unique(statuses(campaign)), [VALID_INCOMPLETE])
    lon, lat = Transformer.from_crs("EPSG:32632", "EPSG:4326", always_xy=True).transform(west + 200, north - 200)
    answer = json.loads(finished_explain(campaign, lon, lat))
    assert [scene["id"] for scene in answer["scenes"]] == [ids[1]]
    assert [scene["id"] for scene in answer["scenes_not_used"]] == [ids[2]]
    # where the next one is broken, too, the oldest
    rows = {scene.id: row for row, scene in enumerate(read_inventory(load_campaign(campaign.file), campaign.run))}
    assert plan.verdicts.rows([rows[ids[2]]]) == [rows[ids[2]], rows[ids[1]]]
    second = plan.verdicts.scenes[rows[ids[2]]]
    older = Quarantined(
        archive="s2", scene=ids[1], scene_digest=second.instead_digests[0], reason="B02: does not decode"
    )
    found = new_verdicts(load_campaign(campaign.file), campaign.run, plan, [older])
    assert found[rows[ids[1]]].instead == (rows[ids[0]],)
    assert next_round(plan, found).rows([rows[ids[2]]]) == [rows[id] for id in reversed(ids)]
    # withdrawn, the next one is in no shard of the first round, before and after: the recipes of that round stay
    campaign.change(lambda document: document.update(withdraw=[ids[1]]))
    campaign.cli("plan")
    withdrawn = plan_of(campaign)
    assert (withdrawn.plan, withdrawn.verdicts) == (plan.plan, Verdicts())
    broken = recorded(campaign.run, read_recipes(campaign.run, withdrawn)).broken
    found = new_verdicts(load_campaign(campaign.file), campaign.run, withdrawn, broken)
    assert {row: verdict.instead for row, verdict in found.items()} == {rows[ids[2]]: (rows[ids[0]],)}


def test_a_whole_older_version_only_fills_beside_a_part_of_a_newer_one(tmp_path: Path) -> None:
    """The newest is split in two, as `index` would have decided it, if it had known that one half is broken."""
    west, north = CORNER
    stamp, half = "20230605T100000", SIDE_PX // 2
    upper, lower, whole = (
        f"S2A_MSIL2A_{stamp}_N{n}_R079_T32ULB_2023060{day}T000000" for n, day in (("0509", 8), ("0509", 9), ("0400", 6))
    )
    rows = {upper: slice(0, half), lower: slice(half, SIDE_PX), whole: slice(0, SIDE_PX)}
    for id, shown in rows.items():
        pixels = {name: np.zeros((SIDE_PX, SIDE_PX), np.uint16) for name in ("B02", "B03")}
        for name, values in bands(SIDE_PX, len(id)).items():
            pixels[name][shown] = values[shown]
        scene = Scene(
            id=id, time="2023-06-05T10:00:00Z", west=west, north=north, bands=pixels,
            datatake=f"GS2A_{stamp}_041483_N00.00", properties={"s2:processing_baseline": f"{id[28:30]}.{id[30:32]}"},
        )  # fmt: skip
        made = write_scene(tmp_path / "archive", scene)
        if id == upper:
            garble_last_block(made / "B02.tif")
    campaign = campaign_of(tmp_path / "campaign", tmp_path / "archive", 4)
    campaign.change(lambda document: document["how"].update(error_budget=1))
    campaign.cli("run")  # verified, too
    loaded, plan = load_campaign(campaign.file), plan_of(campaign)
    row_of = {scene.id: row for row, scene in enumerate(read_inventory(loaded, campaign.run))}
    assert plan.verdicts.instead == plan.verdicts.filling == frozenset((row_of[whole],))
    used = account_of_run(loaded, campaign.run, plan).scenes[row_of[whole]]
    assert used.digest == plan.verdicts.scenes[row_of[upper]].instead_digests[0], "reasons compare it as it is used"
    to_degrees = Transformer.from_crs("EPSG:32632", "EPSG:4326", always_xy=True).transform
    for y, shows in ((200, whole), (half * 10 + 200, lower)):
        answer = json.loads(finished_explain(campaign, *to_degrees(west + 200, north - y)))
        assert [scene["id"] for scene in answer["scenes"]] == [shows]
    # the other half broken, or both: what is used does not depend on which one `index` has named
    first = replace(plan, verdicts=Verdicts())
    scenes = read_inventory(loaded, campaign.run)
    for ids, fills in (([lower], (row_of[whole],)), ([upper, lower], ())):
        broken = [
            Quarantined(archive="s2", scene=id, scene_digest=scenes[row_of[id]].digest, reason="B02: broken")
            for id in ids
        ]
        found = new_verdicts(loaded, campaign.run, first, broken)
        for id in ids:
            assert (found[row_of[id]].instead, found[row_of[id]].filling) == ((row_of[whole],), fills)
    assert next_round(first, found).rows([row_of[upper], row_of[lower]]) == [row_of[id] for id in (upper, whole, lower)]
    # a half is withdrawn: the older one fills from the beginning, and is then found broken as it was used
    asked = loaded.model_copy(update={"withdraw": (upper,)})
    digest = read_inventory(asked, campaign.run)[row_of[whole]].digest
    assert digest != scenes[row_of[whole]].digest
    filling = Quarantined(archive="s2", scene=whole, scene_digest=digest, reason="B02: broken")
    found = new_verdicts(asked, campaign.run, first, [filling])
    assert {row: verdict.scene_digest for row, verdict in found.items()} == {row_of[whole]: digest}


def test_a_retry_of_one_task_is_refused_and_changes_nothing(finished: Campaign) -> None:
    plan = plan_of(finished)
    verdict = Verdict(archive="s2", scene="x", scene_digest="0" * 64, reason="B02: broken")
    write_verdicts(finished.run, plan.digests, Verdicts(round=2, scenes={0: verdict}))
    before = finished.run.campaign.read_bytes()
    with pytest.raises(RequestError, match="--retry-quarantined with --task 0: a scene is out for all tasks or for no"):
        finished.cli("embed", "--task", "0", "--retry-quarantined")
    assert plan_of(finished).verdicts.round == 2
    assert finished.run.campaign.read_bytes() == before


def test_only_the_first_round_tries_again() -> None:
    """On Slurm the campaign of the run folder asks for it in every round; on a laptop the command does."""
    asked, how = How(retry_quarantined=True), How()
    assert [Verdicts(round=number).retries(asked) for number in (1, 2, 3)] == [True, False, False]
    assert not Verdicts().retries(how)
