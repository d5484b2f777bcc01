"""The pages of docs/ say what is so: their commands run, their paths exist, and the site builds without a warning."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from tests.conftest import ROOT
from tests.docs.pages import PAGES, blocks, in_order, run_line, run_python

from embedcube.campaign.schema import Campaign
from embedcube.campaign.site import Site
from embedcube.cli.verbs import app
from embedcube.testing.demo import campaign_text

DOCS = ROOT / "docs"
PACKAGE = ROOT / "pipeline" / "embedcube"
ROOMS = "|".join(sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py")))


@pytest.mark.parametrize("page", ["tutorial", "using-a-cube", "find", "provenance", "transfer"])
def test_commands_and_python_run(page: str, checkout: Path) -> None:
    lines = "".join(blocks(DOCS / f"{page}.md", "bash")).splitlines()
    assert lines
    for line in lines:
        assert line == "make quickstart" or run_line(line, checkout)
    python = blocks(DOCS / f"{page}.md", "python")
    assert not python or run_python(python, checkout)


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted((DOCS / "uses").glob("*.md")), ids=lambda page: page.stem)
def test_use_cases_run(page: Path, checkout: Path) -> None:
    """Blocks of Python and commands in turn: each block of Python begins with those before it."""
    code: list[str] = []
    for language, text in in_order(page):
        if language == "python":
            code.append(text)
        elif language == "bash":
            run_python(code, checkout, strict=False)
            for line in text.splitlines():
                run_line(line, checkout)
    assert run_python(code, checkout, strict=False)


def test_the_notebook_runs(checkout: Path) -> None:
    cells = json.loads((DOCS / "first-look.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 5
    run_python(code, checkout)


def test_the_tutorial_shows_the_demos_campaign() -> None:
    (block,) = blocks(DOCS / "tutorial.md", "yaml")
    assert yaml.safe_load(block) == yaml.safe_load(campaign_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_exist(page: Path) -> None:
    """Files that are named between backticks or in a diagram, from the root of the checkout or of the package."""
    text = page.read_text()
    named = re.findall(r"`((?:pipeline|docs|configs|tests|slurm|containers|benchmarks)/[\w./-]+)[`:]", text)
    assert [name for name in named if not (ROOT / name).exists()] == []
    modules = re.findall(rf"(?<![\w/.])((?:{ROOMS})/[\w/]+\.py)", text)
    assert [name for name in modules if not (PACKAGE / name).exists() and not (ROOT / "tests" / name).exists()] == []


def test_every_room_is_on_the_map() -> None:
    rows = set(re.findall(r"^\| `(\w+)/` \|", (DOCS / "architecture.md").read_text(), flags=re.MULTILINE))
    assert rows == set(ROOMS.split("|"))


class _Text(HTMLParser):
    """The text of a page, and what it loads from elsewhere, itself or by the scripts of the theme."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text = ""
        self.loaded: list[str] = []
        self.feed(page)

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        # an <a> leads elsewhere only for who follows it
        links = [value or "" for name, value in attrs if name in ("src", "href") and tag != "a"]
        self.loaded += [link for link in links if re.match(r"(https?:)?//", link)]
        # the theme's script sees this class, and loads what draws it from a server
        self.loaded += [value for name, value in attrs if name == "class" and value and "mermaid" in value.split()]


def test_pages_with_graphs_that_a_server_draws_are_found() -> None:
    page = """<a href="https://a.org">a</a><img src="//b.org/x.png"><pre class="x mermaid"><code>graph</code></pre>"""
    assert _Text(page).loaded == ["//b.org/x.png", "x mermaid"]
    fenced = [
        page.name for page in DOCS.rglob("*.md") if re.search(r"^ *```+ *mermaid", page.read_text(), re.MULTILINE)
    ]
    assert fenced == []


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", DOCS / "website/mkdocs.yml",
         "--site-dir", tmp_path],
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if not line.startswith("INFO ")] == []
    pages = {str(path.relative_to(tmp_path)): _Text(path.read_text("utf-8")) for path in tmp_path.rglob("*.html")}
    assert {name: page.loaded for name, page in pages.items() if page.loaded} == {}
    assert all(key in pages["reference/campaign.html"].text for key in Campaign.model_fields)
    assert all(key in pages["reference/site.html"].text for key in Site.model_fields)
    verbs = [command.callback.__name__ for command in app.registered_commands if command.callback]
    assert all(f"embedcube {verb}" in pages["reference/command-line.html"].text for verb in verbs)
    assert all(name in pages["reference.html"].text for name in ("open_cube", "check_source", "observe", "Chips"))
