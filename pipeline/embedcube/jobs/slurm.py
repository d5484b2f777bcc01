"""The executor `slurm`: tasks as elements of a Slurm job array, submitted with submitit.

A job runs a command that a person could type, `embedcube embed CAMPAIGN.yaml --task N`, never a pickled function. So
any job can be run again by hand, inside or outside of a container, and no file that we write holds code.
"""

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
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.schema import Campaign
from embedcube.campaign.seals import read_sealed, write_sealed
from embedcube.campaign.site import Container, Site, load_site
from embedcube.errors import RequestError, StartAgain
from embedcube.progress import Progress
from embedcube.workers.protocol import END_TIME, HOST_SUFFIX, IMAGE_DIGEST, LAUNCHER, TASK

_FAILED_QUERIES = 20
"""Number of calls of squeue in a row that may fail before `wait_for` gives up: Slurm's controller may be restarting."""

_NODE_CHECK_MIN = 5
"""Minutes that a command on one node may take. It takes less than one; on a busy file system, Python may need two."""

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
    needs_gpus: bool = True
    """whether it needs the campaign's device; if not, it runs on the site's nodes without GPUs, where it has some"""
    on_failure: tuple[str, ...] = ()
    """words after `embedcube` of a command that the batch script runs, outside of the container, when the job's own
    command ends with 1; empty for none"""


class SlurmExecutor:
    """Runs tasks as elements of a Slurm job array."""

    def run(self, campaign: Campaign, run: RunDir, tasks: list[int], progress: Progress) -> None:
        """Submit the tasks that have a shard without a record, and wait until these jobs have ended."""
        site = load_site(campaign)
        plan = read_plan(campaign, run)
        done = recorded_recipes(run)
        recipes = {task: set(read_recipes(run, plan, task)) for task in tasks}
        left = tuple(task for task in tasks if not recipes[task] <= done)
        ids = submit_all(embed_jobs(campaign, site, run, left), campaign, site, run)
        wait_for(ids, set().union(*recipes.values()), run, progress, poll_s=site.poll_s)


def wait_for(ids: list[str], recipes: set[str], run: RunDir, progress: Progress, *, poll_s: float) -> None:
    """Wait until jobs have left the queue; they were submitted to make a record of each of `recipes`.

    Raises:
        StartAgain: some recipes have no record.
    """
    total = len(recipes)
    failed = 0
    while True:
        try:
            if not queued(ids):
                break
            failed = 0
        except StartAgain:
            failed += 1
            if failed == _FAILED_QUERIES:
                raise
        time.sleep(poll_s)
        progress(len(recipes & recorded_recipes(run)), total)
    undone = len(recipes - recorded_recipes(run))
    progress(total - undone, total)
    if undone:
        raise StartAgain(
            f"{undone} of {total} shards have no record after jobs {', '.join(ids)}: the logs in {run.job_logs} say "
            "why; start the same command again, it embeds only these shards"
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
            # Slurm limits each array separately
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
            answer = " ".join(line for line in str(error).splitlines() if "error" in line.lower()) or str(error)
            raise RequestError(
                f"{site.site}: the {job.stage} job was refused: {answer}; correct partition, account and limits in "
                f"{campaign.how.site}, or how.account and how.time_min in the campaign"
            ) from None
    return ids


def run_on_node(words: tuple[str, ...], campaign: Campaign, site: Site) -> "subprocess.CompletedProcess[str]":
    """Run `embedcube WORDS` on one node with srun, set up like a task; what it prints comes back over the network."""
    forget_own_job()
    options = {
        "nodes": "1",
        "ntasks": "1",
        "cpus-per-task": f"{site.cpus_per_node}",
        "time": f"{_NODE_CHECK_MIN}",
        "job-name": f"{campaign.campaign}-{words[0]}",
        **_node(campaign, site),
    }
    given = [
        f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items() if value is not None
    ]
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
    """For each job, the number of its array elements in each state: from squeue, or from sacct once a job has ended.

    A job that neither of them knows has no states; so do all jobs on a machine without Slurm.
    """
    if not ids or shutil.which("squeue") is None:
        return {one: {} for one in ids}
    counts = {one: Counter(elements) for one, elements in queued(ids).items()}
    if (ended := sorted(set(ids) - counts.keys())) and shutil.which("sacct"):
        query = ("sacct", "--allocations", "--parsable2", "--noheader", "--format=JobID,State")
        done = subprocess.run([*query, f"--jobs={','.join(ended)}"], capture_output=True, text=True, check=False)
        for line in done.stdout.splitlines():
            element, state = line.split("|")
            # the first word alone: a state may be "CANCELLED by 1000"
            counts.setdefault(element.split("_")[0], Counter())[state.split()[0]] += 1
    return {one: dict(counts.get(one, {})) for one in ids}


class _Submitit(Submitit):
    """submitit's writer and submitter of batch scripts; it also writes them on a machine without Slurm."""

    @classmethod
    def affinity(cls) -> int:
        """Say that Slurm is usable: submitit refuses its executor where this is negative."""
        return 2


def _submitter(job: Job, campaign: Campaign, site: Site, run: RunDir, digest: str, dependency: str) -> Any:
    time_min = campaign.how.time_min or site.time_min
    if not job.needs_gpus and site.cpu_nodes:
        site = site.for_consolidation
        time_min = site.time_min
    first = min(job.tasks, default=0) // site.max_array * site.max_array
    indices = ",".join(str(task - first) for task in job.tasks)
    options = {
        "array": f"{indices}%{job.at_once}" if job.tasks else None,
        "kill-on-invalid-dep": "yes" if dependency else None,
        "requeue" if site.requeue else "no-requeue": True,
    }
    options |= _node(campaign, site)
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
        additional_parameters={name: value for name, value in options.items() if value is not None},
        setup=_setup(job, site, first, digest),
        teardown=_teardown(job, site),
    )
    return submitter


