"""A head of two convolutions: against torch and a sum by hand, on a pattern of neighbours, in pieces, in its file."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.uses.test_decode_apply import _group, _smaller, read
from tests.uses.test_decode_heads import rewritten
from tests.uses.test_decode_labels import pixels, write_raster

import embedcube.uses.decode.apply as application
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError
from embedcube.uses.decode import commands, convolution
from embedcube.uses.decode.around import NOTHING, Around
from embedcube.uses.decode.examples import Cells, Examples, around_cells
from embedcube.uses.decode.file import About, Decoder, LayerUsed, read_decoder, write_decoder
from embedcube.uses.decode.fit import Settings, fit_head
from embedcube.uses.decode.folds import Size, folds_of
from embedcube.uses.decode.heads import Head
from embedcube.uses.decode.pixels import INTERPOLATED, ORACLE, SINGLE, pixel_classes, score_pixels
from embedcube.uses.decode.report import ALONE, VECTORS, Held, score
from embedcube.uses.decode.request import Request

CONV = Settings(kind="conv", hidden=16)


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what does not ask how well it learns."""
    monkeypatch.setattr(convolution, "_LEAST_STEPS", 1)


def random_head(features: int, hidden: int = 5, outputs: int = 3) -> Head:
    rng = np.random.default_rng(4)
    shapes = {"kernel": (hidden, 9, features), "hidden_intercepts": (hidden,), "coefficients": (outputs, hidden),
              "intercepts": (outputs,), "mean": (features,)}  # fmt: skip
    arrays = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    return Head(kind="conv", outputs=outputs, arrays={**arrays, "std": rng.uniform(0.5, 2, features)})


def by_torch(head: Head, vectors_yxd: NDArray[Any]) -> NDArray[np.float64]:
    """Logits (y, x, class) of a whole map, by torch's own convolutions in float64."""
    arrays = {name: torch.from_numpy(np.asarray(array, np.float64)) for name, array in head.arrays.items()}
    hidden, _, features = arrays["kernel"].shape
    standard = (vectors_yxd.astype(np.float64) - head.arrays["mean"]) / head.arrays["std"]
    x = torch.from_numpy(np.nan_to_num(standard)).permute(2, 0, 1)[None]
    kernel = arrays["kernel"].reshape(hidden, 3, 3, features).permute(0, 3, 1, 2)
    inner = torch.nn.functional.conv2d(x, kernel, arrays["hidden_intercepts"], padding=1).relu()
    logits = torch.nn.functional.conv2d(inner, arrays["coefficients"][..., None, None], arrays["intercepts"])
    return logits[0].permute(1, 2, 0).numpy()


def all_cells(zones: tuple[str, ...], number: int, t: int) -> Cells:
    y, x = (axis.ravel() for axis in np.mgrid[:80, :80])
    return Cells(zones=zones, zone=np.full(len(y), number), t=np.full(len(y), t), y=y, x=x)


def test_it_is_a_convolution_of_the_map(two_zones: Path) -> None:
    """With the edges of the zone, and clouds, as zeros; one cell summed by hand."""
    cube, head = Cube(two_zones), random_head(16)
    cells = all_cells(cube.zones, 1, 1)
    around = around_cells(cube, ["s2"], cells)
    vectors = cube.vectors(cube.zones[1], 1, slice(None), slice(None))
    valid = np.asarray(np.isfinite(vectors).all(axis=-1))
    np.testing.assert_array_equal(around.own.reshape(80, 80), valid)
    assert 0 < (~valid[1:-1, 1:-1]).sum() < valid.sum()
    got = around.said(head.logits).reshape(80, 80, 3)
    np.testing.assert_allclose(got[valid], by_torch(head, vectors)[valid], atol=1e-9)
    assert np.isfinite(got[0, 0]).all(), "a cell at the corner has zeros beside it"
    y, x = np.argwhere(valid[1:-1, 1:-1] & ~valid[:-2, 1:-1])[0] + 1  # below a cloud
    inner = head.arrays["hidden_intercepts"].copy()
    for place in range(9):
        j, i = y + place // 3 - 1, x + place % 3 - 1
        if valid[j, i]:
            standard = (vectors[j, i] - head.arrays["mean"]) / head.arrays["std"]
            inner += [sum(k * s for k, s in zip(kernel[place], standard, strict=True))
                      for kernel in head.arrays["kernel"]]  # fmt: skip
    expected = head.arrays["coefficients"] @ np.where(inner > 0, inner, 0) + head.arrays["intercepts"]
    np.testing.assert_allclose(got[y, x], expected, atol=1e-9)


