"""Frames of ERA5's steps: instants, sums, rates and extremes, across files, compared with scalar loops."""

import json
import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas
import pytest
import yaml
from tests.conftest import ROOT, Campaign, call_cli, in_shards
from tests.sources.test_era5 import (
    NORTH_UP,
    START,
    a_field,
    day,
    era5,
    grid_on,
    hours,
    only,
    write_grib,
    write_netcdf,
)

from embedcube.backbones.base import make_backbone
from embedcube.campaign.inventory import read_inventory
from embedcube.campaign.load import load_campaign
from embedcube.campaign.plan import read_plan, read_shards
from embedcube.errors import RequestError
from embedcube.sources.base import make_source
from embedcube.sources.composite import Composite
from embedcube.sources.era5.source import Era5, Options
from embedcube.sources.era5.steps import Method, spacing, timeline_of
from embedcube.sources.era5.timeline import read_timeline
from embedcube.sources.reader import RasterReader
from embedcube.windows import Window

BANDS = {"2t": 167, "tp": 228, "10fg": 49, "mn2t": 202, "avg_tprate": 235055}


@pytest.fixture(scope="module")
def reader() -> Iterator[RasterReader]:
    made = RasterReader(threads=2, attempts=2, wait_s=0)
    yield made
    made.close()


def picture(source: Era5, frame: Window, reader: RasterReader) -> Composite:
    """The composite of NORTH_UP, as the kernel makes it, from the scenes that overlap the frame."""
    grid, area = grid_on(NORTH_UP)
    scenes = [scene for scene in source.scenes(full_digests=False) if scene.meets(frame)]
    assert not any(scene.verdict for scene in scenes)
    return source.composite([(s.acquisition, source.observe(s, frame, grid, area, reader)) for s in scenes])


def as_a_loop_has_it(array: Any, frame: Window, what: str) -> Any:
    """Expected value: an instant is at its stamp, other steps cover the hour before it; NaN for incomplete sums."""
    start, end = frame.start.replace(tzinfo=None), frame.end.replace(tzinfo=None)
    firsts = [stamp if what == "point" else stamp - timedelta(hours=1) for stamp in pandas.DatetimeIndex(array.time)]
    inside = [t for t, first in enumerate(firsts) if first >= start and first < end]
    result = np.full(array.shape[1:], math.nan)
    for y in range(array.shape[1]):
        for x in range(array.shape[2]):
            found = [float(value) for value in array.values[inside, y, x]]
            whole = len(found) == (end - start).total_seconds() / 3600
            if what in ("point", "mean") and found:
                result[y, x] = math.fsum(found) / len(found)
            elif whole:
                result[y, x] = math.fsum(found) if what == "sum" else max(found) if what == "maximum" else min(found)
    return result


@pytest.mark.parametrize("kind", ["grib1", "grib2", "netcdf"])
@pytest.mark.parametrize("by", ["opening", "pattern"])
def test_days_across_files_are_what_a_scalar_loop_finds(
    kind: str, by: str, tmp_path: Path, reader: RasterReader
) -> None:
    """Files of a day, stamped 00:00 to 23:00: the last hour of each day lies in the file of the next."""
    whole = {
        band: a_field(NORTH_UP.latitude, NORTH_UP.longitude, hours(72), seed=i, name=band)
        for i, band in enumerate(BANDS)
    }
    step_types = {"2t": "instant", "tp": "accum", "10fg": "max", "mn2t": "min", "avg_tprate": "avg"}
    for band, array in whole.items():
        for d in range(3):
            part, name = array[24 * d : 24 * d + 24], f"{band}_{START + timedelta(days=d):%Y%m%d}"
            if kind == "netcdf":
                write_netcdf(tmp_path / f"{name}.nc", part.assign_attrs(GRIB_stepType=step_types[band]))
            else:
                keys: dict[str, Any] = {"stepType": "avg"} if (kind, band) == ("grib1", "avg_tprate") else {}
                write_grib(tmp_path / f"{name}.grb", part, edition=int(kind[-1]), bits=24, paramId=BANDS[band], **keys)
    suffix = "nc" if kind == "netcdf" else "grb"
    source = era5(tmp_path, *BANDS, **({"pattern": f"{{param}}_{{date}}.{suffix}"} if by == "pattern" else {}))
    for d in range(3):
        frame = day(START + timedelta(days=d))
        found = picture(source, frame, reader)
        for c, (band, what) in enumerate(zip(BANDS, ("point", "sum", "maximum", "minimum", "mean"), strict=True)):
            expected = as_a_loop_has_it(whole[band], frame, what)
            if d < 2:
                np.testing.assert_allclose(found.x_cyx[c], expected, rtol=3e-7)
            else:
                assert np.isnan(expected).all() == (what not in ("point", "mean"))
        assert found.clear_yx.all() == (d < 2), "the third day lacks its last hour"
        assert any(used.any() for used in found.used_yx) == (d < 2)


