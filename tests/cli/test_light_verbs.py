"""The verbs of a login node import no heavy package and no plugin, and say what to do."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import ROOT, Campaign, run_cli

HEAVY = ("torch", "rasterio", "dask", "distributed", "xarray", "zarr", "pandas", "scipy")

LOGIN_VERBS = (
    ("status",),
    ("status", "--profile"),
    ("submit", "--site", str(ROOT / "configs" / "sites" / "local.yaml"), "--dry-run"),
    ("cancel",),
)


def in_a_new_process(verb: str, campaign_file: Path, *options: str) -> dict[str, Any]:
    """Run a verb; returns its output, its exit code and the heavy packages that it has imported."""
    code = (
        "import contextlib, io, json, sys\n"
        f"sys.argv = {['embedcube', verb, str(campaign_file), *options]}\n"
        "from embedcube.cli.verbs import main\n"
        "code, said = 0, io.StringIO()\n"
        "with contextlib.redirect_stdout(said):\n"
        "    try: main()\n"
        "    except SystemExit as end: code = end.code\n"
        f"heavy = [name for name in {HEAVY} if name in sys.modules]\n"
        "print(json.dumps({'exit': code, 'said': said.getvalue(), 'heavy': heavy}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


@pytest.mark.parametrize("words", LOGIN_VERBS, ids=" ".join)
def test_verbs_of_a_login_node_import_nothing_heavy(finished_demo: Campaign, words: tuple[str, ...]) -> None:
    answer = in_a_new_process(words[0], finished_demo.file, *words[1:])
    assert (answer["exit"], answer["heavy"]) == (0, [])
    assert answer["said"]


def test_cancel_of_a_campaign_that_was_never_submitted_says_so(demo: Campaign) -> None:
    done = run_cli("cancel", demo.file)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"this campaign was never submitted (there is no {demo.run.submissions}): nothing to cancel. "
        "`embedcube submit` submits it; stop a run on this machine with Ctrl-C\n"
    )
    assert not demo.run.root.exists()
    assert json.loads(demo.cli("cancel", "--json")) == {"cancelled": []}


def test_status_and_cancel_need_no_plugin(finished_demo: Campaign, tmp_path: Path) -> None:
    """The packages that read the archive or embed may be installed on the compute nodes alone."""
    campaign = Campaign(tmp_path / "campaign.yaml")
    campaign.file.write_text(finished_demo.file.read_text())

    def not_installed(document: dict[str, Any]) -> None:
        document["archives"]["s2"].update(
            path=str(finished_demo.file.parent / "archive" / "sentinel2"), source="not_here"
        )
        document["layers"]["s2_mosaiks"]["backbone"] = {"name": "not_here_either"}

    campaign.change(not_installed)
    assert "never submitted" in campaign.cli("cancel")
    campaign.run.root.mkdir(parents=True)
    campaign.run.submissions.write_text(
        json.dumps({"time": "2026-01-01T00:00:00+00:00", "again": False, "tasks": [0], "jobs": {"prepare": ["7"]}})
    )
    queue = tmp_path / "bin"
    queue.mkdir()
    for name in ("squeue", "sacct"):
        (queue / name).write_text("#!/bin/sh\n")
        (queue / name).chmod(0o755)
    environment = {"PATH": f"{queue}:/usr/bin:/bin"}
    assert "no plan of this campaign yet" in campaign.cli("status", environment=environment)
    assert "no job of this campaign is queued" in campaign.cli("cancel", environment=environment)


def test_cancel_without_slurm_says_where_to_run_it(demo: Campaign, tmp_path: Path) -> None:
    demo.run.root.mkdir(parents=True)
    demo.run.submissions.write_text(
        json.dumps({"time": "2026-01-01T00:00:00+00:00", "again": False, "tasks": [0], "jobs": {"embed": ["7"]}})
    )
    done = run_cli("cancel", demo.file, environment={"PATH": str(tmp_path)})
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no squeue here; run this on a machine of the cluster, such as a login node" in done.stderr
