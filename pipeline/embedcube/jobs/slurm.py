"""Tasks as elements of a Slurm array, through submitit.

What is submitted is a command, the one that a person would type, never a pickled function: payload = (run folder,
task). So a job can be run again by hand, inside or outside of a container, and no file of ours holds code.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

from submitit.core.utils import FailedJobError
from submitit.slurm.slurm import SlurmExecutor as Submitit

from embedcube.campaign.parts import recorded_recipes
from embedcube.campaign.plan import read_plan, read_recipes
from embedcube.campaign.run_folder import RunDir, write_atomically
from embedcube.campaign.schema import Campaign
from embedcube.campaign.site import Container, Site, load_site
from embedcube.errors import RequestError, StartAgain
from embedcube.progress import Progress
from embedcube.workers.protocol import END_TIME, HOST_SUFFIX, LAUNCHER

_SILENT_LOOKS = 20
"""at the queue, one after the other, that may fail before who waits gives up: a controller restarts"""

_LOOK_MIN = 5
"""of time for a look at a node, which takes less than one: on a busy file system Python alone may need two"""

_OWN_ELEMENT = "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
"""Not SLURM_JOB_ID: that of an array's last element is the array's, and speaks of all its elements"""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is asked of the batch system."""

    stage: str
    command: tuple[str, ...]
    """words after `embedcube`; a task's number follows them"""
    nodes: int = 1
    processes: int = 1
    """on each node"""
    tasks: tuple[int, ...] = ()
    """one element of an array for each"""
    at_once: int = 1
    """elements that may run together"""
    needs_gpus: bool = True
    """where the campaign's device is one; if not, it runs on the site's nodes without"""
    on_failure: tuple[str, ...] = ()
    """words after `embedcube` of what the batch script does on its host when the command fails"""


class SlurmExecutor:
    """The executor `slurm`."""

    def run(self, campaign: Campaign, run: RunDir, tasks: list[int], progress: Progress) -> None:
        """Submit what is left of the tasks and wait until the batch system has done with them."""
        site = load_site(campaign)
        read_plan(campaign, run)
        done = recorded_recipes(run)
        recipes = {task: set(read_recipes(run, task)) for task in tasks}
        left = tuple(task for task in tasks if not recipes[task] <= done)
        ids = submit_all(embed_jobs(campaign, site, run, left), campaign, site, run)
        wait_for(ids, set().union(*recipes.values()), run, progress, poll_s=site.poll_s)


def wait_for(ids: list[str], wanted: set[str], run: RunDir, progress: Progress, *, poll_s: float) -> None:
    """Wait until the batch system has done with jobs that were to make records of the wanted recipes.

    Raises:
        StartAgain: some are missing.
    """
    total = len(wanted)
    failed = 0
    while True:
        try:
            if not queued(ids):
                break
            failed = 0
        except StartAgain:
            failed += 1
            if failed == _SILENT_LOOKS:
                raise
        time.sleep(poll_s)
        progress(len(wanted & recorded_recipes(run)), total)
    undone = len(wanted - recorded_recipes(run))
    progress(total - undone, total)
    if undone:
        raise StartAgain(
            f"{undone} of {total} shards are undone after jobs {', '.join(ids)}, see {run.job_logs}; start the "
            "same command again, it does only what has no record"
        )


