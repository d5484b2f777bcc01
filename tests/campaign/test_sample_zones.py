"""The list of the samples of a layer: which ids and places are refused."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from pyproj import Transformer

from embedcube.campaign.scene import Asset, Listed, Scene
from embedcube.campaign.schema import Campaign
from embedcube.campaign.zones import listed_in, zones_of
from embedcube.errors import RequestError

CAMPAIGN = Campaign.model_validate(
    {
        "campaign": "c",
        "archives": {"s1": {"source": "chips", "path": ".", "bands": ["VV"]},
                     "s2": {"source": "points", "path": ".", "bands": ["B04"], "options": {"id": "id"}}},
        "grid": {"crs": "samples", "pixel": 10},
        "windows": [["2020-01-01", "2021-01-01"]],
        "layers": {"a": {"archives": ["s1", "s2"], "backbone": {"name": "mosaiks"}, "chip_px": 12, "cell_px": 8,
                         "halo_px": 2}},
    }
)  # fmt: skip

AT = Listed(id="p", crs="EPSG:32632", x=500_000.0, y=5_000_000.0, dx=10.0, dy=-10.0)


def scene(archive: str, *samples: Listed, **more: Any) -> Scene:
    moment = datetime(2020, 6, 1, tzinfo=UTC)
    about = {"id": "x", "archive": archive, "time": moment, "acquisition": "row", "bbox": (9, 45, 9, 45)} | more
    return Scene(samples=samples, **about)


def degrees(x: float) -> Listed:
    lon, lat = Transformer.from_crs("EPSG:32632", "EPSG:4326", always_xy=True).transform(x, AT.y)
    return Listed(id="p", crs="EPSG:4326", x=lon, y=lat)


def zones(*scenes: Scene) -> tuple[str, ...]:
    listed = listed_in(zones_of(CAMPAIGN, "a", scenes))
    assert listed is not None
    return listed.ids


@pytest.mark.parametrize("one", [AT, degrees(AT.x)])
def test_places_are_compared_in_metres(one: Listed) -> None:
    assert zones(scene("s1", one), scene("s2", degrees(AT.x + 50))) == ("p",)
    turned = replace(degrees(AT.x), x=degrees(AT.x).x - 360)
    assert zones(scene("s1", one), scene("s2", turned)) == ("p",)
    with pytest.raises(RequestError, match=r"sample p lies at two places, 9 45\.\d+ and 9\.00\d+ .* 150 m apart"):
        zones(scene("s1", one), scene("s2", degrees(AT.x + 150)))


def test_two_samples_of_one_id_in_one_scene_are_refused() -> None:
    with pytest.raises(RequestError, match="two samples have the id p, in x and in x"):
        zones(scene("s1", AT, replace(AT)))


def test_chips_that_are_all_smaller_than_chip_px_are_refused() -> None:
    small, large = (
        Asset(band="VV", path="a.tif", crs="EPSG:32632", transform=(10, 0, 0, 0, -10, 0), rows=side, cols=side,
              block_rows=side, block_cols=side, dtype="uint16", nodata=None, size=1, digest="")
        for side in (11, 12)
    )  # fmt: skip
    other = replace(AT, id="q")
    with pytest.raises(RequestError, match=r"layers.a.chip_px: it is 12, and the samples of archive s1 have 11 pixels"):
        zones(scene("s1", AT, assets=(small,)))
    assert zones(scene("s1", AT, assets=(small,)), scene("s1", other, assets=(large,), id="y")) == ("p", "q")
