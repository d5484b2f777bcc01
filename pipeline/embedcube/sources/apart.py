"""Call a function in a process of its own, because the library that it uses may crash or never end on wrong bytes.

The process is kept for further calls. It is a new program rather than a fork, which would copy locks that other threads
hold. Only its parent talks to it, over a pair of sockets that no other process has.
"""

import atexit
import logging
import math
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TypeVar, TypeVarTuple

from embedcube.errors import EmbedcubeError, StartAgain

Ts = TypeVarTuple("Ts")
R = TypeVar("R")

_LIMIT_S = 120
"""CPU time of a call. It takes a second where the bytes are right; waiting for a disk does not count"""

_BYTES_PER_S = 5 << 20
"""of a file, for the CPU time that a large one may take more"""

_END_S = 10
"""until a process that was told to end is killed, and until a killed one is not waited for any more"""


_CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE, signal.SIGSYS}
"""signals by which a process ends because of what it did itself"""

_FOR_OTHERS = {signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
"""signals that a terminal or a batch system sends to all processes of a group, and that are meant for their parent"""


class Crashed(ValueError):
    """The process of a call ended by an error in it, or computed for longer than any file of its size takes."""


def apart(work: Callable[[*Ts], R], size: int, *args: *Ts) -> R:
    """Return `work(*args)`, computed by another process; `size` is the bytes of the file that it opens.

    `work`, its arguments and its result must be picklable.

    Raises:
        Exception: any error of `work`.
        Crashed: the process crashed, or computed for longer than any file of this size takes.
        StartAgain: the process was killed from outside, most likely for want of memory.
    """
    try:
        helper = _idle.pop()
    except IndexError:
        helper = _Helper()
    try:
        return helper.call(work, args, _LIMIT_S + size // _BYTES_PER_S)
    finally:
        if helper.alive:
            _idle.append(helper)


class _Helper:
    """A process that waits for calls. It ends when its socket is closed, thus with this process."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            number, level = theirs.fileno(), logging.getLogger("embedcube").level
            command = [sys.executable, "-m", "embedcube.sources.apart", str(number), str(level)]
            # the same modules are to be found
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
            self._process = subprocess.Popen(command, pass_fds=[number], stdin=subprocess.DEVNULL, env=environment)
        self._connection = Connection(ours.detach())
        self.alive = True

    def call(self, work: Callable[[*Ts], R], args: tuple[*Ts], limit_s: int) -> R:
        """The result of a call; any error of it is raised here."""
        # until its answer is here: the answer of a call that was interrupted would be taken for that of the next one
        self.alive = False
        try:
            self._connection.send((work, args, limit_s))
            answer, error = self._connection.recv()
            self.alive = True
        except (EOFError, ConnectionError):
            self.close()
            raise _ended(self._process.returncode, limit_s) from None
        except BaseException:
            self.alive = False
            self._process.kill()
            self.close()
            raise
        if error is not None:
            raise error
        result: R = answer
        return result

    def close(self) -> None:
        """End the process, which waits for a call or has ended; one that does not end is killed."""
        self._connection.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
            return
        self._process.kill()
        # even a killed process may wait for a file system that does not answer
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)


def close() -> None:
    """End the processes that wait for calls; a later call starts another one."""
    with suppress(IndexError):
        while True:
            _idle.pop().close()


_idle: list[_Helper] = []
"""each step with it is one that threads cannot interrupt, and no lock, which a fork would copy as it is"""

# a forked process must not talk to the helpers of its parent
os.register_at_fork(after_in_child=_idle.clear)
atexit.register(close)


def _ended(code: int | None, limit_s: int) -> Exception:
    """The error of a call whose process ended; without a code, it is not known how."""
    if code is None:
        return StartAgain("a process that opens files does not answer, and cannot be killed; start again")
    if -code == signal.SIGXCPU:
        return Crashed(f"its decoder did not end within {limit_s} s of CPU time")
    if -code in _CRASHES:
        return Crashed(f"its decoder crashed ({signal.Signals(-code).name})")
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    with suppress(ValueError):  # those for real-time have no name
        how = signal.Signals(-code).name
    words = f"a process that opens files ended early ({how}), perhaps for want of memory"
    return StartAgain(f"{words}; start again, with more memory if it happens again")


def _serve(connection: Connection) -> None:
    """Answer calls until the other side closes."""
    # this process ends with its parent
    for number in _FOR_OTHERS:
        signal.signal(number, signal.SIG_IGN)
    # a crash is told by the parent, in words
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        try:
            work, args, limit_s = connection.recv()
        except EOFError:
            return
        _limit_cpu_time(limit_s)
        answer: tuple[object, Exception | None]
        try:
            answer = work(*args), None
        except Exception as error:
            answer = None, _sendable(error)
        finally:
            # the time between two calls belongs to none of them
            _limit_cpu_time(None)
        # the other side may have been killed
        with suppress(ConnectionError):
            connection.send(answer)


def _limit_cpu_time(seconds: int | None) -> None:
    """Let this process compute for so many seconds more; None takes the limit away."""
    most = resource.getrlimit(resource.RLIMIT_CPU)[1]
    if seconds is None:
        resource.setrlimit(resource.RLIMIT_CPU, (most, most))
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = math.ceil(used.ru_utime + used.ru_stime) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (limit if most < 0 else min(limit, most), most))


def _sendable(error: Exception) -> Exception:
    """The error, or its words where its class may not be known to the other side."""
    if type(error).__module__ in ("builtins", EmbedcubeError.__module__):
        return error
    return ValueError(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    if level := int(sys.argv[2]):
        logging.basicConfig(format="%(name)s: %(message)s")
        logging.getLogger("embedcube").setLevel(level)
    _serve(Connection(int(sys.argv[1])))
