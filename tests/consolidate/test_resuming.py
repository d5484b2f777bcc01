"""An interrupted consolidation goes on from what is there, under any job or none, and leaves nothing behind."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import ROOT, Campaign, cube_bytes

from embedcube.campaign.load import load_campaign
from embedcube.campaign.parts import Stored, best_records
from embedcube.campaign.plan import read_plan, read_recipes
from embedcube.campaign.run_folder import TEMPORARY_PREFIX
from embedcube.consolidate import assemble
from embedcube.consolidate import consolidate as stage
from embedcube.consolidate.stored import StoredReader
from embedcube.errors import StartAgain, WorkError


def unfinished(campaign: Campaign) -> list[Path]:
    """Cubes under construction."""
    return list(campaign.run.cubes.glob(f"{TEMPORARY_PREFIX}*"))


def interrupted(campaign: Campaign, patch: pytest.MonkeyPatch, error: BaseException, at: str) -> Path:
    """Consolidate until the stage calls `at`, which raises the error; returns the folder that is left."""

    def stop(*_: object) -> None:
        raise error

    with patch.context() as context:
        context.setattr(stage, at, stop)
        with pytest.raises(type(error)):
            campaign.cli("consolidate")
    (left,) = unfinished(campaign)
    return left


def in_several_windows(campaign: Campaign) -> None:
    """Let two windows share a chunk."""
    campaign.change(lambda document: document["layers"]["s2_mosaiks"].update(chunk_windows=2))
    campaign.cli("plan")


@pytest.mark.parametrize(
    "error",
    [StartAgain("stopped by signal 12"), OSError(28, "No space left on device"), MemoryError()],
    ids=["time", "disk", "memory"],
)
def test_the_next_start_goes_on(
    embedded: Campaign, finished_demo: Campaign, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """Under another job id, or in no job at all."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    left = interrupted(embedded, monkeypatch, error, "write_provenance")
    (left / f"{TEMPORARY_PREFIX}torn").touch()
    monkeypatch.delenv("SLURM_JOB_ID")
    # nothing is read from the parts again
    monkeypatch.setattr(assemble, "StoredReader", None)
    embedded.cli("consolidate")
    assert unfinished(embedded) == []
    assert not list(embedded.run.newest_cube.rglob(f"{TEMPORARY_PREFIX}*"))
    assert cube_bytes(embedded.run.newest_cube) == cube_bytes(finished_demo.run.newest_cube)


