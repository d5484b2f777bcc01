"""Modules of users as layers: exported programs, and state dicts for the modules of a factory."""

import contextlib
import hashlib
import io
import json
import logging
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import xarray
import yaml
from tests.conftest import Campaign, cube_bytes
from tests.plugins.plain_models import SmallCnn, SmallVit
from torch import Tensor, nn

from embedcube.backbones.base import Chips, FitSample, Inputs
from embedcube.backbones.normalisation import MODALITIES
from embedcube.backbones.torch_module.backbone import LAYOUTS, Torch
from embedcube.backbones.torch_module.outputs import Reading, Vectors
from embedcube.backbones.torch_module.trial import tried
from embedcube.backbones.weights import read_weights
from embedcube.campaign.inventory import read_inventory
from embedcube.campaign.load import load_campaign
from embedcube.campaign.plan import read_plan, read_shards
from embedcube.errors import RequestError
from embedcube.grid import ShardLayout
from embedcube.kernel.load import make_context
from embedcube.kernel.sample import read_sample
from embedcube.sources.reader import RasterReader
from embedcube.testing.contracts import check_backbone
from embedcube.windows import dates_of

RGB = Inputs(bands=(("B02", "B03", "B04"),))
MONTHS = Inputs(bands=(("B02", "B03"), ("VV",)), frames=3)
MAPS = ShardLayout(chip_px=64, halo_px=16, cell_px=8, chips=2)
TOKENS = ShardLayout(chip_px=64, halo_px=16, cell_px=16, chips=2)
WHOLE = ShardLayout(chip_px=64, halo_px=16, cell_px=32, chips=2)
ANY_BATCH = ({0: torch.export.Dim.DYNAMIC},)
PLAIN = {"normalisation": "none"}


def cnn(bands: int = 3) -> SmallCnn:
    torch.manual_seed(5)
    made = SmallCnn(bands)
    made.stem.get_buffer("1.running_mean").uniform_(-1, 1)
    return made.eval()


def vit() -> SmallVit:
    torch.manual_seed(5)
    return SmallVit(bands=3, frames=3, side=64).eval()


def exported(module: nn.Module, shape: tuple[int, ...], dynamic: Any = ANY_BATCH) -> bytes:
    """Bytes of an exported program, as `torch.export.save` writes them."""
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(module, (torch.zeros(shape),), dynamic_shapes=dynamic), buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def cnn_file() -> bytes:
    return exported(cnn(), (2, 3, 64, 64))


@pytest.fixture(scope="module")
def vit_file() -> bytes:
    return exported(vit(), (2, 3, 3, 64, 64))


def some_chips(inputs: Inputs, batch: int = 5) -> Chips:
    rng = np.random.default_rng(3)
    shape = (batch, inputs.frames, inputs.channels, 64, 64)
    return Chips(
        x_btcyx=torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)),
        clear_btsyx=torch.ones((batch, inputs.frames, len(inputs.bands), 64, 64), dtype=torch.bool),
        lonlat_byxn=torch.zeros((batch, 1, 1, 2)),
        dates_tmd=torch.from_numpy(dates_of(())),
    )


def embedded(options: dict[str, Any], checkpoint: bytes, layout: ShardLayout, inputs: Inputs) -> Tensor:
    backbone = Torch(options, layout, inputs)
    weights = backbone.load(checkpoint)
    with torch.inference_mode():
        vectors: Tensor = backbone.module(weights)(some_chips(inputs))
    assert vectors.shape[-1] == backbone.dimensions(weights)
    return vectors


def as_backbone(module: nn.Module, options: dict[str, Any], layout: ShardLayout, takes: str = "bcyx") -> Vectors:
    """The module, wrapped by the backbone `torch`."""
    reading = Reading(name="it", **({"output": None, "prefix_tokens": None, "pooling": "none"} | options))
    return Vectors(module.eval(), LAYOUTS[takes], reading, layout)


def refused(options: dict[str, Any], checkpoint: bytes, said: str, layout: ShardLayout = MAPS) -> None:
    with pytest.raises(ValueError, match=said):
        Torch(options, layout, RGB).load(checkpoint)


# --- vectors of chips -----------------------------------------------------------------------------


