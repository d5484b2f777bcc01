"""Reasons: why the recipe of a shard differs between two plans."""

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from embedcube.campaign.plan import LayerPlan, Shard
from embedcube.campaign.reasons import Account, Compared, Reason, compared
from embedcube.campaign.recipes import PlannedRecipes
from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Campaign, make_grid, make_layout
from embedcube.campaign.verdicts import Verdict, Verdicts
from embedcube.grid import ShardRange
from embedcube.zones import ObjectShape

DOCUMENT: dict[str, Any] = {
    "campaign": "reasons",
    "archives": {
        "s2": {
            "source": "sentinel2", "path": "/nowhere", "bands": ["B02", "B03"], "mask": {"band": "SCL", "clear": [4]}
        },
        "s1": {"source": "sentinel1", "path": "/nowhere", "bands": ["VV"]},
    },
    "grid": {"crs": "EPSG:32632", "pixel": 10},
    "windows": {"start": "2023-06-01", "end": "2023-09-01", "step": "1 month"},
    "layers": {
        "optical": {"archives": ["s2"], "backbone": {"name": "mosaiks", "filters": 8}, "shard_chips": 2},
        "radar": {"archives": ["s1"], "backbone": {"name": "mosaiks", "filters": 8}, "shard_chips": 2},
    },
}  # fmt: skip

VERSIONS = {"torch": "2", "cfgrib": "0.9"}


@dataclass(frozen=True, kw_only=True)
class Side:
    """A plan of two layers, three windows and four places, each shard with all scenes of its window."""

    document: dict[str, Any]
    scenes: tuple[Scene, ...]
    weights: str = "w"
    versions: tuple[tuple[str, str], ...] = tuple(VERSIONS.items())
    verdicts: Verdicts = field(default=Verdicts())
    columns: tuple[int, ...] = (0, 1)
    plugins: tuple[str, ...] = ()

    def account(self) -> Account:
        """The plan, with recipes by the product's own maker."""
        campaign, versions = Campaign.model_validate(self.document), dict(self.versions)
        plan = _Plan(
            layers={name: self._layer(campaign, name) for name in campaign.layers},
            versions=versions,
            verdicts=self.verdicts,
        )
        recipes = PlannedRecipes(campaign, plan, self.scenes, dict.fromkeys(campaign.layers, self.plugins))
        shards = [replace(shard, recipe=recipes.derive(shard)) for shard in self._shards(campaign)]
        return Account(campaign=campaign, plan=plan, scenes=self.scenes, shards=shards)

    def _layer(self, campaign: Campaign, name: str) -> LayerPlan:
        layer, grid = campaign.layers[name], make_grid(campaign, name, "grid")
        return LayerPlan(
            zones={"grid": ShardRange(row=0, col=0, rows=2, cols=2)}, grids={"grid": grid}, layout=make_layout(layer),
            encoding="int8", dimensions=8, chunk_windows=1,
            objects=ObjectShape(windows=1, rows=1, cols=1), collections=(), counted=("s2",), weights=self.weights,
            fitted_on="", model="", batch=8, batch_for="", program="", compiled_for="", versions={"torch": "2"},
            plugins=self.plugins, empty=(),
        )  # fmt: skip

    def _shards(self, campaign: Campaign) -> list[Shard]:
        shards = []
        for name, layer in campaign.layers.items():
            for t, window in enumerate(campaign.all_windows):
                rows = [i for i, one in enumerate(self.scenes) if one.archive in layer.archives and one.meets(window)]
                planned = [row for row in rows if row not in self.verdicts.instead]
                for row in (0, 1):
                    for col in self.columns:
                        shards.append(
                            Shard(
                                layer=name,
                                zone="grid",
                                t=t,
                                row=row,
                                col=col,
                                iy=row,
                                ix=col,
                                recipe="",
                                scenes=tuple(self.verdicts.rows(planned)),
                            )
                        )
        return shards


@dataclass(frozen=True, kw_only=True)
class _Plan:
    layers: dict[str, LayerPlan]
    versions: dict[str, str]
    verdicts: Verdicts


def _scene(name: str, month: int, day: int, archive: str = "s2", **facts: Any) -> Scene:
    time = datetime(2023, month, day, 10, tzinfo=UTC)
    return Scene(id=name, archive=archive, time=time, acquisition=name, bbox=(6, 50, 7, 51), **facts)


SCENES = (
    _scene("a", 6, 5), _scene("b", 6, 15), _scene("c", 7, 5), _scene("d", 8, 5), _scene("r", 6, 9, "s1"),
    _scene("q", 7, 9, "s1", software=("cfgrib",)),
)  # fmt: skip

