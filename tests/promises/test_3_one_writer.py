"""One writer: two processes never write the same object, and two attempts of one task never share a part.

tests/slurm/test_faults.py shows the same where Slurm believes a node dead that lives, and
tests/consolidate/test_resuming.py that an unfinished cube has one owner at a time.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Campaign, cube_bytes

from embedcube.campaign.parts import PartWriter, Record, scan_records

EMBEDCUBE = Path(sys.executable).parent / "embedcube"


def test_a_part_that_is_there_already_is_refused(tmp_path: Path) -> None:
    PartWriter(tmp_path / "0000" / "attempt" / "0000")
    with pytest.raises(FileExistsError):
        PartWriter(tmp_path / "0000" / "attempt" / "0000")


def records_by_attempt(campaign: Campaign) -> dict[str, list[Record]]:
    """Records by the attempt in whose folder they lie."""
    by_attempt: dict[str, list[Record]] = {}
    for part, record in scan_records(campaign.run):
        by_attempt.setdefault(part.parent.name, []).append(record)
    return by_attempt


def consolidated(campaign: Campaign) -> dict[str, str]:
    """Digests of the files of a cube that is made anew from the parts that are there."""
    shutil.rmtree(campaign.run.cubes, ignore_errors=True)
    campaign.run.newest_cube.unlink(missing_ok=True)
    campaign.cli("consolidate")
    return cube_bytes(campaign.run.newest_cube)


@pytest.mark.slow
def test_two_attempts_at_once_share_no_part_and_make_the_cube_of_one(
    demo: Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(document: dict[str, Any]) -> None:
        document["layers"]["s2_mosaiks"] |= {"backbone": {"name": "sleepy"}, "chip_px": 160, "halo_px": 16}
        document.update(windows=[["2023-06-01", "2023-06-08"]], how={"ranks": 1, "threads": 1})

    demo.change(change)
    demo.cli("run", "--until", "plan")
    monkeypatch.setenv("SLEEPY_S", "0.3")
    with subprocess.Popen([EMBEDCUBE, "embed", demo.file], stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as other:
        # both start together: on a busy machine, the first would be at its end before one that waits for it has begun
        demo.cli("embed")
        said, _ = other.communicate(timeout=120)
    assert other.returncode == 0, said

    attempts = records_by_attempt(demo)
    assert len(attempts) == 2
    for name, records in attempts.items():
        assert {record.attempt for record in records} == {name}
    one, two = attempts.values()
    assert max(record.started for record in one) > min(record.started for record in two)
    assert max(record.started for record in two) > min(record.started for record in one)
    assert {record.recipe for record in one} & {record.recipe for record in two}, "no shard was embedded twice"

    of_both = consolidated(demo)
    whole = next(name for name, records in attempts.items() if len(records) == max(map(len, attempts.values())))
    for name in attempts.keys() - {whole}:
        shutil.rmtree(demo.run.task(0) / name)
    assert consolidated(demo) == of_both