def test_a_programs_map_is_that_of_a_direct_call_bit_for_bit(cnn_file: bytes) -> None:
    found = embedded(PLAIN, cnn_file, MAPS, RGB)
    with torch.inference_mode():
        wanted = cnn()(some_chips(RGB).x_btcyx[:, 0]).permute(0, 2, 3, 1)[:, 2:6, 2:6]
    assert torch.equal(found, wanted)
    assert found.std() > 0.01


def test_a_program_computes_in_the_precision_that_it_is_asked_for(cnn_file: bytes) -> None:
    """The kernel sets the precision with autocast; a program that was exported in float32 follows it."""
    with torch.autocast("cpu", torch.bfloat16):
        found = embedded(PLAIN, cnn_file, MAPS, RGB)
        with torch.inference_mode():
            wanted = cnn()(some_chips(RGB).x_btcyx[:, 0]).float().permute(0, 2, 3, 1)[:, 2:6, 2:6]
    assert torch.equal(found, wanted)
    assert 0 < (found - embedded(PLAIN, cnn_file, MAPS, RGB)).abs().max() < 0.05


def test_a_programs_tokens_of_several_frames_are_those_of_a_direct_call_bit_for_bit(vit_file: bytes) -> None:
    found = embedded(PLAIN | {"takes": "btcyx"}, vit_file, TOKENS, MONTHS)
    with torch.inference_mode():
        wanted = vit()(some_chips(MONTHS).x_btcyx)
    assert wanted.shape == (5, 2 + 16, 48), "a class token and a register before them"
    assert torch.equal(found, wanted[:, 2:].unflatten(1, (4, 4))[:, 1:3, 1:3])


def test_a_pooled_chip_is_one_vector_of_the_tokens_that_are_kept() -> None:
    chips = some_chips(MONTHS)
    with torch.inference_mode():
        out = vit()(chips.x_btcyx).numpy()
    kept = out[:, 2:].reshape(5, 4, 4, 48)[:, 1:3, 1:3]
    for pooling, wanted in {"mean": kept.mean(axis=(1, 2)), "max": kept.max(axis=(1, 2)), "cls": out[:, 0]}.items():
        with torch.inference_mode():
            found = as_backbone(vit(), {"pooling": pooling}, WHOLE, "btcyx")(chips)
        np.testing.assert_allclose(found, wanted[:, None, None], rtol=0, atol=1e-6, err_msg=pooling)


def test_a_state_dict_in_what_a_factory_makes_gives_what_the_program_gives(cnn_file: bytes, vit_file: bytes) -> None:
    for module, options, file, layout, inputs in (
        (cnn(), {"factory": "small_cnn", "arguments": {"bands": 3}}, cnn_file, MAPS, RGB),
        (
            vit(),
            {"factory": "small_vit", "arguments": {"bands": 3, "frames": 3, "side": 64}, "takes": "btcyx"},
            vit_file, TOKENS, MONTHS,
        ),
    ):  # fmt: skip
        without = {key: value for key, value in options.items() if key == "takes"}
        found = embedded(PLAIN | options, safetensors.torch.save(module.state_dict()), layout, inputs)
        assert torch.equal(found, embedded(PLAIN | without, file, layout, inputs))


