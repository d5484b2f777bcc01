"""The command line as a user sees it: quick help, one JSON object, clear errors, and nothing computed twice."""

import contextlib
import hashlib
import json
import os
import re
import resource
import shlex
import shutil
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import typer.main
import yaml
import zarr
from tests.conftest import Campaign, call_cli, run_cli

from embedcube.campaign.load import load_campaign
from embedcube.campaign.plugins import plugin
from embedcube.cli.verbs import app
from embedcube.consolidate.consolidate import consolidate
from embedcube.consolidate.seal import seal_of
from embedcube.consolidate.verify import verify_run
from embedcube.cube.arrays import ARRAYS
from embedcube.cube.reader import Cube
from embedcube.errors import RequestError
from embedcube.prepare.plan import plan

VERBS = [
    "demo", "run", "index", "fit", "plan", "embed", "consolidate", "verify", "status", "explain", "preview", "schema",
    "submit", "cancel", "doctor", "models", "sources", "weights", "find", "change", "index-vectors", "decode",
    "report", "view", "info", "sample", "parcels", "serve", "pull", "versions", "merge",
    "lineage", "reproduce", "diff", "import-terratorch", "export", "check", "import", "codecs",
]  # fmt: skip

INSIDE = ("--lon", "7.6", "--lat", "50.87", "--time", "2023-06-15")

HEAVY = ("torch", "numpy", "xarray", "zarr", "dask", "distributed", "rasterio", "pyproj", "pyarrow", "pydantic", "odc")


def files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its relative path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def shards_in(cube: Path) -> dict[tuple[str, tuple[int, int, int], str], str]:
    """SHA-256 of each array of each shard, cut out of the objects of a cube."""
    opened = Cube(cube)
    return {
        (zone, (t, iy, ix), name): hashlib.sha256(opened.objects(zone, name).member((t, iy, ix)) or b"").hexdigest()
        for zone, t, iy, ix in opened.provenance.places
        for name in ARRAYS
    }


def attempts(campaign: Campaign) -> dict[str, int]:
    """Records in every part."""
    return {
        str(path.relative_to(campaign.run.parts)): path.read_bytes().count(b"\n")
        for path in sorted(campaign.run.parts.glob("*/*/*/records.jsonl"))
    }


def commands() -> dict[str, click.Command]:
    """Every verb by its name."""
    group: Any = typer.main.get_command(app)
    return dict(group.commands)


# --- models ---------------------------------------------------------------------------------------


def test_models_says_what_each_backbone_takes_and_gives() -> None:
    """Also without the package terratorch: the table of its models is part of embedcube."""
    document = json.loads(call_cli("models", "--json").stdout)
    cards = {(card["backbone"], card["model"]): card for card in document["models"]}
    assert {"mosaiks", "eof", "presto", "terratorch", "tiny_vit"} <= {backbone for backbone, _ in cards}
    tiny = cards["terratorch", "terramind_v1_tiny"]
    assert "S2L2A (B01 B02 B03" in tiny["inputs"]
    assert tiny["cell"] == "16 px, or the chip"
    assert tiny["dimensions"].startswith("192")
    assert "v1_pretraining_mean" in tiny["normalisation"]
    assert cards["terratorch", "prithvi_eo_v2_600"]["cell"].startswith("14 px")
    said = call_cli("models").stdout
    for card in cards.values():
        for key in ("inputs", "cell", "dimensions", "normalisation"):
            assert card[key], card
            assert card[key] in said


# --- sources --------------------------------------------------------------------------------------


def test_sources_lists_every_option_with_its_type_default_and_meaning() -> None:
    """Those of a plugin too: what is listed is what the source itself checks."""
    document = json.loads(call_cli("sources", "--json").stdout)
    options = {one["source"]: {o["name"]: o for o in one["options"]} for one in document["sources"]}
    assert options.keys() >= {"sentinel2", "sentinel1", "era5", "fields", "snow_cover"}
    for name, listed in options.items():
        assert listed.keys() == plugin("sources", name).options.model_fields.keys()
        assert all(option["meaning"] and option["value"] for option in listed.values()), name
    assert options["snow_cover"]["clouds"] == {
        "name": "clouds", "value": "whole number", "required": False, "default": 255,
        "meaning": "number that stands for clouds",
    }  # fmt: skip
    assert options["era5"]["units"]["value"] == "name: text"
    assert options["sentinel1"]["orbit"]["value"] == "ascending, descending, both"
    said = " ".join(call_cli("sources").stdout.split())
    for name, listed in options.items():
        for option in listed.values():
            assert f"{option['name']}: {option['value']}" in said, (name, option)
            assert option["meaning"] in said


