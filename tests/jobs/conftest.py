"""What tests of jobs share: the demo up to its weights, and stand-ins for commands of Slurm."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import Campaign, demo_in


@pytest.fixture(scope="session")
def fitted_once(demo_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """The demo with its inventory and weights. Do not change anything in it: copy."""
    campaign = demo_in(tmp_path_factory.mktemp("fitted"), demo_archive)
    for verb in ("index", "fit"):
        campaign.cli(verb)
    return campaign


@pytest.fixture
def fitted(demo: Campaign, fitted_once: Campaign) -> Campaign:
    """The demo with a copy of them: planning it takes no two seconds more."""
    shutil.copytree(fitted_once.run.root, demo.run.root)
    return demo


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """A function that puts a script first on the PATH, under the name of a command."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}", prepend=":")

    def put(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (folder / name).chmod(0o755)

    return put
