"""Logs of Dask: in a file of each process, from warnings on, and never on the screen."""

import gc
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path

from embedcube.campaign.run_folder import RunDir

_TALKERS = ("distributed", "dask_jobqueue", "tornado", "asyncio", "bokeh")
"""Loggers of Dask and of what it stands on. They tell of each connection that ends, with tracebacks."""


class LogFile(logging.FileHandler):
    """A log that is opened at its first line. Lines that a full disk has no room for are dropped."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line."""
        with suppress(OSError):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Drop the line, instead of a traceback on the screen."""


class _Deaths(logging.Handler):
    """Keeps what the nannies of this process say about workers that died."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line if it names a process that died."""
        if (line := record.getMessage()).startswith("Worker process "):
            self.said.append(line)


def deaths() -> list[str]:
    """What was said in this process about workers that died: "Worker process 12 was killed by signal 9"."""
    handlers = logging.getLogger("distributed.nanny").handlers
    return [line for handler in handlers if isinstance(handler, _Deaths) for line in handler.said]


@contextmanager
def quiet(run: RunDir) -> Iterator[None]:
    """Send what Dask logs to a file of this process, warnings and worse, and nothing to the screen.

    Whatever level and handlers the root logger has: libraries such as TerraTorch set it to INFO.
    """
    import_module("distributed.config")  # it sets the loggers up
    names = {*_TALKERS, *(n for n in logging.root.manager.loggerDict if n.partition(".")[0] in _TALKERS)}
    loggers = [logging.getLogger(name) for name in sorted(names)]
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    file = redirect(run.logs)
    try:
        yield
    finally:
        # what Dask has left undone says so when it is collected
        gc.collect()
        file.close()
        for logger, handlers, level, propagate in before:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)


def redirect(logs: Path) -> logging.Handler:
    """Send the logs of Dask in this process to a file below `logs`, for good; returns the handler of the file."""
    logs.mkdir(parents=True, exist_ok=True)
    handler = LogFile(RunDir(logs.parent).dask_log(f"{socket.gethostname()}-{os.getpid()}"), delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    handler.setLevel(logging.WARNING)
    for name in [name for name in logging.root.manager.loggerDict if name.partition(".")[0] in _TALKERS]:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
        logger.setLevel(logging.NOTSET)
    for name in _TALKERS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.WARNING)
    nanny = logging.getLogger("distributed.nanny")
    nanny.setLevel(logging.INFO)
    nanny.addHandler(_Deaths())
    return handler