@pytest.mark.parametrize(("batch", "shown"), [(4, 4), (7, 7)])
def test_a_program_of_a_fixed_batch_is_given_pieces_of_it(batch: int, shown: int) -> None:
    found = embedded(PLAIN, exported(cnn(), (batch, 3, 64, 64), None), MAPS, RGB)
    x_bcyx = torch.zeros((shown * -(-5 // shown), 3, 64, 64))
    x_bcyx[:5] = some_chips(RGB).x_btcyx[:, 0]
    with torch.inference_mode():
        wanted = torch.cat([cnn()(piece) for piece in x_bcyx.split(shown)])[:5]
    assert torch.equal(found, wanted.permute(0, 2, 3, 1)[:, 2:6, 2:6])


def test_a_program_of_at_most_so_many_chips_is_given_no_more(cnn_file: bytes) -> None:
    file = exported(cnn(), (2, 3, 64, 64), ({0: torch.export.Dim("batch", max=3)},))
    found = embedded(PLAIN, file, MAPS, RGB)
    np.testing.assert_allclose(found, embedded(PLAIN, cnn_file, MAPS, RGB), rtol=0, atol=1e-6)


class Several(nn.Module):
    """A module with one of these outputs: two maps by name, a vector of the chip, a map with the features last."""

    def __init__(self, what: str = "names") -> None:
        super().__init__()
        self.inner, self._what = SmallCnn(3), what

    def forward(self, x: Tensor) -> Any:
        made = self.inner(x)
        if self._what == "names":
            return {"coarse": made, "fine": x}
        if self._what == "last":
            return made.permute(0, 2, 3, 1)
        return [x, made.mean(dim=(2, 3))] if self._what == "a list" else made.mean(dim=(2, 3))


@pytest.mark.parametrize(
    ("what", "output", "layout"),
    [
        ("names", "coarse", MAPS),
        ("last", None, MAPS),
        ("a vector", None, WHOLE),
        ("a list", 1, WHOLE),
        ("a list", -1, WHOLE),
    ],
)
def test_the_form_of_what_is_given_is_found(what: str, output: Any, layout: ShardLayout) -> None:
    module = Several(what)
    wrapped = as_backbone(module, {"output": output}, layout)
    assert tried(wrapped, "it", layout, RGB, 2).dimensions == 24
    with torch.inference_mode():
        found, map_bdyx = wrapped(some_chips(RGB)), module.inner(some_chips(RGB).x_btcyx[:, 0])
    if layout is MAPS:
        assert torch.equal(found, map_bdyx.permute(0, 2, 3, 1)[:, 2:6, 2:6])
    else:
        assert torch.equal(found, map_bdyx.mean(dim=(2, 3))[:, None, None])


def test_a_named_table_normalises_each_band(cnn_file: bytes) -> None:
    weights = Torch({"normalisation": "S2L2A"}, MAPS, RGB).load(cnn_file)
    table = [MODALITIES["S2L2A"].of[band] for band in RGB.bands[0]]
    np.testing.assert_array_equal(weights.mean, np.array([mean for mean, _ in table], dtype=np.float32))
    np.testing.assert_array_equal(weights.std, np.array([std for _, std in table], dtype=np.float32))


def test_programs_and_state_dicts_keep_the_contract_of_a_backbone(cnn_file: bytes, vit_file: bytes) -> None:
    made = {"factory": "small_cnn", "arguments": {"bands": 3}}
    for options, layout, inputs, file in (
        (PLAIN, MAPS, RGB, cnn_file),
        (PLAIN, MAPS, RGB, exported(cnn(), (3, 3, 64, 64), None)),
        (PLAIN | made, MAPS, RGB, safetensors.torch.save(cnn().state_dict())),
        (PLAIN | {"takes": "btcyx"}, TOKENS, MONTHS, vit_file),
    ):

        def make(options: Any = options, layout: ShardLayout = layout, inputs: Inputs = inputs) -> Torch:
            return Torch(options, layout, inputs)

        check_backbone(make, layout=layout, inputs=inputs, checkpoint=file)


def test_what_a_program_makes_out_of_nothing_is_made_where_the_module_lies(cnn_file: bytes) -> None:
    backbone = Torch(PLAIN, MAPS, RGB)
    module = backbone.module(backbone.load(cnn_file)).to("meta")
    chips = some_chips(RGB)
    with torch.inference_mode():
        made = module(
            Chips(
                x_btcyx=chips.x_btcyx.to("meta"),
                clear_btsyx=chips.clear_btsyx,
                lonlat_byxn=chips.lonlat_byxn,
                dates_tmd=chips.dates_tmd,
            )
        )
    assert made.device.type == "meta"


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "say how the 3 bands are normalised: either mean and std"),
        (PLAIN | {"mean": [1.0], "std": [1.0]}, "either mean and std, a number for each; or"),
        ({"mean": [1.0, 2.0], "std": [1.0, 2.0]}, "each of 3 bands, they have 2 and 2"),
        ({"mean": [1.0] * 3, "std": [1.0, 0.0, 1.0]}, "std is not positive"),
        ({"normalisation": "S2"}, "'S2' is neither none nor, for each of 1 archives, one of S2L2A"),
        ({"normalisation": "S1GRD"}, 'the table S1GRD has no band "B02"; it has VV, VH'),
        (PLAIN | {"pool": "mean"}, 'torch: no option "pool", did you mean "pooling"'),
        (
            PLAIN | {"pooling": "median"},
            "torch.pooling: .* 'none', 'mean', 'max', 'min' or 'cls' .found 'median'",
        ),
        (PLAIN | {"takes": "byxc"}, "torch.takes: Input should be 'bcyx', 'btcyx' or 'bctyx' .found 'byxc'"),
        (PLAIN | {"arguments": {"bands": 3}}, "arguments are for a `factory`"),
        (PLAIN | {"factory": "small_cmn"}, 'no factory "small_cmn".*embedcube.models; there are: small_cnn, small_vit'),
        ({"mean": 5, "std": [1.0]}, "torch.mean: Input should be a valid tuple .found 5"),
        (PLAIN | {"prefix_tokens": -1}, "torch.prefix_tokens: Input should be greater than or equal to 0 .found -1"),
        (PLAIN | {"card": "mine"}, 'torch.card: "mine" is not a URI'),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Torch(options, MAPS, RGB)


def test_several_frames_are_not_guessed_at() -> None:
    with pytest.raises(ValueError, match="a window has 3 frames, bcyx has one; say `takes: btcyx` or"):
        Torch(PLAIN, MAPS, MONTHS)
    with pytest.raises(ValueError, match="a window has 3 frames, bcyx has one"):
        Torch(PLAIN | {"takes": "bcyx"}, MAPS, MONTHS)


def test_a_module_without_weights_is_refused() -> None:
    nothing = FitSample(x_ntcyx=np.empty((0, 1, 3, 64, 64), dtype=np.float32), lat_ny=np.empty((0, 64)))
    with pytest.raises(ValueError, match=r"name the layer's `weights`: a file of torch.export.save"):
        Torch(PLAIN, MAPS, RGB).fit(nothing)


def test_a_state_dict_that_is_not_the_modules_is_refused_by_its_keys() -> None:
    options = PLAIN | {"factory": "small_cnn", "arguments": {"bands": 3}}
    state = cnn().state_dict()
    lacking = {key: tensor for key, tensor in state.items() if key != "down.bias"}
    renamed = {key.replace("down.", "up."): tensor for key, tensor in state.items()}
    save = safetensors.torch.save
    refused(options, save(lacking), "not a checkpoint of small_cnn: down.bias is missing")
    refused(
        options,
        save(renamed),
        "has up.bias, up.weight, which the module does not have, and lacks down.bias, down.weight",
    )
    refused(
        options, save(cnn(4).state_dict()), r"stem.0.weight is of shape \(16, 4, 3, 3\), not of shape \(16, 3, 3, 3\)"
    )
    refused(options, b"nothing", "neither safetensors nor a checkpoint of torch")
    refused(options | {"arguments": {"channels": 3}}, save(state), "small_cnn.*unexpected keyword argument 'channels'")
    four = options | {"arguments": {"bands": 4}}
    refused(four, save(cnn(4).state_dict()), r"small_cnn does not take chips.*\(2, 1, 3, 64, 64\).*4 channels")


def test_a_program_that_does_not_take_the_chips_is_refused(cnn_file: bytes, vit_file: bytes) -> None:
    refused(PLAIN, exported(cnn(4), (2, 4, 64, 64)), r"chips of 4 bands \(c of bcyx\), the layer's have 3")
    refused(PLAIN, exported(cnn(), (2, 3, 96, 64)), "chips of 96 px .*, the layer's have 64")
    refused(PLAIN, vit_file, "a tensor of 5 axes, the layer's chips have those of bcyx")
    refused(PLAIN, exported(cnn(), (1, 3, 64, 64), None), "one chip at a time.*dynamic_shapes=")
    factory = PLAIN | {"factory": "small_cnn", "arguments": {"bands": 3}}
    refused(factory, cnn_file, "an exported program, which needs no `factory`")
    refused(PLAIN, safetensors.torch.save(cnn().state_dict()), "not a file of torch.export.save")


@pytest.mark.parametrize(
    ("module", "options", "layout", "said"),
    [
        (SmallCnn(3), {}, TOKENS, "a cell of it is a token: cell_px must be 8, it is 16"),
        (SmallCnn(3), {"pooling": "mean"}, MAPS, r"centre of a chip \(pooling mean\): cell_px must be 32, it is 8"),
        (SmallCnn(3), {"pooling": "cls"}, WHOLE, "it gives no class token before its grid"),
        (SmallCnn(3), {"output": 1}, MAPS, "it gives one tensor; leave `output` out .it is 1"),
        (SmallCnn(3, width=8), {}, MAPS, r"\(2, 8, 8, 8\), which can be \(b, d, y, x\) or \(b, y, x, d\)"),
        (Several(), {}, MAPS, "it gives a dict of coarse, fine; set `output` to the key of one tensor .it is None"),
        (
            Several("a list"),
            {"output": 2},
            MAPS,
            "it gives a list of 0, 1; set `output` to the key of one tensor .it is 2",
        ),
        (Several("a vector"), {}, MAPS, "is the kept centre of a chip: cell_px must be 32, it is 8"),
        (Several("a vector"), {"pooling": "max"}, WHOLE, "there is nothing to pool"),
        (
            nn.Flatten(1, 2),
            {"prefix_tokens": 2},
            MAPS,
            "gives 192 tokens; without the first 2 .* they are not a square",
        ),
        (nn.Upsample(96), {}, MAPS, "it gives 96 x 96 cells per chip of 64 px"),
        (nn.Unflatten(1, (3, 1)), {}, MAPS, r"gives \(2, 3, 1, 64, 64\): neither maps \(b, d, y, x\), nor tokens"),
    ],
)
def test_an_output_that_is_no_cells_of_the_chip_is_refused(
    module: nn.Module, options: dict[str, Any], layout: ShardLayout, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        tried(as_backbone(module, options, layout), "it", layout, RGB, 2)


class Dropping(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5, training=True)


class Crowd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(dim=0)


def test_a_module_that_knows_the_other_chips_of_a_batch_is_refused() -> None:
    refused(
        PLAIN, exported(SmallCnn(3).train(), (2, 3, 64, 64)), "when others are beside it.*BatchNorm in training mode"
    )
    pixels = ShardLayout(chip_px=64, halo_px=16, cell_px=1, chips=2)
    for module, said in (
        (Crowd(), "when others are beside it in the batch"),
        (Dropping(), "in a second pass: it is random"),
    ):
        with pytest.raises(ValueError, match=said):
            tried(as_backbone(module, {}, pixels), "it", pixels, RGB, 2)


def test_weights_taken_in_for_other_chips_are_refused(cnn_file: bytes) -> None:
    weights = Torch(PLAIN, MAPS, RGB).load(cnn_file)
    other = ShardLayout(chip_px=128, halo_px=16, cell_px=8, chips=2)
    with pytest.raises(RequestError, match=r"are \(128, 16, 8, 1\), the program was tried with \(64, 16, 8, 1\)"):
        Torch(PLAIN, other, RGB).module(weights)


# --- files that would run code --------------------------------------------------------------------


GRAPH, SIZES = "models/model.json", "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"


class Evil:
    """An object that creates a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._trace,)


def changed(archive: bytes, change: Callable[[dict[str, bytes]], None]) -> bytes:
    """A copy of the archive; `change` edits its parts in place, by their names."""
    with zipfile.ZipFile(io.BytesIO(archive)) as whole:
        parts = {name.partition("/")[2]: whole.read(name) for name in whole.namelist()}
    change(parts)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as copy:
        for name, data in parts.items():
            copy.writestr(f"model/{name}", data)
    return buffer.getvalue()


def edited(archive: bytes, name: str, edit: Callable[[Any], None]) -> bytes:
    """A copy of the archive; `edit` changes one of its JSON documents in place."""

    def change(parts: dict[str, bytes]) -> None:
        document = json.loads(parts[name])
        edit(document)
        parts[name] = json.dumps(document).encode()

    return changed(archive, change)


def archive_with(way: str, archive: bytes, trace: Path) -> bytes:
    """An archive that creates the file `trace` if its code is run."""
    code, data = f"__import__('os').mkdir({str(trace)!r})", io.BytesIO()
    torch.save(((Evil(trace),), {}), data)

    def tensor(parts: dict[str, bytes]) -> None:
        document = json.loads(parts[SIZES])
        document["config"]["down.bias"]["use_pickle"] = True
        parts[SIZES] = json.dumps(document).encode()
        parts[f"data/weights/{document['config']['down.bias']['path_name']}"] = data.getvalue()

    def opaque(parts: dict[str, bytes]) -> None:
        document = json.loads(parts[CONSTANTS])
        document["config"]["it"] = {
            "path_name": "opaque_obj_0",
            "is_param": False,
            "use_pickle": True,
            "tensor_meta": None,
        }
        parts[CONSTANTS] = json.dumps(document).encode()
        parts["data/constants/opaque_obj_0"] = pickle.dumps(Evil(trace))

    def name(parts: dict[str, bytes]) -> None:
        graph, evil = parts[GRAPH].decode(), f"x=({code})"
        parts[GRAPH] = (
            graph.replace('"name": "x"', f'"name": "{evil}"').replace('"x": {"dtype"', f'"{evil}": {{"dtype"').encode()
        )

    def size(document: Any) -> None:
        document["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][0]["as_expr"]["expr_str"] = code

    def target(document: Any, target: str) -> None:
        document["graph_module"]["graph"]["nodes"][0]["target"] = target

    def form(document: Any) -> None:
        signature = document["graph_module"]["module_call_graph"][0]["signature"]
        signature["out_spec"] = json.dumps([1, {"type": "evil.Type", "context": "null", "children_spec": []}])

    ways: dict[str, Callable[[], bytes]] = {
        "example inputs": lambda: changed(
            archive, lambda parts: parts.update({"data/sample_inputs/model.pt": data.getvalue()})
        ),
        "a check": lambda: edited(archive, GRAPH, lambda document: document.update(guards_code=[f"{code} != 1"])),
        "a tensor": lambda: changed(archive, tensor),
        "an object": lambda: changed(archive, opaque),
        "a size": lambda: edited(archive, GRAPH, size),
        "a name": lambda: changed(archive, name),
        "a call": lambda: edited(archive, GRAPH, lambda document: target(document, "torch.os.mkdir")),
        "a file": lambda: edited(archive, GRAPH, lambda document: target(document, "torch.ops.aten.from_file.default")),
        "a form": lambda: edited(archive, GRAPH, form),
        "machine code": lambda: changed(
            archive, lambda parts: parts.update({"data/aotinductor/model/m.so": b"\x7fELF"})
        ),
        "an old checkpoint": lambda: changed(
            archive, lambda parts: parts.update({"data/weights/model.pt": data.getvalue()})
        ),
    }
    return ways[way]()


REFUSED = {
    "a tensor": "its down.bias is pickled, which is refused",
    "an object": "its it is pickled, which is refused",
    "a size": r'says "__import__.*\(expr_str\), which is refused',
    "a name": r'says "x=\(__import__.*which is refused',
    "a call": r'says "torch.os.mkdir" \(target\)',
    "a file": r'says "torch.ops.aten.from_file.default" \(target\)',
    "a form": r"evil.Type.*\(out_spec\)",
    "machine code": "it holds data/aotinductor/model/m.so, which is neither graph nor tensor",
    "an old checkpoint": "it holds data/weights/model.pt",
}
LEFT_OUT = ("example inputs", "a check")


def test_an_archive_with_code_in_it_is_refused_or_the_code_left_out(cnn_file: bytes, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    for way, said in REFUSED.items():
        refused(PLAIN, archive_with(way, cnn_file, trace), said)
    wanted = embedded(PLAIN, cnn_file, MAPS, RGB)
    for way in LEFT_OUT:
        assert torch.equal(embedded(PLAIN, archive_with(way, cnn_file, trace), MAPS, RGB), wanted)
    assert not trace.exists()


@pytest.mark.parametrize("way", ["example inputs", "a check", "a tensor", "an object", "a size", "a name"])
def test_torch_itself_would_run_it(way: str, cnn_file: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/models.md says that `torch.export.load` runs such code. If this fails, change that page."""
    monkeypatch.setattr(logging, "raiseExceptions", False)  # a line of torch's about it cannot be formatted
    with contextlib.suppress(Exception):  # afterwards some are wrong in other ways too
        torch.export.load(io.BytesIO(archive_with(way, cnn_file, tmp_path / "trace"))).module()(
            torch.zeros(2, 3, 64, 64)
        )
    assert (tmp_path / "trace").exists()


def test_every_operator_of_torch_that_opens_a_file_is_known() -> None:
    for schema in torch._C._jit_get_all_schemas():
        named = {argument.name for argument in schema.arguments if str(argument.type) == "str"}
        if schema.name.startswith("aten::") and any("file" in name or "path" in name for name in named):
            assert schema.name in ("aten::save", "aten::from_file"), schema


# --- cubes ----------------------------------------------------------------------------------------

MEAN, STD = [2000.0, 1500.0, 1400.0], [900.0, 700.0, 600.0]
SAVED_BY_ANOTHER_PROCESS = """
import safetensors.torch, sys, torch
from plain_models import SmallCnn
torch.manual_seed(5)
made = SmallCnn(3)
made.stem[1].running_mean.uniform_(-1, 1)
safetensors.torch.save_file(made.eval().state_dict(), sys.argv[1])
"""


def layer(backbone: dict[str, Any], weights: Path, cell_px: int) -> dict[str, Any]:
    return {
        "archives": ["s2"], "backbone": {"name": "torch", "mean": MEAN, "std": STD} | backbone, "weights": str(weights),
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(), "chip_px": 64, "halo_px": 16,
        "cell_px": cell_px, "shard_chips": 4, "batch": 4, "encoding": "float32",
    }  # fmt: skip


@pytest.fixture(scope="module")
def finished(
    demo_archive: Path, tmp_path_factory: pytest.TempPathFactory, cnn_file: bytes, vit_file: bytes
) -> Campaign:
    folder = tmp_path_factory.mktemp("anybodys")
    (folder / "cnn.pt2").write_bytes(cnn_file)
    (folder / "vit.pt2").write_bytes(vit_file)
    state = folder / "cnn.safetensors"
    subprocess.run([sys.executable, "-c", SAVED_BY_ANOTHER_PROCESS, state], check=True, timeout=120)
    campaign = Campaign(folder / "campaign.yaml")
    document = yaml.safe_load((demo_archive / "campaign.yaml").read_text())
    document["archives"]["s2"] |= {"path": str(demo_archive / "archive" / "sentinel2"), "bands": ["B02", "B03", "B04"]}
    document["layers"] = {
        "program": layer({}, folder / "cnn.pt2", 8),
        "state": layer({"factory": "small_cnn", "arguments": {"bands": 3}}, state, 8),
        "months": layer({"takes": "btcyx"}, folder / "vit.pt2", 16) | {"frames": "10 days"},
    }
    region = {"bbox": [400_200, 5_630_200, 401_700, 5_631_700], "crs": "EPSG:32632"}
    document |= {"region": region, "windows": [["2023-06-01", "2023-07-01"]], "how": {"ranks": 2}}
    campaign.file.write_text(yaml.safe_dump(document))
    assert "nothing found wrong" in campaign.cli("run")
    return campaign


@pytest.mark.slow
@pytest.mark.parametrize(("name", "made"), [("program", cnn), ("months", vit)])
def test_a_cube_of_several_chips_is_what_the_module_says_of_each(
    finished: Campaign, name: str, made: Callable[[], nn.Module]
) -> None:
    """Each chip cut here from the pixels of its whole shard, halo included; bit for bit."""
    with xarray.open_datatree(finished.run.newest_cube, engine="zarr") as tree:
        cube = tree[f"{name}/grid"].to_dataset().load()
    campaign, module = load_campaign(finished.file), made()
    weights, _ = read_weights(campaign, finished.run, name)
    context = make_context(campaign, name, ["grid"], weights, nn.Identity(), torch.device("cpu"), 4)
    inventory, plan = read_inventory(campaign, finished.run), read_plan(campaign, finished.run)
    shards = [s for group in read_shards(finished.run, plan) for s in group if s.layer == name]
    reader, compared, cells = RasterReader(threads=1), 0, context.layout.chip_cells
    try:
        for shard in shards:
            x_tcyx = read_sample(shard, [inventory[i] for i in shard.scenes], context, reader).x_tcyx
            z_tcyx = (x_tcyx - np.array(MEAN, np.float32)[:, None, None]) / np.array(STD, np.float32)[:, None, None]
            normal_tcyx = torch.from_numpy(np.nan_to_num(z_tcyx, nan=0.0))
            for i in range(4):
                row = torch.stack([normal_tcyx[..., i * 32 : i * 32 + 64, j * 32 : j * 32 + 64] for j in range(4)])
                with torch.inference_mode():
                    out = module(row[:, 0] if name == "program" else row)
                side = 64 // context.layout.cell_px
                grid = out.permute(0, 2, 3, 1) if name == "program" else out[:, 2:].unflatten(1, (side, side))
                ring = side // 4
                wanted = grid[:, ring : side - ring, ring : side - ring].transpose(0, 1).flatten(1, 2).numpy()
                window = np.s_[(shard.iy * 4 + i) * cells :, shard.ix * 4 * cells :]
                found, status = (
                    cube[array][0].values[window][:cells, : 4 * cells] for array in ("embedding", "status")
                )
                np.testing.assert_array_equal(found[status == 1], wanted[status == 1])
                compared += int((status == 1).sum())
    finally:
        reader.close()
    assert len(shards) > 1
    assert compared == (cube.status == 1).sum() > 100


@pytest.mark.slow
def test_a_state_dict_saved_by_another_process_gives_the_cube_of_the_exported_program(finished: Campaign) -> None:
    objects: dict[str, dict[str, str]] = {"program": {}, "state": {}}
    for path, digest in cube_bytes(finished.run.newest_cube).items():
        name, _, rest = path.partition("/")
        if name in objects and "/c." in rest:
            objects[name][rest] = digest
    assert objects["program"] == objects["state"]
    assert {path.partition("/c.")[0] for path in objects["program"]} == {
        f"grid/{name}" for name in ("embedding", "status", "n_obs")
    }


@pytest.mark.slow
def test_a_plan_names_the_package_of_a_factory_and_the_module_is_described(finished: Campaign) -> None:
    plan = read_plan(load_campaign(finished.file), finished.run)
    assert plan.versions["plain_models"] == "1.0"
    assert {name: one.dimensions for name, one in plan.layers.items()} == {"program": 24, "state": 24, "months": 48}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn.pt2", "cnn.safetensors"])
def test_one_flipped_byte_of_the_file_is_refused_with_both_digests(finished: Campaign, name: str) -> None:
    file = finished.file.parent / name
    whole = file.read_bytes()
    data = bytearray(whole)
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    flipped, digest = (hashlib.sha256(one).hexdigest() for one in (data, whole))
    try:
        with pytest.raises(RequestError, match=f"has the SHA-256 {flipped}, weights_sha256 is {digest}"):
            finished.cli("fit")
    finally:
        file.write_bytes(whole)


def test_what_does_not_fit_is_refused_by_the_layers_name_before_any_pixel_is_embedded(
    demo: Campaign, cnn_file: bytes
) -> None:
    file = demo.file.parent / "cnn.pt2"
    file.write_bytes(cnn_file)
    demo.change(lambda document: document.update(layers={"mine": layer({"mean": MEAN, "std": STD}, file, 8)}))
    demo.change(lambda document: document["archives"]["s2"].update(bands=["B02", "B03", "B04", "B08"]))
    demo.cli("index")
    with pytest.raises(RequestError, match=r"layers.mine.backbone: torch: mean and std need a number for each of 4"):
        demo.cli("fit")
    demo.change(lambda document: document["layers"]["mine"].update(backbone={"name": "torch", **PLAIN}))
    with pytest.raises(
        RequestError, match=r"layers.mine.weights: .*cnn.pt2: the program takes chips of 3 bands .* have 4"
    ):
        demo.cli("fit")


def test_models_names_the_factories_that_there_are() -> None:
    said = [card.model for card in Torch.cards()]
    assert said == ["", "small_cnn", "small_vit"]