@pytest.mark.parametrize(
    ("band", "attributes", "options", "verdict"),
    [
        ("tp", {}, {}, ""),
        ("tp", {"GRIB_stepType": "accum"}, {}, ""),
        ("tp", {"cell_methods": "time: sum (interval: 1 hour)"}, {}, ""),
        ("rain", {}, {"methods": {"rain": "sum"}}, ""),
        ("ssrdc", {"units": "J m**-2"}, {}, ""),
        ("total_sky_direct_solar_radiation_at_surface", {"units": "J m**-2"}, {}, ""),
        ("rain", {}, {}, "says what a step is of its time; say it: methods: {rain: sum}, or one of point, mean, sum"),
        ("rain", {"cell_methods": "time: point"}, {"methods": {"rain": "sum"}}, ""),
        (
            "rain",
            {"cell_methods": "area: mean time: sum"},
            {},
            "its file calls each step a sum, it is taken for a point",
        ),
        ("tp", {"GRIB_stepType": "avg"}, {}, "a mean, it is taken for a sum; say which: methods: {tp: ...}"),
        ("tp", {"GRIB_stepType": "avg"}, {"methods": {"tp": "sum"}}, ""),
        ("fg10", {"GRIB_stepType": "instant"}, {}, "a point, it is taken for a maximum"),
    ],
)
def test_what_a_step_is_of_its_time_is_known_or_asked(
    band: str, attributes: dict[str, Any], options: dict[str, Any], verdict: str, tmp_path: Path, reader: RasterReader
) -> None:
    array = NORTH_UP.rename(band).assign_attrs(attributes)
    source = era5(write_netcdf(tmp_path / "a.nc", array), band, **options)
    scene = only(source)
    assert verdict in scene.verdict
    if not verdict:
        often = "sum over the frame's steps, one every 1 h, stamped with the end of their time"
        assert scene.processing == f"{band}: {often}, nothing where one is missing"
        found = picture(source, day(START - timedelta(hours=1), 6), reader)
        np.testing.assert_allclose(found.x_cyx[0], NORTH_UP.sum("time").values, rtol=1e-7)


@pytest.mark.parametrize(("name", "verdict"), [("sp", ""), ("tp", "calls each step a sum, it is taken for a point")])
def test_the_table_is_asked_for_the_variable_that_a_standard_name_finds(
    name: str, verdict: str, tmp_path: Path
) -> None:
    path = write_netcdf(tmp_path / "a.nc", NORTH_UP.rename(name).assign_attrs(standard_name="of_its_own"))
    found = only(era5(path, "of_its_own")).verdict
    assert verdict in found
    assert bool(found) == bool(verdict)


