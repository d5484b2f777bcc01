"""What a rank refuses to start with, what it says, and when it reads ahead."""

import os
import shutil
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Campaign, change_plan, demo_in
from tests.edge import shim

from embedcube.campaign.parts import scan_records
from embedcube.errors import WorkError
from embedcube.machine import cores


@pytest.fixture(scope="module")
def planned_once(demo_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """The demo with one rank and one window, planned. Do not change anything in it: copy."""
    campaign = demo_in(tmp_path_factory.mktemp("planned"), demo_archive)
    campaign.change(lambda document: document.update(how={"ranks": 1}, windows=[["2023-06-01", "2023-06-08"]]))
    for stage in ("index", "fit", "plan"):
        campaign.cli(stage)
    return campaign


@pytest.fixture
def planned(planned_once: Campaign, tmp_path: Path) -> Campaign:
    """A copy of it."""
    shutil.copytree(planned_once.file.parent, tmp_path, dirs_exist_ok=True)
    return Campaign(tmp_path / planned_once.file.name)


def refusal(campaign: Campaign) -> str:
    """What `embed` says when it fails, having recorded nothing."""
    with pytest.raises(WorkError) as said:
        campaign.cli("embed")
    assert not list(campaign.run.parts.rglob("records.jsonl"))
    return str(said.value)


@pytest.mark.parametrize(
    ("name", "other"), [("torch", "1.0.0"), ("device", "cuda-sm80"), ("gdal", "2.0.0"), ("affine", "1.0")]
)
def test_other_versions_are_refused(planned: Campaign, name: str, other: str) -> None:
    """A rank whose device class or versions differ from the plan's would give other bytes; also those of a reader."""
    change_plan(planned.run, lambda document: document["versions"].update({name: other}))
    said = refusal(planned)
    assert f"has {name} " in said
    assert f"the plan was made for {other}" in said
    assert "plan` again" in said


def test_changed_weights_are_refused(planned: Campaign) -> None:
    """Every rank compares the digest of what was broadcast with the plan's."""
    path = planned.run.weights("s2_mosaiks")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    said = refusal(planned)
    assert str(path) in said
    assert "the plan was made with" in said


def begun_ahead(campaign: Campaign, environment: dict[str, str] | None = None) -> list[bool]:
    """Of each shard but the first: was it begun before the one before it was written? Their records say when."""
    shutil.rmtree(campaign.run.parts, ignore_errors=True)
    campaign.cli("embed", environment=environment)
    records = sorted((record for _, record in scan_records(campaign.run)), key=lambda record: record.started)
    assert len(records) > 2
    return [
        datetime.fromisoformat(later.started) < datetime.fromisoformat(before.finished)
        for before, later in pairwise(records)
    ]


@pytest.fixture
def one_core() -> Iterator[None]:
    """All that is left to the test and to what it starts."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(mine)})
    yield
    os.sched_setaffinity(0, mine)


@pytest.fixture
def computing(demo: Campaign) -> Campaign:
    """Planned for one rank of one thread, which a forward pass keeps busy."""

    def change(document: dict[str, Any]) -> None:
        layer = document["layers"].pop("s2_mosaiks")
        backbone = {"name": "tiny_vit", "width": 512, "depth": 8}
        document["layers"]["vit"] = layer | {"backbone": backbone, "chip_px": 128, "halo_px": 0}
        document.update(how={"ranks": 1, "threads": 1}, windows=[["2023-06-01", "2023-07-01"]])

    demo.change(change)
    for stage in ("index", "fit", "plan"):
        demo.cli(stage)
    return demo


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.usefixtures("one_core")
def test_a_rank_that_waits_for_its_disk_reads_ahead(computing: Campaign) -> None:
    first, *others = begun_ahead(computing, shim.delaying(Path("/archive"), 20))
    assert not first, "a shard shows whether anything is waited for"
    assert any(others)
    (log,) = computing.run.logs.glob("embed-*-0000.log")
    assert "reading ahead from now on" in log.read_text()


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.usefixtures("one_core")
def test_a_core_that_computes_all_the_time_is_not_disturbed(computing: Campaign) -> None:
    # another process on its core looks like waiting, and then it reads ahead
    assert not all(any(begun_ahead(computing)) for _ in range(3))


@pytest.mark.skipif(cores() < 2, reason="no core is left over")
def test_a_rank_beside_an_idle_core_reads_ahead_from_the_first_shard_on(planned: Campaign) -> None:
    first, *_ = begun_ahead(planned)
    assert first
