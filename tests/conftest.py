"""What all tests share: the command line as a user runs it, the demo archive, and a finished run of it."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from embedcube.campaign.run_folder import RunDir
from embedcube.cli.verbs import app
from embedcube.testing.demo import write_demo

ROOT = Path(__file__).parents[1]
"""The checkout."""

REAL_DATA = Path(os.environ.get("EMBEDCUBE_REAL_DATA", ROOT.parent / "shared" / "data"))
"""Real scenes that are not part of the repository."""

PLUGINS = Path(__file__).parent / "plugins"
"""A folder with an installed plugin: put on PYTHONPATH, its entry points are found by every process."""


sys.path.insert(0, str(PLUGINS))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(PLUGINS), os.environ.get("PYTHONPATH"))))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot show, and say why."""
    # last, so that the cluster is not up for longer than they need it
    items.sort(key=lambda item: item.get_closest_marker("slurm") is not None)
    if not REAL_DATA.is_dir():
        for item in items:
            if item.get_closest_marker("realdata"):
                item.add_marker(pytest.mark.skip(reason=f"no real data in {REAL_DATA}"))


def run_cli(*arguments: str | Path, environment: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    """Run `embedcube` as a user does, in a process of its own."""
    return subprocess.run(
        [Path(sys.executable).parent / "embedcube", *map(str, arguments)],
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@dataclass(frozen=True)
class Campaign:
    """A campaign file and the run folder that it produces."""

    file: Path

    @property
    def run(self) -> RunDir:
        """The run folder."""
        return RunDir(self.file.parent / "runs" / yaml.safe_load(self.file.read_text())["campaign"])

    def change(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Rewrite the file after `change` has edited the parsed document in place."""
        document = yaml.safe_load(self.file.read_text())
        change(document)
        self.file.write_text(yaml.safe_dump(document, sort_keys=False))

    def cli(self, verb: str, *arguments: str, environment: dict[str, str] | None = None) -> str:
        """Run a verb on the file; it must succeed. Returns what it printed.

        It runs in this process, which has paid for importing torch already, unless it needs another environment.
        """
        if environment is None:
            result = CliRunner().invoke(app, [verb, str(self.file), *arguments])
            if result.exception is not None:
                raise result.exception
            return result.stdout
        done = run_cli(verb, self.file, *arguments, environment=environment)
        assert done.returncode == 0, f"{verb}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def cube_bytes(cube: Path, *, provenance: bool = False) -> dict[str, str]:
    """SHA-256 of every file of a cube by its relative path; without `provenance/` unless asked."""
    cube = cube.resolve()
    return {
        str(path.relative_to(cube)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(cube.rglob("*"))
        if path.is_file() and (provenance or path.relative_to(cube).parts[0] != "provenance")
    }


@pytest.fixture(scope="session")
def demo_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's folder, written once. Do not change anything in it: copy."""
    folder = tmp_path_factory.mktemp("demo") / "demo"
    write_demo(folder)
    return folder


@pytest.fixture
def demo(demo_archive: Path, tmp_path: Path) -> Campaign:
    """A fresh campaign on the shared demo archive; nothing has been run yet."""
    campaign = Campaign(tmp_path / "campaign.yaml")
    shutil.copy(demo_archive / "campaign.yaml", campaign.file)
    campaign.change(lambda document: document["archives"]["s2"].update(path=str(demo_archive / "archive")))
    return campaign


@pytest.fixture(scope="session")
def finished_demo(demo_archive: Path) -> Campaign:
    """The demo as a user runs it, finished. Do not change anything in it: copy."""
    campaign = Campaign(demo_archive / "campaign.yaml")
    campaign.cli("run")
    return campaign
