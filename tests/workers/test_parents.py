"""Several parents of one task, as srun starts one on each node; here all of them on this machine."""

import errno
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection

import pytest
from tests.conftest import Campaign
from tests.workers.parents import two_parents

from embedcube.errors import StartAgain, WorkError
from embedcube.workers import parents
from embedcube.workers.channel import MOST_BYTES, Channel, Lost
from embedcube.workers.coordinator import Ending, OwnCoordinator
from embedcube.workers.parents import ParentsListener, join_parent_0
from embedcube.workers.protocol import HANDSHAKE_S, JOIN, PARENT_SILENT_S, POLL_S

KEY = b"the key of this start"


def test_a_rank_that_cannot_start_on_another_node_fails_the_task_by_name(demo: Campaign) -> None:
    """Far sooner than the ten minutes in which ranks must meet, and for good: to start again would not help."""
    demo.change(lambda document: document["how"].update(ranks=1, threads=1))
    demo.cli("run", "--until", "plan")
    with two_parents(demo, {}, {"MKL_CBWR": "COMPATIBLE"}) as (first, second):
        said = [process.communicate(timeout=400)[1] for process in (first, second)]
    assert (first.returncode, second.returncode) == (1, 0), said
    assert "30 of 30 shards are undone; a rank failed: " in said[0]
    assert re.search("has mkl COMPATIBLE.*, the plan was made for ", said[0])
    assert "embed-0000-7-0-0-0001.log" in said[0]


@pytest.fixture
def coordinator() -> OwnCoordinator:
    return OwnCoordinator(world=2, parents=2)


@pytest.fixture
def listener(coordinator: OwnCoordinator) -> Iterator[ParentsListener]:
    """Parent 0 of two."""
    opened = ParentsListener("127.0.0.1", KEY, coordinator)
    yield opened
    opened.close()


def test_another_parent_counts_with_parent_0(listener: ParentsListener, coordinator: OwnCoordinator) -> None:
    other = join_parent_0(listener.address, KEY, 1)
    assert [coordinator.count("a"), other.count("a"), coordinator.count("a"), other.count("b")] == [1, 2, 3, 1]
    for rank in (0, 1):
        assert not coordinator.state().ready
        other.ready(rank)
    assert coordinator.state().ready
    other.report(Ending.KILLED, "rank 1 was killed")
    assert coordinator.reports(Ending.KILLED) == ["rank 1 was killed"]
    assert coordinator.waited_for()
    other.done()
    assert not coordinator.waited_for()


def test_two_parents_of_one_number_are_refused(listener: ParentsListener) -> None:
    join_parent_0(listener.address, KEY, 1)
    for number in (0, 1, 2):
        with pytest.raises(WorkError, match=f"has the number {number} of 2, as has .*start one parent on each node"):
            join_parent_0(listener.address, KEY, number)


def test_who_has_not_the_key_is_refused(
    listener: ParentsListener, coordinator: OwnCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parents, "_ATTEMPTS", 1)
    with pytest.raises(StartAgain, match="no proof that it has the key"):
        join_parent_0(listener.address, b"a guess", 1)
    assert coordinator.count("a") == 1


def wait_for_the_end(stranger: socket.socket) -> None:
    """Until the other side closes."""
    stranger.settimeout(10)
    with suppress(ConnectionResetError):
        while stranger.recv(1000):
            pass


def test_silent_strangers_keep_nobody_out(listener: ParentsListener, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many: they are closed, the oldest first."""
    with ExitStack() as opened:
        strangers = [opened.enter_context(socket.create_connection(listener.address)) for _ in range(100)]
        began_s = time.monotonic()
        other = join_parent_0(listener.address, KEY, 1)
        assert other.count("a") == 1
        assert time.monotonic() - began_s < HANDSHAKE_S
        wait_for_the_end(strangers[0])
    assert other.count("a") == 2


@pytest.mark.parametrize(
    "said",
    [b"GET / HTTP/1.1\r\n\r\n", struct.pack("!i", 1 << 30), struct.pack("!iQ", -1, 1 << 60), b"\0\0\0\x01"],
    ids=["HTTP", "1 GiB", "an exbibyte", "half a message"],
)
def test_nonsense_is_closed(
    listener: ParentsListener, coordinator: OwnCoordinator, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any memory is taken for it; and soon, where the rest never comes."""
    monkeypatch.setattr(parents, "HANDSHAKE_S", 1.0)
    with socket.create_connection(listener.address, timeout=10) as stranger:
        stranger.sendall(said)
        wait_for_the_end(stranger)
    assert coordinator.count("a") == 1


def test_a_request_of_absurd_length_ends_the_connection(listener: ParentsListener, coordinator: OwnCoordinator) -> None:
    """Even of one who has the key; parent 0 takes it for lost then."""
    other = join_parent_0(listener.address, KEY, 1)
    with pytest.raises(Lost):
        other.count("a" * MOST_BYTES)
    assert coordinator.count("a") == 1
    end_s = time.monotonic() + 10
    while coordinator.waited_for() and time.monotonic() < end_s:
        time.sleep(0.01)
    assert "parent 1 of the task" in coordinator.reports(Ending.KILLED)[0]


class FailingTwice:
    """A socket that listens, whose first two calls of accept fail."""

    def __init__(self, opened: socket.socket, number: int) -> None:
        self._opened, self._errors = opened, [OSError(number, os.strerror(number))] * 2

    def accept(self) -> tuple[socket.socket, object]:
        if self._errors:
            raise self._errors.pop()
        return self._opened.accept()

    def __getattr__(self, name: str) -> object:
        return getattr(self._opened, name)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ECONNABORTED])
