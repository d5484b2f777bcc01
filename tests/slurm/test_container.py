"""The image: it is built here, runs on two nodes, and its cube is the one that this machine makes without it."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
from tests.conftest import Campaign, cube_bytes
from tests.slurm.cluster import LAB, Cluster

from embedcube.cube import Cube
from embedcube.parts import scan_records

BUILD = Path(__file__).parents[2] / "containers" / "build.sh"
DEFINITION = BUILD.parent / "embedcube-cpu.def"


@dataclass(frozen=True)
class Image:
    """A built image."""

    file: Path
    digest: str

    def command(self, *arguments: str) -> tuple[str, ...]:
        """`embedcube` in it, on one node: the whole node's, as the lab's default of memory is for shell scripts."""
        inside = ("apptainer", "exec", "--userns", "--bind", "/tmp", str(self.file), "embedcube", *arguments)
        return ("srun", "--nodes=1", "--ntasks=1", "--exclusive", "--mem=0", *inside)


@pytest.fixture(scope="module")
def image(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """The image in $EMBEDCUBE_IMAGE, or one that is built here. While it is there, jobs find Apptainer."""
    folder = tmp_path_factory.mktemp("image")
    print(cluster.run(str(LAB / "apptainer_up.sh"), str(folder / "apptainer"), timeout_s=300))  # sid moves: say which
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder}/apptainer/usr/bin", prepend=":")
        file = Path(os.environ.get("EMBEDCUBE_IMAGE", folder / "embedcube.sif"))
        digest = f"sha256:{sha256(file.read_bytes()).hexdigest()}" if file.exists() else build(cluster, file)
        patch.setenv("EMBEDCUBE_IMAGE_DIGEST", digest)
        yield Image(file, digest)


def build(cluster: Cluster, file: Path) -> str:
    """Build the CPU image; returns the digest that is printed."""
    mirror = cluster.run(str(LAB / "mirror.sh")).strip()
    command = map(str, (LAB / "mapped_root.sh", BUILD, DEFINITION, file))
    # lz4 is packed in a tenth of the time
    options = ("--mksquashfs-args", "-comp lz4", "--build-arg", f"MIRROR={mirror}")
    return cluster.run(*command, *options, timeout_s=1800).strip()


def test_the_definitions_differ_in_their_base_alone() -> None:
    gpu, cpu = ((BUILD.parent / name).read_text() for name in ("embedcube.def", "embedcube-cpu.def"))
    assert gpu[gpu.index("    EXTRAS=") :] == cpu[cpu.index("    EXTRAS=") :]


@pytest.mark.slurm
@pytest.mark.slow
def test_the_image_says_what_it_is(cluster: Cluster, image: Image) -> None:
    assert "Usage" in cluster.run(*image.command("--help"))
    assert "org.opencontainers.image.revision" in cluster.run("apptainer", "inspect", str(image.file))


@pytest.mark.slurm
@pytest.mark.slow
def test_the_demo_on_two_nodes(cluster: Cluster, image: Image, demo: Campaign, finished_demo: Campaign) -> None:
    demo.change(lambda document: document["how"].update(tasks=2))
    for verb in ("index", "fit", "plan"):
        cluster.run(*image.command(verb, str(demo.file)), timeout_s=300)
    embed = image.command("embed", str(demo.file), "--task", "$SLURM_ARRAY_TASK_ID")
    job = cluster.submit(f"exec {' '.join(embed)}", "--array=0-1", "--nodes=1", "--exclusive", "--mem=0")
    assert cluster.wait(job, timeout_s=300) == {"COMPLETED": 2}, [cluster.output(f"{job}_{i}") for i in (0, 1)]
    for verb in ("consolidate", "verify"):
        cluster.run(*image.command(verb, str(demo.file)), timeout_s=300)

    records = [record for _, record in scan_records(demo.run)]
    assert {record.host for record in records} == {"n1", "n2"}
    assert {record.container for record in records} == {image.digest}
    assert cube_bytes(demo.run.newest_cube) == cube_bytes(finished_demo.run.newest_cube)
    cube = Cube(demo.run.newest_cube)
    assert image.digest in str(cube.explain(cube.cell_at(7.59644, 50.86994, "2023-06-15")))
