"""TerraTorch's models as layers: their tokens are those of a direct call, in memory and in cubes of real scenes."""

import hashlib
import importlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import safetensors.torch
import torch
import xarray
import yaml
from numpy.typing import NDArray
from tests.conftest import REAL_DATA, Campaign, cube_bytes, run_cli

from embedcube.backbones.base import Chips, FitSample, Inputs, make_backbone
from embedcube.backbones.normalisation import MODALITIES
from embedcube.backbones.terratorch.backbone import TerraTorch
from embedcube.backbones.terratorch.models import KNOWN, TERRATORCH_BAND
from embedcube.backbones.terratorch.registry import build
from embedcube.backbones.weights import read_weights
from embedcube.campaign.inventory import read_inventory
from embedcube.campaign.load import load_campaign
from embedcube.campaign.plan import read_plan, read_shards
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError
from embedcube.grid import ShardLayout
from embedcube.kernel.compile import Compiled, compile_forward
from embedcube.kernel.embed import forward
from embedcube.kernel.layer import LayerContext, Normalisation
from embedcube.kernel.load import make_context
from embedcube.kernel.sample import read_sample
from embedcube.sources.reader import RasterReader
from embedcube.testing.contracts import check_backbone
from embedcube.windows import Window, dates_of

S2 = MODALITIES["S2L2A"].bands
HLS = ("B02", "B03", "B04", "B8A", "B11", "B12")
TOKENS = ShardLayout(chip_px=96, halo_px=16, cell_px=16, chips=2)
WHOLE = ShardLayout(chip_px=96, halo_px=16, cell_px=64, chips=2)
TERRAMIND = {"model": "terramind_v1_tiny", "modalities": ["S2L2A"], "random_seed": 7}
PRITHVI = {"model": "prithvi_eo_v2_tiny_tl", "random_seed": 7}
RESNET = {"model": "timm_resnet18", "layers": [3], "mean": [1000.0] * 3, "std": [500.0] * 3, "random_seed": 7}

installed = pytest.mark.skipif(
    importlib.util.find_spec("terratorch") is None,
    reason="TerraTorch is not installed: `make test-terratorch` installs it and runs these",
)


def needs_terratorch(test: Callable[..., None]) -> Callable[..., None]:
    marked: Callable[..., None] = pytest.mark.terratorch(installed(test))
    return marked


def some_chips(inputs: Inputs, layout: ShardLayout, batch: int = 2) -> Chips:
    rng, side, cells = np.random.default_rng(3), layout.chip_px, layout.chip_cells
    months = [datetime(2020, 5 + month, 1, tzinfo=UTC) for month in range(inputs.frames + 1)]
    shape = (batch, inputs.frames, inputs.channels, side, side)
    return Chips(
        x_btcyx=torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)),
        clear_btsyx=torch.ones((batch, inputs.frames, len(inputs.bands), side, side), dtype=torch.bool),
        lonlat_byxn=torch.from_numpy(rng.uniform(-60, 60, (batch, cells, cells, 2)).astype(np.float32)),
        dates_tmd=torch.from_numpy(dates_of([Window(*ends) for ends in pairwise(months)])),
    )


def embedded(options: dict[str, Any], layout: ShardLayout, inputs: Inputs, chips: Chips) -> NDArray[np.float32]:
    backbone = TerraTorch(options, layout, inputs)
    side = layout.chip_px
    nothing = np.empty((0, inputs.frames, inputs.channels, side, side), dtype=np.float32)
    weights = backbone.fit(FitSample(x_ntcyx=nothing, lat_ny=np.empty((0, side))))
    with torch.inference_mode():
        vectors: NDArray[np.float32] = backbone.module(weights)(chips).numpy()
    return vectors


def directly(name: str, **arguments: Any) -> Any:
    """The model built directly with TerraTorch, with the same random seed."""
    build("timm_resnet18", {})  # TerraTorch is imported, whatever torchvision this is
    registry = importlib.import_module("terratorch.registry").BACKBONE_REGISTRY
    torch.manual_seed(7)
    return registry.build(name, pretrained=False, **arguments).eval()


# --- tokens of chips ------------------------------------------------------------------------------


