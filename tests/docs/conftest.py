"""A folder in which the commands of the pages can be run as they stand there."""

import shutil
from pathlib import Path

import pytest
from tests.conftest import Campaign


@pytest.fixture(scope="session")
def checkout(whole_demo: Campaign, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `demo/`, as `make quickstart` leaves it."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(whole_demo.file.parent, folder / "demo", symlinks=True)
    return folder
