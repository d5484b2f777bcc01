"""Alone: no port of a consolidation lets another user in, and none is open on all interfaces."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from tests.conftest import ROOT, Campaign, cube_bytes
from tests.consolidate import slurm_here

from embedcube.consolidate import on_nodes
from embedcube.consolidate.alone import certificate, hand_over, private_folder, receive
from embedcube.consolidate.on_nodes import _agreed_interface
from embedcube.errors import RequestError, StartAgain

HERE = Path(__file__).parent
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
KINDS = ("processes", "slurm_cluster", "slurm_runner", "mpi")
SLOW = pytest.mark.slow
MPIEXEC = str(Path(sys.executable).with_name("mpiexec"))
ANY = {"00000000", "0" * 32}
"""The addresses 0.0.0.0 and :: in /proc/net."""


def listening(processes: list[psutil.Process]) -> dict[int, str]:
    """Ports on which any of the processes listens, with the address as /proc/net/tcp has it."""
    inodes = set()
    for process in processes:
        for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
            with suppress(OSError):
                inodes.add(str(descriptor.readlink()))
    found = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A" and f"socket:[{rest[5]}]" in inodes:
                address, port = local.split(":")
                found[int(port, 16)] = address
    return found


def intruded(ports: dict[int, str]) -> list[str]:
    """What another user could do with the ports."""
    command = [sys.executable, str(HERE / "intruding.py"), *map(str, ports)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd="/tmp")
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    assert last == "intruded as 65534"
    return lines


def use(campaign: Campaign, kind: str, patch: pytest.MonkeyPatch) -> None:
    """Let the campaign be consolidated by a worker of this kind."""
    how = {"ranks": 1, "threads": 1, "dask": {"kind": kind, "workers": 1, "threads": 1}}
    how["site"] = str(ROOT / "configs" / "sites" / "local.yaml")
    campaign.change(lambda document: document.update(how=how))
    if kind == "slurm_cluster":
        slurm_here.install(campaign.file.parent / "bin", patch)


def commands(kind: str, *words: str) -> list[tuple[list[str], dict[str, str]]]:
    """Commands, with their environment, that run `words` as this kind is run."""
    if kind == "slurm_runner":  # srun gives every process of its step these variables
        step = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "3", "SLURM_STEP_ID": "0"}
        return [([*words], step | {"SLURM_PROCID": f"{process}"}) for process in range(3)]
    return [([*([MPIEXEC, "-n", "3"] if kind == "mpi" else []), *words], {})]


@contextmanager
def held(campaign: Campaign, kind: str) -> Iterator[list[psutil.Process]]:
    """The processes of a consolidation whose scheduler and workers are up, and do nothing."""
    words = (sys.executable, str(HERE / "holding.py"), str(campaign.file), "600")
    out = campaign.file.parent / "address.txt"
    with out.open("w") as file:
        started = [
            subprocess.Popen(command, env=os.environ | extra, stdout=file, start_new_session=True)
            for command, extra in commands(kind, *words)
        ]
    try:
        end = time.monotonic() + 180
        while not out.read_text().endswith("\n"):
            assert time.monotonic() < end
            assert None in [one.poll() for one in started]
            time.sleep(0.2)
        yield [one for one in tree_of(campaign) if "python" in one.name()]
    finally:
        for process in tree_of(campaign):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        for one in started:
            one.wait()


def tree_of(campaign: Campaign) -> list[psutil.Process]:
    """Processes that name the campaign's folder in their command, and all that they have started."""
    folder = str(campaign.file.parent)
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if any(folder in word for word in process.cmdline()):
                found |= {one.pid: one for one in (process, *process.children(recursive=True))}
    return list(found.values())


