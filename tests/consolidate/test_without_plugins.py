"""A cube is made of the plan and the parts alone: no source, no backbone, neither torch nor GDAL."""

import json
import logging
import shutil
import subprocess
import sys

import pytest
from tests.conftest import Campaign, cube_bytes

from embedcube.campaign.load import load_campaign
from embedcube.consolidate.against_plan import against_plan
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError

POISONED = """
import importlib.metadata, sys

class Poison:
    def find_spec(self, name, path=None, target=None):
        if name in {"torch", "rasterio", "embedcube.sources", "embedcube.backbones", "embedcube.kernel"}:
            raise ImportError(f"{name} is not installed here")

def entry_points(*arguments, _given=importlib.metadata.entry_points, **options):
    if str(options.get("group", "")).startswith("embedcube."):
        raise RuntimeError("plugins were looked up")
    return _given(*arguments, **options)

sys.meta_path.insert(0, Poison())
importlib.metadata.entry_points = entry_points

from embedcube.cli.verbs import app

app(["consolidate", sys.argv[1], "--json"])
"""
"""Consolidates where no plugin, and none of the libraries that plugins use, can be loaded."""


@pytest.fixture
def embedded(demo: Campaign, finished_demo: Campaign) -> Campaign:
    """A copy of the finished demo without its cube."""
    shutil.copytree(finished_demo.run.root, demo.run.root, symlinks=True)
    shutil.rmtree(demo.run.cubes)
    demo.run.newest_cube.unlink()
    return demo


def test_the_same_cube_where_no_plugin_can_be_loaded(embedded: Campaign, finished_demo: Campaign) -> None:
    command = [sys.executable, "-c", POISONED, str(embedded.file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["version"] == finished_demo.run.newest_cube.resolve().stem
    made, expected = (campaign.run.newest_cube for campaign in (embedded, finished_demo))
    assert cube_bytes(made, provenance=True) == cube_bytes(expected, provenance=True)


def test_other_verbs_still_refuse_an_absent_plugin(embedded: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedcube.campaign.plugins.names", lambda room: ["local"] * (room == "executors"))
    with pytest.raises(RequestError, match='no plugin "sentinel2" among the sources'):
        embedded.cli("plan")


def test_verify_says_that_it_derives_no_recipe_without_a_plugin(
    finished_demo: Campaign, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    campaign = load_campaign(finished_demo.file)
    monkeypatch.setattr("embedcube.campaign.plugins.names", lambda room: ["local"] * (room == "executors"))
    with caplog.at_level(logging.WARNING):
        findings = list(against_plan(campaign, finished_demo.run, Cube(finished_demo.run.newest_cube)))
    assert findings == []
    assert 'no recipe is derived again: no plugin "sentinel2" among the sources' in caplog.text
