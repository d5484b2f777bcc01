"""The container image: it is built here, runs on two nodes, and makes the same cube as this machine without it."""

import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
import yaml
from tests.conftest import Campaign, cube_bytes
from tests.slurm.chain import wait_for_cube
from tests.slurm.cluster import LAB, Cluster

from embedcube.campaign.parts import scan_records
from embedcube.cube.reader import Cube

BUILD = Path(__file__).parents[2] / "containers" / "build.sh"
DEFINITION = BUILD.parent / "embedcube-cpu.def"


@dataclass(frozen=True)
class Image:
    """A built image."""

    file: Path
    digest: str


@pytest.fixture(scope="module")
def image(lab: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """The image in $EMBEDCUBE_IMAGE, or one that is built here; jobs of these tests find Apptainer on their PATH."""
    folder = tmp_path_factory.mktemp("image")
    print(
        lab.run(str(LAB / "apptainer_up.sh"), str(folder / "apptainer"), timeout_s=300)
    )  # Debian sid changes: print the version
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder}/apptainer/usr/bin", prepend=":")
        patch.setenv("APPTAINER_USERNS", "1")  # as for a user without root
        file = Path(os.environ.get("EMBEDCUBE_IMAGE", folder / "embedcube.sif"))
        digest = f"sha256:{sha256(file.read_bytes()).hexdigest()}" if file.exists() else build(lab, file)
        yield Image(file, digest)


def build(cluster: Cluster, file: Path) -> str:
    """Build the CPU image; returns the digest that build.sh prints."""
    mirror = cluster.run(str(LAB / "mirror.sh")).strip()
    command = map(str, (LAB / "mapped_root.sh", BUILD, DEFINITION, file))
    # compression with lz4 takes a tenth of the time
    options = ("--mksquashfs-args", "-comp lz4", "--build-arg", f"MIRROR={mirror}")
    return cluster.run(*command, *options, timeout_s=1800).strip()


def test_the_definitions_differ_in_their_base_alone() -> None:
    gpu, cpu = ((BUILD.parent / name).read_text() for name in ("embedcube.def", "embedcube-cpu.def"))
    assert gpu[gpu.index("    EXTRAS=") :] == cpu[cpu.index("    EXTRAS=") :]


@pytest.mark.slurm
@pytest.mark.slow
def test_the_image_says_what_it_is(cluster: Cluster, image: Image) -> None:
    assert "Usage" in cluster.run("srun", "apptainer", "run", str(image.file), "--help")
    assert "org.opencontainers.image.revision" in cluster.run("apptainer", "inspect", str(image.file))


@pytest.mark.slurm
@pytest.mark.slow
def test_the_demo_on_two_nodes(cluster: Cluster, image: Image, demo: Campaign, finished_demo: Campaign) -> None:
    described = {
        "site": "lab",
        "cpus_per_node": 2,
        "mem_gb_per_node": 3.5,
        "max_time_min": 60,
        "lead_s": 60,
        "container": {"image": str(image.file), "binds": [tempfile.gettempdir()]},
    }
    site = demo.file.with_name("site.yaml")
    site.write_text(yaml.safe_dump(described))
    demo.change(lambda document: document["how"].update(nodes=2, ranks=1, threads=1, site=str(site)))
    jobs = json.loads(demo.cli("submit", "--json"))["jobs"]
    assert cluster.wait(jobs["embed"][0], timeout_s=600) == {"COMPLETED": 1}
    wait_for_cube(cluster, demo)

    records = [record for _, record in scan_records(demo.run)]
    assert len({record.host for record in records}) == 2
    assert {record.container for record in records} == {image.digest}
    assert cube_bytes(demo.run.newest_cube) == cube_bytes(finished_demo.run.newest_cube)
    cube = Cube(demo.run.newest_cube)
    assert image.digest in str(cube.explain(cube.cell_at(7.59644, 50.86994, "2023-06-15")))
