"""Two runs of one campaign, split by time, on a real Slurm cluster: merged, they are the cube of one run."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Campaign, call_cli, cube_bytes, demo_in
from tests.slurm.chain import wait_for_cube
from tests.slurm.cluster import Cluster

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def test_two_allocations_make_one_cube(
    cluster: Cluster, site: Path, finished_demo: Campaign, demo_archive: Path, tmp_path: Path
) -> None:
    """July has a torn scene, which its run leaves out in a second round; the merged cube leaves it out, too."""

    def of_month(name: str, start: str, end: str) -> Campaign:
        (tmp_path / name).mkdir()
        campaign = demo_in(tmp_path / name, demo_archive)

        def change(document: dict[str, Any]) -> None:
            document["campaign"] = name
            document["windows"] |= {"start": start, "end": end}
            document["how"] = {"ranks": 1, "threads": 1, "tasks": 2, "nodes": 1, "site": str(site)}
            document["how"]["error_budget"] = 0.5  # the torn scene is one of four in July

        campaign.change(change)
        campaign.run.weights_folder.mkdir(parents=True)
        shutil.copy(finished_demo.run.weights("s2_mosaiks"), campaign.run.weights_folder)
        campaign.cli("submit")
        return campaign

    months = [of_month("june", "2023-06-01", "2023-07-01"), of_month("july", "2023-07-01", "2023-08-01")]
    for month in months:
        wait_for_cube(cluster, month)
    whole = demo_in(tmp_path, demo_archive)
    done = call_cli("merge", *(month.run.root for month in months), "--campaign", whole.file)
    assert done.returncode == 0, done.stderr
    assert cube_bytes(whole.run.newest_cube) == cube_bytes(finished_demo.run.newest_cube)
    assert whole.run.newest_cube.resolve().name == finished_demo.run.newest_cube.resolve().name
    assert "nothing found wrong" in whole.cli("verify")
