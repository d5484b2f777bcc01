"""Decoders on real labels: where vectors win, where raw numbers do, and what int8 costs. Figures of docs/decode.md."""

import shutil
from pathlib import Path

import pytest
from tests.conftest import REAL_DATA, ROOT, Campaign, run_cli
from tests.uses.real_points import FLOAT32, RAW, crops, fuel

from embedcube.cube.reader import Cube
from embedcube.uses.decode.baselines import PIXELS, RANDOM, read_again
from embedcube.uses.decode.baselines import RAW as RAW_PIXELS
from embedcube.uses.decode.commands import fit, score_decoder
from embedcube.uses.decode.examples import with_around
from embedcube.uses.decode.fit import Settings
from embedcube.uses.decode.folds import Size, folds_of
from embedcube.uses.decode.labels import read_examples
from embedcube.uses.decode.pixels import (
    INTERPOLATED,
    ORACLE,
    ORACLE_FINE,
    RAW_LOGISTIC,
    SINGLE,
    pixel_classes,
    score_pixels,
)
from embedcube.uses.decode.report import MEAN, NOTHING, PLACE, VECTORS, Held, Report
from embedcube.uses.decode.request import Request

pytestmark = [pytest.mark.realdata, pytest.mark.slow]

CAMPAIGN = ROOT / "configs" / "campaigns" / "s2_33TWL_2023-08_dates.yaml"
LABELS = sorted((REAL_DATA / "s2_l2a_33TWL_2023-08").glob("*/SCL.tif"))
CLASSES = {"shadow": (3,), "vegetation": (4,), "bare": (5,), "cloud": (8, 9), "cirrus": (10,)}


def values(report: Report, name: str = "") -> dict[str, float]:
    """The main score, or another, of each kind of features, on folds that do not leak."""
    return {row.features: row.scores[name or report.main].value for row in report.rows if not row.leaks}


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The five dates of 33TWL as tokens of 16 pixels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMBEDCUBE_REAL_DATA", str(REAL_DATA.resolve()))
        campaign = Campaign(tmp_path_factory.mktemp("real") / CAMPAIGN.name)
        shutil.copy(CAMPAIGN, campaign.file)
        campaign.change(lambda document: document["how"].update(runs="runs"))
        done = run_cli("run", campaign.file)
        assert done.returncode == 0, done.stderr
        return campaign.run.newest_cube


def scored(cube: Path, folder: Path, request: Request, settings: Settings, folds: int = 5) -> Report:
    decoder = folder / "d.safetensors"
    fit(cube, LABELS, decoder, request, settings)
    held = Held(blocks=Size(number=0.2, unit="degrees"), seeds=1, folds=folds)
    return score_decoder(cube, decoder, LABELS, held)


def test_tokens_see_the_share_of_clouds_better_than_raw_statistics(cube: Path, tmp_path: Path) -> None:
    request = Request(task="regression", share=(8, 9, 10))
    report = scored(cube, tmp_path, request, Settings(kind="ridge"))
    assert report.labels == 15_435
    found = values(report)
    assert found[VECTORS] > 0.90
    assert 0.80 < found[RAW_PIXELS] < found[VECTORS] - 0.03
    assert found[PLACE] < found[RAW_PIXELS]
    assert abs(found[MEAN]) < 0.05
    assert report.figures["bytes for a cell"]["raw pixels, 2 bytes a number"] == 2048
    assert report.figures["bytes for a cell"]["vector as stored"] == 260


def test_tokens_lose_the_rare_classes_to_raw_statistics(cube: Path, tmp_path: Path) -> None:
    request = Request(task="classification", classes=CLASSES)
    report = scored(cube, tmp_path, request, Settings(kind="logistic", most=1500), folds=3)
    found = values(report)
    assert found[RAW_PIXELS] > found[VECTORS]
    assert values(report, name="accuracy")[VECTORS] > values(report, name="accuracy")[RAW_PIXELS]
    assert any(verdict.startswith(f"{RAW_PIXELS} before vectors") for verdict in report.verdicts)
    assert found[NOTHING] == pytest.approx(0.2)


def test_scene_classes_of_pixels_are_bounded_by_the_size_of_cells(cube: Path) -> None:
    """Perfect cells of 16 pixels, of 4 pixels, and a logistic on raw pixels stand beside both heads."""
    request = Request(task="dense", classes=CLASSES)
    opened = Cube(cube)
    examples = read_examples(opened, ("s2_mosaiks",), LABELS, request)
    # one date is enough
    assert examples.cells is not None
    examples = with_around(opened, ("s2_mosaiks",), examples.take(examples.cells.t == 2))
    assert examples.cells is not None
    codes = pixel_classes(opened, examples.cells, LABELS, request, examples.classes)
    raw = read_again(opened, "s2_mosaiks", examples.cells, pixels=True).features[PIXELS].reshape(*codes.shape, -1)
    folds = folds_of(examples, blocks=Size(number=0.2, unit="degrees"), groups=False, years=False, count=3)
    settings = Settings(kind="conv", hidden=32, most=1000)
    rows = {row.features: row.scores for row in score_pixels(examples, codes, raw, settings, folds)}
    miou, accuracy = ({name: scores[key] for name, scores in rows.items()} for key in ("miou", "accuracy"))
    assert list(rows) == [ORACLE, ORACLE_FINE, SINGLE, INTERPOLATED, RAW_LOGISTIC]
    for scores in (miou, accuracy):
        assert scores[ORACLE] < scores[ORACLE_FINE] < 1
        assert scores[INTERPOLATED] < scores[ORACLE_FINE]
    assert accuracy[RAW_LOGISTIC] > max(accuracy[SINGLE], accuracy[INTERPOLATED]), "pixels say what a pixel is"


def test_crop_types_of_points() -> None:
    linear, nearest = values(report := crops("logistic")), values(crops("knn"))
    assert report.labels == 472
    assert linear[VECTORS] > linear[RAW] > linear[NOTHING]
    assert nearest[VECTORS] > nearest[RAW]
    assert nearest[VECTORS] > nearest[RANDOM] + 0.1, "what was learned shows among neighbours"
    assert abs(linear[VECTORS] - linear[FLOAT32]) <= 0.02
    surveys = crops("logistic", surveys=True)
    assert "the vectors are at chance on these folds" in surveys.verdicts


def test_fuel_moisture_of_other_sites() -> None:
    report = fuel("ridge")
    ridge, within = values(report), values(report, name="r2_within_groups")
    assert report.labels == 1578
    assert ridge[PLACE] > ridge[VECTORS] > ridge[MEAN]
    assert any(verdict.startswith(f"{PLACE} before vectors") for verdict in report.verdicts)
    assert within[VECTORS] > within[RAW], "linear on vectors sees more of the change within a site"
    forest = values(fuel("forest"))
    assert forest[RAW] > forest[VECTORS], "a forest on raw numbers is before all"
