"""Schemathesis asks the server what its OpenAPI allows, and what it does not: no crash, no undocumented answer.

It is imported inside functions: it takes a second, which every test process would spend for this slow test alone.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from tests.cube.two_zones import LAYER
from tests.uses.serving import running

from embedcube.uses.serve.app import create_app
from embedcube.uses.serve.limits import Limits

pytestmark = pytest.mark.slow

KNOWN: dict[str, dict[str, Any]] = {
    "cube": {"enum": ["two_zones"]},
    "layer": {"enum": [LAYER]},
    "zone": {"enum": ["utm32", "utm33"]},
    "t": {"enum": [0, 1, 2]},
    "row": {"enum": [0]},
    "column": {"enum": [0]},
    "lon": {"type": "number", "minimum": 11.95, "maximum": 12.05},
    "lat": {"type": "number", "minimum": 49.97, "maximum": 50.03},
    "time": {"enum": ["2023-06", "2023-07"]},
}
"""values of parameters that lead to something; without them nearly every question is answered 404"""


@pytest.fixture(scope="module")
def address(two_zones: Path) -> Iterator[str]:
    """A server whose limits are soon reached."""
    with running(create_app([two_zones], limits=Limits(parcels=3, vertices=100, examples=3, hits=20))) as opened:
        yield opened


def operations(address: str) -> list[Any]:
    """All operations of the server's OpenAPI, with parameters that lead to something."""
    document = httpx.get(f"{address}/v1/openapi.json", trust_env=False).json()
    for path in document["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", []):
                parameter["schema"] = KNOWN.get(parameter["name"], parameter["schema"])
    for axis in ("lon", "lat"):
        document["components"]["schemas"]["Place"]["properties"][axis] = KNOWN[axis]
    import schemathesis

    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=address)
    checks = schema.config.checks
    # what no schema can say: a box without an area, a time that no window holds, more than the limits allow
    checks.positive_data_acceptance.expected_statuses += ["413", "422"]
    checks.negative_data_rejection.expected_statuses += ["413"]
    operations: list[Any] = list(schema.get_all_operations())
    return [found.ok() for found in operations]


def answered(operation: Any, mode: str) -> list[int]:
    """Statuses of answers to generated questions; each answer is checked against what is documented."""
    from schemathesis import GenerationMode

    statuses: list[int] = []

    @given(case=operation.as_strategy(generation_mode=GenerationMode(mode)))
    @settings(
        max_examples=25,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def ask(case: Any) -> None:
        answer = case.call()
        case.validate_response(answer)
        statuses.append(answer.status_code)

    ask()
    return statuses


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_every_operation_answers_as_documented(address: str, mode: str) -> None:
    found = operations(address)
    assert len(found) >= 14
    asked = [one for one in found if mode == "positive" or one.query or one.body]
    statuses = {f"{one.method} {one.path}": answered(one, mode) for one in asked}
    assert sum(map(len, statuses.values())) > 100
    assert 500 not in {status for one in statuses.values() for status in one}
    if mode == "positive":
        assert sum(200 in one for one in statuses.values()) >= 8, statuses
