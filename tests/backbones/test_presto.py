"""Presto compared with numbers from its authors' code and with a second implementation; masked inputs."""

import io
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from tests.backbones.reference_presto import presto
from tests.conftest import REAL_DATA

from embedcube.backbones.base import Chips, FitSample, Inputs, Weights, make_backbone
from embedcube.backbones.presto import GROUPS, MOST_FRAMES, Encoder, Presto
from embedcube.campaign.load import load_campaign
from embedcube.errors import RequestError
from embedcube.grid import ShardLayout
from embedcube.testing.contracts import check_backbone
from embedcube.windows import Window, dates_of

WEIGHTS = REAL_DATA / "weights_presto" / "default_model.pt"
GOLDEN = REAL_DATA / "weights_presto" / "golden.npz"

ALL = (
    ("VV", "VH"),
    ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12"),
    ("t2m", "tp"),
    ("elevation", "slope"),
)
NO_B8A = (("VV", "VH"), ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12"), ("t2m", "tp"))


def a_layout(chip_px: int) -> ShardLayout:
    """Layout of chips whose cells are single pixels."""
    return ShardLayout(chip_px=chip_px, halo_px=0, cell_px=1, chips=1)


def a_presto(bands: tuple[tuple[str, ...], ...] = ALL, *, frames: int = 3, chip_px: int = 1) -> Presto:
    """The backbone for archives of these bands."""
    return Presto({}, a_layout(chip_px), Inputs(bands=bands, frames=frames))


@pytest.fixture(scope="module")
def checkpoint() -> bytes:
    """Checkpoint in Presto's shape: random numbers, and a tensor of a decoder."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = Encoder(tuple(GROUPS)).state_dict()
        state["pos_embed"] = torch.randn_like(state["pos_embed"])
    return saved({f"encoder.{name}": tensor for name, tensor in state.items()} | {"decoder.mask_token": torch.zeros(3)})


def saved(content: object) -> bytes:
    """Bytes of a state dict as `torch.save` writes it."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def months(*numbers: int) -> tuple[Window, ...]:
    """Dates of frames that begin in these months (0 to 11)."""
    starts = [datetime(2021, number + 1, 1, tzinfo=UTC) for number in numbers]
    return tuple(Window(start, start + timedelta(days=28)) for start in starts)


def vectors_of(backbone: Presto, weights: Weights, chips: Chips) -> NDArray[np.float32]:
    """Vectors (n, 128) of all pixels."""
    with torch.inference_mode():
        vectors: NDArray[np.float32] = backbone.module(weights)(chips).flatten(0, 2).numpy()
    return vectors


# --- its numbers ----------------------------------------------------------------------------------


@pytest.mark.realdata
@pytest.mark.parametrize("masked", [False, True])
def test_the_encoder_gives_the_golden_vectors(masked: bool) -> None:
    golden = np.load(GOLDEN)
    weights = a_presto().load(WEIGHTS.read_bytes())
    encoder = Encoder(tuple(GROUPS)).eval()
    encoder.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in weights.tensors.items()})
    shown = golden["mask"] == 0 if masked else np.ones(golden["x"].shape, dtype=bool)
    land = np.full_like(golden["dynamic_world"], 9) if masked else golden["dynamic_world"]
    with torch.inference_mode():
        vectors = encoder(
            torch.from_numpy(golden["x"]),
            torch.from_numpy(shown),
            torch.from_numpy(golden["latlon"][:, ::-1].astype(np.float32)),
            torch.from_numpy(golden["month"]),
            torch.from_numpy(land),
        )
    expected = golden["embedding_masked" if masked else "embedding"]
    np.testing.assert_allclose(vectors.numpy(), expected, rtol=0, atol=1e-5)
    assert np.abs(golden["embedding_masked"] - golden["embedding"]).max() > 0.1


