"""What the tests of consolidation share."""

import shutil
from pathlib import Path

import pytest
from tests.conftest import Campaign


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
