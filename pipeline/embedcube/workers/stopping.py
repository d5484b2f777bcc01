"""How parents and ranks notice that they are to stop, and what ends them when they do not."""

import logging
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from embedcube.errors import StartAgain
from embedcube.workers.protocol import EXIT_START_AGAIN, STOP_SIGNALS

log = logging.getLogger(__name__)

_ONE_REQUEST_S = 0.3
"""signals within this time are one request: `timeout` and some launchers send each signal twice"""


_LOG_S = 5.0
"""for the last lines of the log: a file system that hangs may take none, and its thread keeps the log's lock"""


class StopRequests:
    """Stop signals to a parent. They are noted, and acted on where its loop looks: never in the middle of a request."""

    def __init__(self) -> None:
        """Nothing is noted before the block is entered."""
        self._last, self._last_s, self._count = signal.SIGTERM, 0.0, 0

    def __enter__(self) -> "StopRequests":
        self._before = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def urgent(self) -> bool:
        """Whether it was asked for more than once."""
        return self._count > 1

    def act(self) -> None:
        """Raise StartAgain if a stop was asked for."""
        if self._count:
            raise StartAgain(
                f"stopped by signal {self._last} ({self._last.name}); start the same command again, it continues where "
                "it stopped"
            )

    def _note(self, number: int, _: FrameType | None) -> None:
        now_s = time.monotonic()
        self._count += now_s - self._last_s > _ONE_REQUEST_S
        self._last, self._last_s = signal.Signals(number), now_s


class Stop:
    """That a rank begins no more shards, and why."""

    def __init__(self) -> None:
        """Not stopped yet."""
        self._event = threading.Event()
        self.woken, self.waking = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        """the ends of a pipe: what is written there wakes the guard up"""
        self.reason = ""

    def set(self, reason: str) -> None:
        """Stop; the first reason counts."""
        self.reason = self.reason or reason
        self._event.set()
        os.write(self.waking, b"\0")

    def is_set(self) -> bool:
        """Whether the rank is to stop."""
        return self._event.is_set()


class Guard:
    """Watches, in a thread of a rank, for a stop and for the end of its parent, and ends the rank in time.

    It works whatever the other threads of the process wait for, as long as they do not keep the interpreter's lock.
    """

    def __init__(self, parent: int, stop: Stop) -> None:
        """`parent` is the descriptor whose other end the parent has; to be called in the main thread."""
        self._parent, self._stop = parent, stop
        self._finish_s: Callable[[], float] = lambda: 0.0
        # Python's own handler runs in the main thread only, which may be inside of a collective; the number of the
        # signal is written at once
        signal.set_wakeup_fd(stop.waking)
        for number in STOP_SIGNALS:
            signal.signal(number, lambda *_: None)
        threading.Thread(target=self._watch, daemon=True).start()

    def working(self, finish_s: Callable[[], float]) -> None:
        """From now on the rank holds shards, and `finish_s` says how long it may take to finish them."""
        self._finish_s = finish_s

    def _watch(self) -> None:
        self._stop.set(self._reason())
        left_s = self._finish_s()
        _end_in(left_s + _LOG_S, EXIT_START_AGAIN)
        if left_s:
            log.warning("%s: what is in progress is finished, in at most %.0f s", self._stop.reason, left_s)
            time.sleep(left_s)
            log.error("%s, and %.0f s later the rank has not ended: what it held is undone", self._stop.reason, left_s)
        else:
            log.error("%s before the work began", self._stop.reason)
        end_process(EXIT_START_AGAIN)

    def _reason(self) -> str:
        """Wait for a stop or for the end of the parent."""
        poll = select.poll()
        poll.register(self._stop.woken, select.POLLIN)
        # what the parent sends is not for this thread; that it has gone is always reported
        poll.register(self._parent, 0)
        while not self._stop.is_set():
            for descriptor, _ in poll.poll():
                if descriptor == self._parent:
                    return "the parent of the rank is gone"
                for number in os.read(self._stop.woken, 16):
                    if number in STOP_SIGNALS:
                        return f"asked to stop by {signal.Signals(number).name}"
        return self._stop.reason


def end_process(code: int) -> None:
    """End this process now, at the latest in 5 s; threads that hang cannot keep it, nor can a log that hangs."""
    _end_in(_LOG_S, code)
    logging.shutdown()
    os._exit(code)


def _end_in(seconds: float, code: int) -> None:
    """End this process after a time, from a thread that touches no log."""
    timer = threading.Timer(seconds, os._exit, [code])
    timer.daemon = True
    with suppress(RuntimeError):  # no thread is left: the caller ends it
        timer.start()
