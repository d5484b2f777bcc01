"""What a report says: folds that leak beside folds that do not, baselines of the same cells, bounds on pixels."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.conftest import Campaign, call_cli
from tests.cube.two_zones import vectors_at
from tests.uses.test_decode_labels import on_cells, pixels, places, write_csv, write_raster

from embedcube.backbones.base import Weights
from embedcube.cube.reader import Cube
from embedcube.grid import ShardLayout
from embedcube.uses.decode import baselines, commands
from embedcube.uses.decode import report as reports
from embedcube.uses.decode.baselines import PIXELS, RANDOM, RAW, filled, pixel_statistics, pixels_of, read_again
from embedcube.uses.decode.examples import Cells, Examples, vectors_of
from embedcube.uses.decode.fit import Settings
from embedcube.uses.decode.folds import Size, folds_of
from embedcube.uses.decode.labels import read_examples
from embedcube.uses.decode.pixels import (
    INTERPOLATED,
    ORACLE,
    RAW_LOGISTIC,
    interpolated,
    most_common,
    pixel_classes,
    score_pixels,
)
from embedcube.uses.decode.report import MEAN, NOTHING, PLACE, VECTORS, Held, Report, score
from embedcube.uses.decode.request import Request


def patchy(kind: str) -> Examples:
    """Labels that are equal within patches of 0.02 degrees; vectors that show either the label or only the patch."""
    rng = np.random.default_rng(0)
    lon, lat = places(800)
    patch = np.floor(lon / 0.02) * 1000 + np.floor(lat / 0.02)
    number = np.unique(patch, return_inverse=True)[1]
    label = rng.integers(0, 2, number.max() + 1)[number]
    identity = rng.normal(size=(number.max() + 1, 40))[number]
    seen = label[:, None] + rng.normal(scale=0.5, size=(800, 8))
    return Examples(
        features=(identity if kind == "patch" else seen).astype(np.float32), target=label.astype(float),
        classes=("a", "b"), lon=lon, lat=lat, seconds=np.zeros(800, np.int64), part=np.arange(800),
    )  # fmt: skip


def main_scores(report: Report, leaks: bool) -> dict[str, float]:
    return {row.features: row.scores[report.main].value for row in report.rows if row.leaks == leaks}


def test_blocks_show_that_vectors_only_know_the_place() -> None:
    held = Held(blocks=Size(number=0.02, unit="degrees"), seeds=1)
    report = score(patchy("patch"), Settings(kind="knn", neighbours=5), held)
    fair, leaking = main_scores(report, False), main_scores(report, True)
    assert fair[VECTORS] < 0.65
    assert leaking[VECTORS] > 0.95
    assert leaking[PLACE] > 0.8
    assert any("too good, neighbours leak" in verdict for verdict in report.verdicts)
    assert "the vectors are at chance on these folds" in report.verdicts
    good = score(patchy("label"), Settings(kind="logistic"), held, {"raw": patchy("patch").features})
    fair = main_scores(good, False)
    assert fair[VECTORS] > 0.9
    assert fair[NOTHING] == pytest.approx(0.5, abs=0.05)
    assert any(verdict.startswith("vectors before raw:") for verdict in good.verdicts)
    lost = score(patchy("patch"), Settings(kind="logistic"), held, {"raw": patchy("label").features})
    assert any(verdict.startswith("raw before vectors:") for verdict in lost.verdicts)
    assert good.calibration is not None
    assert [row.groups for row in good.rows if not row.leaks] == [good.rows[0].groups] * 4


def test_rows_that_one_kind_of_features_lacks_are_left_out_for_all() -> None:
    raw = patchy("patch").features.copy()
    raw[:100] = np.nan
    report = score(patchy("label"), Settings(kind="logistic"), Held(seeds=1), {"raw": raw})
    assert report.labels == 700
    assert report.left_out == {"no raw pixels": 100}


def test_spread_and_means_are_over_folds_and_seeds() -> None:
    examples = replace(patchy("label"), classes=(), target=patchy("label").features[:, 0].astype(float))
    report = score(examples, Settings(kind="ridge"), Held(seeds=2))
    fair = {row.features: row for row in report.rows if not row.leaks}
    assert fair[VECTORS].scores["r2"].value > 0.99
    assert fair[MEAN].scores["r2"].value == pytest.approx(0, abs=0.1)
    assert fair[MEAN].scores["bias"].spread > 0
    assert fair[VECTORS].numbers == 8


# --- the archive again ----------------------------------------------------------------------------


def test_the_archive_is_read_and_embedded_as_the_cube_was(
    finished_demo: Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the weights as they are, what is embedded again is the cube's own vectors, cell by cell."""
    cube = Cube(finished_demo.run.newest_cube)
    layer = cube.layers[0] if "s2_mosaiks" not in cube.layers else "s2_mosaiks"
    zone = cube.zones_of(layer)[0]
    t, y, x = (axis[::97] for axis in np.nonzero(cube.valid(zone, slice(None), slice(None), slice(None))))
    cells = Cells(zones=(zone,), zone=np.zeros_like(t), t=t, y=y, x=x)
    monkeypatch.setattr(baselines, "_shuffled", lambda weights, seed: weights)
    again = read_again(cube, layer, cells, pixels=True)
    assert again.missing == ""
    stored = vectors_of(cube, cells)
    step = np.abs(stored).max(axis=1, keepdims=True) / 127
    assert (np.abs(again.features[RANDOM] - stored) <= 0.51 * step).all()
    raw = again.features[PIXELS].reshape(len(cells), -1, 4)
    np.testing.assert_allclose(again.features[RAW][:, :4], np.nanmean(raw, axis=1), rtol=1e-5)
    np.testing.assert_allclose(again.features[RAW][:, 4:], np.nanstd(raw, axis=1), rtol=1e-3, atol=1e-2)
    assert again.raw_bytes == 2 * 4 * 16**2
    monkeypatch.undo()
    other = read_again(cube, layer, cells)
    assert np.abs(other.features[RANDOM] - stored).max() > step.max()
    np.testing.assert_array_equal(other.features[RAW], again.features[RAW])


