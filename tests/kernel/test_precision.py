"""A reduced precision is part of the campaign's digest, gives the same bytes again, and is compared with float32."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import SOUND_PLACE, Campaign, cube_bytes, demo_in

from embedcube.consolidate.recomputed import _least_cosine
from embedcube.cube.reader import Cube
from embedcube.errors import WorkError
from embedcube.kernel.embed import Cells

LAYER = "s2_vit"
VIT = {"name": "tiny_vit", "width": 64, "depth": 2}


def ask(campaign: Campaign, precision: str, ranks: int = 1) -> None:
    """Write a campaign of one window of the demo with a layer of the given precision."""
    layer = {
        "archives": ["s2"], "backbone": VIT, "precision": precision, "chip_px": 96, "halo_px": 16, "cell_px": 16,
        "shard_chips": 4, "encoding": "float32",
    }  # fmt: skip
    campaign.change(
        lambda document: document.update(
            layers={LAYER: layer},
            windows=[["2023-06-01", "2023-06-08"]],
            region=SOUND_PLACE,
            how={"ranks": ranks, "threads": 3 - ranks},
            campaign=f"demo-{precision}",
        )
    )


def vectors(campaign: Campaign) -> np.ndarray[Any, Any]:
    cube = Cube(campaign.run.newest_cube)
    return np.asarray(cube.array(cube.zones[0], "embedding")[...])


@pytest.fixture(scope="module")
def full(demo_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray[Any, Any]:
    """Vectors of the demo, computed in float32."""
    campaign = demo_in(tmp_path_factory.mktemp("full"), demo_archive)
    ask(campaign, "float32")
    campaign.cli("run")
    return vectors(campaign)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_reduced_precision_is_near_float32_and_says_how_near(
    demo: Campaign, full: np.ndarray[Any, Any], precision: str
) -> None:
    ask(demo, precision)
    demo.cli("run")
    reduced = vectors(demo)
    seen = np.isfinite(full).all(axis=-1)
    assert seen.any()
    assert np.array_equal(seen, np.isfinite(reduced).all(axis=-1))
    x, y = full[seen].astype(np.float64), reduced[seen].astype(np.float64)
    assert not np.array_equal(x, y), "nothing was computed in it"
    cosine = (x * y).sum(axis=1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    assert cosine.min() >= 0.999
    (zone,) = Cube(demo.run.newest_cube).zones
    stated = Cube(demo.run.newest_cube).group(zone).attrs["embedcube:precision_bound"]
    assert stated == f"{precision} against float32: a cosine of at least 0.999"
    said = json.loads((demo.run.report / "verify.json").read_text())["least_cosine"]
    # verify looks at one shard of all
    assert cosine.min() - 1e-9 <= said[LAYER] < 1


@pytest.mark.slow
def test_reduced_precision_gives_the_same_bytes_however_it_is_computed(demo: Campaign) -> None:
    found = []
    for ranks in (1, 2):
        ask(demo, "bfloat16", ranks)
        demo.cli("run")
        found.append(cube_bytes(demo.run.newest_cube))
        shutil.rmtree(demo.run.root)
    assert found[0] == found[1]


@pytest.mark.slow
def test_a_precision_that_a_layer_does_not_bear_is_a_finding(demo: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedcube.consolidate.recomputed.LEAST_COSINE", 0.999_999_99)
    ask(demo, "bfloat16")
    with pytest.raises(WorkError, match=r"precision: s2_vit: a cosine of 0\.9\d+ between bfloat16 and float32"):
        demo.cli("run")


def test_a_vector_that_only_float32_holds_is_lost() -> None:
    held = Cells(arrays={"embedding": np.ones((2, 2, 3), np.float32)}, chips=1)
    lost = Cells(arrays={"embedding": np.ones((2, 2, 3), np.float32)}, chips=1)
    lost.arrays["embedding"][0, 1, 2] = np.nan
    assert _least_cosine(held, held) == pytest.approx(1)
    assert _least_cosine(lost, held) == -1
    # a cell without a vector in both is none
    assert _least_cosine(lost, lost) == pytest.approx(1)