@pytest.mark.realdata
@pytest.mark.parametrize("radar", ["an archive that shows nothing", "no archive"])
def test_the_backbone_gives_the_golden_vectors_without_radar_from_raw_values(radar: str) -> None:
    golden = np.load(GOLDEN)
    weather = ("temperature_2m", "total_precipitation")
    archives = (ALL[1], weather, ALL[3]) if radar == "no archive" else (ALL[0], ALL[1], weather, ALL[3])
    columns = [golden["bands_raw"].tolist().index(band) for archive in archives for band in archive]
    backbone = a_presto(archives)
    weights = backbone.load(WEIGHTS.read_bytes())
    for i in range(0, 64, 8):
        raw_tc = golden["raw"][i][:, columns].astype(np.float32)
        x_btcyx = torch.from_numpy((raw_tc - weights.mean) / weights.std)[None, :, :, None, None]
        clear_btsyx = torch.ones((1, 3, len(archives), 1, 1), dtype=torch.bool)
        clear_btsyx[:, :, 0] = radar == "no archive"
        lonlat_byxn = torch.from_numpy(golden["latlon"][i, ::-1].astype(np.float32))[None, None, None]
        chips = Chips(
            x_btcyx=x_btcyx,
            clear_btsyx=clear_btsyx,
            lonlat_byxn=lonlat_byxn,
            dates_tmd=torch.from_numpy(dates_of(months(*golden["month"][i]))),
        )
        vector = vectors_of(backbone, weights, chips)[0]
        np.testing.assert_allclose(vector, golden["embedding_masked"][i], rtol=0, atol=1e-5)


def some_chips(bands: tuple[tuple[str, ...], ...], frames: int, side: int, weights: Weights) -> Chips:
    """Two chips of plausible values; a random third of them is masked."""
    rng = np.random.default_rng(3)
    channels = sum(map(len, bands))
    raw = weights.mean + weights.std * rng.uniform(0, 1, (2, side, side, frames, channels))
    x_btcyx = ((raw - weights.mean) / weights.std).astype(np.float32).transpose(0, 3, 4, 1, 2)
    clear_btsyx = rng.random((2, frames, len(bands), side, side)) < 0.66
    clear_btsyx[0, :, :, 0, 0] = False  # a pixel that nothing shows
    archive_of = np.repeat(np.arange(len(bands)), [len(names) for names in bands])
    return Chips(
        x_btcyx=torch.from_numpy(np.where(clear_btsyx[:, :, archive_of], x_btcyx, 0)),
        clear_btsyx=torch.from_numpy(clear_btsyx),
        lonlat_byxn=torch.from_numpy(rng.uniform(-80, 80, (2, side, side, 2)).astype(np.float32)),
        dates_tmd=torch.from_numpy(dates_of(months(*(i * 5 % 12 for i in range(frames))))),
    )


@pytest.mark.parametrize(
    ("bands", "frames"), [(ALL, 4), (NO_B8A, 5), (ALL[3:], 3), ((("B08",), ("B04", "B02", "B03")), 2)]
)
def test_what_is_shown_of_each_pixel_makes_its_vector(
    bands: tuple[tuple[str, ...], ...], frames: int, checkpoint: bytes
) -> None:
    backbone = a_presto(bands, frames=frames, chip_px=4)
    weights = backbone.load(checkpoint)
    chips = some_chips(bands, frames, 4, weights)
    found = vectors_of(backbone, weights, chips).reshape(2, 4, 4, 128)
    names = [re.sub("^B0", "B", band) for archive in bands for band in archive]
    archive_of = [s for s, archive in enumerate(bands) for _ in archive]
    raw_btcyx = chips.x_btcyx.numpy() * weights.std[:, None, None] + weights.mean[:, None, None]
    for b, i, j in np.ndindex(2, 4, 4):
        shown = [
            {
                name: float(raw_btcyx[b, t, c, i, j])
                for c, name in enumerate(names)
                if chips.clear_btsyx[b, t, archive_of[c], i, j]
            }
            for t in range(frames)
        ]
        lonlat = chips.lonlat_byxn[b, i, j].tolist()
        expected = presto(weights.tensors, shown, [t * 5 % 12 for t in range(frames)], lonlat)
        np.testing.assert_allclose(found[b, i, j], expected, rtol=0, atol=2e-5)