@needs_terratorch
@pytest.mark.parametrize("radar", [False, True], ids=["S2", "S2 and S1"])
def test_terraminds_tokens_are_those_of_a_direct_call(radar: bool) -> None:
    """The bands are in another order than in the model, and radar comes first."""
    shuffled = (*S2[5:], *S2[:5])
    inputs = Inputs(bands=(("VH", "VV"), shuffled) if radar else (shuffled,))
    modalities = ["S1GRD", "S2L2A"] if radar else ["S2L2A"]
    chips = some_chips(inputs, TOKENS)
    found = embedded(TERRAMIND | {"modalities": modalities, "layers": [5, -1]}, TOKENS, inputs, chips)

    given = ["VH", "VV", *shuffled] if radar else list(shuffled)
    x = {band: chips.x_btcyx[:, 0, i] for i, band in enumerate(given)}
    of = {"S1GRD": ("VV", "VH"), "S2L2A": S2}
    bands = {modality: [TERRATORCH_BAND[band] for band in of[modality]] for modality in modalities}
    model = directly("terramind_v1_tiny", modalities=modalities, bands=bands)
    with torch.inference_mode():
        outputs = model({modality: torch.stack([x[b] for b in of[modality]], dim=1) for modality in modalities})
    wanted = np.concatenate([outputs[layer].numpy() for layer in (5, 11)], axis=-1)
    np.testing.assert_array_equal(found, wanted.reshape(2, 6, 6, 384)[:, 1:5, 1:5])
    assert np.ptp(found) > 1


@needs_terratorch
@pytest.mark.parametrize("frames", [1, 4])
def test_prithvis_tokens_are_those_of_a_direct_call(frames: int) -> None:
    inputs = Inputs(bands=(tuple(reversed(HLS)),), frames=frames)
    chips = some_chips(inputs, TOKENS)
    found = embedded(PRITHVI, TOKENS, inputs, chips)
    averaged = embedded(PRITHVI | {"frames": "mean"}, TOKENS, inputs, chips)

    model = directly("prithvi_eo_v2_tiny_tl", num_frames=frames, bands=[TERRATORCH_BAND[band] for band in HLS])
    days = [[2020.0, day] for day in (136, 167, 197, 228)]  # the 16th of May to August of a leap year, from 0
    places = chips.lonlat_byxn[:, 2, 2].flip(1)
    with torch.inference_mode():
        outputs = model(chips.x_btcyx.flip(2).transpose(1, 2), torch.tensor(days[:frames]).expand(2, -1, -1), places)
        maps = model.prepare_features_for_image_model(outputs)[-1]  # TerraTorch's own: batch, (frame token), y, x
    wanted = maps.numpy().transpose(0, 2, 3, 1)[:, 1:5, 1:5]
    np.testing.assert_array_equal(found, wanted)
    mean = wanted.reshape(2, 4, 4, frames, 192).mean(axis=3)
    np.testing.assert_allclose(averaged, mean, rtol=0, atol=1e-5)
    with torch.inference_mode():
        nowhere = model(chips.x_btcyx.flip(2).transpose(1, 2))[-1]
    assert np.abs(nowhere.numpy() - outputs[-1].numpy()).max() > 1e-3, "the date and the place matter"


@needs_terratorch
def test_a_cnns_cells_are_its_feature_maps() -> None:
    inputs = Inputs(bands=(("B02", "B03", "B04"),))
    chips = some_chips(inputs, TOKENS)
    found = embedded(RESNET, TOKENS, inputs, chips)
    model = directly("timm_resnet18", in_chans=3)
    with torch.inference_mode():
        wanted = model(chips.x_btcyx[:, 0])[3].numpy().transpose(0, 2, 3, 1)
    assert wanted.shape == (2, 6, 6, 256)
    np.testing.assert_array_equal(found, wanted[:, 1:5, 1:5])


