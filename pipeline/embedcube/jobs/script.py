"""The lines of a batch script around its command: what is set before, and what is decided after it.

They run on the host, outside of a container, which has no `scontrol`.
"""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from embedcube.campaign.parts import CRASH, RECORDS
from embedcube.campaign.run_folder import TEMPORARY_PREFIX, RunDir
from embedcube.campaign.site import Site
from embedcube.errors import StartAgain
from embedcube.jobs.outcome import KILLED, VAIN
from embedcube.workers.protocol import END_TIME, TASK

_OWN_ELEMENT = "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
"""Name of this array element in a batch script. SLURM_JOB_ID would not do: in the last element of an array it is the
number of the whole array, so `scontrol requeue` would requeue all elements."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job, or one job array, to submit."""

    stage: str
    """name of the stage; part of the job's name"""
    command: tuple[str, ...]
    """words after `embedcube`; in an array the number of the task follows them"""
    nodes: int = 1
    processes: int = 1
    """number of processes on each node"""
    tasks: tuple[int, ...] = ()
    """tasks of the plan, one array element for each; empty for a job that is no array"""
    at_once: int = 1
    """number of array elements that may run at the same time"""
    on_failure: tuple[str, ...] = ()
    """words after `embedcube` of a command that the batch script runs, outside of the container, when the job's own
    command ends with 1; empty for none"""


def before(job: Job, site: Site, run: RunDir, *, first: int, host: list[str]) -> list[str]:
    """Lines before the command. `first` is the task of element 0; `host` are lines to begin with."""
    lines = list(host)
    lines.append(f"job={_OWN_ELEMENT if job.tasks else '$SLURM_JOB_ID'}")
    if job.tasks:
        lines.append(f"export {TASK}=$(({first} + SLURM_ARRAY_TASK_ID))")
    # Slurm before 22.05 does not set SLURM_JOB_END_TIME; `date` would turn an empty answer of squeue into midnight
    lines.append(f"export {END_TIME}=${{SLURM_JOB_END_TIME:-}}")
    unset = f'[ -z "${END_TIME}" ] && ends=$(squeue --noheader --jobs "$job" --format %e) && [ -n "$ends" ]'
    lines.append(f'if {unset}; then {END_TIME}=$(date -d "$ends" +%s); fi')
    if site.requeue:
        # how much was made, before the first start and after each: see `after`
        lines.append(f"starts={_quoted(run.job_logs)}/starts-$job")
        lines.append(f"made() {{ {_how_much(job, run)}; }}")
        lines.append('[ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] && [ -s "$starts" ] || made > "$starts"')
    return lines


def after(job: Job, site: Site, *, lead_s: int, minutes: str) -> list[str]:
    """Lines after the command: the requeueing, and what the log says of a job that failed.

    A job is requeued only if one of its last two starts has made something: a start that is longer than the job's time
    would be repeated in vain. `minutes` names the key of its time limit.
    """
    lines = ["code=$?"]
    again = StartAgain.exit_code
    if site.requeue:
        told = f'echo "embedcube: {job.stage} $job'
        vain = f"{VAIN} (its warning comes {lead_s} s ahead): write more minutes in {minutes}"
        lines += [
            f"if [ $code -eq {again} ]; then",
            '    made >> "$starts"',
            '    set -- $(tail -n 3 "$starts")',
            '    if [ $# -eq 3 ] && [ "$1" = "$3" ]; then',
            '        code=1 why="the lines above say why"',
            f'        if [ -n "${END_TIME}" ] && [ "$(date +%s)" -ge $(({END_TIME} - {lead_s + _SLACK_S})) ]; then',
            f'            why="{vain}"',
            "        fi",
            f'        {told} has made nothing new in two starts, and is not started again: $why"',
            f'    elif [ "${{SLURM_RESTART_COUNT:-0}}" -lt {site.max_requeues} ]; then',
            '        scontrol requeue "$job"',
            "    else",
            f'        {told} is not started again after {site.max_requeues} times (max_requeues of the site)"',
            "    fi",
            "fi",
            f'[ $code -eq {again} ] || rm -f "$starts"',
        ]
    lines += [
        "if [ $code -gt 128 ]; then",
        f'    echo "embedcube: {job.stage} {KILLED} $((code - 128))"',
        "fi",
    ]
    if job.on_failure:
        words = shlex.join([sys.executable, "-m", "embedcube", *job.on_failure])
        lines.append(f"if [ $code -eq 1 ]; then {words}; fi")
    return [*lines, "exit $code"]


_SLACK_S = 30
"""Slurm sends its signals up to half a minute late or early."""


def _how_much(job: Job, run: RunDir) -> str:
    """A command that prints a number, which grows with what the job has made."""
    if job.stage == "consolidate":
        return f"find {_quoted(run.cubes)} -path '*/{TEMPORARY_PREFIX}*' -type f 2> /dev/null | wc -l"
    if job.tasks:
        # bytes of records; a crash is something new, too, as it leads to the shard that is the cause
        folder = f'{_quoted(run.parts)}/"$(printf %04d "${TASK}")"/*/*'
        of_files = f"%s {folder}/{RECORDS} {folder}/{CRASH}"
    elif job.stage == "prepare":
        # times of writing
        of_files = f"%Y {_quoted(run.inventory)} {_quoted(run.weights('').parent)}/* {_quoted(run.plan_summary)}"
    else:
        return "echo 0"
    return f"stat --format={of_files} 2> /dev/null | awk '{{n += $1}} END {{print n + 0}}'"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
