"""A chain of jobs to its end: the demo has a torn scene, so consolidation begins a second round and submits it."""

from dataclasses import replace

from tests.conftest import Campaign
from tests.slurm.cluster import Cluster

from embedcube.campaign.load import load_campaign
from embedcube.campaign.parts import Record, scan_records
from embedcube.campaign.plan import read_plan, read_recipes
from embedcube.campaign.verdicts import Verdicts
from embedcube.jobs.submissions import submissions


def wait_for_cube(cluster: Cluster, campaign: Campaign, timeout_s: float = 300) -> dict[str, list[str]]:
    """Wait until a cube is verified; returns the jobs of the last submission, of which consolidation may make some."""
    jobs: dict[str, list[str]] = {}
    while jobs != (latest := submissions(campaign.run)[-1].jobs):
        jobs = latest
        cluster.wait(jobs["consolidate"][0], timeout_s=timeout_s)
    assert cluster.wait(jobs["verify"][0], timeout_s=timeout_s) == {"COMPLETED": 1}
    return jobs


def first_round(campaign: Campaign) -> list[Record]:
    """The records of the first round, in which every shard is embedded with all its scenes."""
    plan = replace(read_plan(load_campaign(campaign.run.campaign), campaign.run), verdicts=Verdicts())
    recipes = set(read_recipes(campaign.run, plan))
    return [record for _, record in scan_records(campaign.run) if record.recipe in recipes]