# --- help -----------------------------------------------------------------------------------------


def test_help_comes_at_once() -> None:
    code = (
        "import sys; sys.argv = ['embedcube', '--help']\n"
        "from embedcube.cli.verbs import main\n"
        "try: main()\n"
        "except SystemExit as end: code = end.code\n"
        f"print(code, [name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.strip() == "0 []"
    assert all(f"\n  {verb} " in done.stdout for verb in VERBS)


def test_help_takes_less_than_half_a_second_of_computing() -> None:
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run_cli("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    assert min(seconds() for _ in range(4)) < 0.5


def test_every_verb_is_listed_and_no_other() -> None:
    assert sorted(commands()) == sorted(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verbs_help_shows_an_example_that_parses(verb: str) -> None:
    command = commands()[verb]
    shown = command.get_help(click.Context(command, info_name=f"embedcube {verb}"))
    text = " ".join(shown.split())
    assert f"Example: embedcube {verb}" in text
    example = text.split("Example: embedcube ")[1].split(" Arguments:")[0].split(" Options:")[0]
    words = shlex.split(example.split(" > ")[0])
    assert words[0] == verb
    # every option that the example names exists, and nothing that must be there is missing
    command.make_context(verb, words[1:]).close()


def test_help_of_a_verb_in_a_process() -> None:
    done = call_cli("explain", "--help")
    assert done.returncode == 0
    words = " ".join(done.stdout.split())
    assert "Example: embedcube explain cube.zarr --lon 7.6 --lat 50.87 --time 2023-06-15" in words
    assert all(option in words for option in ("--lon", "--lat", "--time", "--layer", "--json"))


def test_the_list_of_verbs_is_not_cut() -> None:
    done = call_cli("--help")
    *before, listed = done.stdout.partition("Make a cube:")
    assert before[1]
    verbs = re.findall(r"^  ([a-z-]+)  ", listed, flags=re.MULTILINE)
    assert sorted(verbs) == sorted(VERBS)
    assert "More:" not in listed, "a verb is in no section"
    assert "..." not in listed


# --- errors ---------------------------------------------------------------------------------------


def test_wrong_words_exit_with_2() -> None:
    for words in (["frobnicate"], ["plan"], ["plan", "c.yaml", "--rank", "2"], ["plan", "c.yaml", "--ranks", "0"]):
        done = call_cli(*words)
        assert done.returncode == 2, words
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
    assert "No such option: --rank" in call_cli("plan", "c.yaml", "--rank", "2").stderr


def test_tracebacks_are_for_debugging(tmp_path: Path) -> None:
    missing = str(tmp_path / "c.yaml")
    for words in (("--debug", "plan", missing), ("plan", missing, "--debug")):
        done = run_cli(*words)
        assert done.returncode == 1
        assert done.stderr.startswith("Traceback")
        assert "RequestError" in done.stderr.splitlines()[-1]
    assert run_cli("plan", missing).stderr.count("\n") == 1


def test_status_before_the_plan_says_what_to_do(demo: Campaign) -> None:
    done = call_cli("status", demo.file)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"embedcube: {demo.run.plan}: there is no plan yet; run `embedcube plan` first\n"


def test_stages_out_of_order_say_what_to_do(demo: Campaign) -> None:
    for verb, words in (
        ("plan", "there is no inventory yet; run `embedcube index` first"),
        ("embed", "there is no plan yet; run `embedcube plan` first"),
        ("consolidate", "there is no plan yet; run `embedcube plan` first"),
        ("verify", "there is no cube yet; run `embedcube consolidate` first"),
    ):
        with pytest.raises(RequestError, match=words):
            app([verb, str(demo.file)], standalone_mode=False)


def test_a_folder_that_may_not_be_written_is_named(demo: Campaign) -> None:
    demo.run.root.mkdir(parents=True)
    demo.run.root.chmod(0o555)
    command: list[str | Path] = [Path(sys.executable).parent / "embedcube", "run", demo.file]
    if os.geteuid() == 0:
        if not shutil.which("setpriv"):
            pytest.skip("the superuser may write everywhere, and there is no setpriv to become less")
        less = "-dac_override,-dac_read_search"
        command = ["setpriv", f"--bounding-set={less}", f"--inh-caps={less}", *command]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert list(demo.run.root.iterdir()) == []
    finally:
        demo.run.root.chmod(0o755)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("embedcube: ")
    assert "Permission denied" in done.stderr
    assert f"{demo.run.root}/" in done.stderr


def test_places_and_times_outside_are_named(finished_demo: Campaign) -> None:
    cube = str(finished_demo.run.newest_cube)
    for options, words in (
        (
            ("--lon", "8.6", "--lat", "50.87", "--time", "2023-06-15"),
            r"s2_mosaiks/grid: \(8.6, 50.87\) is x .* outside",
        ),
        (
            ("--lon", "7.6", "--lat", "50.87", "--time", "2023-08-01"),
            "no window holds 2023-08-01; the windows lie betw",
        ),
        (("--lon", "7.6", "--lat", "50.87", "--time", "June"), '"June" is not a time; write for example 2023-06-15'),
        ((*INSIDE, "--layer", "s1"), "no layer s1; it has s2_mosaiks/grid"),
    ):
        with pytest.raises(RequestError, match=words):
            app(["explain", cube, *options], standalone_mode=False)


# --- one JSON object ------------------------------------------------------------------------------


def one_object(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    """The JSON object that is all of standard output; standard error must be empty."""
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


def test_a_second_run_does_nothing_again_and_answers_with_one_object(finished: Campaign) -> None:
    cube, before = finished.run.newest_cube.resolve(), attempts(finished)
    bytes_before = files(cube)
    moments = {path: path.stat().st_mtime_ns for path in cube.rglob("*")}
    weights = finished.run.weights("s2_mosaiks").stat().st_mtime_ns
    answer = one_object(call_cli("run", finished.file, "--json"))
    assert answer == {
        "cube": str(finished.run.newest_cube),
        "version": cube.stem,
        "shards": 30,
        "findings": [],
        "remarks": [],
        "seal": seal_of(cube),
        "seed": answer["seed"],
    }
    assert attempts(finished) == before
    assert sum(before.values()) == 30 + 9, "those of the torn scene twice"
    assert sorted(path.name for path in finished.run.cubes.iterdir()) == [f"{cube.stem}-stac", cube.name]
    assert files(cube) == bytes_before
    assert {path: path.stat().st_mtime_ns for path in cube.rglob("*")} == moments
    assert finished.run.weights("s2_mosaiks").stat().st_mtime_ns == weights


def test_json_of_the_stages(finished: Campaign, capfd: pytest.CaptureFixture[str]) -> None:
    def said(verb: str, *words: str | Path) -> dict[str, Any]:
        app([verb, *map(str, words), "--json"], standalone_mode=False)
        out, err = capfd.readouterr()
        assert err == ""
        assert out.count("\n") == 1
        answer = json.loads(out)
        assert isinstance(answer, dict)
        return answer

    assert said("index", finished.file) == {"scenes": 10, "unusable": {}, "weak": 0, "over_budget": ""}
    planned = said("plan", finished.file)
    assert (planned["shards"], planned["tasks"], planned["price"]["shards"]) == (30, 1, 30)
    assert planned["campaign"] == load_campaign(finished.file).digest
    status = said("status", finished.file)
    assert (status["shards"], status["done"], status["seconds_left"]) == (30, 30, 0.0)
    assert status["cube"] == finished.run.newest_cube.resolve().name
    assert status["cells"]["not_processed"] == 0
    assert sum(status["cells"].values()) == 30 * 24 * 24
    assert list(status["quarantined"]) == ["S2B_32UMB_20230706_0_L2A"]
    seal = seal_of(finished.run.newest_cube)
    assert said("verify", finished.run.newest_cube) == {"findings": [], "remarks": [], "seal": seal}
    explained = said("explain", finished.run.newest_cube, *INSIDE)
    assert explained["cell"]["window"] == ["2023-06-01T00:00:00Z", "2023-07-01T00:00:00Z"]
    assert {"scenes", "weights_sha256", "recipe", "made", "versions", "arrays"} <= explained.keys()


def test_plain_words_of_the_using_half(finished_demo: Campaign) -> None:
    done = call_cli("explain", finished_demo.run.newest_cube, *INSIDE)
    assert (done.returncode, done.stderr) == (0, "")
    document = yaml.safe_load(done.stdout)
    assert document["cell"]["layer"] == "s2_mosaiks"
    x, y = document["cell"]["centre"]
    assert abs(x - 401_500) < 200
    assert abs(y - 5_636_200) < 400
    status = call_cli("status", finished_demo.file)
    assert status.returncode == 0
    assert status.stdout.startswith("30 of 30 shards, ")
    assert "  quarantined S2B_32UMB_20230706_0_L2A: B03: " in status.stdout


# --- going on -------------------------------------------------------------------------------------


def test_one_more_window_makes_a_new_version_of_new_shards_only(finished: Campaign) -> None:
    old, before = finished.run.newest_cube.resolve(), attempts(finished)
    old_bytes = files(old)
    windows = [["2023-06-01", "2023-07-01"], ["2023-07-01", "2023-08-01"], ["2023-07-12", "2023-07-19"]]
    finished.change(lambda document: document.update(windows=windows))
    done = call_cli("run", finished.file, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["shards"], answer["findings"]) == (45, [])
    new = finished.run.newest_cube.resolve()
    assert new.stem == answer["version"] != old.stem
    assert files(old) == old_bytes, "the old version stays as it is"
    after = attempts(finished)
    assert before.items() <= after.items()
    assert sum(after[part] for part in after.keys() - before.keys()) == 15, "only the new window is embedded"
    then, now = shards_in(old), shards_in(new)
    assert (len(then), len(now)) == (120, 180)
    assert then.items() <= now.items(), "the old windows have the old bytes"
    explained = json.loads(
        call_cli("explain", new, "--lon", "7.5", "--lat", "50.87", "--time", "2023-07-13", "--json").stdout
    )
    assert explained["cell"]["t"] == 1, "the first window that holds the moment"


def test_a_window_without_scenes_is_no_data(finished: Campaign) -> None:
    def gap(document: dict[str, Any]) -> None:
        document["windows"] = [["2023-07-01", "2023-08-01"], ["2023-08-01", "2023-09-01"]]
        document["region"] = {"bbox": [399_460, 5_629_540, 403_100, 5_632_000], "crs": "EPSG:32632"}
        # one of the four scenes that this plan needs is torn
        document["how"] = {"ranks": 1, "error_budget": 0.25}

    finished.change(gap)
    done = call_cli("run", finished.file, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["findings"] == []
    status = np.asarray(zarr.open_array(finished.run.newest_cube / "s2_mosaiks" / "grid" / "status", mode="r")[...])
    assert status.shape == (2, 24, 24)
    assert np.count_nonzero(status, axis=(1, 2)).tolist() == [24 * 24, 24 * 24]
    assert np.unique(status[1]).tolist() == [2]
    assert 1 in status[0]
    place = ("--lon", "7.6", "--lat", "50.82", "--time", "2023-08-02")
    answer = json.loads(call_cli("explain", finished.run.newest_cube, *place, "--json").stdout)
    assert (answer["status"], answer["n_obs"], answer["scenes"], answer["scenes_not_used"]) == ("no_data", 0, [], [])


def test_consolidation_takes_no_port_that_others_want(finished: Campaign) -> None:
    shutil.rmtree(finished.run.cubes)
    finished.run.newest_cube.unlink()
    with socket.socket() as taken:
        with contextlib.suppress(OSError):  # somebody else has it: as good
            taken.bind(("0.0.0.0", 8787))
            taken.listen()
        done = call_cli("consolidate", finished.file, "--json")
    assert one_object(done)["shards"] == 30


def question(campaign: Campaign) -> Any:
    """What the newest cube says that it answers."""
    document = json.loads((campaign.run.newest_cube / "zarr.json").read_text())
    return document["attributes"]["embedcube:what"]


@pytest.mark.parametrize("change", ["region", "layer"])
def test_another_question_with_the_same_shards_is_another_version(finished: Campaign, change: str) -> None:
    old = finished.run.newest_cube.resolve()

    def edit(document: dict[str, Any]) -> None:
        if change == "region":
            box = [391_000 + 800, 5_629_440 + 100, 410_880 - 100, 5_640_960 - 100]
            document["region"] = {"bbox": box, "crs": "EPSG:32632"}
        else:
            document["layers"] = {"other_name": document["layers"]["s2_mosaiks"]}

    finished.change(edit)
    if change == "layer":
        finished.run.weights("s2_mosaiks").rename(finished.run.weights("other_name"))
    campaign = load_campaign(finished.file)
    plan(campaign, finished.run)
    made = consolidate(campaign, finished.run, lambda *_: None)
    assert made.shards == 30
    assert question(finished) == json.loads(json.dumps(campaign.what))
    assert finished.run.newest_cube.resolve() != old
    assert verify_run(campaign, finished.run, lambda *_: None, recompute=0) == []


def test_looking_changes_nothing(finished: Campaign) -> None:
    finished.cli("status")
    before = files(finished.run.root)
    finished.change(lambda document: document["how"].update(cache_mb=17, ranks=5))
    finished.cli("status")
    assert files(finished.run.root) == before


def test_a_second_demo_keeps_what_was_edited(finished_demo: Campaign) -> None:
    before = finished_demo.file.read_text()
    done = call_cli("demo", finished_demo.file.parent, "--only", "sentinel2")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"wrote {finished_demo.file}; now: embedcube run {finished_demo.file}\n"
    assert finished_demo.file.read_text() == before


def test_the_demo_is_refused_in_a_folder_of_other_things(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    done = call_cli("demo", tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "thesis.tex" in done.stderr


def test_preview_draws_every_window(finished_demo: Campaign, tmp_path: Path) -> None:
    done = call_cli("preview", finished_demo.run.newest_cube, "--out", tmp_path / "pictures", "--json")
    drawn = [Path(file) for file in one_object(done)["files"]]
    names = sorted(file.name for file in drawn)
    version = finished_demo.run.newest_cube.resolve().stem
    windows = ("s2_mosaiks_grid_20230601T0000", "s2_mosaiks_grid_20230701T0000")
    assert names == [
        f"{version}.preview.zarr",
        *(f"{window}{suffix}" for window in windows for suffix in (".png", ".tif")),
        "s2_mosaiks_grid_windows.png",
    ]
    assert sorted(file.name for file in (tmp_path / "pictures").iterdir()) == names
    assert all(file.stat().st_size > 1000 for file in drawn)


def test_a_typo_is_named_and_not_the_weights_that_were_made_before_it(finished: Campaign) -> None:
    def mistype(document: dict[str, Any]) -> None:
        backbone = document["layers"]["s2_mosaiks"]["backbone"]
        backbone["fliters"] = backbone.pop("filters")

    finished.change(mistype)
    done = call_cli("fit", finished.file)
    assert done.returncode == 2
    assert 'mosaiks: no option "fliters", did you mean "filters"' in done.stderr
    assert "remove the file" not in done.stderr


def test_a_cube_that_is_not_there_is_not_taken_for_a_campaign(tmp_path: Path) -> None:
    done = call_cli("verify", tmp_path / "nowhere.zarr")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"embedcube: {tmp_path}/nowhere.zarr: there is no such cube; a run prints where its cube is\n"


def test_no_message_about_a_wrong_request_has_300_characters(demo: Campaign) -> None:
    """Of a longer one the middle is left out: its beginning names the key, its end says what to do."""
    long = "a" * 700

    def write(key: str, document: dict[str, Any]) -> None:
        document["archives"]["s2"][key] = [long]

    for key in ("bands", "mask"):
        demo.change(partial(write, key))
        done = call_cli("index", demo.file)
        assert done.returncode == 2
        assert done.stderr.startswith("embedcube: ")
        assert len(done.stderr.rstrip("\n")) < 300
    demo.change(lambda document: document.update({f"key{i}": i for i in range(200)} | {long: 1}))
    assert len(call_cli("index", demo.file).stderr) <= 300


def test_a_signal_while_python_ends_is_said_and_no_traceback(tmp_path: Path) -> None:
    """Threads and libraries are closed then, which takes a second after `consolidate`."""
    at_end = "import atexit, os, signal; atexit.register(os.kill, os.getpid(), signal.SIGTERM)"
    (tmp_path / "sitecustomize.py").write_text(at_end)
    done = run_cli("schema", environment={"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])})
    assert done.returncode == 75
    assert done.stderr.startswith("embedcube: stopped by signal 15; start the same command again")
    assert len(done.stderr.splitlines()) == 1
