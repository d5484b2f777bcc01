"""Bundles: equal bytes there and back, every flipped bit named, nothing read that leads elsewhere; smaller vectors."""

import hashlib
import json
import random
import shutil
import stat
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import zarr
from tests.conftest import call_cli
from tests.cube.two_zones import LAYER
from tests.uses.test_pull import static

from embedcube.consolidate.verify import verify_cube
from embedcube.cube.encoding import VALID, VALID_INCOMPLETE
from embedcube.cube.part import PULLED, part_of
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError, WorkError
from embedcube.progress import silent
from embedcube.uses.exchange.chosen import Chosen
from embedcube.uses.exchange.codecs import Smaller
from embedcube.uses.exchange.export import export
from embedcube.uses.exchange.manifest import manifest_bytes
from embedcube.uses.exchange.part import export_part
from embedcube.uses.exchange.receiving import check, take_in
from embedcube.uses.exchange.reduced import export_reduced
from embedcube.uses.exchange.tables import export_table, major_tom_cell
from embedcube.uses.exchange.zipped import Members

BOX = (11.9, 49.97, 11.96, 50.0)
"""in utm32 only"""

JULY = Chosen(box=BOX, time="2023-07")


@pytest.fixture(scope="module")
def part(two_zones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a part of the cube. Do not change it: copy."""
    path = tmp_path_factory.mktemp("bundle") / "july.zip"
    export_part(Cube(two_zones), path, JULY, silent)
    return path


def test_a_part_comes_back_byte_for_byte_and_verifies(part: Path, two_zones: Path, tmp_path: Path) -> None:
    made = take_in(part, tmp_path, silent)
    copied = {str(path.relative_to(made.folder)): path for path in made.folder.rglob("*") if path.is_file()}
    assert any("/embedding/c" in name for name in copied)
    assert not any(name.startswith(f"{LAYER}/utm33/embedding/c") for name in copied)
    assert copied.pop(PULLED).is_file()  # says which part it is
    for name, path in copied.items():
        assert path.read_bytes() == (two_zones / name).read_bytes(), name
    # the cube is made by hand, and says less than others of how
    found = [one for one in verify_cube(made.folder, silent) if one.check not in ("derived", "seal")]
    assert [(one.check, one.remark) for one in found] == [("part", True)]
    again = take_in(part, tmp_path, silent)
    assert again.kept == again.files


def test_a_loss_in_a_part_is_a_finding(part: Path, tmp_path: Path) -> None:
    made = take_in(part, tmp_path, silent)
    lost = next(made.folder.rglob("embedding/c.1.*"))
    lost.unlink()
    name = lost.relative_to(made.folder).as_posix()
    found = {(one.check, one.place, one.found) for one in verify_cube(made.folder, silent)}
    assert ("bytes", name, "nothing of it") in found


def test_a_bundle_into_a_whole_cube_leaves_it_whole(part: Path, two_zones: Path, tmp_path: Path) -> None:
    copy = tmp_path / f"{two_zones.resolve().stem}.zarr"
    shutil.copytree(two_zones, copy)
    made = take_in(part, tmp_path, silent)
    assert made.folder == copy
    assert made.kept == made.files
    assert part_of(copy) is None


def test_a_bundle_without_all_of_its_members_is_refused(part: Path, tmp_path: Path) -> None:
    manifest = json.loads(zipfile.ZipFile(part).read("bundle.json"))
    lost = next(name for name in manifest["files"] if "/embedding/c" in name)
    with zipfile.ZipFile(part) as whole, zipfile.ZipFile(tmp_path / "less.zip", "w") as less:
        for info in whole.infolist():
            if info.filename != lost:
                less.writestr(info, whole.read(info))
    with pytest.raises(WorkError, match=f"not in the file: {lost}"):
        take_in(tmp_path / "less.zip", tmp_path / "in", silent)
    assert not (tmp_path / "in").exists()


@pytest.mark.parametrize("name", ["a\0b", "a\nb", "a" * 5000, "..", "a/b", ""], ids=ascii)
def test_a_version_that_is_no_name_is_refused(name: str, part: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(part) as whole, zipfile.ZipFile(tmp_path / "named.zip", "w") as other:
        about = json.loads(whole.read("bundle.json"))
        files = {key: (one["sha256"], one["bytes"]) for key, one in about.pop("files").items()}
        del about["checksum"], about["format"]
        for info in whole.infolist():
            own = info.filename == "bundle.json"
            other.writestr(info, manifest_bytes(about | {"cube": name}, files) if own else whole.read(info))
    with pytest.raises(RequestError, match="is no name for a folder"):
        take_in(tmp_path / "named.zip", tmp_path / "in", silent)


def test_the_store_in_the_zip_is_plain_to_read(part: Path, two_zones: Path) -> None:
    group = zarr.open_group(zarr.storage.ZipStore(part, mode="r"), mode="r")
    status = group[f"{LAYER}/utm32/status"]
    assert isinstance(status, zarr.Array)
    there = np.asarray(status[1]) != 0
    whole = Cube(two_zones).array(f"{LAYER}/utm32", "status")[1]
    assert there.any()
    assert np.array_equal(np.asarray(status[1])[there], whole[there])


def test_every_flipped_bit_is_named(part: Path, tmp_path: Path) -> None:
    data, copy = part.read_bytes(), tmp_path / "flipped.zip"
    assert check(part, silent).damaged == []
    places = zipfile.ZipFile(part).infolist()
    rng = random.Random(3)
    drawn = [rng.randrange(len(data)) for _ in range(40)]
    # dates and modes in headers, which no checksum of a zip covers; the list at the end
    drawn += [places[5].header_offset + at for at in (4, 10, 12, 26)] + [len(data) - at for at in (1, 10, 40, 60)]
    for at in drawn:
        flipped = bytearray(data)
        flipped[at] ^= 1 << rng.randrange(8)
        copy.write_bytes(flipped)
        owner = next((one.filename for one in reversed(places) if one.header_offset <= at), "")
        in_list = at > places[-1].header_offset + 30 + len(places[-1].filename) + places[-1].file_size
        try:
            named = check(copy, silent).damaged
        except RequestError as refused:
            named = [str(refused)]
        assert named, f"byte {at} of {owner}"
        if not in_list:
            assert any(owner in one for one in named), (at, owner, named)


def test_what_may_not_be_in_a_bundle_is_refused_by_name(part: Path, tmp_path: Path) -> None:
    def with_member(info: zipfile.ZipInfo, data: bytes, kind: int = zipfile.ZIP_STORED) -> Path:
        path = tmp_path / "strange.zip"
        path.write_bytes(part.read_bytes())
        with zipfile.ZipFile(path, "a") as file:
            file.writestr(info, data, kind)
        return path

    link = zipfile.ZipInfo("s2/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    strange = [
        (zipfile.ZipInfo("../outside"), b"x", zipfile.ZIP_STORED, "../outside has a name that is no path"),
        (zipfile.ZipInfo("/etc/passwd"), b"x", zipfile.ZIP_STORED, "no path inside"),
        (link, b"/etc/passwd", zipfile.ZIP_STORED, "s2/link is a link"),
        (zipfile.ZipInfo("s2/bomb"), bytes(1 << 24), zipfile.ZIP_DEFLATED, "s2/bomb is compressed"),
    ]
    for info, data, kind, words in strange:
        with pytest.raises(RequestError, match=words):
            Members(with_member(info, data, kind))
    path = with_member(zipfile.ZipInfo("s2/more"), b"x")
    assert check(path, silent).damaged == ["s2/more: bundle.json has no such member"]
    for start, words in (
        (b"no zip at all", "no bundle, but another kind of file"),
        (path.read_bytes()[:99], "cut off"),
    ):
        (tmp_path / "none.zip").write_bytes(start)
        with pytest.raises(RequestError, match=words):
            check(tmp_path / "none.zip", silent)


@pytest.mark.parametrize("smaller", [None, Smaller(features=4)])
def test_an_interrupted_export_goes_on(smaller: Smaller | None, two_zones: Path, tmp_path: Path) -> None:
    cube, whole, out = Cube(two_zones), tmp_path / "whole.zip", tmp_path / "again.zip"

    class Killed(Exception):
        pass

    def killed(done: int, _: int | None) -> None:
        if done == (1 if smaller else 5):
            raise Killed

    def write(path: Path, progress: object) -> int:
        if smaller:
            return export_reduced(cube, path, JULY, smaller, progress).kept  # type: ignore[arg-type]
        return export_part(cube, path, JULY, progress).kept  # type: ignore[arg-type]

    write(whole, silent)
    with pytest.raises(Killed):
        write(out, killed)
    assert not out.exists()
    (partial,) = tmp_path.glob(".again.zip.*")
    # and the last member was torn
    partial.write_bytes(partial.read_bytes()[:-3])
    assert write(out, silent) >= 4
    assert out.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob(".again.zip.*"))


def test_a_dry_run_says_the_size_and_writes_nothing(two_zones: Path, part: Path, tmp_path: Path) -> None:
    priced = export_part(Cube(two_zones), tmp_path / "x.zip", JULY, silent, dry_run=True)
    assert priced.bytes == part.stat().st_size
    assert list(tmp_path.iterdir()) == []


def test_a_remote_cube_gives_the_same_bundle(two_zones: Path, part: Path, tmp_path: Path) -> None:
    with static(two_zones.parent) as server:
        url = f"{server.url}/cube.zarr"
        export(url, tmp_path / "far.zip", "bundle", JULY, None, silent)
        with pytest.raises(RequestError, match="--dry-run needs a cube on this machine"):
            export(url, tmp_path / "x.zip", "bundle", JULY, None, silent, dry_run=True)
    assert (tmp_path / "far.zip").read_bytes() == part.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["far.zip"]


def test_a_damaged_cube_is_not_exported(two_zones: Path, tmp_path: Path) -> None:
    copy = tmp_path / "cube.zarr"
    shutil.copytree(two_zones, copy)
    damaged = copy / LAYER / "utm32" / "embedding" / "c.0.0.0.0"
    damaged.chmod(0o644)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    with pytest.raises(WorkError, match=r"embedding/c\.0\.0\.0\.0: damaged, the provenance"):
        export_part(Cube(copy), tmp_path / "x.zip", Chosen(), silent)


def test_terms_and_weights_travel(part: Path) -> None:
    about = json.loads(zipfile.ZipFile(part).read("bundle.json"))
    assert about["layers"][LAYER]["weights_sha256"] == "1" * 64
    assert any(one["licence"] for one in about["licences"])
    assert any(name.startswith("provenance/shard_record") for name in about["files"])


@pytest.mark.parametrize("asked", [Smaller(features=8), Smaller(bits=8), Smaller(bits=4), Smaller(bits=1)], ids=str)
def test_smaller_vectors_are_what_a_plain_reader_computes(asked: Smaller, two_zones: Path, tmp_path: Path) -> None:
    cube = Cube(two_zones)
    done = export_reduced(cube, tmp_path / "small.zip", JULY, asked, silent)
    group: Any = zarr.open_group(zarr.storage.ZipStore(tmp_path / "small.zip", mode="r"), mode="r")
    read = {name: np.asarray(array[...]) for name, array in group[f"{LAYER}/utm32"].arrays()}
    status = read["status"][0]
    valid = (status == VALID) | (status == VALID_INCOMPLETE)
    q = read["embedding"][0][valid]
    # as docs/transfer.md says
    if asked.features:
        back = read["mean"] + (q * read["step"]) @ read["basis"]
    elif asked.bits == 1:
        back = read["mean"] + (np.unpackbits(q, axis=-1, count=16) * 2.0 - 1) * read["scale"][0][valid][:, None]
    else:
        back = read["mean"] + q * read["scale"][0][valid][:, None]
    # the same cells by their coordinates in the whole cube
    whole = cube.group(f"{LAYER}/utm32")
    y, x = (np.searchsorted(sign * whole[n][...], sign * read[n]) for n, sign in (("y", -1), ("x", 1)))
    box = (slice(y[0], y[-1] + 1), slice(x[0], x[-1] + 1))
    true = cube.vectors(f"{LAYER}/utm32", 1, *box)[valid]
    assert np.isfinite(true).all()
    off = np.linalg.norm(back - true) / np.linalg.norm(true - true.mean(axis=0))
    # of a vector of 16 numbers: signs alone, 15 levels, 255 levels, the components that hold most
    assert off < {(None, 1): 0.75, (None, 4): 0.1, (None, 8): 0.01, (8, 8): 0.65}[asked.features, asked.bits]
    assert (
        done.measured[LAYER]["recall_at_10"]
        > {(None, 1): 0.02, (None, 4): 0.5, (None, 8): 0.9, (8, 8): 0.2}[asked.features, asked.bits]
    )
    assert check(tmp_path / "small.zip", silent).damaged == []
    made = take_in(tmp_path / "small.zip", tmp_path / "in", silent)
    taken: Any = zarr.open_group(made.folder, mode="r")[f"{LAYER}/utm32/embedding"]
    assert np.array_equal(taken[...], read["embedding"])


def test_tables_hold_the_vectors_of_the_cube(two_zones: Path, tmp_path: Path) -> None:
    import geopandas

    cube = Cube(two_zones)
    export_table(cube, tmp_path / "t.parquet", JULY, silent)
    table = geopandas.read_parquet(tmp_path / "t.parquet")
    assert len(table)
    assert table.crs.equals("OGC:CRS84") or table.crs.equals("EPSG:4326")
    for row in table.iloc[:: len(table) // 7].itertuples():
        centre = row.geometry.centroid
        cell = cube.cell_at(centre.x, centre.y, "2023-07")
        assert row.id == f"{cell.zone.split('/')[1]}/{cell.y}/{cell.x}"
        here = (slice(cell.y, cell.y + 1), slice(cell.x, cell.x + 1))
        assert np.array_equal(np.asarray(row.embedding), cube.vectors(cell.zone, 1, *here)[0, 0])
    export_table(cube, tmp_path / "m.parquet", JULY, silent, major_tom=True)
    tom = geopandas.read_parquet(tmp_path / "m.parquet")
    assert list(tom.columns[:3]) == ["unique_id", "embedding", "timestamp"]
    assert np.array_equal(np.stack(tom.embedding), np.stack(table.embedding))
    assert set(tom.grid_cell) <= {f"{r}U_{c}R" for r in range(500, 600) for c in range(60, 110)}


def test_named_cells_are_exported_and_others_refused(two_zones: Path, tmp_path: Path) -> None:
    import geopandas

    cube = Cube(two_zones)
    export_table(cube, tmp_path / "t.parquet", Chosen(ids=("utm32/60/3", "utm33/40/60"), time="2023-06"), silent)
    assert sorted(geopandas.read_parquet(tmp_path / "t.parquet").id) == ["utm32/60/3", "utm33/40/60"]
    for wrong, words in (("utm31/1/1", "is no cell"), ("utm32/1", "is no cell"), ("utm32/900/1", "80 rows")):
        with pytest.raises(RequestError, match=words):
            export_table(cube, tmp_path / "t.parquet", Chosen(ids=(wrong,)), silent)


def test_cells_of_major_tom() -> None:
    """Against the grid built point by point, as its authors do."""
    rng = np.random.default_rng(4)
    lon, lat = rng.uniform(-180, 180, 300), rng.uniform(-80, 80, 300)
    # where an odd number of columns meets itself
    lon[:60] = rng.uniform(-180, -179.9, 60)
    rows, columns = major_tom_cell(lon, lat)
    radius = 6378.137

    def lines(count: int, span: float) -> Any:
        points = np.linspace(-span, span, count + 1)[:-1]
        return np.sort(np.mod(points, 2 * span) - span)

    lats = lines(int(np.ceil(np.pi * radius / 10)), 90)
    for i in range(300):
        row = np.searchsorted(lats, lat[i]) - 1
        assert rows[i] == row - np.searchsorted(lats, 0)
        lons = lines(int(np.ceil(2 * np.pi * radius * np.cos(np.radians(lats[row])) / 10)), 180)
        column = np.arange(len(lons))[np.searchsorted(lons, lon[i]) - 1]
        assert columns[i] == column - np.flatnonzero(lons == 0)[0]


def test_forms_of_others(two_zones: Path, tmp_path: Path) -> None:
    import rasterio
    import torch

    cube, box = Cube(two_zones), ",".join(map(str, BOX))
    common = ("--bbox", box, "--time", "2023-07")
    call_cli("export", str(two_zones), str(tmp_path / "v.csv"), "--as", "neuco-csv", *common)
    table = pandas.read_csv(tmp_path / "v.csv").set_index("id")
    assert [str(name) for name in table.columns] == [str(i) for i in range(16)]
    zone, y, x = table.index[9].split("/")
    here = (slice(int(y), int(y) + 1), slice(int(x), int(x) + 1))
    assert np.array_equal(table.iloc[9].to_numpy(np.float32), cube.vectors(f"{LAYER}/{zone}", 1, *here)[0, 0])

    call_cli("export", str(two_zones), str(tmp_path / "tt"), "--as", "terratorch-tiff", "--tile", "8", *common)
    path = sorted((tmp_path / "tt" / "layer_00").glob("*_embedding.tif"))[4]
    _, top, left, _ = path.stem.removesuffix("_embedding").split("_")
    with rasterio.open(path) as file:
        found, transform = np.moveaxis(file.read(), 0, -1), file.transform
    y0, x0 = int(top), int(left)
    true = cube.vectors(f"{LAYER}/utm32", 1, slice(y0, y0 + 8), slice(x0, x0 + 8))
    assert np.array_equal(found, true, equal_nan=True)
    a, _, c, _, e, f = cube.group(f"{LAYER}/utm32").attrs["spatial:transform"]
    assert (transform.c, transform.f) == (c + x0 * a, f + y0 * e)
    summary = json.loads((tmp_path / "tt" / "configuration_summary.json").read_bytes())
    assert summary["layers"][0]["layer_output_shape"] == [16, 8, 8]

    call_cli("export", str(two_zones), str(tmp_path / "pt"), "--as", "pt", *common)
    vectors = torch.load(tmp_path / "pt" / "embeddings.pt", weights_only=True).numpy()
    assert np.array_equal(vectors, table.to_numpy(np.float32))


def test_the_command_line_says_what_it_did(two_zones: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.zip"
    done = json.loads(call_cli("export", str(two_zones), str(out), "--time", "2023-06", "--json").stdout)
    assert done["bytes"] == out.stat().st_size
    data = bytearray(out.read_bytes())
    data[len(data) // 2] ^= 4
    out.write_bytes(data)
    failed = call_cli("check", str(out))
    assert failed.returncode == 1
    assert "damaged" in failed.stderr
    refused = call_cli("export", str(two_zones), str(out), "--as", "major-tom", "--features", "4")
    assert refused.returncode == 2
    assert hashlib.sha256(bytes(data)).hexdigest() == hashlib.sha256(out.read_bytes()).hexdigest()
