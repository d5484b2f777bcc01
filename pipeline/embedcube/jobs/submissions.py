"""submissions.jsonl: the jobs that were given to the batch system for a campaign, each noted as soon as it exists."""

import json
import logging
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.seals import from_line, to_line

log = logging.getLogger(__name__)


STAGES = ("prepare", "embed", "consolidate", "verify")
"""The stages of a campaign that are jobs, in the order in which they are submitted."""


@dataclass(frozen=True, kw_only=True)
class Submission:
    """The jobs of one call of `submit`, or of another command with the executor `slurm`."""

    time: str
    """of the call, in UTC"""
    again: bool
    """whether consolidation called it, because shards had no record"""
    tasks: tuple[int, ...]
    """tasks in the job array"""
    jobs: dict[str, list[str]]
    """ids of the jobs of each stage, in the order of submission"""
    records: int | None = None
    """number of shards that had a record at that time; None where an older version submitted"""
    round: int = 1
    """round of `embed` that its tasks work in"""

    @property
    def ids(self) -> list[str]:
        """Ids of all jobs, in the order of submission."""
        return [one for stage in self.jobs.values() for one in stage]

    def continues(self, earlier: "Submission") -> bool:
        """Whether it is the same call as `earlier`, noted again after one more job."""
        same = all(self.jobs.get(stage, [])[: len(ids)] == ids for stage, ids in earlier.jobs.items())
        return self.time == earlier.time and same


def new_submission(
    tasks: tuple[int, ...], *, round_: int, again: bool = False, records: int | None = None
) -> Submission:
    """A submission of now, without any job yet: the caller adds the jobs, and notes each."""
    time = datetime.now(UTC).isoformat(timespec="microseconds")
    return Submission(time=time, again=again, tasks=tasks, jobs={}, records=records, round=round_)


def note(submission: Submission, run: RunDir) -> None:
    """Append a submission to submissions.jsonl; its last line counts.

    It is noted after each job, so that `cancel` knows those of a call that is killed. A line that was cut off by a
    crash is ended first.
    """
    torn = run.submissions.exists() and not run.submissions.read_bytes().endswith(b"\n")
    with run.submissions.open("ab") as file:
        file.write(b"\n" * torn + to_line(asdict(submission)))
        file.flush()
        os.fsync(file.fileno())


def submissions(run: RunDir) -> list[Submission]:
    """All submissions of a run folder, the oldest first. A damaged line is passed over: squeue still lists its jobs."""
    if not run.submissions.exists():
        return []
    noted: list[Submission] = []
    for number, line in enumerate(run.submissions.read_bytes().splitlines(keepends=True), start=1):
        try:
            fields = from_line(line) or _of_older_version(line)
            fields |= {"tasks": tuple(fields["tasks"]), "jobs": _in_order(fields["jobs"])}
            one = Submission(**fields)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            if line.strip():
                log.warning("%s: line %d is damaged and passed over; squeue lists its jobs", run.submissions, number)
            continue
        if noted and one.continues(noted[-1]):
            noted.pop()
        noted.append(one)
    return noted


def _in_order(jobs: dict[str, list[str]]) -> dict[str, list[str]]:
    """The jobs by stage, in the order of submission: a line has its keys in the order of the alphabet."""
    return {stage: list(map(str, jobs[stage])) for stage in STAGES if stage in jobs}


def _of_older_version(line: bytes) -> dict[str, Any]:
    """The fields of a line without a checksum, as older versions of embedcube wrote it; its jobs may still run."""
    fields: dict[str, Any] = json.loads(line)
    return fields