def test_a_cell_has_the_same_result_whatever_cells_are_beside_it_in_hand(two_zones: Path) -> None:
    cube, head = Cube(two_zones), random_head(16, hidden=40)
    around = around_cells(cube, ["s2"], all_cells(cube.zones, 0, 0))
    rows = np.flatnonzero(around.own)
    whole = around.take(rows).said(head)
    for size in (1, 7, 300, 2500):
        parts = [around.take(rows[i : i + size]).said(head) for i in range(0, min(len(rows), 3 * size), size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole[: 3 * size])


def checkered(side: int = 48) -> Examples:
    """Cells of a class where their left and right neighbours are alike: no number of the cell itself says it."""
    rng = np.random.default_rng(1)
    sign = rng.choice([-1.0, 1.0], (side, side))
    vectors = np.stack([sign, *rng.normal(size=(3, side, side))], axis=-1) + 0.1 * rng.normal(size=(side, side, 4))
    y, x = (axis.ravel() for axis in np.mgrid[:side, :side])
    beside = [(y + j, x + i) for j in (-1, 0, 1) for i in (-1, 0, 1)]
    at = np.stack(
        [np.where((j >= 0) & (j < side) & (i >= 0) & (i < side), j * side + i, NOTHING) for j, i in beside], axis=1
    )
    padded = np.pad(sign, 1)
    alike = (padded[1:-1, :-2] == padded[1:-1, 2:]).ravel()
    flat = vectors.reshape(-1, 4).astype(np.float32)
    inner = (x > 0) & (x < side - 1)
    return Examples(
        features=flat, target=np.stack([alike, ~alike], axis=1).astype(float), classes=("alike", "different"),
        lon=7 + x * 0.001, lat=50 + y * 0.001, seconds=np.zeros(len(x), np.int64), part=np.arange(len(x)),
        around=Around(vectors=flat, at=at),
    ).take(inner)  # fmt: skip


def test_it_learns_a_pattern_that_a_linear_head_cannot() -> None:
    examples = checkered()
    out = examples.lat > 50.036
    known, asked = examples.take(~out), examples.take(out)
    true = asked.target.argmax(axis=1)
    right = {settings.kind: (asked.said(fit_head(known, settings)).argmax(axis=1) == true).mean()
             for settings in (CONV, CONV.alone("dense"))}  # fmt: skip
    assert right["conv"] > 0.97
    assert right["logistic"] < 0.6


def test_a_report_has_a_linear_head_of_single_cells_beside_it(few_steps: None) -> None:
    examples = checkered(20)
    held = Held(blocks=Size(number=0.006, unit="degrees"), seeds=1, folds=2)
    report = score(examples, CONV, held, {"raw": examples.features})
    fair = {row.features: row for row in report.rows if not row.leaks}
    assert [fair[name].head for name in (VECTORS, ALONE, "raw")] == ["conv", "logistic", "logistic"]
    assert fair[ALONE].scores == fair["raw"].scores, "the same head, on the same numbers"
    assert fair[VECTORS].scores != fair[ALONE].scores
    assert any("vectors of single cells" in verdict for verdict in report.verdicts)


def test_equal_seeds_give_equal_numbers_with_one_thread_and_with_two(few_steps: None) -> None:
    examples = checkered().take(np.arange(300))
    before = torch.get_num_threads()
    try:
        heads = []
        for threads, seed in ((1, 3), (2, 3), (1, 4)):
            torch.set_num_threads(threads)
            torch.manual_seed(threads)
            heads.append(fit_head(examples, replace(CONV, seed=seed)))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    first, again, other = heads
    assert all((first.arrays[name] == again.arrays[name]).all() for name in first.arrays)
    assert (first.arrays["kernel"] != other.arrays["kernel"]).all()
    assert first.parameters == 9 * 4 * 16 + 16 + 16 * 2 + 2 + 2 * 4


def test_a_class_that_no_example_has_gets_no_probability(few_steps: None) -> None:
    examples = checkered().take(np.arange(300))
    target = np.insert(examples.target, 1, 0.0, axis=1)
    three = replace(examples, target=target, classes=("alike", "none", "different"))
    got = three.said(fit_head(three, CONV))
    assert (got[:, 1] == 0).all()
    np.testing.assert_allclose(got.sum(axis=1), 1, atol=1e-12)


def test_its_file_holds_arrays_that_fit_or_is_refused(tmp_path: Path, few_steps: None) -> None:
    examples = checkered().take(np.arange(200))
    head, path = fit_head(examples, CONV), tmp_path / "d.safetensors"
    about = About(
        kind="conv", request=Request(task="dense"), settings=CONV, classes=examples.classes, fitted_on=200,
        layers=(LayerUsed(name="s2", weights="1" * 64, features=4, encoding="int8"),), labels="2" * 64, cube="abc",
    )  # fmt: skip
    write_decoder(Decoder(head, about), path)
    found = read_decoder(path)
    assert found.about == about
    np.testing.assert_array_equal(examples.said(found.head), examples.said(head))
    damage: list[tuple[Any, str]] = [
        (lambda a: a.update(kernel=a["kernel"][:, :8]), "kernel has the shape"),
        (lambda a: a.update(coefficients=a["coefficients"][:, 1:]), "coefficients has the shape"),
        (lambda a: a.pop("hidden_intercepts"), "lacks the array hidden_intercepts"),
    ]
    for change, said in damage:
        write_decoder(Decoder(head, about), path)
        rewritten(path, change)
        with pytest.raises(RequestError, match=said):
            read_decoder(path)


def test_it_is_for_dense_labels_alone() -> None:
    for task in ("classification", "regression"):
        with pytest.raises(RequestError, match=f"a conv head is not for {task}"):
            Settings(kind="conv").checked(task)


@pytest.fixture(scope="module")
def fitted(two_zones: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Examples]:
    """A decoder of utm33's map in June, the map, and its examples."""
    folder = tmp_path_factory.mktemp("conv")
    path = write_raster(folder / "map_2023-06-10.tif", Cube(two_zones), pixels())
    request = Request(task="dense", classes={"third": (3,), "rest": (1, 2)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolution, "_LEAST_STEPS", 1)
        _, examples = commands.fit(two_zones, [path], folder / "d.safetensors", request, replace(CONV, most=400))
    return folder / "d.safetensors", path, examples


def test_maps_are_those_of_a_convolution_whatever_the_pieces(
    two_zones: Path, fitted: tuple[Path, Path, Examples], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cube, decoder = Cube(two_zones), read_decoder(fitted[0])
    apply = partial(application.apply, cube, fitted[0], within=(11.96, 49.98, 12.01, 50.01), time="2023-07")
    (whole,) = apply(out=tmp_path / "w.zarr")
    said = {zone: np.asarray(_group(whole)[f"{zone}/probability"][0]) for zone in cube.zones}
    for zone in cube.zones:
        vectors = cube.vectors(zone, 1, slice(None), slice(None))
        logits = by_torch(decoder.head, vectors)
        expected = np.exp(logits - logits.max(axis=-1, keepdims=True))
        expected /= expected.sum(axis=-1, keepdims=True)
        inside = np.isfinite(said[zone]).all(axis=-1)
        assert inside.sum() > 50
        np.testing.assert_allclose(said[zone][inside], expected[inside], atol=1e-6)
    fine = apply(out=tmp_path / "f.tif", finer=2)
    monkeypatch.setattr(application, "pieces", _smaller(application.pieces))
    (again,) = apply(out=tmp_path / "a.zarr")
    for zone in cube.zones:
        np.testing.assert_array_equal(np.asarray(_group(again)[f"{zone}/probability"][0]), said[zone])
    for one, other in zip(apply(out=tmp_path / "g.tif", finer=2), fine, strict=True):
        np.testing.assert_array_equal(read(one)[0], read(other)[0])


def test_single_cells_stand_beside_it_on_pixels(
    two_zones: Path, fitted: tuple[Path, Path, Examples], few_steps: None
) -> None:
    cube, (_, path, examples) = Cube(two_zones), fitted
    assert examples.cells is not None
    request = Request(task="dense", classes={"third": (3,), "rest": (1, 2)})
    examples = examples.take(examples.cells.zone == 1)
    assert examples.cells is not None
    codes = pixel_classes(cube, examples.cells, [path], request, examples.classes)
    folds = folds_of(examples, blocks=Size(number=0.03, unit="degrees"), groups=False, years=False, count=3)
    few = replace(CONV, most=500)
    rows = {row.features: row.parameters for row in score_pixels(examples, codes, None, few, folds)}
    assert list(rows) == [ORACLE, SINGLE, INTERPOLATED]
    assert rows[SINGLE] == 2 * 16 + 2 + 2 * 16
    assert rows[INTERPOLATED] == 9 * 16 * 16 + 16 + 2 * 16 + 2 + 2 * 16