def _node(campaign: Campaign, site: Site) -> dict[str, str | bool | None]:
    """Options of sbatch and srun that describe a node; None for an option that is not given."""
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
    # since Slurm 22.05 srun does not inherit the number of cores from the job, nor on some sites the hint
    # kill-on-bad-exit is needed with MPI alone: there, processes wait for a dead one until the time limit
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
    task = f' "${TASK}"' if job.tasks else ""
    return shlex.join([*words, *job.command]) + task


def _setup(job: Job, site: Site, first: int, digest: str) -> list[str]:
    """Lines of the batch script before the command; they run on the host, outside of a container."""
    variables: dict[str, str] = {}
    if site.mpi:
        variables[LAUNCHER] = "mpi"
    if digest:
        variables[IMAGE_DIGEST] = digest
    lines = _setup_host(site) + _exports(variables)
    lines.append(f"job={_OWN_ELEMENT if job.tasks else '$SLURM_JOB_ID'}")
    if job.tasks:
        lines.append(f"export {TASK}=$(({first} + SLURM_ARRAY_TASK_ID))")
    # Slurm before 22.05 does not set SLURM_JOB_END_TIME; `date` would turn an empty answer of squeue into midnight
    lines.append(f"export {END_TIME}=${{SLURM_JOB_END_TIME:-}}")
    unset = f'[ -z "${END_TIME}" ] && ends=$(squeue --noheader --jobs "$job" --format %e) && [ -n "$ends" ]'
    lines.append(f'if {unset}; then {END_TIME}=$(date -d "$ends" +%s); fi')
    return lines


def _setup_host(site: Site) -> list[str]:
    return setup_lines(site) + _exports({HOST_SUFFIX: site.host_suffix} if site.host_suffix else {})


def setup_lines(site: Site) -> list[str]:
    """Lines that every batch script of the site begins with: modules and environment variables."""
    network = {"GLOO_SOCKET_IFNAME": site.interface, "NCCL_SOCKET_IFNAME": site.interface} if site.interface else {}
    modules = [shlex.join(["module", "load", *site.modules])] if site.modules else []
    return modules + _exports(site.environment | network)


def _exports(variables: dict[str, str]) -> list[str]:
    return [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]


def _teardown(job: Job, site: Site) -> list[str]:
    """Lines of the batch script after the command. Requeueing is done here, as a container has no `scontrol`."""
    lines = ["code=$?"]
    if site.requeue:
        again = f'[ $code -eq {StartAgain.exit_code} ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {site.max_requeues} ]'
        lines.append(f'if {again}; then scontrol requeue "$job"; fi')
    if job.on_failure:
        words = shlex.join([sys.executable, "-m", "embedcube", *job.on_failure])
        lines.append(f"if [ $code -eq 1 ]; then {words}; fi")
    return [*lines, "exit $code"]


def image_digest(container: Container | None, run: RunDir) -> str:
    """SHA-256 of the image file; empty without a container, for a sandbox folder and for a file not visible here.

    The file is read once, and again when its size or modification time has changed.
    """
    image = Path(container.image) if container else None
    if image is None or not image.is_file():
        return ""
    state = image.stat()
    facts = {"image": str(image), "size": state.st_size, "changed_ns": state.st_mtime_ns}
    if (noted := _noted_image(run)) | facts == noted:
        return str(noted["digest"])
    with image.open("rb") as file:
        digest = "sha256:" + file_digest(file, "sha256").hexdigest()
    write_sealed(run.image, facts | {"digest": digest})
    return digest


def _noted_image(run: RunDir) -> dict[str, Any]:
    """What image.json says; nothing where there is none or it is damaged, and then the image is read again."""
    try:
        return read_sealed(run.image, "submit")
    except (FileNotFoundError, RequestError):
        return {}


def forget_own_job() -> None:
    """Remove Slurm's variables of the job that this process is in, so that jobs that it submits do not inherit them."""
    for name in [name for name in os.environ if name.startswith("SLURM_") and name != "SLURM_CONF"]:
        del os.environ[name]