def test_pixels_lie_in_their_cells() -> None:
    layout = ShardLayout(chip_px=8, halo_px=1, cell_px=2, chips=1)
    x = np.arange(2 * 3 * 8 * 8, dtype=np.float32).reshape(2, 3, 8, 8)
    x[0, 0, 3, 3] = np.nan
    read: Any = SimpleNamespace(context=SimpleNamespace(layout=layout), sample=SimpleNamespace(x_tcyx=x))
    cut = pixels_of(read)
    assert cut.shape == (3, 3, 2, 2, 6)
    np.testing.assert_array_equal(cut[2, 0, :, :, 4], x[1, 1, 5:7, 1:3])
    statistics = pixel_statistics(read)
    own = x[0, 0, 3:5, 3:5]
    assert statistics[1, 1, 0] == pytest.approx(np.nanmean(own))
    assert statistics[1, 1, 6] == pytest.approx(np.nanstd(own))


def test_missing_frames_get_the_mean_of_the_others() -> None:
    given = np.array([[1, np.nan, np.nan], [3, 4, np.nan], [np.nan, np.nan, np.nan]], np.float32)
    np.testing.assert_array_equal(filled(given), np.array([[1, 4], [3, 4], [np.nan, np.nan]], np.float32))


def test_missing_numbers_are_means_of_what_is_learned_from() -> None:
    given = np.array([[1, np.nan], [3, 4], [100, 8]], np.float32)
    known = np.array([True, True, False])
    np.testing.assert_array_equal(filled(given, known), np.array([[1, 4], [3, 4], [100, 8]], np.float32))
    # a report fills them fold by fold: here the rows of a patch have numbers that no other row has
    examples, seen = patchy("label"), []
    raw = np.where(np.arange(800) % 2, np.nan, np.arange(800.0)).astype(np.float32)

    def watched(features: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float32]:
        done = filled(features, known)
        seen.append(done[1, 0] - raw[known & np.isfinite(raw)].mean())
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reports, "filled", watched)
        held = Held(blocks=Size(number=0.02, unit="degrees"), seeds=1)
        others = {"raw": np.stack([raw, examples.features[:, 0]], axis=1)}
        report = score(examples, Settings(kind="knn"), held, others)
    assert report.labels == 800
    assert len(seen) == 10
    assert np.abs(seen).max() < 0.01