def test_objects_of_several_windows_are_kept(embedded: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    """No record has their digests: they are noted. An object with another digest is made again."""
    in_several_windows(embedded)
    left = interrupted(embedded, monkeypatch, StartAgain("stopped by signal 12"), "write_provenance")
    objects = sorted(left.rglob("c.*.*.*"))
    replace(objects[0], objects[0].read_bytes()[:-7])
    replace(objects[1], flipped(objects[1]))
    read: list[object] = []

    class Seen(StoredReader):
        def read(self, part: Path, stored: Stored) -> bytes:
            read.append(stored)
            return super().read(part, stored)

    monkeypatch.setattr(assemble, "StoredReader", Seen)
    embedded.cli("consolidate")
    assert unfinished(embedded) == []
    resumed, of_resumed = cube_bytes(embedded.run.newest_cube), len(read)
    shutil.rmtree(embedded.run.cubes)
    read.clear()
    embedded.cli("consolidate")
    assert cube_bytes(embedded.run.newest_cube) == resumed
    assert 0 < of_resumed < len(read)


def flipped(path: Path, at: int | None = None) -> bytes:
    """The bytes of a file with one bit flipped, in the middle or in byte `at`."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 4
    return bytes(data)


def replace(path: Path, data: bytes) -> None:
    """Write other bytes under the name of a file; hard links of it keep theirs."""
    path.unlink()
    path.write_bytes(data)


TORN: dict[str, Callable[[Path], object]] = {
    "half an object": lambda cube: replace(objects_of(cube)[0], objects_of(cube)[0].read_bytes()[:-9]),
    "an empty object": lambda cube: replace(objects_of(cube)[1], b""),
    "a flipped bit": lambda cube: replace(objects_of(cube)[0], flipped(objects_of(cube)[0])),
    "a flipped bit in an index": lambda cube: replace(objects_of(cube)[1], flipped(objects_of(cube)[1], -40)),
    "another object": lambda cube: replace(objects_of(cube)[0], objects_of(cube)[1].read_bytes()),
    "a byte before the index": lambda cube: replace(objects_of(cube)[0], b"x" + objects_of(cube)[0].read_bytes()),
    "an object that nobody planned": lambda cube: objects_of(cube)[0].with_name("c.9.9.9.0").write_bytes(b"x"),
    "metadata of zeros": lambda cube: (cube / "zarr.json").write_bytes(bytes(300)),
    "a coordinate of zeros": lambda cube: next(cube.rglob("x/c/0")).write_bytes(bytes(9)),
    "an array without metadata": lambda cube: next(cube.rglob("n_obs/zarr.json")).unlink(),
    "a file of anything": lambda cube: (cube / f"{TEMPORARY_PREFIX}c.0.0.0.0.ab").write_bytes(b"\xff\xfe\n[]\n"),
}


def objects_of(cube: Path) -> list[Path]:
    """Objects of the embeddings that are there."""
    return sorted(cube.rglob("embedding/c.*"))


@pytest.mark.parametrize("tear", TORN.values(), ids=TORN.keys())
def test_what_is_torn_is_made_again(
    embedded: Campaign, finished_demo: Campaign, monkeypatch: pytest.MonkeyPatch, tear: Callable[[Path], object]
) -> None:
    """As after a power cut."""
    tear(interrupted(embedded, monkeypatch, StartAgain("stopped by signal 12"), "_fsync_all"))
    embedded.cli("consolidate")
    assert cube_bytes(embedded.run.newest_cube) == cube_bytes(finished_demo.run.newest_cube)
    assert "nothing found wrong" in embedded.cli("verify", "--recompute", "0")
    assert unfinished(embedded) == []


SLOW = ROOT / "tests" / "slurm" / "slow"
"""A folder that, on the path, lets each object take half a second."""


def begun(campaign: Campaign, count: int) -> "subprocess.Popen[bytes]":
    """A slow consolidation in a process group of its own, which has made some of the 8 objects."""
    path = os.pathsep.join((str(SLOW), os.environ["PYTHONPATH"]))
    command = [str(Path(sys.executable).parent / "embedcube"), "consolidate", str(campaign.file)]
    running = subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": path}, stderr=subprocess.PIPE, start_new_session=True
    )
    end = time.monotonic() + 120
    while len(list(campaign.run.cubes.rglob("c.*"))) < count:
        assert running.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    return running


def test_after_a_kill_the_next_start_goes_on(embedded: Campaign, finished_demo: Campaign) -> None:
    with begun(embedded, 3) as killed:
        os.killpg(killed.pid, signal.SIGKILL)
    (left,) = unfinished(embedded)
    inode = next(iter(objects_of(left))).parent.stat().st_ino
    embedded.cli("consolidate")
    assert unfinished(embedded) == []
    assert objects_of(embedded.run.newest_cube.resolve())[0].parent.stat().st_ino == inode
    assert cube_bytes(embedded.run.newest_cube) == cube_bytes(finished_demo.run.newest_cube)


def test_of_two_at_once_one_makes_the_cube(embedded: Campaign, finished_demo: Campaign) -> None:
    """The first one fails by name, or finds the finished cube."""
    with begun(embedded, 3) as first:
        embedded.cli("consolidate")
        assert cube_bytes(embedded.run.newest_cube) == cube_bytes(finished_demo.run.newest_cube)
        _, said = first.communicate(timeout=120)
    assert b"Traceback" not in said
    assert first.returncode == 0 or b"another consolidation of this campaign has taken it over" in said
    assert unfinished(embedded) == []
    assert cube_bytes(embedded.run.newest_cube) == cube_bytes(finished_demo.run.newest_cube)


@pytest.mark.parametrize("at", ["write_template", "write_provenance", "_fsync_all"])
def test_who_was_taken_over_fails_by_name(embedded: Campaign, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    """Wherever it is, and although zarr makes folders again that are gone."""
    own = getattr(stage, at)

    def taken_first(*arguments: Any) -> None:
        (folder,) = unfinished(embedded)
        folder.rename(folder.with_name(folder.name.replace(".zarr", "-other.zarr")))
        own(*arguments)

    monkeypatch.setattr(stage, at, taken_first)
    with pytest.raises(
        WorkError, match=r"another consolidation of this campaign has taken it over, it is now .*-other"
    ):
        embedded.cli("consolidate")
    (left,) = unfinished(embedded)
    assert left.name.endswith("-other.zarr")
    assert list(embedded.run.cubes.iterdir()) == [left]


def damage_a_part(campaign: Campaign) -> tuple[Path, str]:
    """Flip a bit of an array that enters the cube; returns the pack, and the name of the array."""
    recipes = set(read_recipes(campaign.run, read_plan(load_campaign(campaign.file), campaign.run)))
    found = [*best_records(campaign.run, recipes).values()]
    # one with a broken scene may be of a round that others follow
    broken = {bad.scene_digest for _, record in found for bad in record.quarantined}
    part, record = next((part, record) for part, record in found if broken.isdisjoint(record.scenes))
    stored = next(one for one in record.arrays if one.path)
    pack = part / stored.path
    data = bytearray(pack.read_bytes())
    data[stored.offset + stored.size // 2] ^= 4
    pack.write_bytes(data)
    return pack, stored.array


def test_what_failed_for_good_leaves_nothing(embedded: Campaign) -> None:
    pack, array = damage_a_part(embedded)
    with pytest.raises(WorkError, match=f"{pack}: {array}, "):
        embedded.cli("consolidate")
    assert unfinished(embedded) == []


def test_unfinished_cubes_of_other_versions_are_removed_after_a_day(embedded: Campaign) -> None:
    young, old = (embedded.run.cubes / f"{TEMPORARY_PREFIX}{name}.host-1-ab.zarr" for name in ("0" * 12, "1" * 12))
    for folder in (young, old):
        (folder / "layer").mkdir(parents=True)
    day_ago = time.time() - 25 * 3600
    for folder in (old / "layer", old):
        os.utime(folder, (day_ago, day_ago))
    embedded.cli("consolidate")
    assert unfinished(embedded) == [young]
