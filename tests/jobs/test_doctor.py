"""doctor: everything that a campaign needs of a machine is checked; a failed check says what to do."""

import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import Campaign, change_plan

from embedcube.campaign.load import load_campaign
from embedcube.campaign.run_folder import RunDir
from embedcube.errors import WorkError
from embedcube.jobs.check import Check
from embedcube.jobs.doctor import describe, examine

HERE: dict[str, Any] = {"site": "here", "cpus_per_node": 1, "mem_gb_per_node": 1, "max_time_min": 60}


def checks(campaign: Campaign, **site: Any) -> dict[str, Check]:
    """The checks of this machine, by name, with a site file that has these keys."""
    file = campaign.file.with_name("here.yaml")
    file.write_text(yaml.safe_dump(HERE | site))
    campaign.change(lambda document: document["how"].update(site=str(file)))
    loaded = load_campaign(campaign.file)
    return {check.what: check for check in examine(loaded, RunDir(loaded.run_folder)).checks}


def test_a_good_machine_has_nothing_wrong(demo: Campaign) -> None:
    demo.cli("run", "--until", "plan")
    said = json.loads(demo.cli("doctor", "--json"))
    assert said["host"] == socket.gethostname()
    assert all(check["ok"] and not check["move"] for check in said["checks"])
    names = ["archive s2", "weights s2_mosaiks", "run folder", "space", "inodes", "cores, memory", "software"]
    assert [check["what"] for check in said["checks"]] == names
    assert "files of 5 of 10 scenes can be read" in said["checks"][0]["found"]
    assert not list(demo.run.root.glob(".doctor-*"))


def test_what_is_left_is_what_the_file_system_says(demo: Campaign) -> None:
    demo.cli("run", "--until", "plan")
    free = os.statvfs(demo.run.root)
    found = checks(demo)["space"].found
    left, unit = found.split(" left")[0].split()
    there = free.f_bavail * free.f_frsize
    assert float(left) * {"MB": 1e6, "GB": 1e9, "TB": 1e12}[unit] == pytest.approx(there, rel=0.05)


def test_a_file_that_is_gone_is_named(demo_archive: Path, demo: Campaign, tmp_path: Path) -> None:
    shutil.copytree(demo_archive / "archive", tmp_path / "archive")
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


def test_versions_other_than_the_plans_are_named(demo: Campaign) -> None:
    demo.cli("run", "--until", "plan")
    change_plan(demo.run, lambda document: document["versions"].update(torch="1.0"))
    wrong = checks(demo)["software"]
    assert not wrong.ok
    assert "planned 1.0" in wrong.found
