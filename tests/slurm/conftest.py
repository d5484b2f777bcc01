"""The cluster that tests marked `slurm` share."""

import os
import shutil
from collections.abc import Iterator

import pytest
from tests.slurm.cluster import Cluster, running_cluster, why_no_lab


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Four nodes of four CPUs. While it is up, every command of Slurm that a test starts goes there."""
    if reason := why_no_lab():
        pytest.skip(reason)
    with running_cluster(nodes=4) as cluster, pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() - cluster.environment.keys():
            patch.delenv(name)
        for name, value in cluster.environment.items():
            patch.setenv(name, value)
        yield cluster
    if not request.session.testsfailed:
        shutil.rmtree(cluster.folder)