def test_a_mean_rate_is_known_by_its_old_name(tmp_path: Path) -> None:
    """mtpr is a mean of the hour that ends at its stamp, though its file does not state it."""
    (scene,) = era5(write_netcdf(tmp_path / "a.nc", NORTH_UP.rename("mtpr")), "235055").scenes(full_digests=False)
    assert scene.verdict == ""
    assert "mean over the frame's steps, one every 1 h, stamped with the end of their time" in scene.processing
    assert scene.assets[0].ends


@pytest.mark.parametrize(("what", "bears"), [("point", 12), ("mean", 12), ("sum", 0), ("maximum", 0), ("minimum", 0)])
def test_a_frame_bears_the_loss_of_half_its_steps_for_a_mean_and_of_none_for_the_rest(
    what: str, bears: int, tmp_path: Path, reader: RasterReader
) -> None:
    array = a_field(NORTH_UP.latitude, NORTH_UP.longitude, hours(25), name="any")
    frame = day()
    for lost in (0, 1, 12, 13):
        kept = np.delete(np.arange(25), range(3, 3 + lost))
        source = era5(write_netcdf(tmp_path / f"{lost}.nc", array[kept]), "any", methods={"any": what})
        found = picture(source, frame, reader)
        assert found.clear_yx.all() == found.clear_yx.any() == (lost <= bears), lost


def test_files_of_one_frame_are_put_together(tmp_path: Path, reader: RasterReader) -> None:
    """An instant and a sum in files of 5 and 20 hours; the mean is weighted by the number of steps."""
    whole = [
        a_field(NORTH_UP.latitude, NORTH_UP.longitude, hours(25), seed=i, name=n) for i, n in enumerate(("sp", "tp"))
    ]
    for part, steps in {"one": slice(0, 5), "two": slice(5, 25)}.items():
        for array in whole:
            write_netcdf(tmp_path / f"{array.name}_{part}.nc", array[steps])
    source = era5(tmp_path, "sp", "tp")
    assert [[a.steps for a in s.assets] for s in source.scenes(full_digests=False)] == [[5, 5], [20, 20]]
    all_day = picture(source, day(), reader)
    assert all(used.all() for used in all_day.used_yx)
    assert not all_day.masked_yx.any()
    np.testing.assert_allclose(all_day.x_cyx[0], whole[0][:24].mean("time").values, rtol=1e-7)
    np.testing.assert_allclose(all_day.x_cyx[1], whole[1][1:].sum("time").values, rtol=1e-7)


def test_a_file_of_a_single_step_is_as_long_as_those_beside_it(tmp_path: Path, reader: RasterReader) -> None:
    """A last hour in its own file completes the day, and alone it is not taken for a day."""
    array = a_field(NORTH_UP.latitude, NORTH_UP.longitude, hours(25), name="tp")
    write_netcdf(tmp_path / "a.nc", array[:24])
    write_netcdf(tmp_path / "b.nc", array[24:])
    source = era5(tmp_path, "tp")
    np.testing.assert_allclose(picture(source, day(), reader).x_cyx[0], array[1:].sum("time").values, rtol=1e-7)
    last = list(source.scenes(full_digests=False))[-1]
    assert last.assets[0].step_s == 3600
    alone = source.observe(last, day(), *grid_on(NORTH_UP), reader)
    assert alone.share_c == (1 / 24,)
    assert not source.composite([("one", alone)]).clear_yx.any()


