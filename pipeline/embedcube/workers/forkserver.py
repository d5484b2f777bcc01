"""The fork server of a node: one process that imports what ranks need, once, and forks them.

`python -m embedcube.workers.forkserver MODULE...` is started by a parent (task.py) before that touches MPI, a store or
Parquet. Its environment is already that of its ranks, because much of it is read when a program or a library is loaded.
It starts no thread, opens no data, computes nothing and never asks for a GPU: nothing of that survives a fork. What is
the rank's own (variables, log, signals, threads, device, process group, modules of third parties) comes after the fork.

A rank is a child of the parent, not of the fork server: the process between them ends at once, and the kernel gives
the rank to the parent, which has asked for that (PR_SET_CHILD_SUBREAPER). So the parent sees the end of a rank as of
any child, and a fork server that is killed takes no rank with it. It ends when its parent closes the socket, or is
gone.
"""

import faulthandler
import gc
import importlib
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

from embedcube.workers.channel import MOST_BYTES
from embedcube.workers.protocol import EXIT_FAILED, EXIT_START_AGAIN, PARENT, STACKS_SIGNAL, STOP_SIGNALS

_USED = ("embedcube.workers.rank", "pyarrow.dataset")
"""what every rank imports; pyarrow loads the second when the first table is read"""

_USED_BY = {"embedcube.sources.era5.source": ("dask.base", "netCDF4")}
"""what a module loads when it opens its first file, as xarray looks whether arrays are those of Dask"""


def _serve(control: socket.socket, modules: Sequence[str]) -> int:
    """Import, then fork a rank for each request, until the other side closes; returns the exit code."""
    # they are for the parent, which ends this process; a rank takes them again when it can act on them
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    faulthandler.register(STACKS_SIGNAL)
    # a launcher may have it ignored: then nobody learns how a child has ended
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    gc.disable()
    try:
        for name in (*modules, *chain.from_iterable(_USED_BY.get(name, ()) for name in modules), *_USED):
            importlib.import_module(name)
    except BaseException as error:
        why = f"what ranks need cannot be imported: {type(error).__name__}: {error}"
        return _fail(control, why, EXIT_START_AGAIN if isinstance(error, OSError) else EXIT_FAILED)
    # what is there from now on is shared with the ranks: the collector of none of them may touch it
    gc.collect()
    gc.freeze()
    while True:
        text, descriptors, _, _ = socket.recv_fds(control, MOST_BYTES, 2)
        if not text:
            return 0
        request = json.loads(text)
        try:
            pid = _fork(control, request, *descriptors)
        except OSError as error:
            return _fail(control, f"a rank could not be forked: {error}", EXIT_START_AGAIN)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        _answer(control, {"number": request["number"], "pid": pid})


def _answer(control: socket.socket, answer: dict[str, Any]) -> None:
    with suppress(OSError):  # the parent is gone
        control.send(json.dumps(answer).encode())


def _fail(control: socket.socket, why: str, code: int) -> int:
    """Say why no rank can be started, and wait for the end: a socket that is closed early may lose its last word."""
    _answer(control, {"failure": why, "code": code})
    with suppress(OSError):
        while control.recv(MOST_BYTES):
            pass
    return EXIT_FAILED


def _fork(control: socket.socket, request: dict[str, Any], parent: int, log: int) -> int:
    """Fork a rank that is no child of this process; returns its number once the kernel has given it away."""
    told, telling = os.pipe()
    with open(told, "rb") as number:  # noqa: PTH123
        first = os.fork()
        if not first:
            try:
                if second := os.fork():
                    os.write(telling, str(second).encode())
                else:
                    os.close(telling)
                    number.close()
                    control.close()
                    _become_rank(request, parent, log)
            finally:
                os._exit(EXIT_FAILED)
        os.close(telling)
        os.waitpid(first, 0)
        text = number.read()
    if not text:
        raise OSError("no process is left")
    return int(text)


def _become_rank(request: dict[str, Any], parent: int, log: int) -> None:
    """Be a rank, and never return."""
    from embedcube.workers.rank import main
    from embedcube.workers.stopping import end_process

    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.close(log)
    os.environ.update(request["variables"] | {PARENT: str(parent)})
    Path("/proc/self/comm").write_text(f"rank {request['number']}")
    gc.enable()
    # a rank that a thread of a library keeps from ending would hold its whole allocation
    end_process(main(request["arguments"]))


if __name__ == "__main__":
    os._exit(_serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:]))