@needs_terratorch
@pytest.mark.parametrize(
    ("options", "inputs"),
    [
        (PRITHVI, Inputs(bands=(HLS,), frames=2)),
        (TERRAMIND, Inputs(bands=(S2,))),
        (RESNET, Inputs(bands=(HLS[:3],))),
    ],
    ids=["prithvi", "terramind", "resnet"],
)
def test_a_compiled_model_gives_the_same_for_other_chips_and_other_dates(
    options: dict[str, Any], inputs: Inputs
) -> None:
    backbone = TerraTorch(options, TOKENS, inputs)
    weights = backbone.fit(FitSample(x_ntcyx=np.empty((0, 1, 1, 1, 1), np.float32), lat_ny=np.empty((0, 1))))
    nothing: Any = None
    context = LayerContext(
        zones={},
        layout=TOKENS,
        inputs=(nothing,) * len(inputs.bands),
        frames=((Window(datetime(2017, 2, 1, tzinfo=UTC), datetime(2017, 3, 1, tzinfo=UTC)),) * inputs.frames,),
        min_valid=0.5,
        batch=2,
        encoding="int8",
        precision="float32",
        dimensions=backbone.dimensions(weights),
        normalisation=Normalisation(mean=weights.mean, std=weights.std),
        module=backbone.module(weights),
        device=torch.device("cpu"),
    )
    compiled = replace(context, module=Compiled(compile_forward(context, "layer"), context.device))
    chips = some_chips(inputs, TOKENS)
    found, expected = forward(compiled, chips).numpy(), forward(context, chips).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


@needs_terratorch
def test_a_pooled_chip_is_one_vector_of_the_tokens_that_are_kept() -> None:
    inputs = Inputs(bands=(HLS,))
    chips = some_chips(inputs, WHOLE)
    tokens = embedded(PRITHVI, TOKENS, inputs, some_chips(inputs, TOKENS))
    places = chips.lonlat_byxn  # one cell: another place than the tokens' chips had
    model = directly("prithvi_eo_v2_tiny_tl", num_frames=1)
    with torch.inference_mode():
        date = torch.tensor([[2020.0, 136.0]]).expand(2, -1, -1)
        out = model(chips.x_btcyx.transpose(1, 2), date, places[:, 0, 0].flip(1))[-1].numpy()
    kept = out[:, 1:].reshape(2, 6, 6, 192)[:, 1:5, 1:5]
    assert tokens.shape == kept.shape
    for pooling, wanted in {"mean": kept.mean(axis=(1, 2)), "max": kept.max(axis=(1, 2)), "cls": out[:, 0]}.items():
        found = embedded(PRITHVI | {"pooling": pooling}, WHOLE, inputs, chips)
        np.testing.assert_allclose(found, wanted[:, None, None], rtol=0, atol=1e-5, err_msg=pooling)


@needs_terratorch
@pytest.mark.parametrize(
    ("options", "inputs"),
    [
        (TERRAMIND, Inputs(bands=(S2,))),
        (TERRAMIND | {"modalities": ["S2L2A", "S1RTC"], "merge": "concat"}, Inputs(bands=(S2, ("VV", "VH")))),
        (PRITHVI, Inputs(bands=(HLS,), frames=4)),
        (RESNET, Inputs(bands=(("B02", "B03", "B04"),))),
    ],
    ids=["TerraMind", "TerraMind, two modalities", "Prithvi, four frames", "ResNet"],
)
def test_a_model_keeps_the_contract_of_a_backbone(options: dict[str, Any], inputs: Inputs) -> None:
    check_backbone(lambda: TerraTorch(options, TOKENS, inputs), layout=TOKENS, inputs=inputs)


@needs_terratorch
def test_products_stay_in_float32_when_terratorch_is_imported() -> None:
    """Its import allows products in bfloat16, which would change vectors on a processor that has bfloat16."""
    code = (
        "from embedcube.backbones.terratorch.registry import build; import torch;"
        "build('timm_resnet18', {});"
        "assert torch.get_float32_matmul_precision() == 'highest', torch.get_float32_matmul_precision();"
        "assert torch.get_default_dtype() == torch.float32"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=300)


# --- what the table says --------------------------------------------------------------------------


