"""A layer that `plan` compiles: all ranks run one program, its vectors are close to the layer's, another is refused."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import Campaign, cells_of_shards, cube_bytes
from tests.edge.contexts import bare_context
from torch import nn

from embedcube.backbones.base import Chips, FitSample, make_backbone
from embedcube.campaign.load import load_campaign
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.seals import write_sealed
from embedcube.consolidate.recomputed import _exact
from embedcube.cube.reader import Cell, Cube
from embedcube.errors import RequestError, WorkError
from embedcube.grid import ShardLayout
from embedcube.kernel.compile import Compiled, compile_forward
from embedcube.kernel.embed import blank_chips, forward
from embedcube.kernel.layer import LayerContext
from embedcube.kernel.recipes import forward_digest
from embedcube.prepare.program import program_of

LAYER = "s2_vit"
VIT = {"name": "tiny_vit", "width": 32, "depth": 1}


class Bands(nn.Module):
    """One vector for each chip: a linear layer on its bands' means, then a tanh, so that operators can be fused."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.mix = nn.Linear(3, 5)

    def forward(self, chips: Chips) -> torch.Tensor:
        month = chips.dates_tmd[:, 1, 1].float().mean()
        vectors: torch.Tensor = (self.mix(chips.x_btcyx.mean(dim=(1, 3, 4))).tanh() * month)[:, None, None]
        return vectors


class Undecided(nn.Module):
    """A module whose control flow depends on the pixels, so that torch.export cannot take it."""

    def forward(self, chips: Chips) -> torch.Tensor:
        return chips.x_btcyx if chips.x_btcyx.sum() > 0 else -chips.x_btcyx


def kernel_of(module: nn.Module) -> LayerContext:
    return bare_context(module, ShardLayout(chip_px=8, halo_px=0, cell_px=8, chips=2), bands=3, batch=2, dimensions=5)


def ask(campaign: Campaign, *, compiled: bool, ranks: int = 1, batch: int = 4) -> None:
    """Write a campaign of one window of the demo with a layer that is compiled or not."""
    layer = {
        "archives": ["s2"], "backbone": VIT, "compile": compiled, "batch": batch, "chip_px": 96, "halo_px": 16,
        "cell_px": 16, "shard_chips": 4, "encoding": "float32",
    }  # fmt: skip
    campaign.change(
        lambda document: document.update(
            layers={LAYER: layer},
            windows=[["2023-06-01", "2023-06-08"]],
            how={"ranks": ranks, "threads": 3 - ranks},
            campaign=f"demo-{'compiled' if compiled else 'as-it-is'}",
        )
    )


@pytest.mark.slow
def test_a_compiled_layer_is_made_once_and_gives_the_same_bytes_near_those_of_the_layer_as_it_is(
    demo: Campaign,
) -> None:
    ask(demo, compiled=False)
    demo.cli("run")
    with_torch = demo.run.newest_cube
    ask(demo, compiled=True)
    demo.cli("run")
    (program,) = (demo.run.root / "weights").glob("*.pt2")
    made, first = program.stat().st_mtime_ns, cube_bytes(demo.run.newest_cube)
    said = json.loads((demo.run.report / "verify.json").read_text())["least_cosine"]
    assert 0.999_999 <= said[LAYER] <= 1

    y, x = (along.start for along in cells_of_shards(demo.run.newest_cube, f"{LAYER}/grid"))
    explained = Cube(demo.run.newest_cube).explain(Cell(zone=f"{LAYER}/grid", t=0, y=y, x=x))
    assert explained["program_sha256"] == hashlib.sha256(program.read_bytes()).hexdigest()

    for folder in (demo.run.parts, demo.run.cubes):
        shutil.rmtree(folder)
    demo.run.plan.unlink()
    # with other ranks and threads, planned anew
    ask(demo, compiled=True, ranks=2)
    demo.cli("run")
    assert program.stat().st_mtime_ns == made, "compiled twice"
    assert cube_bytes(demo.run.newest_cube) == first

    plain, compiled = (_vectors(cube) for cube in (with_torch, demo.run.newest_cube))
    np.testing.assert_array_equal(np.isfinite(plain), np.isfinite(compiled))
    np.testing.assert_allclose(compiled, plain, rtol=0, atol=1e-4)
    assert not np.array_equal(plain, compiled, equal_nan=True), "nothing was compiled"

    # how the cube is chunked and its numbers are stored changes no forward pass
    demo.change(lambda document: document["layers"][LAYER].update(chunk_windows=2, encoding="int8"))
    demo.cli("plan")
    assert [program] == list((demo.run.root / "weights").glob("*.pt2"))

    _flip_a_byte(program)
    shutil.rmtree(demo.run.parts)
    with pytest.raises(WorkError, match="failed"):
        demo.cli("embed")
    log = "".join(path.read_text() for path in demo.run.logs.rglob("*") if path.is_file())
    assert f"{program.name}: its SHA-256 is" in log
    assert "the plan was made with" in log
    with pytest.raises(RequestError, match=f"{program.name} has been changed: its SHA-256 is"):
        demo.cli("plan")


