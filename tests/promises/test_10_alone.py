"""Alone: no code is reached from data, and no server.

Shown here: nothing in the package evaluates text or unpickles what it reads; `embed` listens on no port where there is
one node, and between nodes another user of the machine moves nothing. Elsewhere: a program with code in it is
refused (tests/backbones/test_torch.py), an asset on another machine is a verdict and is not asked for
(tests/sources/test_stac_api.py, test_bad_input.py), `consolidate` opens no dashboard (tests/cli/test_cli.py), strangers
at the port of parent 0 (tests/workers/test_parents.py), waits that end (tests/workers/test_alive.py), and no process
outlives its parent (test_2_may_run_twice.py), verbs that use a cube open no socket (tests/uses/test_full_disk.py).
Not yet shown: that no credential is written anywhere.
"""

import ast
import json
import os
import socket
import stat
import time
from collections.abc import Callable
from multiprocessing.connection import Client

import pytest
from tests.conftest import ROOT, Campaign
from tests.edge.sockets import listening
from tests.workers.parents import embedding, sleepy, two_parents, wait_until

from embedcube.campaign.parts import RECORDS, scan_records

PACKAGE = ROOT / "pipeline" / "embedcube"
UNPICKLING = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
EVALUATING = {
    "eval", "exec", "compile", "__import__", "yaml.load", "yaml.unsafe_load", "torch.jit.load", "torch.export.load",
}  # fmt: skip
GUARDED = {"backbones/torch_module/exported.py": ["torch.export.load"]}
"""Modules that look for code in the file themselves, before they load it."""


def reaching(source: str) -> list[str]:
    """Each way from data to code in a module: imports that unpickle, built-ins that evaluate, loads without a guard."""
    ways = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            ways += [alias.name for alias in node.names if alias.name.split(".")[0] in UNPICKLING]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNPICKLING:
            ways.append(str(node.module))
        elif isinstance(node, ast.Call):
            called, keywords = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
            if called in EVALUATING:
                ways.append(called)
            if called == "torch.load" and keywords.get("weights_only") != "True":
                ways.append("torch.load without weights_only=True")
            if keywords.get("allow_pickle") == "True":
                ways.append(f"{called} with allow_pickle=True")
    return ways


def test_no_code_is_reached_from_data() -> None:
    found = {str(path.relative_to(PACKAGE)): reaching(path.read_text()) for path in PACKAGE.rglob("*.py")}
    assert {name: ways for name, ways in found.items() if ways} == GUARDED


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "eval(text)",
        "yaml.load(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "numpy.load(path, allow_pickle=True)",
    ],
)
def test_every_way_is_seen(source: str) -> None:
    assert reaching(source)


# --- ports of embed -------------------------------------------------------------------------------------

NOBODY = 65534
"""the user of no file"""

as_nobody = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def become(uid: int, act: Callable[[], None]) -> int:
    """What comes of `act` in a process of another user: 0, or 1 where it raises an error."""
    child = os.fork()
    if not child:
        code = 1
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            act()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def has_records(campaign: Campaign) -> bool:
    return any(campaign.run.parts.glob(f"*/*/*/{RECORDS}"))


def test_embed_on_one_node_listens_nowhere_once_the_weights_are_handed_out(demo: Campaign) -> None:
    """Before, gloo listens, and on the loopback interface alone."""
    sleepy(demo, ranks=2).cli("run", "--until", "plan")
    seen: set[str] = set()
    with embedding(demo, SLEEPY_S="0.3") as process:
        while not has_records(demo):
            seen |= {address for address, _ in listening(process.pid)}
            assert process.poll() is None
            time.sleep(0.02)  # to look all the time would slow down what is looked at
        assert listening(process.pid) == []
    assert seen <= {"127.0.0.1"}


@as_nobody
def test_another_user_moves_nothing_between_two_parents(demo: Campaign) -> None:
    """Who has not the key is not listened to, and the key is in a file that nobody else can read."""
    sleepy(demo, ranks=1).cli("run", "--until", "plan")
    slowly = {"SLEEPY_S": "0.1"}
    with two_parents(demo, slowly, slowly) as (first, second):
        wait_until(lambda: has_records(demo))
        ports = listening(first.pid)
        assert [address for address, _ in ports] == [socket.gethostbyname(socket.gethostname())]
        assert listening(second.pid) == []
        (announced,) = demo.run.parts.glob("*/*/parents.json")
        assert stat.S_IMODE(announced.stat().st_mode) == 0o600

        def guess() -> None:
            Client(ports[0], authkey=b"a guess")

        def without_a_proof() -> None:
            """As a parent asks that has proven itself."""
            with socket.create_connection(ports[0], timeout=10) as connected:
                asked = json.dumps(["count", "groups drawn"]).encode()
                for _ in range(100):
                    connected.sendall(len(asked).to_bytes(4, "big") + asked)
                while connected.recv(1000):
                    pass

        assert become(NOBODY, lambda: print(announced.read_bytes())) == 1
        assert become(NOBODY, guess) == 1
        become(NOBODY, without_a_proof)
        said = [process.communicate(timeout=300) for process in (first, second)]
        assert (first.returncode, second.returncode) == (0, 0), said
    records = [record for _, record in scan_records(demo.run)]
    assert len(records) == len({record.recipe for record in records}) == 30
    assert {record.rank for record in records} == {0, 1}
    assert json.loads(announced.read_bytes())["key"] == "", "the key outlives the start that it was made for"
    logs = "".join(log.read_text() for log in demo.run.logs.glob("embed-*"))
    assert "Traceback" not in logs + str(said)
    assert "[W" not in logs, "a complaint of torch"
