"""doctor: everything that a campaign needs of a machine is checked; a failed check says what to do."""

import json
import os
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import Campaign, call_cli, change_plan

from embedcube.campaign.load import load_campaign
from embedcube.campaign.run_folder import RunDir
from embedcube.errors import WorkError
from embedcube.jobs.check import Check
from embedcube.jobs.doctor import Examined, describe, examine
from embedcube.jobs.site_checks import gpu_check

HERE: dict[str, Any] = {"site": "here", "cpus_per_node": 1, "mem_gb_per_node": 1, "max_time_min": 60}


def checks(campaign: Campaign, **site: Any) -> dict[str, Check]:
    """The checks of this machine, by name, with a site file that has these keys."""
    file = campaign.file.with_name("here.yaml")
    file.write_text(yaml.safe_dump(HERE | site))
    campaign.change(lambda document: document["how"].update(site=str(file)))
    loaded = load_campaign(campaign.file)
    return {check.what: check for check in examine(loaded, RunDir(loaded.run_folder)).checks}


def test_a_good_machine_has_nothing_wrong(fitted: Campaign) -> None:
    fitted.cli("run", "--until", "plan")
    said = json.loads(fitted.cli("doctor", "--json"))
    assert said["host"] == socket.gethostname()
    assert all(check["ok"] and not check["move"] for check in said["checks"])
    names = ["archive s2", "weights s2_mosaiks", "run folder", "space", "inodes", "cores, memory", "software"]
    assert [check["what"] for check in said["checks"]] == names
    assert "files of 5 of 10 scenes can be read" in said["checks"][0]["found"]
    assert not list(fitted.run.root.glob(".doctor-*"))


def test_what_is_left_is_what_the_file_system_says(fitted: Campaign) -> None:
    fitted.cli("run", "--until", "plan")
    free = os.statvfs(fitted.run.root)
    found = checks(fitted)["space"].found
    left, unit = found.split(" left")[0].split()
    there = free.f_bavail * free.f_frsize
    assert float(left) * {"MB": 1e6, "GB": 1e9, "TB": 1e12}[unit] == pytest.approx(there, rel=0.05)


def test_a_file_that_is_gone_is_named(demo_archive: Path, demo: Campaign, tmp_path: Path) -> None:
    shutil.copytree(demo_archive / "archive" / "sentinel2", tmp_path / "archive")
    demo.change(lambda document: document["archives"]["s2"].update(path="archive"))
    demo.cli("index")
    for file in (tmp_path / "archive").rglob("*.tif"):
        file.unlink()
    with pytest.raises(WorkError, match=r"doctor: 1 of \d checks failed .*: archive s2: .*No such file"):
        demo.cli("doctor")