def test_verify_holds_a_compiled_layer_against_the_layer_as_it_is(demo: Campaign) -> None:
    ask(demo, compiled=True)
    campaign = load_campaign(demo.file)
    nothing = FitSample(x_ntcyx=np.empty((0, 1, 3, 8, 8), np.float32), lat_ny=np.empty((0, 8)))
    weights = make_backbone(campaign, LAYER).fit(nothing)
    program = nn.Identity()
    exact = _exact(campaign, LAYER, kernel_of(program), weights)
    assert exact is not None
    assert exact.module is not program
    assert {name: value.numpy().tobytes() for name, value in exact.module.state_dict().items()} == {
        name: value.tobytes() for name, value in weights.tensors.items()
    }


def test_what_changes_no_forward_pass_keeps_its_program(demo: Campaign) -> None:
    def digest(changed: dict[str, Any], weights: str = "w", torch_version: str = "1") -> str:
        ask(demo, compiled=True)
        demo.change(lambda document: document["layers"][LAYER].update(changed))
        return forward_digest(load_campaign(demo.file), LAYER, weights, {"torch": torch_version})

    first = digest({})
    for kept in ({"batch": 8}, {"chunk_windows": 2}, {"encoding": "int8"}, {"min_valid": 0.9}):
        assert digest(kept) == first, kept
    others = ({"precision": "bfloat16"}, {"chip_px": 128}, {"backbone": VIT | {"depth": 2}})
    made = {first, digest({}, weights="v"), digest({}, torch_version="2"), *(digest(other) for other in others)}
    assert len(made) == 3 + len(others)


def test_of_two_programs_that_were_made_at_once_the_one_of_the_last_plan_stays(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    (tmp_path / "weights").mkdir()
    digests = sorted(hashlib.sha256(data).hexdigest() for data in (b"one", b"two"))
    for data in (b"one", b"two"):
        run.program("a", "key", hashlib.sha256(data).hexdigest()).write_bytes(data)
    context = kernel_of(Undecided())
    assert program_of(run, None, "a", context, "key").digest == digests[0]
    for digest in digests:
        write_sealed(run.plan_summary, {"layers": {"a": {"program": digest}}})
        assert program_of(run, None, "a", context, "key").digest == digest
    run.program("a", "key", digests[1]).write_bytes(b"three")
    with pytest.raises(RequestError, match=r"has been changed: its SHA-256 is"):
        program_of(run, None, "a", context, "key")


def test_a_program_of_a_base_is_taken_only_from_the_same_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, digest = RunDir(tmp_path / "base"), hashlib.sha256(b"one").hexdigest()
    base.weights_folder.mkdir(parents=True)
    base.program("a", "key", digest).write_bytes(b"one")
    monkeypatch.setattr("embedcube.prepare.program.compile_forward", lambda *_: b"compiled here")
    context = kernel_of(Undecided())
    for name, other, expected in (("own", 0, b"one"), ("other", 1, b"compiled here")):
        run = RunDir(tmp_path / name)
        run.weights_folder.mkdir(parents=True)
        with monkeypatch.context() as patch:
            user = os.geteuid() + other
            patch.setattr(os, "geteuid", lambda user=user: user)
            assert program_of(run, base, "a", context, "key").data == expected


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_full_disk_is_not_called_a_compilers_problem(*, wrapped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor.exc import InductorError  # here, as the compiler takes two seconds to import

    full = OSError(errno.ENOSPC, "No space left on device")

    def fail(*_: object, **__: object) -> None:
        raise InductorError(full, None) if wrapped else full

    monkeypatch.setattr("torch._inductor.aoti_compile_and_package", fail)
    with pytest.raises(OSError, match="No space left"):
        compile_forward(kernel_of(Bands()), "a")


def test_what_cannot_be_compiled_is_refused_by_name() -> None:
    with pytest.raises(RequestError, match=r"layers\.a\.compile: .*without `compile` the layer runs as it is"):
        compile_forward(kernel_of(Undecided()), "a")


@pytest.mark.slow
def test_a_program_computes_the_same_and_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = kernel_of(Bands())
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    program = compile_forward(context, "a")
    compiled = Compiled(program, torch.device("cpu"))
    assert not list(tmp_path.iterdir()), "a rank that is killed would leave it"
    assert os.environ["TMPDIR"] == str(tmp_path)
    chips = blank_chips(context)
    chips.x_btcyx.normal_(generator=torch.Generator().manual_seed(0))
    found, expected = forward(kernel_of(compiled), chips), forward(context, chips)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=0, atol=1e-5)


def _vectors(cube: Path) -> np.ndarray[Any, Any]:
    opened = Cube(cube)
    return np.asarray(opened.array(opened.zones[0], "embedding")[...])


def _flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
