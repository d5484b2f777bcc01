"""Parents of several nodes: parent 0 listens, the others connect and prove that they have the key of this start.

The proof is that of multiprocessing.connection: each side answers a random challenge of the other with an HMAC. The key
itself is never sent over the network.
"""

import ipaddress
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from typing import Any

from embedcube.errors import StartAgain, WorkError
from embedcube.workers.channel import Channel, Lost
from embedcube.workers.coordinator import Ending, OwnCoordinator, RemoteCoordinator
from embedcube.workers.protocol import (
    COUNT,
    DONE,
    HANDSHAKE_S,
    JOIN,
    MEET,
    POLL_S,
    READY,
    REPORT,
    STATE,
    WHERE,
)

_MOST_UNPROVEN = 64
"""connections that have not proven yet that they have the key; of more, the oldest are closed"""

_ATTEMPTS = 5
"""of a parent to join, in case that strangers fill the queue"""


class ParentsListener:
    """Where the other parents reach parent 0: one port on one interface, for those who have the key."""

    def __init__(self, host: str, key: bytes, coordinator: OwnCoordinator) -> None:
        """Listen on the address of `host`, on a free port."""
        self._key, self._coordinator = key, coordinator
        self._unproven: deque[socket.socket] = deque()
        self._lock, self._closed = threading.Lock(), False
        self._socket = listening(host)
        self.address = self._socket.getsockname()[:2]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Stop listening; connections stay."""
        self._closed = True
        # close alone would not wake up the thread that waits in accept
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        """Take connections; a thread of its own for each, so that a silent stranger makes nobody wait."""
        while not self._closed:
            try:
                accepted, _ = self._socket.accept()
            # no descriptor or no memory is left, or who connected has gone: that passes
            except OSError:
                time.sleep(POLL_S)
                continue
            with self._lock:
                self._unproven.append(accepted)
                if len(self._unproven) > _MOST_UNPROVEN:
                    _shut(self._unproven.popleft())
            try:
                threading.Thread(target=self._serve, args=(accepted,), daemon=True).start()
            except RuntimeError:  # no thread is left
                self._taken_out(accepted)
                time.sleep(POLL_S)

    def _serve(self, accepted: socket.socket) -> None:
        try:
            connection = proven(accepted, self._key, first=True)
        except (Lost, OSError, RuntimeError):
            return
        finally:
            kept = self._taken_out(accepted)
        if kept:
            _ServedParent(self._coordinator).serve(Channel(connection))
        else:
            # what came in before is not read: who was shut joins again
            connection.close()

    def _taken_out(self, accepted: socket.socket) -> bool:
        """Close a socket, which is unproven no more; False if it was shut as the oldest of too many."""
        with self._lock:
            among = accepted in self._unproven
            if among:
                self._unproven.remove(accepted)
            accepted.close()
            return among


class _ServedParent:
    """What parent 0 knows of one connection."""

    def __init__(self, coordinator: OwnCoordinator) -> None:
        self._coordinator = coordinator
        self._number = 0
        """of the parent; 0 until it has said it"""

    def serve(self, channel: Channel) -> None:
        """Answer until the connection is closed."""
        coordinator = self._coordinator
        answers: dict[str, Callable[..., Any]] = {
            JOIN: self._join,
            COUNT: coordinator.count,
            READY: coordinator.ready,
            MEET: coordinator.meet,
            WHERE: coordinator.where,
            STATE: self._state,
            REPORT: lambda kind, text: coordinator.report(Ending(kind), text),
            DONE: lambda: coordinator.ended(self._number, lost=False),
        }
        try:
            channel.serve(answers)
        finally:
            if self._number:
                coordinator.ended(self._number, lost=True)

    def _join(self, number: int, host: str) -> str:
        refused = self._coordinator.join(number, host)
        self._number = 0 if refused else number
        return refused

    def _state(self) -> dict[str, bool]:
        if self._number:
            self._coordinator.heard(self._number)
        return asdict(self._coordinator.state())


def join_parent_0(address: tuple[str, int], key: bytes, number: int) -> RemoteCoordinator:
    """Connect to parent 0 as another parent.

    Raises:
        StartAgain: parent 0 does not answer.
        WorkError: it has a parent of this number already, or says an address that is none for other nodes.
    """
    host, port = address
    try:
        return RemoteCoordinator(_joined(address, key, number))
    except (Lost, OSError) as error:
        if isinstance(error, ConnectionRefusedError) and ipaddress.ip_address(host).is_loopback:
            raise WorkError(
                f"parent 0 of the task listens on {host}, which no other node can reach: the name of its node has no "
                "other address there; write interface or host_suffix into the site file"
            ) from None
        raise StartAgain(f"parent 0 of the task, at {host} port {port}, does not answer: {error}") from None


def _joined(address: tuple[str, int], key: bytes, number: int) -> Channel:
    """A connection whose other side has the key too, and has taken this parent in; tried several times."""
    for attempt in range(1, _ATTEMPTS + 1):
        connecting = socket.create_connection(address, timeout=HANDSHAKE_S)
        try:
            connecting.setblocking(True)
            channel = Channel(proven(connecting, key, first=False))
            refused = channel.ask(JOIN, number, socket.gethostname())
            if not refused:
                return channel
            if attempt > 1:  # perhaps by what this parent has said before, and the answer was lost
                raise StartAgain(f"{refused}, and an earlier answer was lost; start the same command again")
            raise WorkError(f"{refused}: let the launcher start one parent on each node, with numbers of their own")
        except Lost:
            if attempt == _ATTEMPTS:
                raise
        finally:
            connecting.close()
    raise AssertionError("unreachable: the last attempt returns or raises")


def proven(connected: socket.socket, key: bytes, *, first: bool) -> Connection:
    """The connection, when both sides have shown within HANDSHAKE_S that they have `key`; one side challenges `first`.

    Raises:
        Lost: the other side has another key, is silent or has gone.
    """
    late = threading.Timer(HANDSHAKE_S, _shut, [connected])
    late.daemon = True
    late.start()
    connection: Any = Connection(os.dup(connected.fileno()))
    steps = (deliver_challenge, answer_challenge) if first else (answer_challenge, deliver_challenge)
    try:
        for step in steps:
            step(connection, key)
    # Python up to 3.11 asserts that the other side speaks this protocol
    except (AuthenticationError, OSError, EOFError, AssertionError) as error:
        connection.close()
        raise Lost(f"no proof that it has the key of this start: {error}") from None
    finally:
        late.cancel()
    proved: Connection = connection
    return proved


def listening(host: str) -> socket.socket:
    """A socket that listens on the address of `host` alone, on a free port."""
    family, _, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    return socket.create_server(address, family=family)


def _shut(connected: socket.socket) -> None:
    """Wake up who reads from it; it may be closed already."""
    with suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)