def test_a_connection_that_cannot_be_taken_ends_no_listening(
    coordinator: OwnCoordinator, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(parents, "HANDSHAKE_S", 2.0)
    real = parents.listening
    monkeypatch.setattr(parents, "listening", lambda host: FailingTwice(real(host), number))
    listener = ParentsListener("127.0.0.1", KEY, coordinator)
    assert join_parent_0(listener.address, KEY, 1).count("a") == 1
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(listener.address)


def test_a_thread_that_cannot_start_ends_no_listening(
    listener: ParentsListener, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, failed = threading.Thread.start, threading.Event()

    def start(thread: threading.Thread) -> None:
        if getattr(thread, "_target", None) == listener._serve and not failed.is_set():
            failed.set()
            raise RuntimeError("can't start new thread")
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    assert join_parent_0(listener.address, KEY, 1).count("a") == 1
    assert failed.is_set()


def test_a_parent_that_is_shut_after_its_proof_joins_again(
    listener: ParentsListener, coordinator: OwnCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strangers who come in that moment make it the oldest that nobody serves yet."""
    real, shut = parents.proven, list[socket.socket]()

    def proven(connected: socket.socket, key: bytes, *, first: bool) -> Connection:
        connection = real(connected, key, first=first)
        if first and not shut:
            shut.append(connected)
            time.sleep(0.2)
            with ExitStack() as opened:
                for _ in range(parents._MOST_UNPROVEN + 1):
                    opened.enter_context(socket.create_connection(listener.address))
                while connected in listener._unproven:
                    time.sleep(0.01)
        return connection

    monkeypatch.setattr(parents, "proven", proven)
    other = join_parent_0(listener.address, KEY, 1)
    assert other.count("a") == 1
    assert shut
    assert coordinator.reports(Ending.KILLED) == []


@pytest.mark.parametrize(
    "said",
    [b"5", b"null", b'[["count"]]', b'["count"]', b'["count", ["a"]]', b'["join", "1", "b"]', b"[" * 100_000],
    ids=["a number", "null", "a list as a name", "too few", "another type", "a text as a number", "nested"],
)
def test_a_request_of_another_shape_ends_the_connection_and_its_parent_is_lost(
    listener: ParentsListener, coordinator: OwnCoordinator, said: bytes
) -> None:
    with socket.create_connection(listener.address, timeout=10) as connecting:
        connecting.setblocking(True)
        connection = parents.proven(connecting, KEY, first=False)
    channel = Channel(connection)
    assert channel.ask(JOIN, 1, "b") == ""
    connection.send_bytes(said)
    assert connection.poll(10)
    with pytest.raises((EOFError, OSError)):
        connection.recv_bytes()
    end_s = time.monotonic() + 5
    while not coordinator.reports(Ending.KILLED) and time.monotonic() < end_s:
        time.sleep(0.01)
    assert coordinator.reports(Ending.KILLED) == ["parent 1 of the task, on b, was lost"]


def test_a_job_that_was_suspended_has_lost_nobody(coordinator: OwnCoordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody could say anything meanwhile; looks count, and time does not."""
    coordinator.join(1, "b")
    assert coordinator.waited_for()
    with monkeypatch.context() as later:
        later.setattr(time, "monotonic", lambda: float("1e9"))
        assert coordinator.waited_for()
    looks = int(PARENT_SILENT_S / POLL_S)
    assert all(coordinator.waited_for() for _ in range(looks - 2))
    coordinator.heard(1)
    assert all(coordinator.waited_for() for _ in range(looks))
    assert not coordinator.waited_for()
    assert coordinator.reports(Ending.KILLED) == ["parent 1 of the task, on b, was lost"]
