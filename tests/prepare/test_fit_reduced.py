"""Fits with `reduce`: of more chips than fit into memory, and of checkpoints that were exchanged."""

import hashlib
from pathlib import Path

import numpy as np
from tests.conftest import call_cli
from tests.sources.test_samples import CHIPS, MOSAIKS, refused, write_chips, written

from embedcube.backbones.base import Weights, make_backbone
from embedcube.backbones.reduced import Reduced
from embedcube.backbones.weights import packed, parse_weights, read_weights
from embedcube.campaign.inventory import read_inventory
from embedcube.campaign.load import load_campaign
from embedcube.prepare.fit import _differs
from embedcube.prepare.fit_sample import fit_sample
from embedcube.progress import silent

LAYER = MOSAIKS | {"cell_px": 8, "reduce": {"pca": 7}, "weights": None}


def test_vectors_of_more_chips_than_the_fit_are_kept(tmp_path: Path) -> None:
    write_chips(tmp_path / "chips", 40)
    campaign = written(tmp_path, CHIPS, {"one": LAYER})
    for verb in ("index", "fit"):
        done = call_cli(verb, campaign.file)
        assert done.returncode == 0, done.stderr
    loaded = load_campaign(campaign.file)
    backbone, scenes = make_backbone(loaded, "one"), read_inventory(loaded, campaign.run)
    assert isinstance(backbone, Reduced)
    assert (backbone.fit_chips, backbone.vector_chips) == (64, 70)
    few, many = (fit_sample(loaded, "one", scenes, count, silent)[0] for count in (64, 70))
    assert (len(few.x_ntcyx), len(many.x_ntcyx)) == (64, 70)
    expected = backbone.complete(backbone.begin(few), [many])
    fitted = read_weights(loaded, campaign.run, "one")[0]
    np.testing.assert_array_equal(fitted.mean, expected.mean)
    for name, tensor in expected.tensors.items():
        np.testing.assert_array_equal(fitted.tensors[name], tensor)


def test_a_fit_on_some_chips_is_priced_too(tmp_path: Path) -> None:
    write_chips(tmp_path / "chips", 2)
    campaign = written(tmp_path, CHIPS, {"one": LAYER}, how={"runs": "runs", "ranks": 1, "mem_gb": 0.5})
    assert call_cli("index", campaign.file).returncode == 0
    assert "a fit on 4 chips of 288 numbers would take 0.73 GB, the ranks together may take 0.50" in refused(
        campaign, "fit"
    )


def test_another_checkpoint_is_seen(tmp_path: Path) -> None:
    (tmp_path / "chips").mkdir()
    loaded = load_campaign(written(tmp_path, CHIPS, {"one": LAYER}).file)
    weights = Weights(mean=np.zeros(2, np.float32), std=np.ones(2, np.float32), tensors={})
    one, other, file = tmp_path / "a.pt", tmp_path / "b.pt", tmp_path / "one.safetensors"
    one.write_bytes(b"one")
    other.write_bytes(b"other")
    data = packed(loaded, "one", weights, period="", checkpoint=hashlib.sha256(b"one").hexdigest())
    file.write_bytes(data)
    parse_weights(data, loaded, "one", "a file")
    assert not _differs(weights, one, file)
    assert _differs(weights, other, file)
