"""The site files of `configs/sites`: what is submitted there, to the letter, and what is refused before it is."""

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import ROOT, Campaign

from embedcube.errors import RequestError

SITES = sorted((ROOT / "configs" / "sites").glob("*.yaml"))
GOLDEN = ROOT / "tests" / "golden"


@pytest.mark.parametrize("site", SITES, ids=lambda path: path.stem)
def test_batch_scripts_are_the_golden_ones(demo: Campaign, site: Path) -> None:
    """After a change that is meant: EMBEDCUBE_WRITE_GOLDEN=1, then read the difference."""
    demo.change(lambda document: document.update(how={"tasks": 3, "nodes": 2, "account": "project1"}))
    if yaml.safe_load(site.read_text()).get("gpus_per_node"):
        demo.change(lambda document: document["how"].update(device="cuda"))
    said = demo.cli("submit", "--site", str(site), "--dry-run")
    said = said.replace(str(demo.file.parent), "FOLDER").replace(sys.executable, "PYTHON")
    golden = GOLDEN / f"{site.stem}.sbatch"
    if os.environ.get("EMBEDCUBE_WRITE_GOLDEN"):
        golden.write_text(said)
    assert said == golden.read_text()


CLUSTER: dict[str, Any] = {"site": "lab", "cpus_per_node": 8, "mem_gb_per_node": 16, "max_time_min": 60}


@pytest.mark.parametrize(
    ("site", "how", "words"),
    [
        ({"partitoin": "gpu"}, {}, r'unknown key "partitoin", did you mean "partition"\?'),
        ({"partition": "gpu; rm -rf /"}, {}, "partition: 'gpu; rm -rf /' holds what has no place"),
        ({"environment": {"PATH$(id)": "x"}}, {}, "environment.* should match pattern"),
        ({"time_min": 90}, {}, "time_min 90 is more than max_time_min 60"),
        ({}, {"time_min": 90}, "how.time_min: 90 minutes, lab allows 60"),
        ({}, {"device": "cuda", "ranks": 1}, "how.ranks: 1 on a node with 0 GPUs"),
        ({}, {"ranks": 3, "threads": 3}, "3 ranks with 3 threads each on a node of 8 cores"),
        ({}, {"ranks": 4, "mem_gb": 5}, "4 ranks with 5 GB each on a node with 16 GB"),
        ({"container": {"image": "a.sif"}}, {"dask": {"kind": "slurm_cluster"}}, "there is no sbatch in a container"),
        ({}, {"dask": {"kind": "mpi"}}, r"how.dask.kind mpi: lab does not say srun's --mpi"),
        ({}, {"dask": {"kind": "slurm_runner", "workers": 7}}, "9 processes on each of 1 nodes with 8 cores"),
        ({"dask": {"kind": "mpi"}}, {}, r"how.dask.kind mpi: lab does not say srun's --mpi"),
    ],
)
def test_what_cannot_run_there_is_refused(
    demo: Campaign, tmp_path: Path, site: dict[str, Any], how: dict[str, Any], words: str
) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text(yaml.safe_dump(CLUSTER | site))
    demo.change(lambda document: document.update(how=how | {"site": "lab.yaml"}))
    with pytest.raises(RequestError, match=words):
        demo.cli("submit", "--dry-run")


def test_a_campaign_without_a_site_is_told_so(demo: Campaign) -> None:
    with pytest.raises(RequestError, match=r"how\.site: a batch system is described by a file, for example"):
        demo.cli("submit", "--dry-run")


def test_a_long_campaign_is_several_arrays(demo: Campaign, tmp_path: Path) -> None:
    """MaxArraySize bounds the indices, not only their number."""
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump(CLUSTER | {"max_array": 2, "parallel": 1}))
    demo.change(lambda document: document.update(how={"tasks": 5, "site": "lab.yaml"}))
    lines = demo.cli("submit", "--dry-run").splitlines()
    assert [line for line in lines if "--array" in line] == [
        "#SBATCH --array=0,1%1",
        "#SBATCH --array=0,1%1",
        "#SBATCH --array=0%1",
    ]
    firsts = [line for line in lines if "EMBEDCUBE_TASK=" in line]
    assert [line.split("((")[1].split(" ")[0] for line in firsts] == ["0", "2", "4"]


