"""The vector index: what it answers, how it is built, killed, continued, shared between versions, and damaged."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from tests.conftest import Campaign, call_cli
from tests.cube.synthetic import write_provenance, write_zone

from embedcube.cube import find as finding
from embedcube.cube import products
from embedcube.cube.encoding import MASKED, VALID, VALID_INCOMPLETE
from embedcube.cube.examples import wanted_by
from embedcube.cube.find import Search, find_query
from embedcube.cube.reader import Cube
from embedcube.cube.segments import (
    LayerIndex,
    SegmentEntry,
    VectorIndex,
    file_digest,
    find_folder,
    read_index,
    segment_file,
)
from embedcube.cube.store import Cell
from embedcube.errors import WorkError
from embedcube.progress import silent
from embedcube.uses import index as indexing
from embedcube.uses.index import here, index_vectors, segment_shards
from embedcube.uses.recall import _numbers, check

ZONE = "one/utm32"


def write_waves(path: Path, windows: int = 2, *, columns: int = 160, **how: Any) -> Path:
    """Smooth vectors in space, another phase in each window; a cloud; some cells incomplete."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:128, :columns]
    waves = rng.uniform(0.01, 0.3, (24, 2)) * rng.choice([-1, 1], (24, 2))
    phase = rng.uniform(0, 6.28, 24) + 0.7 * np.arange(windows)[:, None]
    phases = np.multiply.outer(y, waves[:, 0]) + np.multiply.outer(x, waves[:, 1]) + phase[:, None, None]
    status = np.full((windows, 128, columns), VALID, np.uint8)
    status[0, 30:60, 10:60] = MASKED
    write_zone(path, ZONE, np.cos(phases).astype(np.float32), status, side=10.0, shard=32, **how)
    zone: Any = zarr.open_group(path, mode="a")[ZONE]
    zone["status"][:, 100:] = VALID_INCOMPLETE
    write_provenance(path)
    return path


@pytest.fixture(scope="module")
def small_segments(tmp_path_factory: pytest.TempPathFactory) -> Cube:
    """An indexed cube of several segments in each window."""
    patch = pytest.MonkeyPatch()
    patch.setattr(indexing, "SEGMENT_CELLS", 48 * 48)
    cube = Cube(write_waves(tmp_path_factory.mktemp("segments") / "cube.zarr"))
    index_vectors(cube, cube.layers, here, silent)
    patch.undo()
    return cube


def index_of(cube: Cube) -> VectorIndex:
    index = VectorIndex.beside(cube.path, cube.layers[0])
    assert index is not None
    return index


