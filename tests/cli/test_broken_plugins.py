"""A bug in a plugin is told from a wrong request: exit 1 names the plugin, exit 2 the key of the campaign."""

import os
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Campaign, run_cli

from embedcube.errors import RequestError, WorkError

MODULE = '''
class Broken:
    """A constructor that fails in the way the options say, as a bug would."""

    def __init__(self, *arguments):
        archive_or_options = arguments[1] if isinstance(arguments[0], str) else arguments[0]
        fault = getattr(archive_or_options, "options", archive_or_options)["fault"]
        if fault == "TypeError":
            len(3)
        if fault == "KeyError":
            {}["width"]
        if fault == "AttributeError":
            None.width
        raise ValueError("the option fault is neither of three")
'''


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path of this process with the plugins `broken` (a source and a backbone) and `misspelt`."""
    folder = tmp_path / "plugins"
    described = folder / "broken_plugins-1.0.dist-info"
    described.mkdir(parents=True)
    (folder / "broken_plugins.py").write_text(MODULE)
    (folder / "misspelt_plugins.py").write_text("import torhc\n")
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugins\nVersion: 1.0\n")
    (described / "entry_points.txt").write_text(
        "[embedcube.sources]\nbroken = broken_plugins:Broken\n"
        "[embedcube.backbones]\nbroken = broken_plugins:Broken\nmisspelt = misspelt_plugins:Backbone\n"
    )
    monkeypatch.syspath_prepend(folder)
    return folder


def use(room: str, fault: str) -> Any:
    """An edit of the campaign that names the plugin `broken` as its source or backbone."""

    def edit(document: dict[str, Any]) -> None:
        if room == "sources":
            document["archives"]["s2"].update(source="broken", options={"fault": fault})
        else:
            document["layers"]["s2_mosaiks"]["backbone"] = {"name": "broken", "fault": fault}

    return edit


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("TypeError", "TypeError: object of type 'int' has no len()"),
        ("KeyError", "KeyError: 'width'"),
        ("AttributeError", "AttributeError: 'NoneType' object has no attribute 'width'"),
    ],
)
@pytest.mark.parametrize(("room", "verb"), [("sources", "index"), ("backbones", "fit")])
@pytest.mark.usefixtures("plugins")
def test_a_bug_in_a_constructor_is_the_plugins(demo: Campaign, room: str, verb: str, fault: str, words: str) -> None:
    if verb == "fit":
        demo.cli("index")
    demo.change(use(room, fault))
    with pytest.raises(WorkError) as raised:
        demo.cli(verb)
    assert str(raised.value) == (
        f"fault of the plugin broken (package broken-plugins 1.0), not of the campaign: {words}; --debug shows where"
    )


def test_a_bug_in_a_constructor_ends_with_1_and_is_shown_by_debug(demo: Campaign, plugins: Path) -> None:
    demo.change(use("sources", "TypeError"))
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, (str(plugins), os.environ.get("PYTHONPATH"))))}
    done = run_cli("index", demo.file, environment=environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith("embedcube: fault of the plugin broken (package broken-plugins 1.0)")
    debugged = run_cli("--debug", "index", demo.file, environment=environment)
    assert f'{plugins / "broken_plugins.py"}", line ' in debugged.stderr


@pytest.mark.parametrize(
    ("room", "verb", "place"),
    [("sources", "index", "archives.s2"), ("backbones", "fit", "layers.s2_mosaiks.backbone")],
)
@pytest.mark.usefixtures("plugins")
def test_options_that_a_constructor_refuses_are_a_wrong_request(
    demo: Campaign, room: str, verb: str, place: str
) -> None:
    if verb == "fit":
        demo.cli("index")
    demo.change(use(room, "none"))
    with pytest.raises(RequestError, match=rf"^{place}: the option fault is neither of three$"):
        demo.cli(verb)


@pytest.mark.usefixtures("plugins")
def test_a_plugin_that_cannot_be_imported_is_named(demo: Campaign) -> None:
    demo.cli("index")
    demo.change(lambda document: document["layers"]["s2_mosaiks"].update(backbone={"name": "misspelt"}))
    named = r"plugin misspelt \(package broken-plugins 1.0\), .*: ModuleNotFoundError: No module named 'torhc'"
    with pytest.raises(WorkError, match=named):
        demo.cli("fit")