# --- each pixel on its own ------------------------------------------------------------------------


def test_what_is_not_shown_may_be_anything(checkpoint: bytes) -> None:
    backbone = a_presto(ALL, chip_px=4)
    weights = backbone.load(checkpoint)
    chips = some_chips(ALL, 3, 4, weights)
    shown = chips.clear_btsyx[:, :, [s for s, archive in enumerate(ALL) for _ in archive]]
    plain = vectors_of(backbone, weights, chips)
    for value in (1e6, -3.0, float("nan"), float("inf")):
        other = replace(chips, x_btcyx=torch.where(shown, chips.x_btcyx, value))
        np.testing.assert_array_equal(vectors_of(backbone, weights, other), plain)


def test_pixels_in_another_order_have_the_same_vectors(checkpoint: bytes) -> None:
    backbone = a_presto(ALL, chip_px=7)
    weights = backbone.load(checkpoint)
    chips = some_chips(ALL, 3, 7, weights)
    order = torch.randperm(49, generator=torch.Generator().manual_seed(1))

    def permuted(x: torch.Tensor, axis: int) -> torch.Tensor:
        flat = x.flatten(axis, axis + 1)
        return flat.index_select(axis, order).reshape(x.shape)

    other = replace(
        chips,
        x_btcyx=permuted(chips.x_btcyx, 3),
        clear_btsyx=permuted(chips.clear_btsyx, 3),
        lonlat_byxn=permuted(chips.lonlat_byxn, 1),
    )
    plain = vectors_of(backbone, weights, chips).reshape(2, 49, 128)
    moved = vectors_of(backbone, weights, other).reshape(2, 49, 128)
    np.testing.assert_array_equal(moved, plain[:, order])
    assert len(np.unique(plain[0], axis=0)) == 49


@pytest.mark.parametrize(("bands", "frames", "chip_px"), [(ALL, 3, 4), (NO_B8A, 2, 5), ((("vv", "vh"),), 1, 1)])
def test_it_keeps_the_contract(
    bands: tuple[tuple[str, ...], ...], frames: int, chip_px: int, checkpoint: bytes
) -> None:
    check_backbone(
        lambda: a_presto(bands, frames=frames, chip_px=chip_px),
        layout=a_layout(chip_px),
        inputs=Inputs(bands=bands, frames=frames),
        checkpoint=checkpoint,
    )


# --- what it takes --------------------------------------------------------------------------------


def test_bands_are_known_by_name_and_normalised_as_it_was_trained(checkpoint: bytes) -> None:
    weights = a_presto((("slope", "elevation"), ("tp", "2t"), ("vh", "VV"), ("B8A", "B12", "B11"))).load(checkpoint)
    np.testing.assert_array_equal(weights.mean, np.array([0, 0, 0, 272.15, -25, -25, 0, 0, 0], dtype=np.float32))
    np.testing.assert_array_equal(weights.std, np.array([50, 2000, 0.03, 35, 25, 25, 1e4, 1e4, 1e4], dtype=np.float32))
    assert not any("decoder" in name or name.startswith("encoder") for name in weights.tensors)