def files(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of an index."""
    return {str(path.relative_to(folder)): file_digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}


# --- answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "search",
    [
        Search(k=20),
        Search(k=20, apart_m=0),
        Search(k=7, time="2023-06-12", apart_m=300),
        Search(k=15, within=(7.5893, 50.535, 7.595, 50.541)),
        Search(k=9, status=("valid_incomplete",)),
        Search(k=9, status=("valid",), time="2023-06-01"),
    ],
)
def test_an_exact_search_of_the_index_is_that_of_the_cube(small_segments: Cube, search: Search) -> None:
    for cell in (Cell(zone=ZONE, t=0, y=20, x=33), Cell(zone=ZONE, t=1, y=110, x=150)):
        wanted = wanted_by(small_segments, "one", cell)
        of_cube = find_query(small_segments, "one", wanted, search, None)
        of_index = find_query(small_segments, "one", wanted, search, index_of(small_segments))
        assert len(of_cube.hits) == search.k
        assert [hit.cell for hit in of_index.hits] == [hit.cell for hit in of_cube.hits]
        assert of_index == finding.Found(hits=of_cube.hits, exact=True, cells=of_index.cells, indexed=True)


def test_lists_find_nearly_all_and_read_little(small_segments: Cube) -> None:
    measured = check(small_segments, index_of(small_segments), queries=40, lists=(1, 4, 16, 1000))
    by_lists = {one.lists: one for one in measured.measured}
    assert measured.damaged == []
    assert by_lists[1].share_read < 0.1
    assert by_lists[4].recall_at_10 < by_lists[16].recall_at_10
    assert by_lists[16].recall_at_10 >= 0.98
    assert by_lists[16].recall_of_places >= 0.95
    everything = by_lists[max(by_lists)]
    assert (everything.recall_at_10, everything.recall_of_places, everything.share_read) == (1, 1, 1)


def test_a_search_in_a_small_region_is_exact_and_lists_go_on_until_enough_is_found(
    small_segments: Cube, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, wanted = index_of(small_segments), wanted_by(small_segments, "one", Cell(zone=ZONE, t=0, y=20, x=33))
    monkeypatch.setattr(finding, "EXACT_CELLS", 100)
    box = (7.5893, 50.535, 7.595, 50.541)
    inside = find_query(small_segments, "one", wanted, Search(within=box), index)
    assert inside.exact
    assert inside.hits == find_query(small_segments, "one", wanted, Search(within=box, exact=True), None).hits
    whole = find_query(small_segments, "one", wanted, Search(k=150), index)
    assert (whole.exact, len(whole.hits)) == (False, 150)
    monkeypatch.setattr(finding, "WITHIN_CELLS", 100)
    by_lists = find_query(small_segments, "one", wanted, Search(within=box), index)
    assert not by_lists.exact
    assert {hit.cell for hit in by_lists.hits} & {hit.cell for hit in inside.hits}
    assert all(box[0] <= hit.lon <= box[2] and box[1] <= hit.lat <= box[3] for hit in by_lists.hits)


# --- building -------------------------------------------------------------------------------------


def test_bytes_are_the_same_again_and_without_numkong(small_segments: Cube, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(indexing, "SEGMENT_CELLS", 48 * 48)
    monkeypatch.setattr(products, "_numkong", None)
    shutil.copytree(small_segments.path, tmp_path / "cube.zarr")
    cube = Cube(tmp_path / "cube.zarr")
    made = index_vectors(cube, cube.layers, here, silent)
    assert files(find_folder(cube.path)) == files(find_folder(small_segments.path))
    assert made.built == len(index_of(cube).listed.segments) > 8
    assert made.cells == int(np.isin(cube.array(ZONE, "status")[...], (VALID, VALID_INCOMPLETE)).sum())
    again = index_vectors(cube, cube.layers, here, silent)
    assert (again.built, again.kept) == (0, made.built)
    assert not (find_folder(cube.path) / "index.json").is_relative_to(cube.path)


def test_the_size_is_little_more_than_that_of_the_vectors(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(1, 256, 256, 128)).astype(np.float32)
    write_zone(tmp_path / "cube.zarr", ZONE, vectors, shard=128, corner=(491_520.0, 5_570_560.0))
    write_provenance(tmp_path / "cube.zarr")
    cube = Cube(tmp_path / "cube.zarr")
    made = index_vectors(cube, cube.layers, here, silent)
    assert made.built == 1
    assert made.bytes <= 1.12 * made.vector_bytes


def test_segments_have_about_a_million_cells() -> None:
    assert segment_shards(504, 1, 128) * 504 == 1008
    assert segment_shards(56, 1, 128) == 18
    assert segment_shards(56, 12, 128) == 5
    assert (segment_shards(56, 1, 3072) * 56) ** 2 * 3072 <= 1.2 * (1 << 28)
    assert segment_shards(4000, 1, 128) == 1


def test_a_new_window_builds_its_segments_only_and_old_ones_are_linked(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(indexing, "SEGMENT_CELLS", 48 * 48)
    old = Cube(write_waves(tmp_path / "v1.zarr"))
    first = index_vectors(old, old.layers, here, silent)
    new = Cube(write_waves(tmp_path / "v2.zarr", windows=3))
    second = index_vectors(new, new.layers, here, silent)
    assert (second.linked, second.built) == (first.built, first.built // 2)
    one, two = index_of(old).listed, index_of(new).listed
    assert one.centroids == two.centroids
    shared = {entry.name for entry in one.segments}
    for entry in two.segments:
        links = segment_file(find_folder(new.path), "one", entry.name).stat().st_nlink
        assert links == (2 if entry.name in shared else 1)
    assert check(new, index_of(new), queries=40, lists=(16,)).measured[0].recall_at_10 >= 0.98


@pytest.mark.slow
def test_a_wider_region_shares_the_segments_that_it_does_not_change(tmp_path: Path, monkeypatch: Any) -> None:
    """The region grows to the west by one block of segments: the arrays begin earlier, the blocks stay in place."""
    monkeypatch.setattr(indexing, "SEGMENT_CELLS", 32 * 32)
    corner = (320.0 * 1250, 320.0 * 17_500)
    old = Cube(write_waves(tmp_path / "v1.zarr", corner=corner))
    first = index_vectors(old, old.layers, here, silent)
    wide = tmp_path / "v2.zarr"
    stored, status = (old.array(ZONE, name)[...] for name in ("embedding", "status"))
    around = ((0, 0), (0, 0), (32, 0), (0, 0))
    write_zone(wide, ZONE, np.ones((2, 128, 192, 24), np.float32), side=10.0, shard=32,
               corner=(corner[0] - 320, corner[1]))  # fmt: skip
    zone: Any = zarr.open_group(wide, mode="a")[ZONE]
    zone["embedding"][...] = np.pad(stored, around, mode="reflect")
    zone["status"][...] = np.pad(status, around[:3], mode="reflect")
    write_provenance(wide)
    second = index_vectors(Cube(wide), ("one",), here, silent)
    assert (second.linked, second.built) == (first.built, 8)
    cell = Cell(zone=ZONE, t=0, y=20, x=65)
    cube, search = Cube(wide), Search(k=15)
    wanted = wanted_by(cube, "one", cell)
    # mirrored cells are equal, so that either may be the hit
    cosines = [
        [hit.cosine for hit in find_query(cube, "one", wanted, search, index).hits] for index in (None, index_of(cube))
    ]
    assert cosines[0] == cosines[1]


@pytest.mark.slow
def test_other_weights_have_other_centroids(tmp_path: Path) -> None:
    old = Cube(write_waves(tmp_path / "v1.zarr"))
    index_vectors(old, old.layers, here, silent)
    path = write_waves(tmp_path / "v2.zarr")
    write_provenance(path, weights="cd" * 32)
    zone: Any = zarr.open_group(path, mode="a")[ZONE]
    zone["embedding"][...] = np.roll(zone["embedding"][...], 5, axis=-1)
    write_provenance(path, weights="cd" * 32)
    index_vectors(Cube(path), ("one",), here, silent)
    assert index_of(Cube(path)).listed.centroids != index_of(old).listed.centroids


@pytest.mark.slow
def test_objects_of_several_windows_and_float16(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(indexing, "SEGMENT_CELLS", 64 * 64)
    cube = Cube(write_waves(tmp_path / "cube.zarr", 4, chunk_windows=4, encoding="float16"))
    index_vectors(cube, cube.layers, here, silent)
    index, wanted = index_of(cube), wanted_by(cube, "one", Cell(zone=ZONE, t=3, y=20, x=33))
    hits = [find_query(cube, "one", wanted, Search(), one).hits for one in (None, index)]
    assert hits[0] == hits[1]
    assert check(cube, index, queries=10, lists=(32,)).measured[0].recall_at_10 >= 0.95


def test_queries_among_a_trillion_vectors_are_drawn_in_little_memory() -> None:
    entry = SegmentEntry(name="", sha256="", zone="", t=0, y=0, x=0, height=1, width=1, cells=10**12)
    index = VectorIndex(Path(), "one", LayerIndex(weights="", centroids="", segments=(entry,)))
    tracemalloc.start()
    drawn = _numbers(index, 50)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert drawn == sorted(set(drawn)) == _numbers(index, 50)
    assert (len(drawn), max(drawn) < 10**12, most < 1e6) == (50, True, True)


def test_damage_is_told_and_mended(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(indexing, "SEGMENT_CELLS", 48 * 48)
    cube = Cube(write_waves(tmp_path / "cube.zarr"))
    index_vectors(cube, cube.layers, here, silent)
    folder = find_folder(cube.path)
    whole = files(folder)
    first, second, third = (segment_file(folder, "one", e.name) for e in index_of(cube).listed.segments[:3])
    flipped = bytearray(first.read_bytes())
    flipped[-100] ^= 4
    for path, data in ((first, bytes(flipped)), (second, second.read_bytes()[:2000])):
        path.chmod(0o644)
        path.write_bytes(data)
    third.unlink()
    assert set(check(cube, index_of_without(cube, second, third), queries=1).damaged) == {str(first)}
    done = call_cli("find", cube.path, "--like", "7.59,50.54")
    assert (done.returncode, done.stdout) == (1, "")
    assert "embedcube index-vectors" in done.stderr
    made = index_vectors(cube, cube.layers, here, silent)
    assert (made.built, made.kept) == (3, len(whole) - 5)
    assert files(folder) == whole
    (folder / "index.json").write_text((folder / "index.json").read_text().replace('"t": 1', '"t": 0'))
    with pytest.raises(WorkError, match=r"index.json is damaged; remove it"):
        read_index(folder)


def index_of_without(cube: Cube, *paths: Path) -> VectorIndex:
    """The index without the segments of some files."""
    listed = index_of(cube).listed
    names = {path.name.partition(".")[0] for path in paths}
    kept = tuple(entry for entry in listed.segments if entry.name not in names)
    return VectorIndex(
        find_folder(cube.path), "one", type(listed)(weights="", centroids=listed.centroids, segments=kept)
    )


# --- the verbs, Dask, and SIGKILL -----------------------------------------------------------------

PROGRAM = """
import sys
from embedcube.campaign.how import Dask
from embedcube.cli.verbs import main
from embedcube.uses import index

load = index.load_campaign

def with_processes(path):
    campaign = load(path)
    how = campaign.how.model_copy(update={"dask": Dask(kind="processes", workers=2, threads=1)})
    return campaign.model_copy(update={"how": how})

if __name__ == "__main__":
    index.SEGMENT_CELLS, index.load_campaign = 100, with_processes
    sys.argv = ["embedcube", "index-vectors", sys.argv[1], "--json"]
    main()
"""


def copied_run(finished: Campaign, folder: Path) -> Path:
    """A copy of the cube in a run folder; returns the cube."""
    (folder / "logs").mkdir(parents=True)
    shutil.copy(finished.run.campaign, folder)
    shutil.copytree(finished.run.cubes, folder / "cubes", symlinks=True)
    return folder / "cubes" / finished.run.newest_cube.resolve().name


@pytest.mark.slow
@pytest.mark.chaos
def test_a_build_by_dask_that_is_killed_goes_on_and_gives_the_same_bytes(
    finished_demo: Campaign, tmp_path: Path, monkeypatch: Any
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    monkeypatch.setattr(indexing, "SEGMENT_CELLS", 100)
    untouched = copied_run(finished_demo, tmp_path / "untouched")
    wanted = index_vectors(Cube(untouched), Cube(untouched).layers, here, silent)
    cube = copied_run(finished_demo, tmp_path / "killed")
    folder = find_folder(cube)

    def segments() -> int:
        return len(list(folder.rglob("*.segment.safetensors")))

    seen = []
    for least in (1, 4):
        build = subprocess.Popen([sys.executable, program, cube], start_new_session=True, stdout=subprocess.PIPE)
        end = time.monotonic() + 120
        while segments() < least and build.poll() is None and time.monotonic() < end:
            time.sleep(0.002)
        os.killpg(build.pid, signal.SIGKILL)
        build.communicate()
        seen.append(segments())
        assert not (folder / "index.json").exists()
    assert 0 < seen[0] <= seen[1] < wanted.built
    done = subprocess.run([sys.executable, program, cube], capture_output=True, text=True, timeout=120, check=True)
    answer = json.loads(done.stdout)
    assert answer["kept"] == segments() - answer["built"] > 0
    held = files(folder)
    left = [name for name in held if "/.tmp-" in f"/{name}"]
    for name in left:  # a temporary file of a killed process is kept for a day: another may be writing it
        del held[name]
    assert held == files(find_folder(untouched))


def test_the_verbs_index_and_check(finished_demo: Campaign, tmp_path: Path) -> None:
    cube = copied_run(finished_demo, tmp_path / "run")
    done = call_cli("index-vectors", cube)
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 built, 0 linked from another version, 0 kept" in done.stdout
    checked = call_cli("find", cube, "--check")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "recall@10" in checked.stdout
    found = call_cli("find", cube, "--like", "7.596,50.870", "--time", "2023-06", "--k", "3")
    assert "3 hits of" in found.stdout
    assert "without an index" not in found.stdout
    plain = call_cli("find", finished_demo.run.newest_cube, "--like", "7.596,50.870", "--time", "2023-06", "--k", "3")
    assert found.stdout.splitlines()[:4] == plain.stdout.splitlines()[:4]