def test_arrays_that_run_together_share_what_may_run_at_once(demo: Campaign, tmp_path: Path) -> None:
    """Slurm bounds each of them by itself."""
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump(CLUSTER | {"max_array": 2, "parallel": 7}))
    demo.change(lambda document: document.update(how={"tasks": 5, "site": "lab.yaml"}))
    arrays = [line for line in demo.cli("submit", "--dry-run").splitlines() if "--array" in line]
    assert [line.split("%")[1] for line in arrays] == ["2", "2", "2"]


def option(text: str, name: str) -> str:
    """What a batch script gives for it; nothing where it does not."""
    found = re.search(rf"^#SBATCH --{name}=(.*)$", text, re.MULTILINE)
    return found[1] if found else ""


def test_consolidation_takes_no_gpus_where_there_are_nodes_without(demo: Campaign, tmp_path: Path) -> None:
    without = {"partition": "compute", "cpus_per_node": 4, "mem_gb_per_node": 10, "time_min": 50}
    gpus = {"partition": "gpu", "gpus_per_node": 2, "constraint": "a100", "exclusive": False}
    verify = {"verify": {"cpus": 4, "time_min": 30}}
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump(CLUSTER | gpus | {"cpu_nodes": without} | verify))
    demo.change(lambda document: document.update(how={"device": "cuda", "time_min": 20, "site": "lab.yaml"}))
    scripts = demo.cli("submit", "--dry-run").split("#!/bin/bash\n")[1:]
    wanted = ("partition", "gres", "constraint", "cpus-per-task", "mem", "time")
    asked = [{name: value for name in wanted if (value := option(text, name))} for text in scripts]
    on_gpus = {"partition": "gpu", "gres": "gpu:2", "constraint": "a100", "cpus-per-task": "8", "mem": "16000M"}
    on_gpus["time"] = "20"
    # verification embeds a shard again, on one device like that which made it
    on_one_gpu = on_gpus | {"gres": "gpu:1", "cpus-per-task": "4", "mem": "8000M", "time": "30"}
    assert asked == [
        on_gpus,
        {"partition": "compute", "cpus-per-task": "4", "mem": "10000M", "time": "50"},
        on_one_gpu,
    ]
    # without a need for GPUs, all jobs run on the nodes without
    demo.change(lambda document: document["how"].update(device="cpu"))
    scripts = demo.cli("submit", "--dry-run").split("#!/bin/bash\n")[1:]
    assert [option(text, "partition") for text in scripts] == ["compute"] * 3
    assert [option(text, "time") for text in scripts] == ["20", "50", "30"]
    assert not any(option(text, "gres") for text in scripts)


def test_preparation_takes_one_gpu_for_its_own_time(demo: Campaign, tmp_path: Path) -> None:
    gpus = {"gpus_per_node": 4, "gpu_option": "gpus-per-node", "prepare_in_job": True, "name_gpus": True}
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump(CLUSTER | gpus))
    demo.change(lambda document: document.update(how={"device": "cuda", "site": "lab.yaml"}))
    prepare, embed, consolidate, verify = demo.cli("submit", "--dry-run").split("#!/bin/bash\n")[1:]
    assert [option(text, "gpus-per-node") for text in (prepare, embed, consolidate, verify)] == ["1", "4", "1", "1"]
    # psslurm would give each process one GPU: the process that starts all ranks of a node needs all of them
    visible = [re.findall("CUDA_VISIBLE_DEVICES=(.*)", text) for text in (prepare, embed, consolidate, verify)]
    assert visible == [["0"], ["0,1,2,3"], ["0"], ["0"]]
    # nothing without a plan: consolidation would only find that there is none
    assert option(consolidate, "dependency") == "'afterok:<prepare>,afterany:<embed>'"


@pytest.mark.parametrize(("of_campaign", "at_once"), [(3, "3"), (9, "5"), (None, "5")])
def test_a_campaign_may_run_fewer_tasks_at_once(
    demo: Campaign, tmp_path: Path, of_campaign: int | None, at_once: str
) -> None:
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump(CLUSTER | {"parallel": 5}))
    how = {"tasks": 8, "site": "lab.yaml"} | ({"parallel": of_campaign} if of_campaign else {})
    demo.change(lambda document: document.update(how=how))
    [array] = [line for line in demo.cli("submit", "--dry-run").splitlines() if "--array" in line]
    assert array.split("%")[1] == at_once
