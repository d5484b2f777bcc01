"""What the ranks of a task share, in the memory of parent 0: counters, who is ready, why ranks have ended early."""

import threading
import time
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from embedcube.workers.channel import Channel, Lost
from embedcube.workers.protocol import (
    BEAT_S,
    COUNT,
    DONE,
    MEET,
    PARENT_SILENT_S,
    POLL_S,
    READY,
    REPORT,
    STATE,
    WHERE,
)


@dataclass(frozen=True, kw_only=True)
class State:
    """How far a task is."""

    ready: bool
    """all ranks hold the weights"""
    over: bool
    """all ranks are to end: one has failed for good, or has ended before all were ready"""


class Ending(StrEnum):
    """Why a process of the task has ended before the work was done; the most telling first."""

    FAILED = "failed"
    """by an error that the next start would hit again"""
    KILLED = "killed"
    """by a signal, or with its node"""
    EARLY = "early"
    """as it was asked to, or because something did not work for the moment"""


class Coordinator(Protocol):
    """What every parent and, through its parent, every rank may ask. All but `state` raise Lost without parent 0."""

    def count(self, counter: str) -> int:
        """Add 1 to a counter, atomically among all ranks, and return it."""
        ...

    def ready(self, rank: int) -> None:
        """Note that a rank holds the weights."""
        ...

    def meet(self, address: str) -> None:
        """Note where the ranks find each other."""
        ...

    def where(self) -> str:
        """The address that `meet` gave; empty before."""
        ...

    def state(self) -> State:
        """How far the task is; raises Lost when parent 0 is gone."""
        ...

    def report(self, kind: Ending, text: str) -> None:
        """Note in one line why a rank has ended early."""
        ...

    def done(self) -> None:
        """Note that all ranks of this parent have ended."""
        ...


class OwnCoordinator:
    """The coordinator of parent 0, in whose memory everything is."""

    def __init__(self, *, world: int, parents: int) -> None:
        """Coordinate a task of `world` ranks below `parents` parents; nothing is counted yet."""
        self._lock = threading.Lock()
        self._world, self._parents = world, parents
        self._counts: Counter[str] = Counter()
        self._ready: set[int] = set()
        self._address, self._over = "", False
        self._reports: dict[Ending, list[str]] = {kind: [] for kind in Ending}
        self._hosts: dict[int, str] = {}
        self._ended: set[int] = set()
        self._silent_looks: dict[int, int] = {}

    def count(self, counter: str) -> int:
        """See Coordinator."""
        with self._lock:
            self._counts[counter] += 1
            return self._counts[counter]

    def counted(self, counter: str) -> int:
        """How often something was counted."""
        with self._lock:
            return self._counts[counter]

    def ready(self, rank: int) -> None:
        """See Coordinator."""
        with self._lock:
            self._ready.add(rank)

    def meet(self, address: str) -> None:
        """See Coordinator."""
        self._address = address

    def where(self) -> str:
        """See Coordinator."""
        return self._address

    def state(self) -> State:
        """See Coordinator."""
        with self._lock:
            return State(ready=len(self._ready) == self._world, over=self._over)

    def report(self, kind: Ending, text: str) -> None:
        """See Coordinator."""
        with self._lock:
            self._reports[kind].append(text)
            self._over |= kind == Ending.FAILED or len(self._ready) < self._world

    def done(self) -> None:
        """See Coordinator; parent 0 asks for nothing more."""

    def reports(self, kind: Ending) -> list[str]:
        """The reports of one kind, in the order in which they came."""
        with self._lock:
            return list(self._reports[kind])

    # --- the other parents ----------------------------------------------------------------------------------------

    def join(self, parent: int, host: str) -> str:
        """Take another parent in; the answer says why it is refused, and is empty where it is not."""
        with self._lock:
            if parent in self._hosts or not 0 < parent < self._parents:
                other = f"the one on {self._hosts[parent]}" if parent in self._hosts else "parent 0"
                return f"the parent on {host} has the number {parent} of {self._parents}, as has {other}"
            self._hosts[parent] = host
            self._silent_looks[parent] = 0
            return ""

    def heard(self, parent: int) -> None:
        """Note that a parent has said something."""
        with self._lock:
            self._silent_looks[parent] = 0

    def ended(self, parent: int, *, lost: bool) -> None:
        """Note that a parent's ranks have all ended, or that its connection is closed."""
        with self._lock:
            first = parent not in self._ended
            self._ended.add(parent)
        if lost and first:
            self.report(Ending.KILLED, f"parent {parent} of the task, on {self._hosts[parent]}, was lost")

    def waited_for(self) -> bool:
        """Whether another parent that has joined has not ended and is not silent; to be called each POLL_S."""
        # looks are counted, not seconds: while a batch system has suspended all of the job, no time passes
        with self._lock:
            left = sorted(self._hosts.keys() - self._ended)
            for parent in left:
                self._silent_looks[parent] += 1
            silent = [parent for parent in left if self._silent_looks[parent] > PARENT_SILENT_S / POLL_S]
        for parent in silent:
            self.ended(parent, lost=True)
        return len(left) > len(silent)


class RemoteCoordinator:
    """The coordinator of parent 0, as another parent asks it over their connection."""

    def __init__(self, channel: Channel) -> None:
        """Begin to ask for the state of the task again and again, in a thread, which is also the heartbeat."""
        self._channel = channel
        self._state = State(**channel.ask(STATE))
        self._lost = ""
        threading.Thread(target=self._beat, daemon=True).start()

    def count(self, counter: str) -> int:
        """See Coordinator."""
        number: int = self._channel.ask(COUNT, counter)
        return number

    def ready(self, rank: int) -> None:
        """See Coordinator."""
        self._channel.ask(READY, rank)

    def meet(self, address: str) -> None:
        """See Coordinator."""
        self._channel.ask(MEET, address)

    def where(self) -> str:
        """See Coordinator."""
        return str(self._channel.ask(WHERE))

    def state(self) -> State:
        """See Coordinator."""
        if self._lost:
            raise Lost(self._lost)
        return self._state

    def report(self, kind: Ending, text: str) -> None:
        """See Coordinator."""
        self._channel.ask(REPORT, kind, text)

    def done(self) -> None:
        """See Coordinator."""
        self._channel.ask(DONE)

    def _beat(self) -> None:
        while not self._lost:
            time.sleep(BEAT_S if self._state.ready else POLL_S)
            try:
                self._state = State(**self._channel.ask(STATE))
            except Lost as error:
                self._lost = str(error)
