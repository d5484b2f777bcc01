"""The cluster that tests marked `slurm` share."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.conftest import Campaign
from tests.slurm.cluster import Cluster, running_cluster, why_no_lab


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster of four nodes with four CPUs each."""
    if reason := why_no_lab():
        pytest.skip(reason)
    with running_cluster(nodes=4) as cluster:
        yield cluster
    if not request.session.testsfailed:
        shutil.rmtree(cluster.folder)


@pytest.fixture
def cluster(lab: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """The lab's cluster; every command of Slurm that the test starts goes there."""
    for name in os.environ.keys() - lab.environment.keys():
        monkeypatch.delenv(name)
    for name, value in lab.environment.items():
        monkeypatch.setenv(name, value)
    return lab


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The site file of the cluster."""
    described = {
        "site": "lab",
        "partition": "debug",
        "cpus_per_node": 2,
        "mem_gb_per_node": 3.5,
        "exclusive": False,
        "time_min": 20,
        "max_time_min": 60,
        "lead_s": 60,
        "purge_days": 14,
        "poll_s": 2,
    }
    path = tmp_path / "lab.yaml"
    path.write_text(yaml.safe_dump(described))
    return path


@pytest.fixture
def embedded(embedded: Campaign, site: Path) -> Campaign:
    """The demo with a record for every shard, and without a cube, at the cluster's site."""
    embedded.change(lambda document: document["how"].update(site=str(site)))
    return embedded
