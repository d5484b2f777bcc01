"""A consolidation that outlasts its job's time goes on in the job's next start, and leaves nothing behind."""

import shutil
from pathlib import Path

import pytest
from tests.conftest import Campaign, cube_bytes

from embedcube.campaign.parts import read_verified
from embedcube.campaign.run_folder import TEMPORARY_PREFIX
from embedcube.consolidate import consolidate as stage
from embedcube.consolidate import link, rechunk
from embedcube.errors import StartAgain, WorkError


@pytest.fixture
def embedded(finished_demo: Campaign, demo_archive: Path, tmp_path: Path) -> Campaign:
    """The demo with all of its records, and no cube."""
    campaign = Campaign(tmp_path / "campaign.yaml")
    shutil.copy(finished_demo.file, campaign.file)
    campaign.change(lambda document: document["archives"]["s2"].update(path=str(demo_archive / "archive")))
    shutil.copytree(finished_demo.run.root, campaign.run.root, symlinks=True)
    shutil.rmtree(campaign.run.cubes)
    campaign.run.newest_cube.unlink()
    return campaign


def unfinished(campaign: Campaign) -> list[Path]:
    """Cubes under construction."""
    return list(campaign.run.cubes.glob(f"{TEMPORARY_PREFIX}*"))


@pytest.mark.parametrize("windows", [1, 2], ids=["linked", "rechunked"])
def test_the_next_start_of_a_job_goes_on(
    embedded: Campaign, finished_demo: Campaign, monkeypatch: pytest.MonkeyPatch, windows: int
) -> None:
    embedded.change(lambda document: document["layers"]["s2_mosaiks"].update(chunk_windows=windows))
    if windows > 1:
        embedded.cli("plan")
    looked: list[object] = []

    def look(*stored: object) -> bytes:
        looked.append(stored)
        return read_verified(*stored)  # type: ignore[arg-type]

    for module in (link, rechunk):
        monkeypatch.setattr(module, "read_verified", look)

    def time_is_up(*_: object) -> None:
        raise StartAgain("stopped by signal 12")

    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with monkeypatch.context() as patch:
        patch.setattr(stage, "write_provenance", time_is_up)
        with pytest.raises(StartAgain):
            embedded.cli("consolidate")
    (left,) = unfinished(embedded)
    first = len(looked)
    torn = left / f"{TEMPORARY_PREFIX}torn"
    torn.touch()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    embedded.cli("consolidate")
    assert first > 0
    assert len(looked) == first  # nothing was read and verified again
    assert unfinished(embedded) == []
    assert not list(embedded.run.newest_cube.rglob(f"{TEMPORARY_PREFIX}*"))
    monkeypatch.undo()
    resumed = cube_bytes(embedded.run.newest_cube)
    if windows == 1:
        assert resumed == cube_bytes(finished_demo.run.newest_cube)
    shutil.rmtree(embedded.run.cubes)
    embedded.cli("consolidate")
    assert cube_bytes(embedded.run.newest_cube) == resumed


def test_what_failed_for_good_leaves_nothing(embedded: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    damaged = next(path for path in embedded.run.parts.rglob("c.*") if path.stat().st_size > 100)
    damaged.chmod(0o644)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(WorkError, match=damaged.name):
        embedded.cli("consolidate")
    assert unfinished(embedded) == []