@needs_terratorch
def test_the_table_says_what_terratorch_says() -> None:
    build("prithvi_eo_v2_tiny_tl", {})
    terramind = importlib.import_module("terratorch.models.backbones.terramind.model.terramind_register")
    prithvi = importlib.import_module("terratorch.models.backbones.prithvi_vit")
    keys = {"S2L2A": "sen2l2a", "S2L1C": "sen2l1c", "S1GRD": "sen1grd", "S1RTC": "sen1rtc", "DEM": "dem"}
    for modality, key in keys.items():
        norm, key = MODALITIES[modality], f"untok_{key}@224"
        assert [TERRATORCH_BAND[band] for band in norm.bands] == terramind.PRETRAINED_BANDS[key]
        assert [mean for mean, _ in norm.of.values()] == terramind.v1_pretraining_mean[key]
        assert [std for _, std in norm.of.values()] == terramind.v1_pretraining_std[key]
    for name, known in KNOWN.items():
        published = (terramind if known.family == "terramind" else prithvi).pretrained_weights.get(name)
        assert known.hub == (published and (published["hf_hub_id"], published["hf_hub_filename"]))
        if known.family == "prithvi":
            config = prithvi.prithvi_cfgs[name]
            assert known.normalisation is not None
            assert [TERRATORCH_BAND[band] for band in known.normalisation.bands] == [b.value for b in config["bands"]]
            assert [mean for mean, _ in known.normalisation.of.values()] == config["mean"]
            assert [std for _, std in known.normalisation.of.values()] == config["std"]
            assert (known.width, known.blocks) == (config["embed_dim"], config["depth"])
            assert known.patch_px == config["patch_size"][1]
            assert known.coordinates == bool(config["coords_encoding"])
    for name in ("terramind_v1_tiny", "terramind_v1_small", "terramind_v1_base"):
        model: Any = build(name, {"modalities": ["S2L2A"]})
        assert model.out_channels == [KNOWN[name].width] * KNOWN[name].blocks


# --- what is refused, with or without TerraTorch --------------------------------------------------


