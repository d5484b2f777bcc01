"""The script of `make gpu`: without a GPU it says so, and a dry run goes through all that needs none."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, gpu_work


def test_without_a_gpu_nothing_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert gpu.main(["--out", str(tmp_path)]) == 2
    assert "torch finds no GPU here, so nothing was measured" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_fills_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", os.environ["PYTHONPATH"])
    assert gpu.main(["--dry", "--out", str(tmp_path)]) == 0
    parts = {part["name"]: part for part in json.loads((tmp_path / "gpu.json").read_text())}
    assert [name for name, part in parts.items() if part["failed"]] == []
    left_out = {name for name, part in parts.items() if part["left_out"]}
    assert left_out == {"embed in bfloat16", "image", "tests that need a GPU"}
    embedded = parts["embed in float32"]["rows"]
    # 16 chips in each of two windows
    assert (embedded["chips"], embedded["ranks, forked"]) == (32, 1)
    assert embedded["wall, s"] > 0
    assert parts["broadcast between ranks"]["rows"]["backend"] == "gloo"
    forwards = parts["forward passes"]["rows"]
    assert 0.99 < forwards["bfloat16, least cosine to float32"] < 1
    lines = (tmp_path / "gpu.md").read_text().splitlines()
    assert lines[0] == "A dry run on a CPU with a small model: the figures say nothing."
    assert "| embed in float32 | chips | 32 |" in lines


def test_a_part_that_fails_is_told_and_the_others_are_done(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(sizes: gpu_work.Sizes) -> gpu_work.Rows:
        raise ValueError("what arrived is not what was sent")

    for name in ("collective", "forwards", "embedding"):
        monkeypatch.setattr(gpu, name, lambda *_: {"done": 1})
    monkeypatch.setattr(gpu, "copies", broken)
    parts = gpu.measure(gpu_work.DRY, tmp_path, None)
    assert [part.name for part in parts if part.failed] == ["copies to the device"]
    assert "| copies to the device | FAILED | ValueError: what arrived is not what was sent |" in gpu.table(
        parts, dry=True
    )
    assert "| forward passes | done | 1 |" in gpu.table(parts, dry=False)
