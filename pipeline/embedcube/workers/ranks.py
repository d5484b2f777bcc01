"""The ranks of one node, as their parent sees them: it starts them, answers them, notes their ends, and ends them."""

import faulthandler
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from embedcube.campaign.recorded import recorded_in
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.schema import Campaign
from embedcube.workers.channel import Channel, Lost
from embedcube.workers.coordinator import Coordinator, Ending
from embedcube.workers.crashes import Crash, Held, write_crash
from embedcube.workers.protocol import (
    COUNT,
    EXIT_DONE,
    EXIT_START_AGAIN,
    FAILURE_GRACE_S,
    HOLD,
    INTERFACE,
    KILL_S,
    MEET,
    NCCL_INTERFACE,
    POLL_S,
    READY,
    REPORT,
    STACKS_SIGNAL,
    STOP_S,
    WHERE,
    Place,
)
from embedcube.workers.starting import ForkServer
from embedcube.workers.stopping import StopRequests

_MARGIN_S = 10.0
"""that a parent waits longer for its ranks than they give themselves"""


@dataclass(frozen=True, kw_only=True)
class Crew:
    """Which ranks of a task are those of one node."""

    parent: int
    """number of the parent"""
    parents: int
    """of the task"""
    ranks: int
    """of each parent"""

    @property
    def numbers(self) -> range:
        """The numbers of the ranks within the task."""
        return range(self.parent * self.ranks, (self.parent + 1) * self.ranks)


class Ranks:
    """The ranks of one node."""

    def __init__(
        self,
        campaign: Campaign,
        run: RunDir,
        task: int,
        attempt: str,
        crew: Crew,
        coordinator: Coordinator,
        asked: StopRequests,
        server: ForkServer,
    ) -> None:
        """Let `server` start them; `asked` are the stop signals that this parent gets."""
        self._coordinator, self._asked, self._run, self._attempt = coordinator, asked, run, attempt
        run.logs.mkdir(parents=True, exist_ok=True)
        # only this user can enter it; between nodes the ranks meet in a TCPStore
        self._meeting = tempfile.TemporaryDirectory(prefix="embedcube-")
        store = str(Path(self._meeting.name) / "store") if crew.parents == 1 else ""
        self._ranks: list[_Rank] = []
        arguments = [str(run.root), str(task), attempt]
        try:
            for number in crew.numbers:
                rank = _Rank(number, run.rank_log(task, attempt, number), run.part(task, attempt, number), coordinator)
                place = Place(
                    rank=number,
                    local_rank=number % crew.ranks,
                    world=crew.ranks * crew.parents,
                    parent=rank.theirs.fileno(),
                    store=store,
                )
                # on one machine nothing must leave it; between nodes the job script names the network, or gloo finds it
                network = {INTERFACE: "lo", NCCL_INTERFACE: "lo"} if store else {}
                rank.start(server, place.variables() | network, arguments)
                self._ranks.append(rank)
        except BaseException:
            self.stop(0)
            raise
        self.logs = tuple(rank.log for rank in self._ranks)

    def wait(self, meanwhile: Callable[[], object]) -> tuple[int, ...]:
        """Wait until all have ended, and return their exit codes; `meanwhile` is called again and again.

        Raises:
            StartAgain: the parent was asked to stop; the ranks have ended.
            Lost: parent 0 is gone; the ranks have ended.
        """
        signal.signal(STACKS_SIGNAL, self._show_stacks)
        try:
            while self._running():
                self._note_endings()
                state = self._coordinator.state()
                if state.ready:
                    self._meeting.cleanup()
                if state.over:
                    self.stop(FAILURE_GRACE_S)
                    break
                self._asked.act()
                meanwhile()
                time.sleep(POLL_S)
            self._note_endings()
        except BaseException:
            self.stop(max([STOP_S, *(rank.finish_s for rank in self._ranks)]) + _MARGIN_S)
            raise
        finally:
            self._meeting.cleanup()
        return tuple(rank.code if rank.code is not None else -signal.SIGKILL for rank in self._ranks)

    def stop(self, grace_s: float) -> None:
        """End the ranks; each has `grace_s` to finish and record the shards that it holds, unless that is urgent."""
        try:
            ready = self._coordinator.state().ready
        except Lost:
            ready = True
        # before it is ready, a rank holds no shard
        grace_s = grace_s if ready else 0.0
        for number, bound_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, KILL_S)):
            if not bound_s:
                continue
            for rank in self._running():
                rank.end(number)
            until_s = time.monotonic() + bound_s
            while self._running() and time.monotonic() < until_s:
                if self._asked.urgent and number == signal.SIGTERM:
                    break
                time.sleep(POLL_S)
            with suppress(Lost):
                self._note_endings()

    def _running(self) -> list["_Rank"]:
        return [rank for rank in self._ranks if rank.code is None]

    def _note_endings(self) -> None:
        """For each rank that has ended early, report why; for one that was killed, write which shards it held."""
        for rank in self._ranks:
            if rank.noted or rank.code is None:
                continue
            rank.noted = True
            if rank.process.failure:
                rank.hang_up()
            if rank.killed:
                held = self._undone(rank)
                if held:
                    write_crash(rank.part, Crash.of(socket.gethostname(), -rank.code, held))
                self._coordinator.report(Ending.KILLED, rank.death(held))
            elif rank.code not in (EXIT_DONE, -signal.SIGTERM, -signal.SIGKILL):
                kind = Ending.EARLY if rank.code == EXIT_START_AGAIN else Ending.FAILED
                self._coordinator.report(kind, rank.last_words())

    def _undone(self, rank: "_Rank") -> tuple[Held, ...]:
        """The shards that a rank held and has not recorded."""
        recorded = recorded_in(rank.part)
        return tuple(one for one in rank.held if one.recipe not in recorded)

    def _show_stacks(self, *_: object) -> None:
        """Write the stacks of this process and of the ranks to the logs."""
        faulthandler.dump_traceback()
        for rank in self._running():
            rank.process.send_signal(STACKS_SIGNAL)


