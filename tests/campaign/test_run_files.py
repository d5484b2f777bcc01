"""A plan or an inventory that is damaged, or of another version of embedcube, is refused in words."""

import hashlib
import shutil
from collections.abc import Callable
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from tests.conftest import Campaign, call_cli, change_plan, change_rows

from embedcube.campaign.inventory import made_for, read_inventory
from embedcube.campaign.load import load_campaign
from embedcube.campaign.plan import read_plan, read_recipes, read_shards
from embedcube.campaign.seals import write_sealed
from embedcube.errors import RequestError

LAYER = "s2_mosaiks"
Document = dict[str, Any]


@pytest.fixture
def planned(demo: Campaign, finished_demo: Campaign) -> Campaign:
    """A campaign with an inventory and a plan."""
    demo.run.root.mkdir(parents=True)
    run = finished_demo.run
    for path in (run.inventory, run.inventory_seal, run.plan, run.plan_summary):
        shutil.copy(path, demo.run.root)
    return demo


def older(document: Document) -> None:
    del document["layers"][LAYER]["grids"]


def newer(document: Document) -> None:
    document["layers"][LAYER]["altitude_m"] = 0.0


def without_layers(document: Document) -> None:
    del document["layers"]


def without_price(document: Document) -> None:
    document["price"] = None


@pytest.mark.parametrize("change", [older, newer, without_layers, without_price])
def test_a_plan_of_another_version_is_made_again(planned: Campaign, change: Callable[[Document], None]) -> None:
    change_plan(planned.run, change)
    with pytest.raises(RequestError) as refused:
        read_plan(load_campaign(planned.file), planned.run)
    assert str(refused.value).startswith(
        f"{planned.run.plan_summary}: damaged, or written by another version of embedcube ("
    )
    assert str(refused.value).endswith("; run `embedcube plan` again")


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"layers": {"a', "\0\0\0"])
def test_a_damaged_summary_is_refused(planned: Campaign, text: str) -> None:
    planned.run.plan_summary.write_text(text)
    with pytest.raises(RequestError, match=r"plan\.json: damaged, .*; run `embedcube plan` again"):
        read_plan(load_campaign(planned.file), planned.run)


@pytest.mark.parametrize("verb", ["embed", "consolidate"])
def test_the_command_line_exits_with_2_and_without_a_traceback(planned: Campaign, verb: str) -> None:
    change_plan(planned.run, older)
    done = call_cli(verb, planned.file)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"embedcube: {planned.run.plan_summary}: damaged, or written by another version")
    assert done.stderr.endswith("; run `embedcube plan` again\n")


def test_a_damaged_plan_is_planned_again(planned: Campaign, finished_demo: Campaign) -> None:
    shutil.copytree(finished_demo.run.root / "weights", planned.run.root / "weights")
    before = read_plan(load_campaign(planned.file), planned.run)
    expected = sorted(read_recipes(planned.run, before))
    planned.run.plan_summary.write_text("{")
    planned.cli("plan")
    again = read_plan(load_campaign(planned.file), planned.run)
    assert sorted(read_recipes(planned.run, again)) == expected


def test_an_inventory_that_is_gone_is_indexed_again(planned: Campaign) -> None:
    planned.run.inventory.unlink()
    with pytest.raises(RequestError, match="there is no inventory any more; run `embedcube index` again"):
        read_plan(load_campaign(planned.file), planned.run)


def test_a_damaged_table_of_shards_is_refused(planned: Campaign) -> None:
    plan = read_plan(load_campaign(planned.file), planned.run)
    whole = planned.run.plan.read_bytes()
    for damaged in (whole[:100], b"", whole[: len(whole) // 2] + bytes(len(whole) // 2)):
        planned.run.plan.write_bytes(damaged)
        with pytest.raises(RequestError, match=r"plan\.parquet: damaged or replaced, .*; run `embedcube plan` again"):
            read_shards(planned.run, plan)


def test_a_table_of_shards_without_a_column_is_refused(planned: Campaign) -> None:
    change_rows(planned.run, lambda table: table.drop_columns(["recipe"]))
    plan = read_plan(load_campaign(planned.file), planned.run)
    with pytest.raises(RequestError, match=r"written by another version .*recipe.*; run `embedcube plan` again"):
        read_recipes(planned.run, plan)


def test_a_table_of_shards_of_another_plan_is_refused(planned: Campaign) -> None:
    def elsewhere(table: pyarrow.Table) -> pyarrow.Table:
        zones = pyarrow.array(["utm33"] * len(table), pyarrow.string()).dictionary_encode()
        return table.set_column(table.schema.get_field_index("zone"), "zone", zones)

    change_rows(planned.run, elsewhere)
    plan = read_plan(load_campaign(planned.file), planned.run)
    with pytest.raises(RequestError, match=r"utm33, which plan\.json does not name; run `embedcube plan` again"):
        read_shards(planned.run, plan)


def test_a_damaged_inventory_is_refused_and_made_again(planned: Campaign) -> None:
    whole = planned.run.inventory.read_bytes()
    planned.run.inventory.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RequestError, match=r"inventory\.parquet: damaged or replaced, .*; run `embedcube index` again"):
        read_inventory(load_campaign(planned.file), planned.run)
    assert not made_for(load_campaign(planned.file), planned.run)
    planned.cli("run", "--until", "plan")
    assert read_inventory(load_campaign(planned.file), planned.run)


def test_an_inventory_whose_scenes_are_of_another_version_is_refused(planned: Campaign) -> None:
    table = pyarrow.parquet.read_table(planned.run.inventory)
    scenes = [text.replace('"acquisition"', '"pass"') for text in table["embedcube:scene"].to_pylist()]
    place = table.schema.get_field_index("embedcube:scene")
    pyarrow.parquet.write_table(
        table.set_column(place, "embedcube:scene", pyarrow.array(scenes)), planned.run.inventory
    )
    digest = hashlib.sha256(planned.run.inventory.read_bytes()).hexdigest()
    write_sealed(planned.run.inventory_seal, {"sha256": digest, "scenes": len(scenes)})
    with pytest.raises(RequestError, match=r"written by another version .*'pass'.*; run `embedcube index` again"):
        read_inventory(load_campaign(planned.file), planned.run)