def test_tables_of_a_reduction_are_not_shuffled() -> None:
    rng = np.random.default_rng(1)
    tensors = {name: rng.normal(size=(6, 8)).astype(np.float32) for name in ("a", "reduce.basis", "reduce.mean")}
    weights = Weights(tensors=tensors, mean=np.zeros(1, np.float32), std=np.ones(1, np.float32))
    shuffled = baselines._shuffled(weights, 0)
    assert shuffled is not None
    same = {name: np.array_equal(one, tensors[name]) for name, one in shuffled.tensors.items()}
    assert same == {"a": False, "reduce.basis": True, "reduce.mean": True}


def test_a_cube_outside_of_its_run_folder_says_what_is_missing(two_zones: Path) -> None:
    cube = Cube(two_zones)
    cells = Cells(zones=cube.zones, zone=np.zeros(1, int), t=np.zeros(1, int), y=np.zeros(1, int),
                            x=np.zeros(1, int))  # fmt: skip
    again = read_again(cube, "s2", cells)
    assert again.features == {}
    assert "lies in no run folder" in again.missing


# --- pixels ---------------------------------------------------------------------------------------


def test_logits_are_interpolated_as_torch_does() -> None:
    logits = np.random.default_rng(0).normal(size=(5, 7, 3))
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(logits.transpose(2, 0, 1)[None]), scale_factor=4, mode="bilinear", align_corners=False
    )[0].numpy()  # fmt: skip
    np.testing.assert_allclose(interpolated(logits, 4), expected.transpose(1, 2, 0), atol=1e-12)
    logits[2, 3] = np.nan
    holed = interpolated(logits, 4)
    assert np.isnan(holed[8:12, 12:16]).all()
    assert np.isfinite(np.delete(holed.reshape(5, 4, 7, 4, 3), 2, axis=0)).all()


def dense(two_zones: Path, tmp_path: Path) -> tuple[Examples, NDArray[np.int16]]:
    cube = Cube(two_zones)
    path = write_raster(tmp_path / "map_2023-06-10.tif", cube, pixels())
    request = Request(task="dense", classes={"third": (3,), "rest": (1, 2)})
    examples = read_examples(cube, [], [path], request)
    assert examples.cells is not None
    codes = pixel_classes(cube, examples.cells, [path], request, examples.classes)
    return examples, codes


def test_pixels_of_labels_are_cut_as_they_lie(two_zones: Path, tmp_path: Path) -> None:
    examples, codes = dense(two_zones, tmp_path)
    cells = examples.cells
    assert cells is not None
    here = np.flatnonzero(cells.zone == cells.zones.index("s2/utm33"))
    own = on_cells(pixels())[cells.y[here], cells.x[here]].reshape(-1, 4, 4)
    np.testing.assert_array_equal(codes[here], np.array([-1, 1, 1, 0])[own])


