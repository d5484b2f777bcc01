"""What `submit` does before and after Slurm is asked; its commands are stand-ins that say what a test wants."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import Campaign

from embedcube.errors import RequestError

CLUSTER: dict[str, Any] = {"site": "lab", "cpus_per_node": 2, "mem_gb_per_node": 16, "max_time_min": 60}


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Put a command before all others of its name."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}", prepend=":")

    def put(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (folder / name).chmod(0o755)

    return put


@pytest.fixture
def placed(demo: Campaign, tmp_path: Path) -> Campaign:
    """The demo at a site."""
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump(CLUSTER))
    demo.change(lambda document: document.update(how={"site": "lab.yaml", "ranks": 1, "threads": 1}))
    return demo


def submitted(campaign: Campaign, **jobs: list[str]) -> None:
    """Note a submission as if there had been one."""
    line = {"time": "2026-01-01T00:00:00+00:00", "again": False, "tasks": [0], "jobs": jobs}
    campaign.run.root.mkdir(parents=True, exist_ok=True)
    with campaign.run.submissions.open("a") as file:
        file.write(json.dumps(line) + "\n")


def files_of(folder: Path) -> dict[str, bytes]:
    """All that is in it."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("options", [("--dry-run",), (), ("--pilot", "3")], ids=" ".join)
def test_an_edited_file_changes_nothing_while_jobs_wait(
    placed: Campaign, stand_in: Callable[[str, str], None], options: tuple[str, ...]
) -> None:
    """Elements that are still to start read the campaign and the plan that they were submitted with."""
    placed.cli("run", "--until", "plan")
    submitted(placed, embed=["7"])
    stand_in("squeue", "echo '7 7 PENDING'")
    before = files_of(placed.run.root)
    placed.change(lambda document: document.update(windows=[["2023-06-01", "2023-06-08"]]))
    if options == ("--dry-run",):
        assert "#SBATCH" in placed.cli("submit", *options)
    else:
        with pytest.raises(RequestError, match="jobs 7 of this campaign are still queued or running"):
            placed.cli("submit", *options)
    assert files_of(placed.run.root) == before
