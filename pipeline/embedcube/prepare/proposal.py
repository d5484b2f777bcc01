"""Which tasks, nodes and time suit a campaign at its site, by the model of `makespan.py`.

The times of the plan are those of one device like the one that planned, and the rates of the file system those of
`Machine`: so all of it is about right at best, and a task gets twice the time that it should need.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from embedcube.campaign.plan import Plan
from embedcube.campaign.price import Price, duration
from embedcube.campaign.schema import Campaign
from embedcube.campaign.site import Site, tasks_at_once
from embedcube.prepare.makespan import CALLS_TO_READ, CALLS_TO_WRITE, Machine, Makespan, Spread, Totals, makespan
from embedcube.prepare.price import DECODE_BYTES_PER_S

_SHORT_S, _LONG_S = 3600.0, 86_400.0
"""a campaign that takes less needs no more nodes; one that takes more may have tasks of several nodes"""

_MOST_NODES = 16
"""of one task: a node that fails costs time of all nodes of its task"""

_EFFICIENT = 0.8
"""share of the best efficiency that more nodes may cost"""

_MARGIN = 2
"""times that a task may take what the model says"""

_GAIN = 1.2
"""another size of shards is worth a word where the end comes so much earlier"""

_MINUTES_S = 120.0
"""from here on times are said in minutes and hours; shorter ones in whole seconds"""

_TIMES_MIN = (10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 360, 480, 720, 1440, 2880)


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """How a campaign would best be spread over a site."""

    site: str
    tasks: int
    nodes: int
    """nodes of each task"""
    nodes_at_once: int
    time_min: int
    """time limit of a task"""
    ends: Makespan
    """what comes of it, about"""
    as_set: Makespan | None
    """what would come of the campaign as it is set; None where a job would end before its ranks begin"""
    same: bool
    """whether the campaign has these tasks and nodes already"""
    shard_chips: dict[str, int]
    """for each layer that would be done earlier, or decode less, with shards of another size: chips along a side"""


@dataclass(frozen=True, kw_only=True)
class _Tried:
    spread: Spread
    at_once: int
    ends: Makespan

    @property
    def nodes(self) -> int:
        """Nodes at once."""
        return self.at_once * self.spread.nodes_of_task


def propose(campaign: Campaign, plan: Plan, site: Site) -> Proposal | None:
    """The tasks, nodes and time with which the campaign ends early without wasting devices.

    None where all jobs of the site end before their ranks begin.

    Chosen are the fewest nodes that end within an hour, in tasks of one node; where there are none, as many tasks at
    once as the site allows, and beyond a day tasks of more nodes. Devices must compute 80 % as much of their time as
    they would at best. What the campaign has set is proposed where it does that, and ends within an hour or as early.
    `campaign` has its `how` resolved for the site.
    """
    how, work, parallel = campaign.how, totals_of(plan.price, campaign), tasks_at_once(campaign, site)
    machine = Machine(nodes=1, ranks=how.ranks, limit_s=60.0 * site.max_time_min, lead_s=site.lead_s)
    best = _best(work, machine, site, parallel)
    if best is None:
        return None
    set_machine = replace(machine, limit_s=60.0 * (how.time_min or site.time_min))
    as_set = _try(work, set_machine, Spread(tasks=how.tasks, nodes_of_task=how.nodes), min(how.tasks, parallel))
    chosen = best
    if as_set is not None and as_set.ends.efficiency >= _EFFICIENT * best.ends.efficiency:
        good = as_set.ends.end_s <= max(_SHORT_S, _GAIN * best.ends.end_s)
        chosen = as_set if good and as_set.ends.jobs_of_task == 1 else best
    needed_min = (_MARGIN * chosen.ends.task_s + site.lead_s) / 60
    return Proposal(
        site=site.site,
        tasks=chosen.spread.tasks,
        nodes=chosen.spread.nodes_of_task,
        nodes_at_once=chosen.nodes,
        time_min=next((time for time in _TIMES_MIN if needed_min <= time < site.max_time_min), site.max_time_min),
        ends=chosen.ends,
        as_set=None if as_set is None else as_set.ends,
        same=chosen.spread == Spread(tasks=how.tasks, nodes_of_task=how.nodes),
        shard_chips=_other_shards(work, machine, site, best, plan, parallel),
    )


def _try(work: Totals, machine: Machine, spread: Spread, at_once: int) -> _Tried | None:
    """The work on so many nodes; None where jobs end before their ranks begin."""
    try:
        ends = makespan(work, replace(machine, nodes=at_once * spread.nodes_of_task), spread)
    except ValueError:
        return None
    return _Tried(spread=spread, at_once=at_once, ends=ends)


def totals_of(price: Price, campaign: Campaign) -> Totals:
    """The work of a plan, as its ranks will do it.

    On a CPU the same cores decode and compute. A GPU computes while cores decode, and the slower of them decides.
    """
    decode_s = price.decoded_bytes / DECODE_BYTES_PER_S / campaign.how.threads_per_rank
    on_gpu = campaign.how.device == "cuda"
    rank_s = max(price.device_s, decode_s) if on_gpu else price.device_s + decode_s
    # the plan has the longest shard on one core
    one_core_s = price.device_s + price.decoded_bytes / DECODE_BYTES_PER_S
    return Totals(
        shards=price.shards,
        rank_s=rank_s,
        device_s=price.device_s if on_gpu else rank_s,
        longest_s=price.longest_s * rank_s / one_core_s if one_core_s else 0.0,
        read_bytes=min(price.input_bytes * price.amplification, price.decoded_bytes),
        calls=CALLS_TO_READ * price.reads + CALLS_TO_WRITE * price.shards,
    )


def in_words(proposal: Proposal, campaign: Campaign, plan: Plan) -> list[str]:
    """The proposal as lines of text, without what `plan` says of reading."""
    how, ends, now = campaign.how, proposal.ends, proposal.as_set
    keys, time = f"`tasks: {proposal.tasks}`, `nodes: {proposal.nodes}`", f"`time_min: {proposal.time_min}`"
    busy = f"ranks work {100 * ends.efficiency:.0f} % of the time"
    nodes = f"{proposal.nodes_at_once} node{'s'[: proposal.nodes_at_once > 1]} at once"
    if proposal.same:
        lines = [f"for {proposal.site}: {keys} as set end in about {_about(ends.end_s)}; {time} is enough for a task"]
    else:
        lines = [f"for {proposal.site}: {keys}, {time} end in about {_about(ends.end_s)}, {nodes}, {busy}{_why(ends)}"]
        after = "never" if now is None else f"in about {_about(now.end_s)}, ranks work {100 * now.efficiency:.0f} %"
        lines.append(f"as set (`tasks: {how.tasks}`, `nodes: {how.nodes}`) it ends {after}")
    for name, chips in proposal.shard_chips.items():
        if not plan.layers[name].better_chips:
            lines.append(f"layers.{name}: with `shard_chips: {chips}` it would end earlier there")
    return lines


def _about(seconds: float) -> str:
    return duration(seconds) if seconds >= _MINUTES_S else f"{seconds:.0f} s"


def _why(ends: Makespan) -> str:
    what = {
        "start": "the start of jobs",
        "shards": "the last shards",
        "metadata": "metadata of the file system",
        "bytes": "bytes of the file system",
    }
    return f"; more would wait for {what[ends.limit]}" if ends.limit in what else ""


def _best(work: Totals, machine: Machine, site: Site, parallel: int) -> _Tried | None:
    """The spread that is proposed."""
    tried = list(_tried(work, machine, site, parallel))
    if not tried:
        return None
    least = _EFFICIENT * max(one.ends.efficiency for one in tried)
    efficient = [one for one in tried if one.ends.efficiency >= least]
    single = [one for one in efficient if one.spread.nodes_of_task == 1]
    if quick := [one for one in single if one.ends.end_s <= _SHORT_S]:
        return min(quick, key=lambda one: (one.nodes, one.ends.end_s))
    fastest = min(single or efficient, key=lambda one: one.ends.end_s)
    if fastest.ends.end_s <= _LONG_S:
        return fastest
    if in_a_day := [one for one in efficient if one.ends.end_s <= _LONG_S]:
        return min(in_a_day, key=lambda one: (one.nodes, one.ends.end_s))
    return min(efficient, key=lambda one: one.ends.end_s)


def _tried(work: Totals, machine: Machine, site: Site, parallel: int) -> Iterator[_Tried]:
    """All spreads that are compared: some numbers of tasks at once, of one node or several."""
    counts = {round(1.1**power) for power in range(100)}
    # no task is shorter than the longest shard
    can_fit = _MARGIN * work.longest_s + machine.lead_s < machine.limit_s
    for nodes in (2**power for power in range(_MOST_NODES.bit_length())):
        for at_once in sorted({one for one in counts if one < parallel} | {parallel}):
            if at_once > site.max_array:
                break
            rounds, found = 1, None
            while (
                tried := _try(work, machine, Spread(tasks=at_once * rounds, nodes_of_task=nodes), at_once)
            ) is not None:
                found = tried
                # shorter tasks, until each fits into the time that the site gives, with a margin
                over = (_MARGIN * found.ends.task_s + machine.lead_s) / machine.limit_s
                rounds = math.ceil(rounds * over)
                if over <= 1 or not can_fit or rounds * at_once > min(site.max_array, work.shards):
                    break
            if found is not None:
                yield found


def _other_shards(
    work: Totals, machine: Machine, site: Site, best: _Tried, plan: Plan, parallel: int
) -> dict[str, int]:
    """For layers whose shards decode too much, or that other shards would end earlier: chips along a side."""
    better = {name: layer.better_chips for name, layer in plan.layers.items() if layer.better_chips}
    if better or len(plan.layers) > 1:
        return better
    ((name, layer),) = plan.layers.items()
    for chips in (layer.layout.chips // 2, layer.layout.chips * 2):
        area = (chips / layer.layout.chips) ** 2
        if not chips or (chips > layer.layout.chips and plan.price.rank_bytes * area > plan.price.limit_bytes):
            continue
        other = replace(
            work, shards=math.ceil(work.shards / area), longest_s=work.longest_s * area, calls=work.calls / area
        )
        found = _best(other, machine, site, parallel)
        if found is not None and found.ends.end_s * _GAIN < best.ends.end_s:
            return {name: chips}
    return {}