def test_the_bounds_stand_beside_the_head(two_zones: Path, tmp_path: Path) -> None:
    examples, codes = dense(two_zones, tmp_path)
    assert examples.cells is not None
    rows = examples.cells.zone == examples.cells.zones.index("s2/utm33")
    examples, codes = examples.take(rows), codes[rows]
    raw = np.where(codes == 0, 2.0, 1.0).astype(np.float32)[..., None]
    folds = folds_of(examples, blocks=Size(number=0.03, unit="degrees"), groups=False, years=False)
    scored = {row.features: row for row in score_pixels(examples, codes, raw, Settings(kind="logistic"), folds)}
    assert list(scored) == [ORACLE, INTERPOLATED, RAW_LOGISTIC]
    assert scored[RAW_LOGISTIC].scores["accuracy"] == 1
    assert scored[INTERPOLATED].scores["accuracy"] < scored[ORACLE].scores["accuracy"] < 1
    true = codes >= 0
    majority = np.maximum((codes == 0).sum((1, 2)), (codes == 1).sum((1, 2))).sum() / true.sum()
    assert scored[ORACLE].scores["accuracy"] == pytest.approx(majority)
    assert scored[RAW_LOGISTIC].parameters == 2 * 1 + 2 + 2


def test_perfect_smaller_cells_are_counted_by_hand() -> None:
    codes = np.random.default_rng(0).integers(-1, 3, (5, 8, 8)).astype(np.int16)
    got = most_common(codes, 4, 3)
    for cell, j, i in ((0, 0, 0), (4, 1, 0), (2, 0, 1)):
        square = codes[cell, 4 * j : 4 * j + 4, 4 * i : 4 * i + 4]
        counts = [(square == k).sum() for k in range(3)]
        assert (got[cell, 4 * j : 4 * j + 4, 4 * i : 4 * i + 4] == int(np.argmax(counts))).all()
    whole = most_common(codes, 8, 3)
    assert (whole == whole[:, :1, :1]).all()


# --- the command line -----------------------------------------------------------------------------


@pytest.mark.slow
def test_fit_and_score_on_the_command_line(two_zones: Path, tmp_path: Path) -> None:
    lon, lat = places(200)
    value = vectors_at(lon, lat, 0)[:, 3]
    labels = write_csv(tmp_path / "l.csv", {"lon": lon, "lat": lat, "v": value, "g": np.resize(list("abcd"), 200)})
    decoder = tmp_path / "d.safetensors"
    done = call_cli("decode", "fit", two_zones, labels, "--column", "v", "--head", "ridge", "--time", "2023-06",
                   "--groups", "g", "--to", decoder, "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["labels"] > 150
    done = call_cli("decode", "score", two_zones, decoder, labels, "--blocks", "2km", "--seeds", "1", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    rows = {(row["features"], row["leaks"]): row for row in report["rows"]}
    assert rows[VECTORS, False]["scores"]["r2"]["value"] > 0.95
    assert set(rows) == {(name, leaks) for name in (MEAN, PLACE, VECTORS) for leaks in (False, True)}
    assert rows[VECTORS, False]["folds"] == "blocks of 2000 m"
    assert report["figures"]["parameters"]["head on vectors"] == 16 + 1 + 32
    assert report["figures"]["bytes for a cell"]["vector as stored"] == 20
    assert "no run folder" in report["figures"]["missing"]
    other = write_csv(tmp_path / "other.csv", {"lon": lon[:90], "lat": lat[:90], "v": value[:90]})
    text = call_cli("decode", "score", two_zones, decoder, other, "--no-raw", "--seeds", "1")
    assert text.returncode == 2, "the groups that fit named are not in these labels"
    assert "no column g" in text.stderr
    commands.fit(two_zones, [labels], decoder, Request(task="regression", column="v"), Settings(kind="ridge"))
    text = call_cli("decode", "score", two_zones, decoder, other, "--no-raw", "--seeds", "1")
    assert text.returncode == 0, text.stderr
    assert "random (leak)" in text.stdout
    assert "the stored head, as it is, on these other labels: r2 0.9" in text.stdout
    wrong = call_cli("decode", "fit", two_zones, labels, "--to", decoder, "--classes", "a=1,b=1")
    assert wrong.returncode == 2
    assert "a value belongs to two classes" in wrong.stderr