BEFORE = Side(document=DOCUMENT, scenes=SCENES)


def _changed(change: Callable[[dict[str, Any]], object], **other: Any) -> Side:
    document = copy.deepcopy(DOCUMENT)
    change(document)
    return replace(BEFORE, document=document, **other)


def _compared(after: Side, before: Side = BEFORE) -> list[Compared]:
    earlier, later = before.account(), after.account()
    found = list(compared(earlier, later))
    recipes = {shard.recipe for shard in earlier.shards}
    for one in found:
        if one.later is not None:
            assert (one.reason.kind == "unchanged") == (one.later.recipe in recipes)
    assert [one.later for one in found if one.later] == list(later.shards)
    assert Counter(one.earlier for one in found if one.earlier) == Counter(earlier.shards)
    return found


def _reasons(after: Side, before: Side = BEFORE) -> dict[tuple[str, int], Reason]:
    """The reason for each layer and window; the same for all places."""
    found: dict[tuple[str, int], Reason] = {}
    for one in _compared(after, before):
        assert one.later is not None
        key = (one.later.layer, one.later.t)
        assert found.setdefault(key, one.reason) == one.reason
    return found


def _labels(after: Side, before: Side = BEFORE) -> dict[str, int]:
    return dict(Counter(one.reason.label for one in _compared(after, before)))


def test_nothing_differs() -> None:
    """Two plans of one campaign have no reason."""
    assert _labels(BEFORE) == {"unchanged": 24}


def test_a_withdrawn_scene_changes_its_window_only() -> None:
    """Rows of the inventory may move: scenes are compared by name."""
    found = _reasons(replace(BEFORE, scenes=SCENES[1:]))
    assert found.pop(("optical", 0)) == Reason(kind="other scenes", removed=("s2/a",))
    assert {reason.kind for reason in found.values()} == {"unchanged"}


def test_new_scenes_windows_and_places() -> None:
    """A new month and a wider region are new; the places of the rest stay, whatever number their window has."""
    grown = _changed(
        lambda d: d["windows"].update(start="2023-05-01"), scenes=(*SCENES, _scene("e", 7, 20)), columns=(0, 1, 2)
    )
    kinds = Counter((one.later.t, one.later.layer, one.reason.kind) for one in _compared(grown) if one.later)
    assert (kinds[0, "optical", "new"], kinds[1, "optical", "new"], kinds[1, "optical", "unchanged"]) == (6, 2, 4)
    assert kinds[2, "optical", "other scenes"] == 4
    assert Counter(one.reason.kind for one in _compared(BEFORE, grown) if one.later is None) == {"gone": 24}


@pytest.mark.parametrize(
    ("change", "other", "label", "count"),
    [
        (lambda d: d["archives"]["s2"]["mask"].update(clear=[4, 5]), {}, "archives.s2.mask.clear", 12),
        (lambda d: d["archives"]["s2"].update(mask=None), {}, "archives.s2.mask", 12),
        (lambda d: d["layers"]["radar"]["backbone"].update(filters=9), {}, "layers.radar.backbone.filters", 12),
        (lambda d: d["layers"]["radar"].update(encoding="float16"), {}, "layers.radar.encoding", 12),
        (lambda d: d.update(campaign="other"), {"weights": "v"}, "weights", 24),
        (lambda d: d["layers"]["radar"].update(chunk_windows=3), {"plugins": ("x 2",)}, "plugins", 24),
    ],
)  # fmt: skip
def test_another_recipe_says_which_key(
    change: Callable[[dict[str, Any]], object], other: dict[str, Any], label: str, count: int
) -> None:
    """Keys are those of *what*, or weights, program, plugins and versions."""
    labels = _labels(_changed(change, **other))
    assert labels.pop(f"other recipe: {label}") == count
    assert labels.pop("unchanged", 0) + count == 24
    assert not labels


def test_another_lattice() -> None:
    """Rows and columns of another lattice count other squares: no shard is the same, and the key says why."""
    labels = _labels(_changed(lambda d: d["layers"]["radar"].update(shard_chips=3)))
    assert labels == {
        "unchanged": 12,
        "other recipe: layers.radar.shard_chips": 12,
        "gone: layers.radar.shard_chips": 12,
    }
    labels = _labels(_changed(lambda d: d["grid"].update(pixel=20)))
    assert labels == {"other recipe: grid.pixel": 24, "gone: grid.pixel": 24}


