"""The executor `slurm`: tasks as elements of a Slurm job array, submitted with submitit.

A job runs a command that a person could type, `embedcube embed CAMPAIGN.yaml --task N`, never a pickled function. So
any job can be run again by hand, inside or outside of a container, and no file that we write holds code.
"""

import os
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from hashlib import file_digest
from pathlib import Path
from typing import Any

from submitit.slurm.slurm import SlurmExecutor as Submitit

from embedcube.campaign.plan import read_plan, tasks_of_recipes
from embedcube.campaign.recorded import merge_recorded, recorded_recipes
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.schema import Campaign
from embedcube.campaign.seals import read_sealed, write_sealed
from embedcube.campaign.site import Container, Site, load_site, resources, tasks_at_once, time_key
from embedcube.errors import RequestError, StartAgain
from embedcube.jobs.lock import only_submit
from embedcube.jobs.queue import queued
from embedcube.jobs.script import Job, after, before
from embedcube.jobs.submissions import Submission, new_submission, note, submissions
from embedcube.progress import Progress
from embedcube.workers.protocol import HOST_SUFFIX, IMAGE_DIGEST, INTERFACE, LAUNCHER, NCCL_INTERFACE, TASK

_FAILED_QUERIES = 20
"""Number of calls of squeue in a row that may fail before `wait_for` gives up: Slurm's controller may be restarting."""

_NODE_CHECK_MIN = 5
"""Minutes that a command on one node may take. It takes less than one; on a busy file system, Python may need two."""

_SBATCH_S = 300
"""sbatch may take so long: where the queue is full it tries again by itself, for two minutes"""

_OF_MACHINE = ("MKL_CBWR",)
"""Variables that embedcube sets for the processor that it runs on. sbatch and srun hand them to nodes with another."""


class SlurmExecutor:
    """Runs tasks as elements of a Slurm job array."""

    def run(self, campaign: Campaign, run: RunDir, tasks: list[int], progress: Progress) -> None:
        """Submit the tasks that have a shard without a record, and wait until these jobs have ended.

        Raises:
            RequestError: jobs of the campaign are in the queue already, or another command submits some now.
            StartAgain: some shards have no record.
        """
        site = load_site(campaign)
        plan = read_plan(campaign, run)
        with only_submit(run):
            refuse_while_queued(run)
            merge_recorded(run, plan)
            done = recorded_recipes(run, whole=plan.verdicts.retries(campaign.how))
            recipes: dict[int, set[str]] = {task: set() for task in tasks}
            for task, recipe in tasks_of_recipes(run, plan):
                if task in recipes:
                    recipes[task].add(recipe)
            left = tuple(task for task in tasks if not recipes[task] <= done)
            submission = new_submission(left, records=len(done), round_=plan.verdicts.round)
            submit_all(embed_jobs(campaign, site, run, left), campaign, site, run, submission)
        wait_for(submission.ids, set().union(*recipes.values()), run, progress, poll_s=site.poll_s)


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
            at_once=max(1, tasks_at_once(campaign, site) // len(slices)),
        )
        for part in slices.values()
    )


def submit_all(
    jobs: tuple[Job, ...],
    campaign: Campaign,
    site: Site,
    run: RunDir,
    submission: Submission,
    *,
    dependency: str = "",
) -> None:
    """Submit jobs with sbatch, all with the same `--dependency`; each is added to the submission and noted at once.

    Raises:
        RequestError: sbatch refused a job; the message quotes its answer.
        StartAgain: sbatch does not answer.
    """
    run.job_logs.mkdir(parents=True, exist_ok=True)
    forget_own_job()
    digest = image_digest(site.container, run)
    for job in jobs:
        number = _submitted(script(job, campaign, site, run, digest, dependency), job, campaign, site, run)
        submission.jobs.setdefault(job.stage, []).append(number)
        note(submission, run)