@ROOT_ONLY
@pytest.mark.parametrize("kind", KINDS)
def test_nobody_else_comes_in(embedded: Campaign, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    use(embedded, kind, monkeypatch)
    with held(embedded, kind) as processes:
        ports = listening(processes)
        if kind == "mpi":  # the port of mpiexec itself is open in every process that it starts
            launchers = [one for one in tree_of(embedded) if "mpiexec" in one.name()]
            ports = {port: at for port, at in ports.items() if port not in listening(launchers)}
        assert ports
        assert not ANY & set(ports.values())
        assert intruded(ports) == []


@pytest.mark.slow
@ROOT_ONLY
def test_the_intruder_comes_in_where_nothing_keeps_it_out() -> None:
    """Else the tests above would show nothing."""
    program = """if True:
        from distributed import LocalCluster
        if __name__ == "__main__":
            with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0"):
                print("up", flush=True)
                input()
    """
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as unguarded:
        assert unguarded.stdout
        assert unguarded.stdin
        assert unguarded.stdout.readline() == "up\n"
        tree = [psutil.Process(unguarded.pid), *psutil.Process(unguarded.pid).children(recursive=True)]
        lines = intruded(listening(tree))
        unguarded.stdin.write("\n")
    assert sum(line.startswith("tcp://") for line in lines) == 3  # scheduler, nanny, worker
    assert sum(line.endswith("/health 200") for line in lines) == 2


def test_threads_have_no_port(embedded: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    use(embedded, "threads", monkeypatch)
    with held(embedded, "threads") as processes:
        assert listening(processes) == {}


# tests/slurm shows the same of the other two, on the real Slurm
@pytest.mark.parametrize(
    "kind",
    ["processes", "mpi", pytest.param("slurm_cluster", marks=SLOW), pytest.param("slurm_runner", marks=SLOW)],
)
def test_the_cube_is_the_same_and_the_screen_is_quiet(
    embedded: Campaign, finished_demo: Campaign, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    use(embedded, kind, monkeypatch)
    words = (str(Path(sys.executable).parent / "embedcube"), "consolidate", str(embedded.file))
    started = [
        subprocess.Popen(command, env=os.environ | extra, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command, extra in commands(kind, *words)
    ]
    said = [one.communicate(timeout=300) for one in started]
    assert [one.returncode for one in started] == [0] * len(started)
    assert "".join(err for _, err in said) == ""
    assert "".join(out for out, _ in said).count("version") == 1
    assert cube_bytes(embedded.run.newest_cube) == cube_bytes(finished_demo.run.newest_cube)
    # no certificate stays; a busy machine may have made Dask warn in its log
    left = [path for path in embedded.run.logs.rglob("*dask*") if path.suffix not in (".err", ".out", ".log")]
    assert left == []
    if kind == "slurm_cluster":
        assert "Traceback" not in (embedded.file.parent / "bin" / "sbatch-output").read_text()
    assert "PRIVATE KEY" not in embedded.run.dask_report.read_text()


# --- what starts tell each other ------------------------------------------------------------------


def test_the_certificate_of_another_start_stays(embedded: Campaign) -> None:
    """It may run now; one that a killed start has left a day ago is removed."""
    run = embedded.run
    young = private_folder(run, "n1-7-ab")
    hand_over("a certificate", young)
    old = private_folder(run, "n1-6-cd")
    os.utime(old, (time.time() - 25 * 3600,) * 2)
    own = private_folder(run, "n1-8-ef")
    assert run.dask_secrets() == [young, own]
    assert receive(young) == "a certificate"
    (own / "left").touch()
    assert list(private_folder(run, "n1-8-ef").iterdir()) == []  # a killed start of the same name


UNPICKLED = """if True:
    import os
    from mpi4py import MPI
    def refuse(*_): raise SystemExit("pickled")
    MPI.pickle.__init__(refuse, refuse)
    from embedcube.consolidate.on_nodes import from_rank_0
    own = "-----BEGIN " + "x" * 9000 if MPI.COMM_WORLD.Get_rank() == 0 else ""
    os.write(1, b"%d\\n" % len(from_rank_0(MPI.COMM_WORLD, own)))  # in one piece, as the ranks share stdout
"""


def test_nothing_from_mpi_is_unpickled_by_us() -> None:
    command = [MPIEXEC, "-n", "3", sys.executable, "-c", UNPICKLED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["9011"] * 3), done.stderr


@pytest.mark.parametrize(
    "kind", ["slurm_cluster", pytest.param("slurm_runner", marks=SLOW), pytest.param("mpi", marks=SLOW)]
)
def test_an_interface_that_is_not_there(embedded: Campaign, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Said before anything is started, and in all processes."""
    use(embedded, kind, monkeypatch)
    site = embedded.file.parent / "site.yaml"
    site.write_text((ROOT / "configs" / "sites" / "local.yaml").read_text() + "interface: ib9\n")
    embedded.change(lambda document: document["how"].update(site=str(site)))
    words = (str(Path(sys.executable).parent / "embedcube"), "consolidate", str(embedded.file))
    started = [
        subprocess.Popen(command, env=os.environ | extra, stderr=subprocess.PIPE, text=True)
        for command, extra in commands(kind, *words)
    ]
    said = [one.communicate(timeout=120)[1] for one in started]
    assert [one.returncode for one in started] == [2] * len(started), said
    assert all("interface ib9 in the site file: " in err for err in said)
    assert "Traceback" not in "".join(said)


def test_a_scheduler_of_another_node_on_loopback(embedded: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    use(embedded, "slurm_runner", monkeypatch)
    for name, value in (commands("slurm_runner")[1][1]).items():
        monkeypatch.setenv(name, value)
    folder = private_folder(embedded.run, "7-0-0")
    (folder / "machine").write_text("another")
    (folder / "scheduler.json").write_text('{"address": "tls://127.0.1.1:1"}')
    hand_over(certificate(), folder)
    with pytest.raises(RequestError, match=r"listens on 127\.0\.1\.1, which no other node can reach: .* interface"):
        embedded.cli("consolidate")


class World:
    """A communicator in which the other process is on another machine, at 10.0.0.2."""

    def Get_size(self) -> int:
        return 2

    def Allgather(self, said: bytearray, heard: bytearray) -> None:
        heard[:] = said + bytearray(b"another\t10.0.0.2\t").ljust(len(said))


def test_loopback_between_machines_of_mpi() -> None:
    with pytest.raises(RequestError, match=r"listens on 127\.0\.0\.1, which no other node can reach"):
        _agreed_interface(World(), "lo")


def test_a_worker_in_a_job_elsewhere_refuses_loopback(embedded: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its log says why it ends."""
    use(embedded, "slurm_cluster", monkeypatch)
    commands = embedded.file.parent / "bin"
    monkeypatch.setattr(on_nodes, "_machine", lambda: "another")
    monkeypatch.setattr(on_nodes, "patience_s", lambda _: 5.0)
    with pytest.raises(StartAgain):
        embedded.cli("consolidate")
    assert "which no other node can reach" in (commands / "sbatch-output").read_text()
