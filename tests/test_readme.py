"""What the README shows works as it stands there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import yaml
from tests.conftest import Campaign as CampaignFile
from tests.conftest import run_cli

from embedcube.campaign.schema import Campaign

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CUBE = "demo/runs/demo/cube.zarr"


def blocks(language: str) -> list[str]:
    """The README's fenced blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_make_targets_exist() -> None:
    """Every `make` command that is shown is a target."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    shown = set(re.findall(r"make ([a-z-]+)", README))
    assert {"quickstart", "test"} <= shown <= targets


def test_commands_on_the_demo(finished_demo: CampaignFile, tmp_path: Path) -> None:
    """`preview` and `explain`, as shown, on the demo's cube."""
    lines = [line for block in blocks("") for line in block.splitlines() if CUBE in line]
    assert len(lines) == 2
    for line in lines:
        command = shlex.split(line.replace(CUBE, str(finished_demo.run.newest_cube)))[1:]
        extra = ["--out", str(tmp_path)] if command[0] == "preview" else []
        done = run_cli(*command, *extra)
        assert done.returncode == 0, done.stderr
        assert done.stdout
    assert len(list(tmp_path.glob("*.png"))) == len(list(tmp_path.glob("*.tif"))) == 2


def test_python_block(finished_demo: CampaignFile) -> None:
    """The snippet that reads the cube runs, without a warning."""
    (block,) = blocks("python")
    program = block.replace(CUBE, str(finished_demo.run.newest_cube)) + "print(int(vectors.notnull().sum()))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0


def test_campaign_block() -> None:
    """The campaign that is shown is a campaign."""
    (block,) = blocks("yaml")
    campaign = Campaign.model_validate(yaml.safe_load(block))
    assert len(campaign.all_windows) == 48


def test_files_to_read_exist() -> None:
    """The reading list names files that are there."""
    named = re.findall(r"`((?:pipeline|docs|configs|tests)/[\w./-]+)`", README)
    assert len(named) >= 6
    assert all((ROOT / name).exists() for name in named)
