"""A connection between two processes of one task: one side asks, the other answers, in turn.

Requests and answers are short JSON texts. They are never pickled: who sends them could otherwise run code here.
"""

import json
import math
import select
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

from embedcube.workers.protocol import ANSWER_TIMEOUT_S

MOST_BYTES = 1 << 20
"""of one request or answer; a longer one is refused before any memory is taken for it"""

_LOOK_S = 1.0
"""at most so long does one look for an answer take; see `Channel.ask`"""


class Lost(Exception):
    """The process at the other end has ended, is silent, or says what nobody expects."""


class Channel:
    """One end of a connection; requests of several threads are sent one after the other."""

    def __init__(self, connection: Connection) -> None:
        """Take the connection over."""
        self._connection, self._lock = connection, threading.Lock()

    def ask(self, request: str, *arguments: Any, timeout_s: float = ANSWER_TIMEOUT_S) -> Any:
        """Send a request and return the answer.

        Raises:
            Lost: there is no answer within `timeout_s`; the connection is closed then.
        """
        with self._lock:
            try:
                self._connection.send_bytes(json.dumps([request, *arguments]).encode())
                # looks are counted, not seconds: while a batch system has suspended all of the job, no time passes
                if any(self._connection.poll(_LOOK_S) for _ in range(math.ceil(timeout_s / _LOOK_S))):
                    return json.loads(self._connection.recv_bytes(MOST_BYTES))
                reason = f"no answer within {timeout_s:.0f} s"
            except (OSError, EOFError, ValueError, RecursionError) as error:
                reason = f"{type(error).__name__} {error}".strip()
            self._connection.close()
        raise Lost(reason)

    def serve(self, answers: Mapping[str, Callable[..., Any]]) -> None:
        """Answer each request by the function of its name, until the other side closes or asks something else.

        Something else is also a known request with other arguments, or a text that is no list.

        A function that raises `Lost` ends it too: the process that it depends on is gone.
        """
        try:
            while True:
                request, *arguments = json.loads(self._connection.recv_bytes(MOST_BYTES))
                self._connection.send_bytes(json.dumps(answers[request](*arguments)).encode())
        except (OSError, EOFError, ValueError, KeyError, TypeError, RecursionError, Lost):
            return
        finally:
            self._connection.close()

    def gone(self) -> bool:
        """Whether the other side has closed its end, without a look at what it may have sent."""
        poll = select.poll()
        poll.register(self._connection.fileno(), 0)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Close it; the other side sees that."""
        self._connection.close()
