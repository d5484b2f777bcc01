"""Sealed: what decides bytes is digested, and whoever reads it checks the digest.

Shown here: the inventory, the weights, what ranks wrote, and the cube. tests/consolidate/test_verify.py has dozens of
ways to change a cube that `verify` finds. Not sealed yet: plan.parquet, plan.json and the resolved campaign.yaml.
"""

import shutil
from pathlib import Path

import pytest
from tests.conftest import Campaign, call_cli, demo_in


@pytest.fixture
def finished(finished_demo: Campaign, demo_archive: Path, tmp_path: Path) -> Campaign:
    """A copy of the finished demo, of real files, on the shared archive."""
    campaign = demo_in(tmp_path, demo_archive)
    shutil.copytree(finished_demo.run.root, campaign.run.root, symlinks=True)
    return campaign


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()  # an object is read-only, and may be linked to another place
    path.write_bytes(data)


@pytest.mark.parametrize("verb", ["embed", "consolidate", "verify"])
def test_an_inventory_that_has_changed_is_refused(finished: Campaign, verb: str) -> None:
    flip_a_byte(finished.run.inventory)
    done = call_cli(verb, finished.file)
    assert done.returncode == 2
    assert f"{finished.run.inventory}: damaged or replaced" in done.stderr
    assert done.stderr.endswith("; run `embedcube index` again\n")


def test_weights_that_have_changed_embed_nothing_and_are_a_finding(finished: Campaign) -> None:
    flip_a_byte(finished.run.weights("s2_mosaiks"))
    done = call_cli("verify", finished.file)
    assert done.returncode == 1
    assert "weights: s2_mosaiks: " in done.stdout + done.stderr
    shutil.rmtree(finished.run.parts)
    done = call_cli("embed", finished.file, "--ranks", "1")
    assert done.returncode == 1
    assert f"{finished.run.weights('s2_mosaiks').name}: its SHA-256 is" in done.stderr
    assert not list(finished.run.parts.rglob("records.jsonl"))


def test_a_part_that_has_changed_enters_no_cube(finished: Campaign) -> None:
    victim = min(finished.run.parts.rglob("embedding/c.*"))
    flip_a_byte(victim)
    shutil.rmtree(finished.run.cubes)
    finished.run.newest_cube.unlink()
    done = call_cli("consolidate", finished.file)
    assert done.returncode == 1
    assert victim.name in done.stderr
    assert not finished.run.newest_cube.exists()


def test_a_cube_that_has_changed_is_found_without_its_run(finished: Campaign, tmp_path: Path) -> None:
    alone = tmp_path / "alone.zarr"
    shutil.copytree(finished.run.newest_cube.resolve(), alone)
    flip_a_byte(min(alone.rglob("embedding/c.*")))
    done = call_cli("verify", alone)
    assert done.returncode == 1
    assert "embedding/c." in done.stdout + done.stderr
