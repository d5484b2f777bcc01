"""Where nodes are given by torchrun: its processes are the parents of one task, which draw from one counter."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import Campaign, cube_bytes

from embedcube.campaign.parts import scan_records

EMBEDCUBE = Path(sys.executable).parent / "embedcube"


@pytest.mark.slow
def test_two_agents_of_torchrun_share_a_task(demo: Campaign, finished_demo: Campaign) -> None:
    demo.change(lambda document: document["how"].update(ranks=1, threads=1))
    demo.cli("run", "--until", "plan")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    meeting = ("--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=demo", "--local-addr=127.0.0.1")
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", *meeting)
    command = (*torchrun, "--no-python", EMBEDCUBE, "embed", demo.file, "--task", "0")
    agents = [
        subprocess.Popen(command, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    said = [agent.communicate(timeout=300)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said
    records = [record for _, record in scan_records(demo.run)]
    assert len(records) == 30
    assert len({record.attempt for record in records}) == 1
    assert {record.rank for record in records} == {0, 1}
    demo.cli("embed")  # the second round, without the torn scene
    demo.cli("consolidate")
    assert cube_bytes(demo.run.newest_cube) == cube_bytes(finished_demo.run.newest_cube)
