"""Run folders that another version of embedcube has left, as far as they can be told from today's."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from tests.chaos.processes import Disturbed, end
from tests.chaos.small_campaign import Reference, Stage, Trial

from embedcube.campaign.parts import PACK, RECORDS, scan_records
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.seals import from_file, from_line, to_line, write_sealed


def older(stage: Stage, trial: Trial, reference: Reference, random: Random) -> Disturbed:
    """The run folder, or a file of it, is of another version."""
    ways = _WAYS if trial.run.parts.exists() else _WAYS[:2]
    disturbed = random.choice(ways)(trial, random)
    end(trial.start(stage), disturbed, reference.limit_s(stage))
    return disturbed


def _another_key(trial: Trial, random: Random) -> Disturbed:
    """A JSON file lacks a key, or has one more."""
    found = sorted(
        path for path in trial.run.root.rglob("*.json*")
        if trial.run.cubes not in path.parents and path.is_file() and path.stat().st_size
    )  # fmt: skip
    path = random.choice(found)
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    documents = [json.loads(line) for line in lines]
    key, adds = random.choice(sorted(documents[0])), random.random() < 0.3
    for document in documents:
        if adds:
            document[f"{key}_of_tomorrow"] = document[key]
        else:
            document.pop(key, None)
    path.unlink()
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))
    what = f"has a key {key}_of_tomorrow" if adds else f"has no key {key}"
    return Disturbed(words=f"{trial.name_of(path)} {what}", damaged=path)


def _another_kernel(trial: Trial, random: Random) -> Disturbed:
    """The plan is whole, and names the kernel before this one."""
    document = from_file(trial.run.plan_summary.read_bytes())
    before = str(int(document["versions"]["kernel"]) - 1)
    for versions in (document["versions"], *(layer["versions"] for layer in document["layers"].values())):
        versions["kernel"] = before
    trial.run.plan_summary.unlink()
    write_sealed(trial.run.plan_summary, document)
    return Disturbed(words=f"plan.json is whole, and of kernel {before}", damaged=trial.run.plan_summary)


def _a_file_for_each_shard(trial: Trial, random: Random) -> Disturbed:
    """Parts as they were before packs: four files a shard, and records that name them; with whole checksums."""
    for part in sorted({part for part, _ in scan_records(trial.run)}):
        _unpack(part, trial.run)
    return Disturbed(words="parts hold a file for each array of a shard, and no pack", damaged=trial.run.parts)


def _unpack(part: Path, run: RunDir) -> None:
    pack, lines = (part / PACK).read_bytes(), []
    for number, line in enumerate((part / RECORDS).read_bytes().splitlines(keepends=True)):
        document = from_line(line)
        assert document is not None
        objects = [_file_of(part, number, one, pack) for one in document.pop("arrays")]
        fed = document.pop("fed")
        lines.append(
            to_line(document | {"objects": objects, "fed_offset": 0, "fed_size": fed["size"], "format": "00000000"})
        )
    (part / PACK).unlink()
    (part / RECORDS).write_bytes(b"".join(lines))


def _file_of(part: Path, number: int, stored: dict[str, Any], pack: bytes) -> dict[str, Any]:
    path = part / "s2" / "grid" / stored["array"] / f"c.0.0.{number}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pack[stored["offset"] : stored["offset"] + stored["size"]])
    return {"array": stored["array"], "path": str(path.relative_to(part)), "size": stored["size"]}


_WAYS: tuple[Callable[[Trial, Random], Disturbed], ...] = (_another_key, _another_kernel, _a_file_for_each_shard)