def test_a_folder_that_cannot_be_written_is_named(demo: Campaign, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    demo.change(lambda document: document["how"].update(runs="file/runs"))
    wrong = checks(demo)["run folder"]
    assert not wrong.ok
    assert "Not a directory" in wrong.found
    assert wrong.move.startswith("how.runs: choose a folder")


@pytest.mark.parametrize(
    ("site", "what", "words"),
    [
        ({"interface": "ib7"}, "network", "no interface ib7; there are "),
        ({"interface": "lo", "host_suffix": "-nowhere.invalid"}, "network", "not known"),
        ({"time_zone": "Pacific/Marquesas"}, "time zone", "the site's file says UTC-0930"),
        ({"umask": "0123"}, "umask", "the site's file says 0123"),
        ({"group": "nobody-has-this"}, "group", "the site's file says nobody-has-this"),
        ({"quota": ["false"]}, "quota", "exit 1"),
        ({"container": {"image": "/nowhere/image.sif"}}, "image", "/nowhere/image.sif"),
    ],
)
def test_what_is_not_as_described_is_named(demo: Campaign, site: dict[str, Any], what: str, words: str) -> None:
    wrong = checks(demo, **site)[what]
    assert not wrong.ok
    assert words in wrong.found
    assert wrong.move


def test_what_is_as_described_is_fine(demo: Campaign) -> None:
    os.umask(mask := os.umask(0o022))
    found = checks(demo, interface="lo", umask=f"{mask:04o}", quota=["echo", "7", "files", "left"])
    assert [check.what for check in found.values() if not check.ok] == []
    assert found["quota"].found == "7 files left"


def test_the_next_move_stands_below_what_is_wrong(demo: Campaign) -> None:
    checks(demo, interface="ib7")
    loaded = load_campaign(demo.file)
    lines = describe(examine(loaded, RunDir(loaded.run_folder)))
    first = next(i for i, line in enumerate(lines) if line.startswith("WRONG"))
    assert lines[first].split()[1] == "network"
    assert lines[first + 1].split()[:5] == ["->", "interface", "in", "the", "site's"]


def test_a_long_name_does_not_run_into_what_was_found() -> None:
    found = [Check(what=what, ok=True, found="as it should be") for what in ("space", "weights s2_mosaiks")]
    lines = describe(Examined(host="n1", checks=tuple(found)))
    assert [line.index("as it should be") for line in lines] == [27, 27]


def test_versions_other_than_the_plans_are_named(fitted: Campaign) -> None:
    fitted.cli("run", "--until", "plan")
    change_plan(fitted.run, lambda document: document["versions"].update(torch="1.0"))
    wrong = checks(fitted)["software"]
    assert not wrong.ok
    assert "planned 1.0" in wrong.found


# --- what is missing hides no other check ---------------------------------------------------------------------------


def test_missing_commands_and_groups_hide_nothing(demo: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("os.getegid", lambda: 3_999_999)
    monkeypatch.setitem(sys.modules, "torch", None)
    demo.change(lambda document: document["how"].update(device="cuda", ranks=1, executor="slurm"))
    found = checks(demo, group="users", quota=["no-such-quota", "-u"], umask="0022")
    for what, words in {
        "group": "this machine has no name for group 3999999",
        "quota": "there is no no-such-quota here",
        "sbatch": "there is no sbatch here",
        "devices": "torch",
    }.items():
        assert not found[what].ok
        assert found[what].found.startswith("cannot be looked at: ")
        assert words in found[what].found
        assert found[what].move
    assert found["run folder"].ok
    assert found["archive s2"].ok
    assert "network" in found


def test_an_archive_and_a_plugin_that_are_missing_are_checks(demo: Campaign) -> None:
    def missing(document: dict[str, Any]) -> None:
        document["archives"]["s2"].update(path="not-mounted")
        document["layers"]["s2_mosaiks"]["backbone"] = {"name": "not_here"}

    demo.change(missing)
    done = call_cli("doctor", demo.file, "--json")
    found = {check["what"]: check for check in json.loads(done.stdout)["checks"]}
    assert done.returncode == 1
    assert "No such file" in found["archive s2"]["found"]
    assert "not_here" in found["plugins"]["found"]
    assert found["run folder"]["ok"]


def test_without_slurm_the_next_move_is_another_machine(demo: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    checks(demo)
    demo.change(lambda document: document["how"].update(executor="slurm", ranks=1, threads=1))
    monkeypatch.setenv("PATH", "/nowhere")
    done = call_cli("doctor", demo.file)
    assert done.returncode == 1
    assert "cannot be looked at: srun: No such file" in done.stdout
    assert "-> run this on a machine of the cluster, such as a login node" in done.stdout
    assert "there is no sbatch, srun, squeue" in done.stdout


def test_a_site_needs_no_campaign(tmp_path: Path, stand_in: Callable[[str, str], None]) -> None:
    file = tmp_path / "here.yaml"
    file.write_text(yaml.safe_dump(HERE | {"interface": "lo", "quota": ["echo", "7", "left"]}))
    stand_in("sbatch", f'echo "$@" > {tmp_path}/asked; echo "sbatch: Job 5 to start at 2026-01-01" >&2')
    done = call_cli("doctor", "--site", file, "--here", "--json")
    found = {check["what"]: check["found"] for check in json.loads(done.stdout)["checks"]}
    assert done.returncode == 0, found
    assert list(found) == ["cores, memory", "network", "quota", "sbatch"]
    assert found["sbatch"] == "sbatch: Job 5 to start at 2026-01-01"
    assert (tmp_path / "asked").read_text().split()[:2] == ["--test-only", "--nodes=1"]
    nothing = call_cli("doctor")
    assert nothing.returncode == 2
    assert "doctor needs a campaign file, or a site: embedcube doctor --site levante.yaml" in nothing.stderr


def test_a_node_is_asked_whether_it_may_submit(
    demo: Campaign, tmp_path: Path, stand_in: Callable[[str, str], None]
) -> None:
    """The check itself may run in a container, which has no sbatch: the node's host asks before."""
    file = tmp_path / "here.yaml"
    file.write_text(yaml.safe_dump(HERE))
    stand_in("sbatch", "echo 'sbatch: error: Access/permission denied' >&2; exit 1")
    stand_in("srun", 'while [ "$1" != bash ]; do shift; done; exec "$@"')
    done = call_cli("doctor", "--site", file, "--json")
    found = {check["what"]: check for check in json.loads(done.stdout)["checks"]}
    assert found["sbatch"]["found"] == "sbatch: error: Access/permission denied"
    assert "consolidation cannot submit again what failed" in found["sbatch"]["move"]


@pytest.mark.parametrize(
    ("visible", "count", "ok", "words"),
    [("0,1", 2, True, ""), ("0", 1, False, "name_gpus: true"), (None, 1, False, "check gpus_per_node")],
)
def test_gpus_that_slurm_hides_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, count: int, ok: bool, words: str
) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (tmp_path / name).touch()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = gpu_check(count, "A100", 2, tmp_path)
    assert found.ok == ok
    assert words in found.move
    assert f"CUDA_VISIBLE_DEVICES is {visible or 'not set'}, the node has 2" in found.found