@pytest.mark.parametrize(
    ("options", "bands", "frames", "layout", "said"),
    [
        (TERRAMIND, (S2[1:],), 1, TOKENS, r"takes B01, which the layer does not have.*without: \[B01\]"),
        (TERRAMIND, ((*S2, "SCL"),), 1, TOKENS, 'does not take the band "SCL"'),
        (TERRAMIND | {"without": ["B01"]}, (S2,), 1, TOKENS, "without: B01 is a band of the layer"),
        (TERRAMIND | {"without": ["B10"]}, (S2,), 1, TOKENS, 'does not take "B10"'),
        (TERRAMIND, (S2, ("VV", "VH")), 1, TOKENS, "for each of the layer's 2 archives"),
        (TERRAMIND | {"modalities": ["S2"]}, (S2,), 1, TOKENS, 'no modality "S2"'),
        (TERRAMIND, (S2,), 2, TOKENS, "takes 1 frame, a window has 2"),
        (PRITHVI, (HLS,), 5, TOKENS, "takes 4 frames at most, a window has 5"),
        (PRITHVI, (HLS,), 1, ShardLayout(chip_px=96, halo_px=8, cell_px=16, chips=2), "halo_px 8"),
        (PRITHVI, (HLS,), 1, ShardLayout(chip_px=96, halo_px=16, cell_px=8, chips=2), "must be 16, it is 8"),
        (PRITHVI | {"pooling": "mean"}, (HLS,), 1, TOKENS, "must be 64, it is 16"),
        (PRITHVI | {"model": "prithvi_eo_v2_600"}, (HLS,), 1, TOKENS, "patches of 14 px"),
        (PRITHVI | {"layers": [12]}, (HLS,), 1, TOKENS, "layers 0 to 11, not 12"),
        (PRITHVI | {"mean": [1.0]}, (HLS,), 1, TOKENS, "each of 6 bands, they have 1 and 0"),
        (PRITHVI | {"model": "prithvi_eo_v2_tiny"}, (HLS,), 1, TOKENS, 'did you mean "prithvi_eo_v2_tiny_tl"'),
        (PRITHVI | {"merg": "mean"}, (HLS,), 1, TOKENS, 'terratorch: no option "merg", did you mean "merge"'),
        (TERRAMIND | {"pooling": "cls"}, (S2,), 1, WHOLE, "no class token"),
        ({"model": "timm_resnet18"}, (HLS,), 1, TOKENS, "give mean and std"),
    ],
)
def test_what_does_not_fit_a_model_is_refused(
    options: dict[str, Any], bands: tuple[tuple[str, ...], ...], frames: int, layout: ShardLayout, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        TerraTorch(options, layout, Inputs(bands=bands, frames=frames))


def test_weights_are_never_random_unless_the_campaign_says_so() -> None:
    options = {key: value for key, value in PRITHVI.items() if key != "random_seed"}
    nothing = FitSample(x_ntcyx=np.empty((0, 1, 6, 96, 96), dtype=np.float32), lat_ny=np.empty((0, 96)))
    with pytest.raises(ValueError, match="name their file with the layer's key `weights`"):
        TerraTorch(options, TOKENS, Inputs(bands=(HLS,))).fit(nothing)


def test_the_models_of_the_table_need_no_terratorch_to_be_checked() -> None:
    """Runs in a new process, in which TerraTorch is not imported."""
    code = (
        "import sys; from embedcube.backbones.terratorch.backbone import TerraTorch;"
        "from embedcube.grid import ShardLayout;"
        "from embedcube.backbones.base import Inputs, Weights; import numpy as np;"
        "layout = ShardLayout(chip_px=96, halo_px=16, cell_px=16, chips=2);"
        f"made = TerraTorch({TERRAMIND!r}, layout, Inputs(bands=({S2!r},)));"
        "none = Weights(mean=np.zeros(12), std=np.ones(12), tensors={});"
        "assert made.dimensions(none) == 192; assert TerraTorch.cards();"
        "assert not {'terratorch', 'timm', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# --- checkpoints ----------------------------------------------------------------------------------


@needs_terratorch
def test_bands_that_a_model_does_without_leave_its_other_weights_as_they_are() -> None:
    """Equal to TerraTorch's own selection of bands, and to a model of all bands that gets zeros for the others."""
    inputs = Inputs(bands=(S2[1:],))
    chips = some_chips(inputs, TOKENS)
    whole = directly("terramind_v1_tiny", modalities=["S2L2A"])
    options = {"model": "terramind_v1_tiny", "modalities": ["S2L2A"], "without": ["B1"]}
    backbone = TerraTorch(options, TOKENS, inputs)
    weights = backbone.load(safetensors.torch.save(whole.state_dict()))
    with torch.inference_mode():
        found = backbone.module(weights)(chips)
        x = torch.nn.functional.pad(chips.x_btcyx[:, 0], (0, 0, 0, 0, 1, 0))
        wanted = whole({"S2L2A": x})[-1].unflatten(1, (6, 6))[:, 1:5, 1:5]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


@needs_terratorch
def test_a_published_autoencoder_gives_its_encoder() -> None:
    """Prithvi is published with its decoder and with positions for four frames."""
    prithvi = importlib.import_module("terratorch.models.backbones.prithvi_vit")
    torch.manual_seed(1)
    whole = prithvi._create_prithvi("prithvi_eo_v2_tiny_tl", encoder_only=False, num_frames=4)
    buffer = safetensors.torch.save({name: t.contiguous() for name, t in whole.state_dict().items()})
    inputs = Inputs(bands=(HLS,))
    backbone = TerraTorch({"model": "prithvi_eo_v2_tiny_tl"}, TOKENS, inputs)
    weights = backbone.load(buffer)
    blocks = {name for name in weights.tensors if name.startswith("blocks.")}
    assert len(blocks) == 12 * 12
    for name in blocks:
        np.testing.assert_array_equal(weights.tensors[name], whole.state_dict()[f"encoder.{name}"])
    assert weights.tensors["pos_embed"].shape == (1, 197, 192)


@needs_terratorch
@pytest.mark.parametrize("what", ["a tensor is missing", "a tensor is of another shape", "no checkpoint", "a pickle"])
def test_what_is_no_checkpoint_of_the_model_is_refused(what: str, tmp_path: Path) -> None:
    state = directly("prithvi_eo_v2_tiny_tl").state_dict()
    data, said = b"nothing", "neither safetensors nor"
    if what == "a tensor is missing":
        del state["blocks.3.mlp.fc1.bias"]
        data, said = safetensors.torch.save(state), "blocks.3.mlp.fc1.bias is missing"
    elif what == "a tensor is of another shape":
        state["norm.weight"] = torch.ones(191)
        data, said = safetensors.torch.save(state), r"norm.weight is of shape \(191,\), not of shape \(192,\)"
    elif what == "a pickle":
        torch.save({"model": os.system}, tmp_path / "evil.pt")
        data, said = (tmp_path / "evil.pt").read_bytes(), "neither safetensors nor a checkpoint of torch"
    with pytest.raises(ValueError, match=said):
        TerraTorch({"model": "prithvi_eo_v2_tiny_tl"}, TOKENS, Inputs(bands=(HLS,))).load(data)


# --- cubes of real scenes -------------------------------------------------------------------------


def archives() -> dict[str, Any]:
    folder = REAL_DATA / "s1s2_ssl4eo_43RCP_2020"
    return {
        "s2": {"source": "sentinel2", "path": str(folder / "s2a"), "bands": list(S2)},
        "hls": {"source": "sentinel2", "path": str(folder / "s2a"), "bands": list(HLS)},
        "s1": {"source": "sentinel1", "path": str(folder / "s1"), "bands": ["VV", "VH"], "options": {"values": "db"}},
    }


def layer(names: Sequence[str], backbone: dict[str, Any]) -> dict[str, Any]:
    cut = {"chip_px": 96, "halo_px": 16, "cell_px": 16, "shard_chips": 2, "batch": 4, "encoding": "float32"}
    return {"archives": list(names), "backbone": {"name": "terratorch"} | backbone} | cut


def written(folder: Path, layers: dict[str, Any]) -> Campaign:
    used = {name for one in layers.values() for name in one["archives"]}
    document = {
        "campaign": "foundation",
        "archives": {name: archive for name, archive in archives().items() if name in used},
        "grid": {"crs": "EPSG:32643", "pixel": 10},
        "region": {"bbox": [73.300, 30.463, 73.310, 30.466]},
        "windows": [["2020-06-01", "2020-10-01"]],
        "layers": layers,
        "how": {"ranks": 1},
    }
    (folder / "campaign.yaml").write_text(yaml.safe_dump(document))
    return Campaign(folder / "campaign.yaml")


LAYERS: dict[str, dict[str, Any]] = {
    "s2_terramind": layer(["s2"], TERRAMIND),
    "s2s1_terramind": layer(["s2", "s1"], TERRAMIND | {"modalities": ["S2L2A", "S1GRD"]}),
    "s2_prithvi": layer(["hls"], PRITHVI),
    "s2_prithvi_months": layer(["hls"], PRITHVI) | {"frames": "1 month"},
    "s2_resnet": layer(["hls"], RESNET | {"mean": [2000.0] * 6, "std": [1000.0] * 6}),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    campaign = written(tmp_path_factory.mktemp("foundation"), LAYERS)
    assert "nothing found wrong" in campaign.cli("run")
    return campaign


@needs_terratorch
@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize("name", LAYERS)
def test_tokens_of_a_cube_of_several_chips_are_those_of_a_direct_call(finished: Campaign, name: str) -> None:
    """Each chip cut here from the pixels of its whole shard, halo included; the table is TerraTorch's."""
    with xarray.open_datatree(finished.run.newest_cube, engine="zarr") as tree:
        cube = tree[f"{name}/grid"].to_dataset().load()
    campaign = load_campaign(finished.file)
    weights, _ = read_weights(campaign, finished.run, name)
    module = make_backbone(campaign, name).module(weights)
    context = make_context(campaign, name, ["grid"], weights, module, torch.device("cpu"), batch=4)
    inventory = read_inventory(campaign, finished.run)
    plan = read_plan(campaign, finished.run)
    shards = [s for group in read_shards(finished.run, plan) for s in group if s.layer == name]
    reader, compared = RasterReader(threads=1), 0
    try:
        for shard in shards:
            sample = read_sample(shard, [inventory[i] for i in shard.scenes], context, reader)
            for i, j in np.ndindex(2, 2):
                window = np.s_[shard.iy * 8 + i * 4 :, shard.ix * 8 + j * 4 :]
                status = cube.status[0].values[window][:4, :4]
                if not (status == 1).any():
                    continue
                x_tcyx = sample.x_tcyx[..., i * 64 : i * 64 + 96, j * 64 : j * 64 + 96]
                area = context.layout.shard_area(shard.row, shard.col)
                lon, lat = context.grids["grid"].degrees(area, 16)
                where = [lat[i * 4 + 2, j * 4 + 2], lon[i * 4 + 2, j * 4 + 2]]
                wanted = reference(name, x_tcyx, where)
                found = cube.embedding[0].values[window][:4, :4]
                np.testing.assert_allclose(found[status == 1], wanted[status == 1], rtol=0, atol=2e-4)
                compared += int((status == 1).sum())
    finally:
        reader.close()
    assert compared == (cube.status == 1).sum() > 100
    assert len(shards) > 1


@needs_terratorch
@pytest.mark.slow
@pytest.mark.realdata
def test_a_plan_names_the_versions_of_what_computes(finished: Campaign) -> None:
    versions = read_plan(load_campaign(finished.file), finished.run).versions
    assert {name: versions[name] for name in ("terratorch", "timm")} == {
        name: metadata.version(name) for name in ("terratorch", "timm")
    }


@lru_cache(maxsize=1)
def theirs(name: str) -> Any:
    """TerraTorch's model of a layer."""
    bands = importlib.import_module("terratorch.models.backbones.prithvi_vit").PRETRAINED_BANDS
    if "terramind" in name:
        modalities = ["S2L2A", "S1GRD"] if "s2s1" in name else ["S2L2A"]
        # named, though it is all of them: TerraTorch then draws the patch embeddings' random start once more, as we do
        named = {modality: [TERRATORCH_BAND[band] for band in MODALITIES[modality].bands] for modality in modalities}
        return directly("terramind_v1_tiny", modalities=modalities, bands=named)
    if "prithvi" in name:
        return directly("prithvi_eo_v2_tiny_tl", num_frames=4 if "months" in name else 1, bands=bands)
    return directly("timm_resnet18", in_chans=6)


def reference(name: str, x_tcyx: NDArray[np.float32], where: list[float]) -> NDArray[np.float32]:
    """Tokens of one chip by TerraTorch, with its own normalisation, without the ring of tokens in the halo."""
    of = importlib.import_module("terratorch.models.backbones.terramind.model.terramind_register")
    prithvi = importlib.import_module("terratorch.models.backbones.prithvi_vit")
    model = theirs(name)

    def normal(x: NDArray[np.float32], mean: list[float], std: list[float]) -> torch.Tensor:
        chip = (x - np.array(mean)[:, None, None]) / np.array(std)[:, None, None]
        return torch.from_numpy(np.nan_to_num(chip, nan=0.0).astype(np.float32))[None]

    with torch.inference_mode():
        if "terramind" in name:
            keys = {"S2L2A": "untok_sen2l2a@224", "S1GRD": "untok_sen1grd@224"}
            cuts = {"S2L2A": slice(0, 12)} | ({"S1GRD": slice(12, 14)} if "s2s1" in name else {})
            mean, std = of.v1_pretraining_mean, of.v1_pretraining_std
            chip = {m: normal(x_tcyx[0, cut], mean[keys[m]], std[keys[m]]) for m, cut in cuts.items()}
            tokens = model(chip)[-1].unflatten(1, (6, 6))[0].numpy()
        elif "prithvi" in name:
            chips = normal(x_tcyx, prithvi.PRITHVI_V2_MEAN, prithvi.PRITHVI_V2_STD).transpose(1, 2)
            # 1 August; the middles of June, July, August and September
            days = [213.0] if len(x_tcyx) == 1 else [167.0, 197.0, 228.0, 259.0]
            dates = torch.tensor([[[2020.0, day] for day in days]])
            out = model(chips, dates, torch.tensor([where], dtype=torch.float32))
            tokens = model.prepare_features_for_image_model(out)[-1][0].permute(1, 2, 0).numpy()
        else:
            tokens = model(normal(x_tcyx[0], [2000.0] * 6, [1000.0] * 6))[3][0].permute(1, 2, 0).numpy()
    kept: NDArray[np.float32] = tokens[1:5, 1:5]
    return kept


@needs_terratorch
@pytest.mark.slow
@pytest.mark.realdata
def test_weights_saved_by_another_process_give_the_same_cube_and_a_flipped_byte_is_refused(
    finished: Campaign, tmp_path: Path
) -> None:
    file = tmp_path / "prithvi.pt"
    code = (
        "from embedcube.backbones.terratorch.registry import build; import torch;"
        "build('prithvi_eo_v2_tiny_tl', {}); from terratorch.registry import BACKBONE_REGISTRY; torch.manual_seed(7);"
        "model = BACKBONE_REGISTRY.build('prithvi_eo_v2_tiny_tl', pretrained=False, num_frames=1);"
        f"torch.save(model.state_dict(), {str(file)!r})"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=300)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    options = {key: value for key, value in PRITHVI.items() if key != "random_seed"}
    named = layer(["hls"], options) | {"weights": str(file), "weights_sha256": digest}
    campaign = written(tmp_path, {"s2_prithvi": named})
    campaign.cli("run")
    other = cube_bytes(finished.run.newest_cube)
    objects = {name: sha for name, sha in cube_bytes(campaign.run.newest_cube).items() if "/c." in name}
    assert objects == {name: sha for name, sha in other.items() if name.startswith("s2_prithvi/") and "/c." in name}
    assert {name.split("/")[2] for name in objects} == {"embedding", "status", "n_obs"}
    assert len(Cube(campaign.run.newest_cube).provenance.places) == 2

    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    flipped = hashlib.sha256(data).hexdigest()
    with pytest.raises(RequestError, match=f"{flipped}.*{digest}"):
        campaign.cli("fit")


# --- published weights ----------------------------------------------------------------------------


class Hub(BaseHTTPRequestHandler):
    """HTTP server with the part of the Hugging Face Hub that a download of one file needs."""

    files: ClassVar[dict[str, bytes]] = {}

    def do_HEAD(self) -> None:
        self._answer(whole=False)

    def do_GET(self) -> None:
        self._answer(whole=True)

    def _answer(self, *, whole: bool) -> None:
        data = self.files.get(self.path)
        self.send_response(404 if data is None else 200)
        data = data or b""
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        if whole:
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Environment of a process that downloads from a hub on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        # this process has switched hubs off when it imported TerraTorch
        yield {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "0"}
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@needs_terratorch
@pytest.mark.slow
def test_published_weights_are_fetched_once_and_become_the_runs_own(hub: dict[str, str], demo: Campaign) -> None:
    model = directly("prithvi_eo_v2_tiny_tl", num_frames=1)
    buffer = io.BytesIO()
    torch.save({f"encoder.{name}": tensor for name, tensor in model.state_dict().items()}, buffer)
    repository, file = KNOWN["prithvi_eo_v2_tiny_tl"].hub or ("", "")
    Hub.files = {f"/{repository}/resolve/main/{file}": buffer.getvalue()}
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    options = {"name": "terratorch", "model": "prithvi_eo_v2_tiny_tl"}
    cut = {
        "chip_px": 96,
        "halo_px": 16,
        "cell_px": 16,
        "shard_chips": 2,
        "backbone": options,
        "weights_sha256": "0" * 64,
    }

    def change(document: dict[str, Any]) -> None:
        document["archives"]["s2"]["bands"] = list(HLS)
        document["layers"] = {"s2_prithvi": {"archives": ["s2"]} | cut}

    demo.change(change)
    wrong = run_cli("weights", demo.file, environment=hub)
    assert wrong.returncode == 2
    assert f"has the SHA-256 {digest}, weights_sha256 is {'0' * 64}" in wrong.stderr
    demo.change(lambda document: document["layers"]["s2_prithvi"].pop("weights_sha256"))
    assert json.loads(demo.cli("weights", "--json", environment=hub)) == {"fetched": {"s2_prithvi": digest}}
    weights, _ = read_weights(load_campaign(demo.file), demo.run, "s2_prithvi")
    np.testing.assert_array_equal(weights.tensors["norm.weight"], model.state_dict()["norm.weight"])
    Hub.files = {}
    assert json.loads(demo.cli("weights", "--json", environment=hub)) == {"fetched": {}}
    demo.run.weights("s2_prithvi").unlink()
    elsewhere = run_cli("weights", demo.file, environment=hub | {"HF_HOME": hub["HF_HOME"] + "2"})
    assert elsewhere.returncode == 1
    assert "could not be fetched" in elsewhere.stderr
