"""Some seeds of `make fuzz` for each format; and that its sandbox and its judgement can fail."""

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from tests.conftest import ROOT
from tests.fuzz import documents, tiff_tags
from tests.fuzz.formats import FORMATS
from tests.fuzz.mutations import BINARY, Mutation, damaged
from tests.fuzz.results import Results, forbidden, table
from tests.fuzz.sandbox import ONE_THREAD
from tests.fuzz.trial import Result

FOUND = {
    "netcdf3": (16, 17, 28),
    "netcdf4": (80,),
    "grib1": (3, 41),
    "grib2": (37, 441),
    "cog": (271, 365),
    "geotiff": (456,),
    "stac": (16, 20, 211),
    "safe": (20, 27, 28),
}
"""Seeds that once ended in a traceback or a hang, or with a scene less."""

SEEDS = {name: FOUND.get(name, (0,)) for name in FORMATS}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Result]]:
    """By format, the results of `SEEDS`: from a process without threads, as it is forked for each."""
    folder = tmp_path_factory.mktemp("results")
    seeds = [f"{name}:{seed}" for name, numbers in SEEDS.items() for seed in numbers]
    subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--results", folder, "--seeds", *seeds],
        cwd=ROOT, env=os.environ | ONE_THREAD, stdout=subprocess.DEVNULL, timeout=600, check=False,
    )  # fmt: skip
    by_format: dict[str, list[Result]] = {name: [] for name in FORMATS}
    for result in Results(folder).read():
        by_format[result.format].append(result)
    return by_format


@pytest.mark.parametrize("name", FORMATS)
def test_damage_is_refused_or_read(name: str, results: dict[str, list[Result]]) -> None:
    assert [result.seed for result in results[name]] == sorted(SEEDS[name])
    assert [str(result) for result in forbidden(results[name])] == []


def test_the_table_counts_each_input_once(results: dict[str, list[Result]]) -> None:
    lines = table([result for of_format in results.values() for result in of_format])
    for name, made in FORMATS.items():
        (row,) = (line for line in lines[: len(FORMATS) + 2] if line.startswith(f"| {made.title} |"))
        numbers = [int(cell) for cell in row.split("|")[2:-1]]
        assert numbers[0] == len(SEEDS[name]) == sum(numbers[1:])


ENDS = {
    "answer": ("{'is': 42}", "42"),
    "crash": ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
    "hang": ("time.sleep(60)", "not done after 1 s"),
    "memory": ("{'is': len(b'x' * (1 << 30))}", "MiB"),
    "error": ("1 / 0", "ZeroDivisionError"),
}
"""What is called, and what must be among the words."""


@pytest.mark.parametrize("how", ENDS)
def test_the_sandbox_says_how_a_process_ended(how: str) -> None:
    called, word = ENDS[how]
    program = (
        "import os, signal, time\n"
        "from tests.fuzz.sandbox import Limits, run_apart\n"
        f"end = run_apart(lambda: {called}, Limits(time_s={1 if how == 'hang' else 20}, memory_bytes=400 << 20))\n"
        "print(end.death or 'answer', end.answer, end.words)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.startswith({"error": "crash"}.get(how, how))
    assert word in done.stdout
    if how in ("crash", "hang", "memory"):
        assert "most recent call first" in done.stdout  # the stacks


@pytest.mark.parametrize("name", FORMATS)
def test_every_archive_has_a_second_scene_to_damage(name: str, tmp_path: Path) -> None:
    for number, write in enumerate(FORMATS[name].writers.values()):
        made = write(tmp_path / str(number))
        assert made.files
        assert all((tmp_path / str(number) / file).is_file() for file in made.files)


@pytest.mark.parametrize(
    ("mutation", "clean"),
    [
        *((mutation, bytes(range(256)) * 20) for mutation in dict.fromkeys(BINARY)),
        *((mutation, b'{"assets": {"b02": {"href": "x"}}, "bbox": [0, 1, 2, 3]}') for mutation in documents.JSON[-4:]),
        *((mutation, b'<a b="c"><d>text</d><e>1</e></a>') for mutation in documents.XML[-4:]),
    ],
)
def test_a_seed_names_one_damaged_file(mutation: Mutation, clean: bytes) -> None:
    for seed in range(20):
        data, said = damaged(Random(seed), clean, [mutation], [(0, 8)])
        assert data != clean
        assert said
        assert damaged(Random(seed), clean, [mutation], [(0, 8)]) == (data, said)


def test_tags_of_a_tiff_are_found(tmp_path: Path) -> None:
    """Its entries come in the order of their tags; the structure holds the numbers that place it."""
    made = FORMATS["geotiff"].writers["deflate"](tmp_path)
    data = (tmp_path / made.files[0]).read_bytes()
    _, entries = tiff_tags.entries(data)
    tags = [int.from_bytes(data[at : at + 2], "little") for at in entries]
    assert tags == sorted(tags)
    assert {256, 257, 324, 33550, 34735} <= set(tags)
    for mutation in dict.fromkeys(tiff_tags.TIFF):
        assert damaged(Random(1), data, [mutation], tiff_tags.structure(data))[0] != data
