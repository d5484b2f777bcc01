"""doctor runs its checks on a compute node: it finds what is missing on that node alone."""

import subprocess
from pathlib import Path

import pytest
import yaml
from tests.conftest import Campaign
from tests.slurm.cluster import Cluster

from embedcube.errors import WorkError

pytestmark = pytest.mark.slurm


def in_mounts_of(cluster: Cluster, node: str, *command: str) -> None:
    """Run a command of `mount` on a node."""
    pid = next(process.pid for process in cluster.processes(node) if process.name() == "slurmd")
    subprocess.run(["nsenter", f"--target={pid}", "--mount", *command], check=True)


def test_a_compute_node_is_examined(cluster: Cluster, demo: Campaign, site: Path, tmp_path: Path) -> None:
    site.write_text(yaml.safe_dump(yaml.safe_load(site.read_text()) | {"interface": "lo"}))
    demo.change(lambda document: document["how"].update(ranks=1, threads=1))
    demo.cli("run", "--until", "plan")
    assert '"host": "n' in demo.cli("doctor", "--site", str(site), "--json")

    # the run folder becomes read-only on all compute nodes, but not on this machine
    nodes = [f"n{i}" for i in range(1, cluster.nodes + 1)]
    folder = str(demo.run.root)
    for node in nodes:
        in_mounts_of(cluster, node, "mount", "--bind", "-o", "ro", folder, folder)
    try:
        with pytest.raises(WorkError, match=r"failed on n\d, the first: run folder: .*Read-only file system"):
            demo.cli("doctor", "--site", str(site))
    finally:
        for node in nodes:
            in_mounts_of(cluster, node, "umount", folder)

    site.write_text(yaml.safe_dump(yaml.safe_load(site.read_text()) | {"interface": "ib0"}))
    with pytest.raises(WorkError, match=r"network: no interface ib0; there are .*lo"):
        demo.cli("doctor", "--site", str(site))

    site.write_text(yaml.safe_dump(yaml.safe_load(site.read_text()) | {"partition": "weekend"}))
    with pytest.raises(WorkError, match=r"a job: .*[Ii]nvalid partition"):
        demo.cli("doctor", "--site", str(site))