@pytest.mark.parametrize(("bounds", "month"), [(None, 2), ("begin", 2), ("end", 1)])
def test_months_begin_at_their_stamps_unless_bounds_say_otherwise(
    bounds: str | None, month: int, tmp_path: Path, reader: RasterReader
) -> None:
    stamps = pandas.date_range("2022-01-01", periods=13, freq="MS")
    data = a_field(NORTH_UP.latitude, NORTH_UP.longitude, stamps, name="tp").to_dataset()
    if bounds:
        data["time"].attrs["bounds"] = "time_bnds"
        other = stamps + pandas.DateOffset(months=1 if bounds == "begin" else -1)
        pairs = sorted([stamps, other], key=lambda times: times[0])
        data["time_bnds"] = (("time", "nv"), np.stack([times.values for times in pairs], axis=1))
    data["time"].encoding["units"] = "days since 2021-01-01"
    data.to_netcdf(tmp_path / "a.nc", engine="netcdf4")
    assert "is a value the sum of the month, or of a day of it" in only(era5(tmp_path / "a.nc", "tp")).verdict
    source = era5(tmp_path / "a.nc", "tp", accumulated={"tp": "each_step"})
    of_february = Window(datetime(2022, 2, 1, tzinfo=UTC), datetime(2022, 3, 1, tzinfo=UTC))
    expected = data["tp"][{2: 1, 1: 2}[month]]
    np.testing.assert_allclose(picture(source, of_february, reader).x_cyx[0], expected.values, rtol=1e-7)
    half = Window(of_february.start, datetime(2022, 2, 15, tzinfo=UTC))
    grid, area = grid_on(NORTH_UP)
    for frame in (half, Window(of_february.start, datetime(2022, 3, 15, tzinfo=UTC))):
        observed = source.observe(only(source), frame, grid, area, reader)
        assert not source.composite([("", observed)]).clear_yx.any(), "no month fills it, nor does a sum of two"


@pytest.mark.parametrize("edition", [1, 2])
def test_daily_sums_of_grib_are_of_the_day_that_ends_at_their_stamp(
    edition: int, tmp_path: Path, reader: RasterReader
) -> None:
    """As ERA5-Land has them: since the beginning of the day, valid at the midnight that ends it."""
    days = a_field(NORTH_UP.latitude, NORTH_UP.longitude, pandas.date_range("2022-08-30", periods=3, freq="D"))
    keys: dict[str, Any] = {"paramId": 228, "stepType": "accum", "stepRange": "0-24", "bits": 24}
    source = era5(write_grib(tmp_path / "a.grib", days, edition=edition, **keys), "tp")
    assert only(source).processing.startswith("tp: sum over the frame's steps, one every 24 h, stamped with the end")
    np.testing.assert_allclose(picture(source, day(), reader).x_cyx[0], days[1].values, rtol=1e-5)


@pytest.mark.parametrize(
    ("stamps", "frame", "share"),
    [
        (["2022-02-01"], ("2022-02-01", "2022-03-01"), 1),
        (["2022-02-01", "2022-03-01"], ("2022-01-01", "2023-01-01"), 59 / 365),
        (["2022-01-01", "2022-02-01"], ("2022-01-15", "2022-02-15"), 1),
        (["2022-02-01"], ("2022-03-01", "2022-04-01"), 0),
    ],
)
def test_months_fill_as_much_of_a_frame_as_the_calendar_says(
    stamps: list[str], frame: tuple[str, str], share: float
) -> None:
    year = pandas.date_range("2022-01-01", periods=12, freq="MS").values.astype("datetime64[s]")
    window = Window(*(datetime.fromisoformat(moment).replace(tzinfo=UTC) for moment in frame))
    assert spacing(year) == 28 * 86400
    times = np.array(stamps, dtype="datetime64[s]")
    made = timeline_of(times, None, "mean", spacing(year), stated=False, running=False)
    for timeline in (made, read_timeline(made.text, made.step_s)):
        _, seconds = timeline.within(window, split=True)
        assert seconds.sum() / (window.end - window.start).total_seconds() == pytest.approx(share)


# --- from campaign file to cube -------------------------------------------------------------------


def write_campaign(folder: Path, archive: str, band: str, windows: str) -> Campaign:
    """Write a campaign with one layer over the files in a folder."""
    campaign = Campaign(folder / "campaign.yaml")
    campaign.file.write_text(
        f"""
campaign: {archive}
archives: {{weather: {{source: era5, path: {archive}, bands: [{band}]}}}}
grid: {{crs: EPSG:4326, pixel: 0.25, origin: [4.875, 52.125]}}
windows: {windows}
layers:
  eof:
    archives: [weather]
    backbone: {{name: eof, components: 2}}
    chip_px: 4
    halo_px: 0
    cell_px: 4
    shard_chips: 1
    encoding: float32
how: {{runs: runs, ranks: 1}}
"""
    )
    return campaign


