"""What a rank refuses to start with, and what it says."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.conftest import Campaign

from embedcube.errors import WorkError


def change_plan(campaign: Campaign, change: Callable[[dict[str, Any]], None]) -> None:
    """Edit the plan's summary in place."""
    document = json.loads(campaign.run.plan_summary.read_text())
    change(document)
    campaign.run.plan_summary.write_text(json.dumps(document))


@pytest.fixture
def planned(demo: Campaign) -> Campaign:
    """The demo with one rank and one window, planned."""
    demo.change(lambda document: document.update(how={"ranks": 1}, windows=[["2023-06-01", "2023-06-08"]]))
    for stage in ("index", "fit", "plan"):
        demo.cli(stage)
    return demo


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
    change_plan(planned, lambda document: document["versions"].update({name: other}))
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