def test_spelling_and_order_of_bands_do_not_matter(checkpoint: bytes) -> None:
    plain = a_presto((("VV", "VH"), ("B2", "B3", "B4", "B8"), ("t2m", "tp")))
    other = a_presto((("B08", "b04", "B03", "B02"), ("total_precipitation", "temperature_2m"), ("vh", "vv")))
    weights = plain.load(checkpoint)
    chips = some_chips((("VV", "VH"), ("B2", "B3", "B4", "B8"), ("t2m", "tp")), 3, 1, weights)
    turned = replace(
        chips,
        x_btcyx=chips.x_btcyx[:, :, [5, 4, 3, 2, 7, 6, 1, 0]],
        clear_btsyx=chips.clear_btsyx[:, :, [1, 2, 0]],
    )
    np.testing.assert_array_equal(vectors_of(plain, weights, chips), vectors_of(other, other.load(checkpoint), turned))


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        ((("B02", "B03", "B04", "B09"),), 'does not know the band "B09"; it knows vv, vh, b02'),
        ((("VV", "VH"), ("SCL",)), 'does not know the band "SCL"'),
        ((("B04", "B08"), ("b4",)), '"B04" and "b4" are one channel'),
        ((("VV",),), 'band "VV" is of no use without vh'),
        ((("B8A", "B05", "B06"),), 'band "B05" is of no use without b07'),
        ((("B08", "B02"),), 'band "B02" is of no use without b03, b04'),
    ],
)
def test_bands_without_a_use_are_refused(bands: tuple[tuple[str, ...], ...], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        a_presto(bands)


def test_wrong_layouts_and_options_are_refused() -> None:
    inputs = Inputs(bands=ALL, frames=12)
    with pytest.raises(ValueError, match="cell_px must be 1 and halo_px 0, they are 4 and 0"):
        Presto({}, ShardLayout(chip_px=8, halo_px=0, cell_px=4, chips=1), inputs)
    with pytest.raises(ValueError, match="they are 1 and 2"):
        Presto({}, ShardLayout(chip_px=8, halo_px=2, cell_px=1, chips=1), inputs)
    with pytest.raises(ValueError, match="24 frames at most, a window has 25"):
        a_presto(frames=MOST_FRAMES + 1)
    with pytest.raises(ValueError, match='no option "depth"'):
        Presto({"depth": 2}, a_layout(8), inputs)


def test_it_says_how_it_gets_its_weights() -> None:
    sample = FitSample(x_ntcyx=np.zeros((1, 3, 16, 1, 1), np.float32), lat_ny=np.zeros((1, 1)))
    assert a_presto().fit_chips == 0
    with pytest.raises(ValueError, match="`weights`"):
        a_presto().fit(sample)


def test_what_is_no_checkpoint_of_it_is_refused(checkpoint: bytes) -> None:
    state = torch.load(io.BytesIO(checkpoint), weights_only=True)
    lacking = {name: tensor for name, tensor in state.items() if name != "encoder.norm.bias"}
    other = state | {"encoder.month_embed.weight": torch.zeros(12, 16)}
    deeper = state | {"encoder.blocks.2.norm1.bias": torch.zeros(128)}
    halved = state | {"encoder.norm.bias": state["encoder.norm.bias"].half()}
    cases = {
        saved(deeper): "encoder.blocks.2.norm1.bias is torch.float32, which Presto does not have",
        saved(halved): "encoder.norm.bias is torch.float16, not torch.float32",
        b"": "nor a checkpoint of torch",
        b"\x00" * 100: "nor a checkpoint of torch",
        checkpoint[: len(checkpoint) // 2]: "nor a checkpoint of torch",
        saved([1, 2]): "a list, not a state dict",
        saved({"weight": torch.zeros(2)}): "is missing",
        saved(lacking): "encoder.norm.bias is missing",
        saved(other): re.escape("encoder.month_embed.weight is of shape (12, 16), not of shape (12, 32)"),
    }
    for content, message in cases.items():
        with pytest.raises(ValueError, match=message):
            a_presto().load(content)


def test_a_layer_with_an_unknown_band_is_refused(tmp_path: Path) -> None:
    campaign = {
        "campaign": "pixels",
        "archives": {"s2": {"source": "sentinel2", "path": ".", "bands": ["B02", "B03", "B04", "B01"]}},
        "grid": {"crs": "EPSG:32631", "pixel": 10},
        "windows": {"start": "2021-01-01", "end": "2022-01-01", "step": "1 year"},
        "layers": {
            "pixels": {
                "archives": ["s2"],
                "frames": "1 month",
                "backbone": {"name": "presto"},
                "chip_px": 10,
                "halo_px": 0,
                "cell_px": 1,
            }
        },
    }
    file = tmp_path / "campaign.yaml"
    file.write_text(yaml.safe_dump(campaign))
    with pytest.raises(RequestError, match=r'layers.pixels.backbone: presto does not know the band "B01"'):
        make_backbone(load_campaign(file), "pixels")