@pytest.mark.parametrize(
    ("band", "often", "windows", "refused"),
    [
        ("t2m", "MS", "{start: 2022-01-01, end: 2022-03-01, step: 7 days}", "672 h long, longer than any frame"),
        ("t2m", "MS", "[[2022-02-01, 2022-03-01]]", ""),
        ("t2m", "MS", "{start: 2022-01-01, end: 2022-02-15, step: 1 month}", ""),
        ("tp", "3h", "{start: 2022-01-01, end: 2022-01-02, step: 1 hour}", "3 h long, longer than any frame"),
        ("t2m", "3h", "{start: 2022-01-01, end: 2022-01-02, step: 1 hour}", ""),
        ("t2m", "D", "{start: 2022-01-01, end: 2022-01-04, step: 12 hours}", "24 h long, longer than any frame"),
        ("t2m", "D", "{start: 2022-01-01, end: 2022-01-04, step: 1 day}", ""),
    ],
)
def test_steps_that_are_longer_than_any_frame_are_refused(
    band: str, often: str, windows: str, refused: str, tmp_path: Path
) -> None:
    """Otherwise the window with the stamp would get the value of a month, and its neighbours none."""
    stamps = pandas.date_range("2022-01-01", periods=12, freq=often)
    (tmp_path / "data").mkdir()
    write_netcdf(
        tmp_path / "data" / "a.nc", a_field(np.arange(52, 50.9, -0.25), np.arange(5, 6.1, 0.25), stamps, name=band)
    )
    campaign = write_campaign(tmp_path, "data", band, windows)
    campaign.cli("index")
    # steps are checked before weights
    with pytest.raises(RequestError, match=refused or "has no weights yet"):
        campaign.cli("plan")


def test_the_sum_of_a_day_is_planned_with_the_file_of_the_next(tmp_path: Path) -> None:
    """Scene links, price, vectors and messages of a campaign over daily files; the last day is never complete."""
    lat, lon = np.arange(52, 50.9, -0.25), np.arange(5, 6.1, 0.25)
    rain = a_field(lat[:4], lon[:4], hours(96), name="tp")
    rain[:] = np.random.default_rng(3).exponential(1e-3, rain.shape)
    (tmp_path / "rain").mkdir()
    for d in range(4):
        write_netcdf(tmp_path / "rain" / f"{d}.nc", rain[24 * d : 24 * d + 24])
    campaign = write_campaign(tmp_path, "rain", "tp", "{start: 2022-08-31, end: 2022-09-04, step: 1 day}")
    assert "nothing found wrong" in campaign.cli("run")
    loaded = load_campaign(campaign.file)
    plan, scenes = read_plan(loaded, campaign.run), read_inventory(loaded, campaign.run)
    shards = {shard.t: shard for group in read_shards(campaign.run, plan) for shard in group}
    linked = {t: [scenes[i].assets[0].path for i in shard.scenes] for t, shard in shards.items()}
    assert linked == {0: ["0.nc", "1.nc"], 1: ["1.nc", "2.nc"], 2: ["2.nc", "3.nc"], 3: ["3.nc"]}
    # the first of 96 fields belongs to the day before
    assert plan.price.decoded_bytes == plan.price.needed_bytes == 95 * rain[0].nbytes
    cube = in_shards(campaign.run.newest_cube, "eof/latlon")
    assert cube["status"].values.ravel().tolist() == [1, 1, 1, 2]
    daily = np.array([rain.values[1 + 24 * d : 25 + 24 * d].sum(axis=0) for d in range(3)])
    anomaly = (daily - daily.mean(axis=0)) * np.sqrt(np.cos(np.deg2rad(lat[:4])))[:, None]
    left, values, _ = np.linalg.svd(anomaly.reshape(3, -1), full_matrices=False)
    found = cube["embedding"].values[:3, 0, 0]
    expected = (left * values)[:, :2]
    expected *= np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    place = ("--lon", "5.3", "--lat", "51.7", "--time", "2022-09-03T12:00", "--json")
    said = json.loads(call_cli("explain", campaign.run.newest_cube, *place).stdout)
    assert (said["status"], said["scenes"]) == ("no_data", [])
    (unused,) = said["scenes_not_used"]
    assert unused["processing"].endswith("nothing where one is missing")


