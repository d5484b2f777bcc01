"""Faults of what ranks and consolidation write: packs, records, quarantine, and the objects of the cube."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from random import Random

from tests.chaos.kill_point import KillPoint
from tests.chaos.processes import Disturbed, end
from tests.chaos.small_campaign import Reference, Stage, Trial, put_station

from embedcube.campaign.parts import PACK, QUARANTINE, RECORDS, scan_records
from embedcube.campaign.run_folder import TEMPORARY_PREFIX

_OBJECT = rf"/{TEMPORARY_PREFIX}[\w.-]+\.zarr/.*/c\.[\d.]+$"

_HOLE = 256
"""bytes that are zeroed, or missing, in the middle of a file"""


def damaged_pack(stage: Stage, trial: Trial, reference: Reference, random: Random) -> Disturbed:
    """Before the stage, a file of a part is damaged; `embed` then finds a part that is there already."""
    if stage == "embed":
        put_station(reference, "consolidate", trial)
    name = random.choice((PACK, PACK, PACK, RECORDS, QUARANTINE))
    path = random.choice(sorted(trial.run.parts.rglob(name)))
    ways = ["flipped", "torn in the middle", "zeroed in the middle", "shortened"]
    if name == PACK:
        ways.append("as another run writes it")
    data, how = bytearray(path.read_bytes()), random.choice(ways)
    at = random.randrange(len(data))
    if how == "flipped":
        data[at] ^= 1 << random.randrange(8)
    elif how == "torn in the middle":
        del data[at : at + _HOLE]
    elif how == "zeroed in the middle":
        data[at : at + _HOLE] = bytes(len(data[at : at + _HOLE]))
    elif how == "shortened":
        del data[at:]
    else:
        # the same shards in another order
        starts = {record.arrays[0].offset for part, record in scan_records(trial.run) if part == path.parent}
        at = random.choice(sorted(starts - {0}))
        data = data[at:] + data[:at]
    path.unlink()
    path.write_bytes(data)
    disturbed = Disturbed(words=f"{trial.name_of(path)} is {how}, at byte {at} of {len(data)}", damaged=path)
    end(trial.start(stage), disturbed, reference.limit_s(stage))
    return disturbed


def damaged_object(stage: Stage, trial: Trial, reference: Reference, random: Random) -> Disturbed:
    """Between `consolidate` and `verify`, an object of the cube is damaged."""
    path = random.choice(sorted(trial.run.newest_cube.resolve().rglob("c.*")))
    data, how = bytearray(path.read_bytes()), random.choice(("flipped", "torn", "deleted", "longer"))
    at = random.randrange(len(data))
    path.unlink()
    if how == "flipped":
        data[at] ^= 1 << random.randrange(8)
    elif how == "longer":
        data += bytes(at + 1)
    else:
        del data[at:]
    if how != "deleted":
        path.write_bytes(data)
        path.chmod(0o444)
    disturbed = Disturbed(words=f"{trial.name_of(path)} is {how}, at byte {at} of {len(data)}", damaged=path)
    end(trial.start(stage), disturbed, reference.limit_s(stage))
    return disturbed


def killed_between_objects(stage: Stage, trial: Trial, reference: Reference, random: Random) -> Disturbed:
    """SIGKILL to `consolidate`, before or after one of the objects has its name."""
    nth, moment = random.randrange(1, 5), random.choice(("before", "after"))
    point = KillPoint(event="os.rename", path=_OBJECT, nth=nth, moment="before" if moment == "before" else "after")
    disturbed = Disturbed(words=f"SIGKILL {moment} object {nth} has its name")
    end(trial.start(stage, point.environment()), disturbed, reference.limit_s(stage))
    return disturbed


def killed_while_appending(stage: Stage, trial: Trial, reference: Reference, random: Random) -> Disturbed:
    """SIGKILL to the parent while ranks append to their packs."""
    share = random.random()
    wanted = share * _appended(reference.stations / "consolidate")
    process, end_s = trial.start(stage), time.monotonic() + reference.limit_s(stage)
    while process.poll() is None and _appended(trial.run.root) < wanted and time.monotonic() < end_s:
        time.sleep(0.002)
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
    disturbed = Disturbed(words=f"SIGKILL to the parent when packs hold {share:.0%} of their bytes")
    end(process, disturbed, reference.limit_s(stage))
    return disturbed


def _appended(run: Path) -> int:
    """Bytes of all packs."""
    return sum(path.stat().st_size for path in run.glob(f"parts/*/*/*/{PACK}"))
