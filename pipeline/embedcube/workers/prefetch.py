"""Run an iterator in a thread, a little ahead of its consumer: this is how reading, device and writing overlap."""

import logging
import threading
import time
from collections.abc import Generator
from queue import Empty, Queue
from typing import Any, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")
_END = object()

_LEAVE_S = 10.0
"""that a consumer which leaves early waits for the thread"""


def prefetched(items: Generator[T, None, None], ahead: int = 1) -> Generator[T, None, None]:
    """The same items in the same order, made by a thread that keeps `ahead` of them ready.

    An exception of `items` is raised in the consumer, after the items before it. When the consumer leaves early,
    `items` is closed and the thread ends first, so that nothing goes on in the background. If the thread hangs, the
    consumer waits 10 seconds for it and then leaves it behind: it cannot keep the process from ending.
    """
    ready: Queue[Any] = Queue(ahead)
    left = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            for item in items:
                ready.put(item)
                if left.is_set():
                    break
            items.close()
        except BaseException as error:
            failures.append(error)
        finally:
            ready.put(_END)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    item: Any = None
    try:
        while (item := ready.get()) is not _END:
            yield item
    finally:
        left.set()
        until_s = time.monotonic() + _LEAVE_S
        try:
            # each item that is taken out lets the thread go on, up to the next look at `left`
            while item is not _END:
                item = ready.get(timeout=max(0.0, until_s - time.monotonic()))
            thread.join()
        except Empty:
            log.warning("a thread has not ended within %.0f s, and is left behind", _LEAVE_S)
    if failures:
        raise failures[0]