def test_a_renamed_layer_has_the_same_bytes() -> None:
    """The name of a layer is in no recipe."""
    renamed = _changed(lambda d: d["layers"].update(sar=d["layers"].pop("radar")))
    assert _labels(renamed) == {"unchanged": 24}


def test_scenes_that_were_processed_again() -> None:
    """A scene of the same name with other bytes or facts is changed; another name is one scene less and one more."""
    changed = replace(BEFORE, scenes=(replace(SCENES[0], offset=-1000.0), *SCENES[1:]))
    assert _reasons(changed)["optical", 0] == Reason(kind="other scenes", changed=("s2/a",))
    renamed = replace(BEFORE, scenes=(_scene("a_N0510", 6, 5), *SCENES[1:]))
    expected = Reason(kind="other scenes", added=("s2/a_N0510",), removed=("s2/a",))
    assert _reasons(renamed)["optical", 0] == expected
    assert str(expected) == "other scenes; with s2/a_N0510; without s2/a"


def test_verdicts() -> None:
    """A scene that one side cannot use: found by `index`, or while it was read, with or without one used instead."""
    by_index = replace(BEFORE, scenes=(replace(SCENES[0], verdict="cut"), *SCENES[1:]))
    expected = Reason(kind="other verdict", verdicts=("s2/a",))
    assert _reasons(by_index)["optical", 0] == expected
    verdict = Verdict(archive="s2", scene="a", scene_digest=SCENES[0].digest, reason="cut")
    out = replace(BEFORE, verdicts=Verdicts(round=2, scenes={0: verdict}))
    assert _reasons(out)["optical", 0] == expected
    scenes = (*SCENES, older := _scene("a_older", 6, 5))
    verdict = replace(verdict, instead=(6,), instead_digests=(older.digest,))
    instead = replace(BEFORE, scenes=scenes, verdicts=Verdicts(round=2, scenes={0: verdict}))
    assert _reasons(instead)["optical", 0] == expected
    assert _reasons(instead, out)["optical", 0] == Reason(kind="other scenes", added=("s2/a_older",))


def test_a_scene_that_is_used_otherwise_instead_of_a_broken_one() -> None:
    """The older scene fills beside a part of the newer one, and is used whole without it: the verdict is the reason."""
    older = _scene("a_older", 6, 5)
    used = {
        digest: Verdict(archive="s2", scene=SCENES[row].id, scene_digest=SCENES[row].digest, reason="cut", instead=(6,),
                        instead_digests=(digest,))
        for row, digest in ((0, older.filling().digest), (1, older.digest))
    }  # fmt: skip
    fills = replace(
        BEFORE, scenes=(*SCENES, older.filling()),
        verdicts=Verdicts(round=2, scenes={0: used[older.filling().digest]}),
    )  # fmt: skip
    whole = replace(
        BEFORE, scenes=(*SCENES, older),
        verdicts=Verdicts(round=2, scenes={0: used[older.filling().digest], 1: used[older.digest]}),
    )  # fmt: skip
    assert _reasons(whole, fills)["optical", 0] == Reason(kind="other verdict", verdicts=("s2/b",))


def test_a_recipe_that_differs_for_no_known_reason_is_not_called_a_verdict() -> None:
    """As where the recipe in a plan is not the one that its parts give."""
    account = BEFORE.account()
    damaged = replace(account, shards=[replace(shard, recipe="0" * 64) for shard in account.shards])
    assert {one.reason.label for one in compared(account, damaged)} == {"unexplained"}


def test_the_order_of_compositing() -> None:
    """The same scenes in another order have another recipe."""
    found = _reasons(replace(BEFORE, scenes=(SCENES[1], SCENES[0], *SCENES[2:])))
    assert found["optical", 0] == Reason(kind="other scenes", reordered=True)


def test_software_that_decodes_scenes() -> None:
    """A package that decodes some scenes changes the shards of those alone."""
    found = _reasons(replace(BEFORE, versions=(("torch", "2"), ("cfgrib", "1"))))
    assert found.pop(("radar", 1)) == Reason(kind="other recipe", keys=("versions.cfgrib",))
    assert {reason.kind for reason in found.values()} == {"unchanged"}


def test_several_reasons_at_once() -> None:
    """The kind is the first that applies; the rest is said too."""
    both = _changed(lambda d: d["archives"]["s2"]["mask"].update(clear=[5]), scenes=SCENES[1:])
    found = _reasons(both)["optical", 0]
    assert found == Reason(kind="other recipe", keys=("archives.s2.mask.clear",), removed=("s2/a",))