class _Rank:
    """One rank: its process, and what it has told its parent."""

    def __init__(self, number: int, log: Path, part: Path, coordinator: Coordinator) -> None:
        self.number, self.log, self.part, self._coordinator = number, log, part, coordinator
        self._ours, self.theirs = socket.socketpair()
        self.held: tuple[Held, ...] = ()
        self.finish_s = 0.0
        """how long it may take for what it holds, as it says"""
        self._said = ""
        self._ended_by: set[int] = set()
        """signals that the parent has sent"""
        self.noted = False
        """its end was looked at"""

    def start(self, server: ForkServer, variables: dict[str, str], arguments: list[str]) -> None:
        """Let the process be started, and start a thread that answers it."""
        with self.log.open("ab") as out:
            self.process = server.fork(self.number, variables, arguments, [self.theirs.fileno(), out.fileno()])
        self.theirs.close()
        answers: dict[str, Callable[..., Any]] = {
            COUNT: self._coordinator.count,
            READY: self._ready,
            MEET: self._coordinator.meet,
            WHERE: self._where,
            HOLD: self._hold,
            REPORT: self._report,
        }
        channel = Channel(Connection(os.dup(self._ours.fileno())))
        threading.Thread(target=self._serve, args=(channel, answers), daemon=True).start()

    @property
    def code(self) -> int | None:
        """The exit code; None while it runs."""
        return self.process.poll()

    @property
    def killed(self) -> bool:
        """Whether a signal has killed it that its parent did not send."""
        return (self.code or 0) < 0 and -(self.code or 0) not in self._ended_by

    def end(self, number: int) -> None:
        """Send a signal that is to end it."""
        self._ended_by.add(number)
        self.process.send_signal(number)

    def death(self, held: tuple[Held, ...]) -> str:
        """One line for people: which signal killed it, where, and what it held."""
        name = signal.Signals(-(self.code or 0)).name
        name += " (out of memory?)" if name == "SIGKILL" else ""
        names = [one.shard for one in held]
        what = f"while it held {', '.join(names[:3])}" if names else "while it held no shard"
        what += f" and {len(names) - 3} more" if len(names) > 3 else ""
        return f"rank {self.number} on node {socket.gethostname()} was killed by {name} {what} ({self.log})"

    def last_words(self) -> str:
        """One line for people: why it ended, as it has told its parent; else the last line of its log."""
        said = self.process.failure or self._said
        said = said or next(reversed(self.log.read_text(errors="replace").strip().splitlines()), "")
        said = said or f"it ended with {self.code}, and its log is empty"
        return f"rank {self.number} on node {socket.gethostname()}: {said} ({self.log})"

    def hang_up(self) -> None:
        """Close the socket pair, so that the rank ends.

        It may run though nobody was told so: the fork server was killed just after the fork.
        """
        with suppress(OSError):  # it is closed
            self._ours.shutdown(socket.SHUT_RDWR)

    # --- what it asks -----------------------------------------------------------------------------------------------

    def _serve(self, channel: Channel, answers: dict[str, Callable[..., Any]]) -> None:
        channel.serve(answers)
        self.hang_up()
        self._ours.close()

    def _ready(self, rank: int) -> None:
        self._coordinator.ready(rank)
        self._until(lambda: self._coordinator.state().ready)

    def _where(self) -> str:
        self._until(self._coordinator.where)
        return self._coordinator.where()

    def _until(self, done: Callable[[], object]) -> None:
        """Wait until something is done; raises Lost when nobody will do it any more."""
        while not done():
            if self._coordinator.state().over or self.code is not None:
                raise Lost("a rank has ended before all were ready")
            time.sleep(POLL_S / 5)

    def _hold(self, held: list[dict[str, Any]], finish_s: float) -> None:
        self.held, self.finish_s = tuple(Held(**one) for one in held), finish_s

    def _report(self, text: str) -> None:
        self._said = text


def common_environment(campaign: Campaign) -> dict[str, str]:
    """What the ranks of a node have in common, and their fork server has: much of it is read when libraries load."""
    how = campaign.how
    fixed = {
        "OMP_NUM_THREADS": str(how.threads_per_rank),
        # idle threads of one rank must not spin on the cores of another
        "OMP_WAIT_POLICY": "PASSIVE",
        # these libraries would start threads when they are loaded, which no fork survives
        "OPENBLAS_NUM_THREADS": "1",
        "JE_ARROW_MALLOC_CONF": "background_thread:false",
        "GDAL_CACHEMAX": str(how.cache_mb),
        # the inventory knows the geometry: no folder of a million files is listed to look for sidecars
        "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
        # the arrays of shards are allocated and freed by several threads: kept in one heap, they cost no page faults
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": str(1 << 28),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    }
    return os.environ | fixed