def refuse_while_queued(run: RunDir) -> None:
    """Refuse while jobs of the campaign are in the queue: they read files that the caller is about to write.

    Raises:
        RequestError: some jobs are still queued or running.
    """
    earlier = submissions(run)
    ids = {one for submission in earlier for one in submission.ids}
    own = {os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_ARRAY_JOB_ID")}
    # within a consolidation that failed, its verification still waits in the queue; Slurm removes it by itself
    waiting = {one for submission in earlier for one in submission.jobs.get("verify", [])} if own != {None} else set()
    active = queued(sorted(ids - own - waiting))
    if active:
        raise RequestError(
            f"jobs {', '.join(sorted(active))} of this campaign are still queued or running; wait until they end "
            "(`embedcube status` shows them), or run `embedcube cancel` first"
        )


def run_on_node(
    words: tuple[str, ...], site: Site, *, campaign: Campaign | None, before: tuple[str, ...] = ()
) -> "subprocess.CompletedProcess[str]":
    """Run `embedcube WORDS` on one node with srun, set up like a task; what it prints comes back over the network.

    `before` are lines of a shell that run first, outside of the container. Without a campaign the node is asked for
    with all its GPUs.

    Raises:
        FileNotFoundError: this machine has no srun.
    """
    forget_own_job()
    gpus = site.gpus_per_node if campaign is None or campaign.how.device == "cuda" else 0
    options = {
        "nodes": "1",
        "ntasks": "1",
        "cpus-per-task": f"{site.cpus_per_node}",
        "time": f"{_NODE_CHECK_MIN}",
        "job-name": f"{campaign.campaign if campaign else site.site}-{words[0]}",
        "account": (campaign.how.account if campaign else None) or site.account,
        **node_options(site, gpus, site.mem_gb_per_node),
    }
    lines = [*setup_host(site, gpus), *before, f"exec {_words(words, site, gpus)}"]
    command = ["srun", *_given(options), "bash", "-c", "\n".join(lines)]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)


def trial_command(campaign: Campaign | None, site: Site) -> list[str]:
    """The sbatch command that asks Slurm whether it would take a task of the campaign, and submits nothing."""
    gpus = site.gpus_per_node if campaign is None or campaign.how.device == "cuda" else 0
    options = {
        "nodes": f"{campaign.how.nodes if campaign else 1}",
        "ntasks-per-node": "1",
        "cpus-per-task": f"{site.cpus_per_node}",
        "time": f"{(campaign.how.time_min if campaign else None) or site.time_min}",
        "account": (campaign.how.account if campaign else None) or site.account,
        "wrap": "true",
        **node_options(site, gpus, site.mem_gb_per_node),
    }
    return ["sbatch", "--test-only", *_given(options)]


def _given(options: Mapping[str, str | bool | None]) -> list[str]:
    return [
        f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items() if value is not None
    ]


def _submitted(text: str, job: Job, campaign: Campaign, site: Site, run: RunDir) -> str:
    """The id of the job of a batch script, which is kept beside the job's log."""
    path = run.job_logs / f".submission-{secrets.token_hex(4)}.sh"
    path.write_text(text)
    try:
        # not by submitit, which takes a signal to this process for an answer of sbatch
        done = subprocess.run(
            ["sbatch", str(path)],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=_SBATCH_S,
            check=False,
        )
        said = done.stderr
        if done.returncode == 0:
            number = _Submitit._get_job_id_from_submission_command(done.stdout)
            path.rename(run.job_logs / f"{number}_submission.sh")
            return str(number)
    except subprocess.TimeoutExpired:
        raise StartAgain(
            f"{site.site}: sbatch has not answered within {_SBATCH_S} s, and Slurm may have taken the {job.stage} job "
            f"all the same: look with `squeue --me --name={campaign.campaign}-{job.stage}`, cancel what is there with "
            "`scancel`, then start the same command again"
        ) from None
    except FileNotFoundError as error:
        if error.filename != "sbatch":
            raise
        said = "there is no sbatch here; run this on a machine of the cluster, such as a login node"
    finally:
        path.unlink(missing_ok=True)
    answer = " ".join(line for line in said.splitlines() if "error" in line.lower()) or " ".join(said.split())
    raise RequestError(
        f"{site.site}: the {job.stage} job was refused: {answer}; correct partition, account and limits in "
        f"{campaign.how.site}, or how.account and how.time_min in the campaign"
    )


def script(
    job: Job, campaign: Campaign, site: Site, run: RunDir, digest: str | None = None, dependency: str = ""
) -> str:
    """The batch script of a job. Without `digest`, that of the container's image, it is one to read only."""
    if digest is None:
        digest = f"<sha256 of {site.container.image}>" if site.container else ""
    submitter = _submitter(job, campaign, site, run, digest, dependency)
    return str(submitter._make_submission_file_text(_command(job, campaign, site), job.stage))


class _Submitit(Submitit):
    """submitit's writer and submitter of batch scripts; it also writes them on a machine without Slurm."""

    @classmethod
    def affinity(cls) -> int:
        """Say that Slurm is usable: submitit refuses its executor where this is negative."""
        return 2


