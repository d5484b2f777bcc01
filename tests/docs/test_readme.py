"""What the README shows works as it stands there."""

import re
from pathlib import Path

import yaml
from tests.conftest import ROOT
from tests.docs.pages import EMBEDCUBE, PAGES, README, blocks, run_line, run_python

from embedcube.campaign.schema import Campaign


def test_make_targets_exist() -> None:
    """Every `make` command that is shown, there or in docs/, is a target."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    shown = {page: set(re.findall(r"(?:`|^)make ([a-z-]+)", page.read_text(), flags=re.MULTILINE)) for page in PAGES}
    assert {"quickstart", "test", "docs"} <= shown[README]
    assert {page: names - targets for page, names in shown.items() if names - targets} == {}


def test_commands_on_the_demo(checkout: Path) -> None:
    """`preview`, `explain`, `find` and `report`."""
    lines = [line for block in blocks(README, "") for line in block.splitlines() if line.startswith(EMBEDCUBE)]
    assert [line.split()[1] for line in lines] == ["preview", "explain", "find", "report"]
    assert all(run_line(line, checkout) for line in lines)
    pictures = checkout / "demo" / "runs" / "demo" / "report"
    assert len(list(pictures.glob("*.png"))) >= 2
    assert len(list(pictures.glob("*.tif"))) >= 2


def test_python_block(checkout: Path) -> None:
    """The five lines that open the cube, print it, find a cell, read vectors and explain one."""
    shown = blocks(README, "python")
    assert len(shown) == 1
    printed = run_python(shown, checkout).splitlines()
    assert "s2_mosaiks" in "".join(printed)
    assert printed[-1] == "(4, 4, 64) valid"


def test_campaign_block() -> None:
    """The campaign that is shown is a campaign."""
    (block,) = blocks(README, "yaml")
    campaign = Campaign.model_validate(yaml.safe_load(block))
    assert len(campaign.all_windows) == 48


def test_files_to_read_exist() -> None:
    """The reading list names files that are there."""
    named = re.findall(r"`((?:pipeline|docs|configs|tests)/[\w./-]+)`", README.read_text())
    assert len(named) >= 6
    assert all((ROOT / name).exists() for name in named)
    shown = re.findall(r"!\[[^]]*\]\(([\w./-]+)\)", README.read_text())
    assert len(shown) == 1
    assert all((ROOT / name).is_file() for name in shown)
