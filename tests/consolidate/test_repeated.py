"""A campaign repeated again and again, each time with the last as its base: the table, the bytes, the links."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from tests.conftest import SOUND_PLACE, Campaign, cube_bytes

from embedcube.campaign.load import load_campaign
from embedcube.campaign.parts import scan_records
from embedcube.campaign.plan import read_plan, read_shards

Change = Callable[[dict[str, Any]], None]

JUNE = "S2B_32UMB_20230606_0_L2A"


@pytest.fixture
def campaign(demo_archive: Path, tmp_path: Path) -> Campaign:
    """Two layers of one small place, of which one has a mask, in June; the archive has no scene of July."""
    archive = demo_archive / "archive" / "sentinel2"
    june = [folder for folder in archive.iterdir() if "_202306" in folder.name]
    for folder in june:
        shutil.copytree(folder, tmp_path / "archive" / folder.name)
    first = tmp_path / "first"
    first.mkdir()
    campaign = Campaign(first / "campaign.yaml")
    shutil.copy(demo_archive / "campaign.yaml", campaign.file)

    def change(document: dict[str, Any]) -> None:
        masked = document["archives"]["s2"] | {"path": "../archive"}
        plain = {key: value for key, value in masked.items() if key != "mask"} | {"bands": ["B02", "B03"]}
        layer = document["layers"]["s2_mosaiks"]
        document["archives"] = {"masked": masked, "plain": plain}
        document["layers"] = {
            "a": layer | {"archives": ["masked"]}, "b": layer | {"archives": ["plain"]},
        }  # fmt: skip
        document["windows"] = {"start": "2023-06-01", "end": "2023-07-01", "step": "1 month"}
        document |= {"region": SOUND_PLACE, "how": {"ranks": 1, "threads": 1}}

    campaign.change(change)
    return campaign


def copied(earlier: Campaign, name: str, change: Change) -> Campaign:
    """The same campaign with a change, in a folder of its own beside the earlier one."""
    folder = earlier.file.parents[1] / name
    folder.mkdir()
    shutil.copy(earlier.file, folder)
    campaign = Campaign(folder / "campaign.yaml")
    campaign.change(change)
    return campaign


def recipes(campaign: Campaign) -> dict[tuple[str, str], str]:
    """The recipe of each shard by layer and window: there is one place."""
    loaded = load_campaign(campaign.file)
    windows = [str(window)[:7] for window in loaded.all_windows]
    groups = read_shards(campaign.run, read_plan(loaded, campaign.run))
    return {(shard.layer, windows[shard.t]): shard.recipe for group in groups for shard in group}


def packs(campaign: Campaign) -> dict[str, int]:
    """The inode of the pack that holds each shard, by its recipe."""
    return {record.recipe: (part / record.arrays[0].path).stat().st_ino for part, record in scan_records(campaign.run)}


def repeat(earlier: Campaign, name: str, change: Change, expected: dict[str, list[str]], *own: str) -> Campaign:
    """Run the changed campaign with the earlier one as its base, and from nothing: the same cube.

    `expected` are the reasons of the table by layer; a reason of `own` layers is another backbone, so that they have
    weights of their own.
    """

    def based(document: dict[str, Any]) -> None:
        change(document)
        document["how"]["base"] = str(earlier.run.root)

    later = copied(earlier, name, based)
    answer = json.loads(later.cli("run", "--until", "plan", "--json"))
    found: dict[str, list[str]] = {}
    for row in answer["changes"]:
        found.setdefault(row["layer"], []).append(row["reason"])
        assert row["embed"] == (0 if row["reason"] in ("unchanged", "gone") else row["shards"])
    assert found == expected
    before, after = recipes(earlier), recipes(later)
    same = {place for place, recipe in after.items() if before.get(place) == recipe}
    assert len(same) == sum(row["shards"] for row in answer["changes"] if row["reason"] == "unchanged")
    later.cli("run")

    def alone(document: dict[str, Any]) -> None:
        change(document)
        document["how"].pop("base", None)

    nothing = copied(earlier, f"{name}-from-nothing", alone)
    nothing.run.weights_folder.mkdir(parents=True)
    for layer in {"a", "b"} - {*own}:
        shutil.copy(earlier.run.weights(layer), nothing.run.weights_folder)
    nothing.cli("run")
    assert cube_bytes(later.run.newest_cube) == cube_bytes(nothing.run.newest_cube)
    assert later.run.newest_cube.resolve().name == nothing.run.newest_cube.resolve().name
    of_earlier, of_later = packs(earlier), packs(later)
    shared = {place for place, recipe in after.items() if of_later[recipe] in of_earlier.values()}
    assert shared == same, "the bytes of what did not change are stored once"
    assert all(of_later[after[place]] == of_earlier[before[place]] for place in same)
    assert not {*packs(nothing).values()} & {*of_earlier.values()}
    return later


def processed_again(archive: Path, scene: str) -> None:
    """Put a product of the same acquisition with a later baseline, and other pixels, into the archive."""
    name = scene.replace("_0_L2A", "_1_L2A")
    shutil.copytree(archive / scene, archive / name)
    item = archive / name / f"{scene}.json"
    text = item.read_text().replace(scene, name).replace('"05.09"', '"05.11"').replace("N0509", "N0511")
    document = json.loads(text)
    for asset in document["assets"].values():
        asset.pop("file:checksum", None)
        asset.pop("file:size", None)
    (archive / name / f"{name}.json").write_text(json.dumps(document))
    item.unlink()
    path = archive / name / "B02.tif"
    with rasterio.open(path) as file:
        pixels, profile = file.read(), file.profile
    path.unlink()
    with rasterio.open(path, "w", **profile) as file:
        file.write(np.where(pixels > 0, pixels + 40, 0).astype(pixels.dtype))


@pytest.mark.slow
def test_what_did_not_change_comes_from_the_last_one(campaign: Campaign, demo_archive: Path) -> None:
    campaign.cli("run")
    archive = campaign.file.parents[1] / "archive"

    def other_mask(document: dict[str, Any]) -> None:
        document["archives"]["masked"]["mask"]["clear"] = [4, 5, 6]

    masked = repeat(
        campaign, "mask", other_mask,
        {"a": ["other recipe: archives.masked.mask.clear"], "b": ["unchanged"]},
    )  # fmt: skip

    for folder in (demo_archive / "archive" / "sentinel2").iterdir():
        if "_202307" in folder.name:
            shutil.copytree(folder, archive / folder.name)
    months = repeat(
        masked, "month", lambda document: document["windows"].update(end="2023-08-01"),
        {"a": ["new", "unchanged"], "b": ["new", "unchanged"]},
    )  # fmt: skip

    processed_again(archive, JUNE)
    baseline = repeat(
        months, "baseline", lambda _: None,
        {"a": ["other scenes", "unchanged"], "b": ["other scenes", "unchanged"]},
    )  # fmt: skip

    def other_backbone(document: dict[str, Any]) -> None:
        document["layers"]["b"]["backbone"] = document["layers"]["b"]["backbone"] | {"filters": 16}

    repeat(
        baseline, "backbone", other_backbone,
        {"a": ["unchanged"], "b": ["other recipe: layers.b.backbone.filters, weights"]}, "b",
    )  # fmt: skip