def embed_jobs(campaign: Campaign, site: Site, run: RunDir, tasks: tuple[int, ...]) -> tuple[Job, ...]:
    """One array job with an element for each task, or several where the site limits arrays to fewer elements."""
    command = ("embed", str(run.campaign), "--task")
    slices: dict[int, list[int]] = {}
    for task in tasks:
        slices.setdefault(task // site.max_array, []).append(task)
    return tuple(
        Job(
            stage="embed",
            command=command,
            nodes=campaign.how.nodes,
            tasks=tuple(part),
            # Slurm bounds each array by itself
            at_once=max(1, site.parallel // len(slices)),
        )
        for part in slices.values()
    )


def submit_all(
    jobs: tuple[Job, ...], campaign: Campaign, site: Site, run: RunDir, *, dependency: str = ""
) -> list[str]:
    """Submit jobs with sbatch, all with the same `--dependency`; returns their ids.

    Raises:
        RequestError: sbatch refused a job; the message quotes its answer.
    """
    run.job_logs.mkdir(parents=True, exist_ok=True)
    forget_own_job()
    digest = image_digest(site.container, run)
    ids = []
    for job in jobs:
        try:
            submitter = _submitter(job, campaign, site, run, digest, dependency)
            ids.append(str(submitter._submit_command(_command(job, site)).job_id))
        except (FailedJobError, OSError) as error:
            said = " ".join(line for line in str(error).splitlines() if "error" in line.lower()) or str(error)
            raise RequestError(
                f"{site.site}: the {job.stage} job was refused: {said}; account, partition and limits are in "
                f"{campaign.how.site}, how.account and how.time_min in the campaign"
            ) from None
    return ids


def run_on_node(words: tuple[str, ...], campaign: Campaign, site: Site) -> "subprocess.CompletedProcess[str]":
    """Run `embedcube WORDS` on one node, as a task would be. What it prints comes by the network, not by a file."""
    forget_own_job()
    asked = {"nodes": "1", "ntasks": "1", "cpus-per-task": f"{site.cpus_per_node}", "time": f"{_LOOK_MIN}"}
    asked |= {"job-name": f"{campaign.campaign}-{words[0]}"}
    options = (asked | _node(campaign, site)).items()
    given = [f"--{name}" if value is True else f"--{name}={value}" for name, value in options if value is not None]
    lines = [*_setup_host(site), f"exec {_command(Job(stage=words[0], command=words), site)}"]
    command = ["srun", *given, "bash", "-c", "\n".join(lines)]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)


def script(job: Job, campaign: Campaign, site: Site, run: RunDir, *, dependency: str = "") -> str:
    """The batch script of a job, as text to read; nothing is submitted and no image is read."""
    digest = f"<sha256 of {site.container.image}>" if site.container else ""
    submitter = _submitter(job, campaign, site, run, digest, dependency)
    return str(submitter._make_submission_file_text(_command(job, site), job.stage))


def queued(ids: list[str]) -> dict[str, list[str]]:
    """States of the array elements of each job that is still queued or running; jobs that have ended are left out.

    Raises:
        RequestError: this machine has no Slurm.
        StartAgain: squeue failed.
    """
    if not ids:
        return {}
    command = ["squeue", "--me", "--noheader", "--array", "--format=%A %F %T"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise RequestError(
            "there is no squeue here; run this on a machine of the cluster, such as a login node"
        ) from None
    if done.returncode:
        raise StartAgain(f"squeue failed: {' '.join(done.stderr.split())}; start the same command again")
    states: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        number, array, state = line.split()
        for one in {number, array} & set(ids):
            states.setdefault(one, []).append(state)
    return states


def states(ids: list[str]) -> dict[str, dict[str, int]]:
    """How many elements of each job are in which state, from the queue, or from the accounts once they have left it.

    A job that neither knows, or all where there is no Slurm, has none.
    """
    if not ids or shutil.which("squeue") is None:
        return {one: {} for one in ids}
    found = {one: Counter(elements) for one, elements in queued(ids).items()}
    if (ended := sorted(set(ids) - found.keys())) and shutil.which("sacct"):
        query = ("sacct", "--allocations", "--parsable2", "--noheader", "--format=JobID,State")
        done = subprocess.run([*query, f"--jobs={','.join(ended)}"], capture_output=True, text=True, check=False)
        for line in done.stdout.splitlines():
            element, state = line.split("|")
            # "CANCELLED by 1000"
            found.setdefault(element.split("_")[0], Counter())[state.split()[0]] += 1
    return {one: dict(found.get(one, {})) for one in ids}


class _Submitit(Submitit):
    """submitit's rendering and submission of scripts; also where there is no Slurm, to look at them."""

    @classmethod
    def affinity(cls) -> int:
        return 2


def _submitter(job: Job, campaign: Campaign, site: Site, run: RunDir, digest: str, dependency: str) -> Any:
    time_min = campaign.how.time_min or site.time_min
    if not job.needs_gpus and site.cpu_nodes:
        site = site.for_consolidation
        time_min = site.time_min
    first = min(job.tasks, default=0) // site.max_array * site.max_array
    indices = ",".join(str(task - first) for task in job.tasks)
    more = {
        "array": f"{indices}%{job.at_once}" if job.tasks else None,
        "kill-on-invalid-dep": "yes" if dependency else None,
        "requeue" if site.requeue else "no-requeue": True,
    }
    more |= _node(campaign, site)
    submitter = _Submitit(run.job_logs)
    submitter.update_parameters(
        job_name=f"{campaign.campaign}-{job.stage}",
        wckey=None,
        time=time_min,
        nodes=job.nodes,
        ntasks_per_node=job.processes,
        cpus_per_task=site.cpus_per_node // job.processes,
        dependency=dependency or None,
        signal_delay_s=site.lead_s,
        stderr_to_stdout=True,
        srun_args=_srun_options(job, site),
        additional_parameters={name: value for name, value in more.items() if value is not None},
        setup=_setup(job, site, first, digest),
        teardown=_teardown(job, site),
    )
    return submitter


def _node(campaign: Campaign, site: Site) -> dict[str, str | bool | None]:
    """What is asked for each node, as options of sbatch and srun; None for one that is not given."""
    gpus = site.gpus_per_node if campaign.how.device == "cuda" else 0
    return {
        "partition": site.partition,
        "account": campaign.how.account or site.account,
        "constraint": site.constraint,
        "exclusive": True if site.exclusive else None,
        "gres": f"gpu:{gpus}" if gpus and site.gpu_option == "gres" else None,
        "gpus-per-node": f"{gpus}" if gpus and site.gpu_option == "gpus-per-node" else None,
        "hint": site.hint,
        "mem": "0" if site.exclusive else f"{site.mem_gb_per_node * 1000:.0f}M",
    }


def _srun_options(job: Job, site: Site) -> list[str]:
    # srun takes neither the cores nor, on some sites, the hint from the job (Slurm 22.05 and later)
    # a dead rank is no process of the step; but who waits for a dead one in MPI waits until the time is up
    options = [
        f"--kill-on-bad-exit={int(site.mpi is not None)}",
        f"--cpus-per-task={site.cpus_per_node // job.processes}",
    ]
    options += [f"--hint={site.hint}"] if site.hint else []
    return options + ([f"--mpi={site.mpi}"] if site.mpi else [])


def _command(job: Job, site: Site) -> str:
    words = [sys.executable, "-m", "embedcube"]
    if site.container is not None:
        binds = [word for bind in site.container.binds for word in ("--bind", bind)]
        words = ["apptainer", "exec", *(["--nv"] if site.container.nvidia else []), *binds, site.container.image]
        words += ["python3", "-m", "embedcube"]
    task = ' "$EMBEDCUBE_TASK"' if job.tasks else ""
    return shlex.join([*words, *job.command]) + task


def _setup(job: Job, site: Site, first: int, digest: str) -> list[str]:
    """What the batch script does on its host before the command."""
    variables: dict[str, str] = {}
    if site.mpi:
        variables[LAUNCHER] = "mpi"
    if digest:
        variables["EMBEDCUBE_IMAGE_DIGEST"] = digest
    lines = _setup_host(site) + _exports(variables)
    lines.append(f"job={_OWN_ELEMENT if job.tasks else '$SLURM_JOB_ID'}")
    if job.tasks:
        lines.append(f"export EMBEDCUBE_TASK=$(({first} + SLURM_ARRAY_TASK_ID))")
    # Slurm before 22.05 does not say; and of nothing `date` would make last midnight
    lines.append(f"export {END_TIME}=${{SLURM_JOB_END_TIME:-}}")
    ask = f'[ -z "${END_TIME}" ] && ends=$(squeue --noheader --jobs "$job" --format %e) && [ -n "$ends" ]'
    lines.append(f'if {ask}; then {END_TIME}=$(date -d "$ends" +%s); fi')
    return lines


def _setup_host(site: Site) -> list[str]:
    return setup_lines(site) + _exports({HOST_SUFFIX: site.host_suffix} if site.host_suffix else {})


def setup_lines(site: Site) -> list[str]:
    """What every script of the site begins with."""
    network = {"GLOO_SOCKET_IFNAME": site.interface, "NCCL_SOCKET_IFNAME": site.interface} if site.interface else {}
    modules = [shlex.join(["module", "load", *site.modules])] if site.modules else []
    return modules + _exports(site.environment | network)


def _exports(variables: dict[str, str]) -> list[str]:
    return [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]


def _teardown(job: Job, site: Site) -> list[str]:
    """What it does after the command: only the host has `scontrol`."""
    lines = ["code=$?"]
    if site.requeue:
        again = f'[ $code -eq {StartAgain.exit_code} ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {site.max_requeues} ]'
        lines.append(f'if {again}; then scontrol requeue "$job"; fi')
    if job.on_failure:
        words = shlex.join([sys.executable, "-m", "embedcube", *job.on_failure])
        lines.append(f"if [ $code -eq 1 ]; then {words}; fi")
    return [*lines, "exit $code"]


def image_digest(container: Container | None, run: RunDir) -> str:
    """SHA-256 of an image file, read once while size and time stay; a sandbox, or one not seen from here, has none."""
    image = Path(container.image) if container else None
    if image is None or not image.is_file():
        return ""
    seen = image.stat()
    known = {"image": str(image), "size": seen.st_size, "changed_ns": seen.st_mtime_ns}
    if run.image.exists() and (noted := json.loads(run.image.read_text())) | known == noted:
        return str(noted["digest"])
    with image.open("rb") as file:
        digest = "sha256:" + file_digest(file, "sha256").hexdigest()
    write_atomically(run.image, json.dumps(known | {"digest": digest}).encode())
    return digest


def forget_own_job() -> None:
    """Leave the job that this process is in: jobs that it submits must not inherit its shape."""
    for name in [name for name in os.environ if name.startswith("SLURM_") and name != "SLURM_CONF"]:
        del os.environ[name]