def _submitter(job: Job, campaign: Campaign, site: Site, run: RunDir, digest: str, dependency: str) -> Any:
    asked = resources(job.stage, campaign, site)
    first = min(job.tasks, default=0) // site.max_array * site.max_array
    indices = ",".join(str(task - first) for task in job.tasks)
    # a job that is shorter than it gets half of its time to stop in
    lead_s = site.lead_s if job.stage == "embed" else min(site.lead_s, asked.time_min * 30)
    options = {
        "array": f"{indices}%{job.at_once}" if job.tasks else None,
        "kill-on-invalid-dep": "yes" if dependency else None,
        "requeue" if site.requeue else "no-requeue": True,
        "account": campaign.how.account or site.account,
    }
    options |= node_options(site, asked.gpus, asked.mem_gb)
    options |= {"partition": asked.partition, "constraint": asked.constraint}
    variables = ({LAUNCHER: "mpi"} if site.mpi else {}) | ({IMAGE_DIGEST: digest} if digest else {})
    submitter = _Submitit(run.job_logs)
    submitter.update_parameters(
        job_name=f"{campaign.campaign}-{job.stage}",
        wckey=None,
        time=asked.time_min,
        nodes=job.nodes,
        ntasks_per_node=job.processes,
        cpus_per_task=asked.cpus // job.processes,
        dependency=dependency or None,
        signal_delay_s=lead_s,
        stderr_to_stdout=True,
        srun_args=_srun_options(job, site, asked.cpus),
        additional_parameters={name: value for name, value in options.items() if value is not None},
        setup=before(job, site, run, first=first, host=setup_host(site, asked.gpus) + _exports(variables)),
        teardown=after(job, site, lead_s=lead_s, minutes=time_key(job.stage, site)),
    )
    return submitter


def node_options(site: Site, gpus: int, mem_gb: float) -> dict[str, str | bool | None]:
    """Options of sbatch and srun that describe a node; None for an option that is not given."""
    return {
        "partition": site.partition,
        "constraint": site.constraint,
        "exclusive": True if site.exclusive else None,
        "gres": f"gpu:{gpus}" if gpus and site.gpu_option == "gres" else None,
        "gpus-per-node": f"{gpus}" if gpus and site.gpu_option == "gpus-per-node" else None,
        "hint": site.hint,
        "mem": "0" if site.exclusive else f"{mem_gb * 1000:.0f}M",
    }


def _srun_options(job: Job, site: Site, cpus: int) -> list[str]:
    # since Slurm 22.05 srun does not inherit the number of cores from the job, nor on some sites the hint
    # kill-on-bad-exit is needed with MPI alone: there, processes wait for a dead one until the time limit
    options = [f"--kill-on-bad-exit={int(site.mpi is not None)}", f"--cpus-per-task={cpus // job.processes}"]
    options += [f"--hint={site.hint}"] if site.hint else []
    return options + ([f"--mpi={site.mpi}"] if site.mpi else [])


def _command(job: Job, campaign: Campaign, site: Site) -> str:
    task = f' "${TASK}"' if job.tasks else ""
    return _words(job.command, site, resources(job.stage, campaign, site).gpus) + task


def _words(command: tuple[str, ...], site: Site, gpus: int) -> str:
    words = [sys.executable, "-m", "embedcube"]
    if site.container is not None:
        binds = [word for bind in site.container.binds for word in ("--bind", bind)]
        nvidia = ["--nv"] if site.container.nvidia and gpus else []
        words = ["apptainer", "exec", *nvidia, *binds, site.container.image, "python3", "-m", "embedcube"]
    return shlex.join([*words, *command])


def setup_host(site: Site, gpus: int) -> list[str]:
    """Lines that every job of the site begins with, on its host."""
    variables = {HOST_SUFFIX: site.host_suffix} if site.host_suffix else {}
    if site.name_gpus and gpus:
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, range(gpus)))
    return setup_lines(site) + _exports(variables)


def setup_lines(site: Site) -> list[str]:
    """Lines that every batch script of the site begins with: modules and environment variables."""
    network = {INTERFACE: site.interface, NCCL_INTERFACE: site.interface} if site.interface else {}
    modules = [shlex.join(["module", "load", *site.modules])] if site.modules else []
    own = [name for name in _OF_MACHINE if name not in given_environment()]
    return ([f"unset {' '.join(own)}"] if own else []) + modules + _exports(site.environment | network)


def given_environment(environ: Path = Path("/proc/self/environ")) -> Mapping[str, str]:
    """The environment that this process was started with, without what it has set for itself since."""
    try:
        words = environ.read_bytes().decode(errors="surrogateescape").split("\0")
    except OSError:
        return os.environ
    return dict(word.partition("=")[::2] for word in words if word)


def _exports(variables: dict[str, str]) -> list[str]:
    return [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]


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
