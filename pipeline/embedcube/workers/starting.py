"""The fork server of a node, as a parent sees it: it is started, asked for ranks, kept and ended here.

A rank becomes a child of the parent, see forkserver.py.
"""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from embedcube.workers.channel import MOST_BYTES
from embedcube.workers.protocol import (
    EXIT_START_AGAIN,
    KILL_S,
    START_TIMEOUT_S,
)

MODULE = "embedcube.workers.forkserver"
"""In the command line of the fork server and of its ranks."""

_ENDING_S = 1.0
"""for a process that has closed its socket to be gone"""

_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37
"""see prctl(2)"""


class Forked:
    """A rank's process: asked for, then running, then ended."""

    def __init__(self, server: "ForkServer") -> None:
        """Asked for at this moment; it runs as soon as the server has imported what ranks need."""
        self._server, self._lock = server, threading.Lock()
        self.asked_s = time.monotonic()
        self.pid = 0
        """0 while it is not known"""
        self.failure = ""
        """why it was never started"""
        self._code: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative where a signal killed it; None while it runs or is to be started."""
        if not self.pid and self._code is None:
            self._server.look()
        # who looks meanwhile, such as a signal handler that has interrupted this, finds what was known before
        if self._code is None and self.pid and self._lock.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._lock.release()
        return self._code

    def send_signal(self, number: int) -> None:
        """Send a signal. If it does not run yet, it never will after one that ends it; others do nothing."""
        if self.poll() is not None:
            return
        if not self.pid:
            if number in (signal.SIGTERM, signal.SIGKILL):
                self._server.kill("it was ended before it was started", -number)
            return
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def _look(self) -> None:
        if self._code is not None:  # seen by another thread just now
            return
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:  # somebody else has asked for it: how it ended is lost
            pid, status = self.pid, EXIT_START_AGAIN << 8
        if pid:
            self._code = os.waitstatus_to_exitcode(status)

    def never_started(self, why: str, code: int) -> None:
        """Note why the process was never started, and the exit code that stands for that."""
        self.failure, self._code = why, code


class ForkServer:
    """The fork server, as its parent sees it."""

    def __init__(self, environment: Mapping[str, str], modules: Sequence[str]) -> None:
        """Start it. `environment` is all that the ranks have in common; of `modules` it imports each."""
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._said = os.memfd_create("embedcube")
        self._asked: dict[int, Forked] = {}
        self._ended: tuple[str, int] | None = None
        """why it starts no rank any more, and the exit code of those that it has not started"""
        self._subreaper_before: int | None = None
        self._lock = threading.RLock()
        # a launcher may have it ignored: then nobody learns how a child has ended
        if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # kernels before 4.11 give orphans only to processes that had asked for them when the server was started
        self._adopt()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", MODULE, str(theirs.fileno()), *modules],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=self._said,
                    stderr=self._said,
                    pass_fds=[theirs.fileno()],
                )
        finally:
            self._leave()

    def fork(
        self, number: int, variables: Mapping[str, str], arguments: Sequence[str], descriptors: list[int]
    ) -> Forked:
        """Ask for a rank of this number and return at once.

        `variables` are its own; `arguments` are those of `rank.main`; `descriptors` are of the socket pair that it
        shares with its parent and of its log.
        """
        with self._lock:
            forked = Forked(self)
            if self._ended is not None:
                forked.never_started(*self._ended)
                return forked
            self._asked[number] = forked
            self._adopt()
            request = {"number": number, "variables": dict(variables), "arguments": list(arguments)}
            try:
                socket.send_fds(self._control, [json.dumps(request).encode()], descriptors)
            except OSError:
                self._gone()
            return forked

    def look(self) -> None:
        """Take the answers of the fork server that have come; does not wait for any."""
        with self._lock:
            if not self._asked:
                return
            try:
                while self._asked and (answer := self._control.recv(MOST_BYTES, socket.MSG_DONTWAIT)):
                    self._take(json.loads(answer))
            except BlockingIOError:
                if any(time.monotonic() - one.asked_s > START_TIMEOUT_S for one in self._asked.values()):
                    said = f"what ranks need was not imported within {START_TIMEOUT_S:.0f} s"
                    self.kill(said, EXIT_START_AGAIN)
                return
            except ConnectionResetError:
                pass  # it was killed with requests unread; `_gone` tells how
            if self._asked:
                self._gone()

    def kill(self, why: str, code: int) -> None:
        """Kill it; the ranks that it has not started get the reason `why` and the exit code `code`.

        After that it starts none; asked for one, it gives the reason that came first.
        """
        with self._lock:
            self._process.kill()
            self._end(why, code)

    def close(self) -> None:
        """Kill it, as it may be busy with importing, which nobody waits for; the ranks that it has started go on."""
        self.kill("nobody waits for it", -signal.SIGKILL)

    @property
    def usable(self) -> bool:
        """Whether it may be asked for more ranks."""
        with self._lock:
            return not self._asked and self._control.fileno() >= 0 and self._process.poll() is None

    def _take(self, answer: dict[str, Any]) -> None:
        if failure := answer.get("failure"):
            self.kill(str(failure), int(answer["code"]))
            return
        self._asked.pop(answer["number"]).pid = int(answer["pid"])
        self._leave()

    def _gone(self) -> None:
        """Note that the fork server has ended, and why: by which signal or exit code, and the last line it printed."""
        why = "it has closed its socket"
        with suppress(subprocess.TimeoutExpired):
            code = self._process.wait(_ENDING_S)
            why = f"killed by {signal.Signals(-code).name}" if code < 0 else f"it ended with {code}"
        last: list[str] = []
        with suppress(OSError):  # it was closed meanwhile
            last = os.pread(self._said, MOST_BYTES, 0).decode(errors="replace").strip().splitlines()[-1:]
        self.kill("; ".join([f"the fork server of the ranks is gone: {why}", *last]), EXIT_START_AGAIN)

    def _end(self, why: str, code: int) -> None:
        with suppress(subprocess.TimeoutExpired):  # one that hangs in the kernel is left behind
            self._process.wait(KILL_S)
        if self._control.fileno() >= 0:
            self._control.close()
            os.close(self._said)
        self._ended = self._ended or (why, code)
        for one in self._asked.values():
            one.never_started(*self._ended)
        self._asked.clear()
        self._leave()

    def _adopt(self) -> None:
        """While ranks are being started, this process becomes the parent of orphans among its descendants."""
        if self._subreaper_before is None:
            before = ctypes.c_int()
            _prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before))
            _prctl(_PR_SET_CHILD_SUBREAPER, 1)
            self._subreaper_before = before.value

    def _leave(self) -> None:
        if not self._asked and self._subreaper_before is not None:
            _prctl(_PR_SET_CHILD_SUBREAPER, self._subreaper_before)
            self._subreaper_before = None


def _prctl(option: int, argument: Any) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, argument, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl {option}: {os.strerror(ctypes.get_errno())}")


_kept: dict[str, ForkServer] | None = None
"""None: a server ends with its task; else the last one, by its command and environment"""


@contextmanager
def servers_kept() -> Iterator[None]:
    """Within the block, the fork server of a task serves the next one too, if that needs the same."""
    global _kept  # noqa: PLW0603
    if _kept is not None:
        yield
        return
    _kept = {}
    try:
        yield
    finally:
        left, _kept = _kept, None
        for server in left.values():
            server.close()


@contextmanager
def fork_server(environment: Mapping[str, str], modules: Sequence[str]) -> Iterator[ForkServer]:
    """A fork server, started now or kept from the task before."""
    key = json.dumps([dict(environment), list(modules), str(Path.cwd()), sorted(os.sched_getaffinity(0))])
    server = _kept.pop(key, None) if _kept is not None else None
    if _kept:
        _kept.popitem()[1].close()
    if server is None or not server.usable:
        server = ForkServer(environment, modules)
    try:
        yield server
    finally:
        if _kept is not None and server.usable:
            _kept[key] = server
        else:
            server.close()