def test_a_window_that_lacks_an_archive_says_so_in_plan_status_and_explain(tmp_path: Path) -> None:
    """Instants and sums in archives of their own; the sums lack an hour of the second of three days."""
    lat, lon = np.arange(52, 50.9, -0.25)[:4], np.arange(5, 6.1, 0.25)[:4]
    (tmp_path / "data").mkdir()
    for band, seed in (("t2m", 1), ("tp", 2)):
        array = a_field(lat, lon, hours(73), name=band, seed=seed)
        kept = np.delete(np.arange(73), 30) if band == "tp" else np.arange(73)
        write_netcdf(tmp_path / "data" / f"{band}.nc", array[kept])
    campaign = write_campaign(tmp_path, "data", "t2m", "{start: 2022-08-31, end: 2022-09-03, step: 1 day}")

    def two_archives(document: dict[str, Any]) -> None:
        document["archives"]["sums"] = document["archives"]["weather"] | {"bands": ["tp"]}
        document["layers"]["eof"] |= {"archives": ["weather", "sums"], "backbone": {"name": "mosaiks", "filters": 4}}
        document["layers"]["eof"] |= {"cell_px": 2, "halo_px": 1}

    campaign.change(two_archives)
    said = campaign.cli("run")
    assert "layers.eof: window 1: tp has 23 of 24 steps" in said
    assert "nothing found wrong" in said
    status = in_shards(campaign.run.newest_cube, "eof/latlon")["status"].values
    assert [np.unique(of_day).tolist() for of_day in status] == [[1], [5], [1]]
    place = ("--lon", "5.3", "--lat", "51.7", "--time", "2022-09-01T12:00", "--json")
    explained = json.loads(call_cli("explain", campaign.run.newest_cube, *place).stdout)
    assert (explained["status"], explained["missing_steps"]) == ("valid_incomplete", ["tp has 23 of 24 steps"])
    assert explained["shares_of_frames"] == {"weather": [1.0], "sums": [round(23 / 24, 4)]}


# --- what docs/era5.md shows ----------------------------------------------------------------------

PAGE = ROOT / "docs" / "era5.md"
EXAMPLES = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: str(example.get("campaign", "archives")))
def test_every_example_of_the_page_is_a_campaign(example: dict[str, Any], tmp_path: Path) -> None:
    """An example without a whole campaign replaces keys of the first example."""
    whole = EXAMPLES[0] | example
    for archive in whole["archives"].values():
        (tmp_path / archive["path"].lstrip("/")).mkdir(parents=True, exist_ok=True)
        archive["path"] = archive["path"].lstrip("/")
    (tmp_path / "campaign.yaml").write_text(yaml.safe_dump(whole))
    campaign = load_campaign(tmp_path / "campaign.yaml")
    for layer in campaign.layers:
        make_backbone(campaign, layer)
    for name, archive in campaign.archives.items():
        assert make_source(campaign, name).collection.startswith("https://")
        assert archive.bands


def test_the_page_knows_every_method_and_option() -> None:
    text = PAGE.read_text()
    for word in (*get_args(Method), *Options.model_fields):
        assert f"`{word}" in text or f"{word}: " in text, word
