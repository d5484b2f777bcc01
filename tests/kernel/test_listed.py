"""Cells of samples: which ones an unreadable file makes failed, and the status of a sample of several cells."""

from datetime import UTC, datetime

import numpy as np

from embedcube.campaign.scene import Listed, Scene
from embedcube.campaign.zones import columns_of
from embedcube.cube.encoding import FAILED, MASKED, NO_DATA, NOT_PROCESSED, VALID, VALID_INCOMPLETE
from embedcube.cube.tables import _best
from embedcube.grid import PixelArea, ShardLayout
from embedcube.kernel.frames import _cells_covered
from embedcube.windows import parse_period
from embedcube.zones import SampleList


def test_a_file_that_cannot_be_read_fails_samples_in_their_own_windows() -> None:
    dates = [datetime(2020, 4, 1, tzinfo=UTC), datetime(2021, 7, 1, tzinfo=UTC)]
    samples = tuple(Listed(id=f"{i}", seconds=int(date.timestamp())) for i, date in enumerate(dates))
    scene = Scene(
        id="x",
        archive="s",
        time=dates[0],
        end=dates[1],
        acquisition="x",
        bbox=(0, 0, 0, 0),
        samples=samples,
        dated=True,
    )
    layout = ShardLayout(chip_px=4, halo_px=0, cell_px=2, chips=2)
    zone, area = SampleList(pixel=10, **columns_of(samples)), PixelArea(row=0, col=0, rows=8, cols=4)
    for year, expected in (("2020", [True, False]), ("2021", [False, True]), ("2022", [False, False])):
        covered = _cells_covered(scene, zone, area, layout, [parse_period(year)])
        np.testing.assert_array_equal(covered, np.repeat(expected, 2)[:, None] & np.ones((1, 2), bool))


def test_a_sample_has_the_status_of_its_best_cell() -> None:
    order = [VALID, VALID_INCOMPLETE, FAILED, MASKED, NO_DATA, NOT_PROCESSED]
    cells = np.array([[one, other] for one in order for other in order], dtype=np.uint8)
    expected = [order[min(i, k)] for i in range(6) for k in range(6)]
    assert _best(cells).tolist() == expected
