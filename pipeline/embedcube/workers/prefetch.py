"""Run an iterator in a thread, a little ahead of its consumer: this is how reading, device and writing overlap."""

import threading
from collections.abc import Generator, Iterator
from queue import Queue
from typing import Any, TypeVar

T = TypeVar("T")
_END = object()


def prefetched(items: Generator[T, None, None], ahead: int = 1) -> Iterator[T]:
    """The same items in the same order, made by a thread that keeps `ahead` of them ready.

    An exception of `items` is raised in the consumer, after the items before it. When the consumer leaves early,
    `items` is closed and the thread ends first: nothing goes on in the background.
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

    thread = threading.Thread(target=run)
    thread.start()
    item: Any = None
    try:
        while (item := ready.get()) is not _END:
            yield item
    finally:
        left.set()
        while item is not _END:
            item = ready.get()
        thread.join()
    if failures:
        raise failures[0]
