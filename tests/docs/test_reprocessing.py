"""The page on making a cube again: its commands run on its files, and print its tables."""

import copy
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import ROOT, Campaign
from tests.docs.pages import run_line

PAGE = ROOT / "docs" / "reprocessing.md"


def merged(document: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """The document with the changed keys, at any depth."""
    result = copy.deepcopy(document)
    for key, value in change.items():
        result[key] = merged(result.get(key) or {}, value) if isinstance(value, dict) else value
    return result


def without_times(line: str) -> str:
    """A line of a table without times and names of versions, which differ between machines."""
    return " ".join(re.sub(r"about [\d.]+ s|against .*|time$", "", line).split())


@pytest.mark.slow
def test_the_page_on_reprocessing(whole_demo: Campaign, tmp_path: Path) -> None:
    shutil.copytree(whole_demo.file.parent, tmp_path / "demo", symlinks=True)
    document = yaml.safe_load((tmp_path / "demo" / "campaign.yaml").read_text()) | {"how": {"ranks": 1, "threads": 1}}
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
    printed, ran = "", 0
    for language, text in fenced:
        if language == "yaml":
            path = re.match(r"# (\S+)\n", text)
            assert path, text
            document = merged(document, yaml.safe_load(text))
            (tmp_path / path[1]).write_text(yaml.safe_dump(document, sort_keys=False))
            document = yaml.safe_load((tmp_path / "demo" / "campaign.yaml").read_text())
        elif language == "bash":
            printed = "".join(run_line(line, tmp_path) for line in text.splitlines())
            ran += 1
        elif not text.startswith("embedcube merge"):
            said = {without_times(line) for line in printed.splitlines()}
            assert [line for line in text.splitlines() if without_times(line) not in said] == []
    assert ran == len(re.findall("^```bash", PAGE.read_text(), flags=re.MULTILINE)) > 3
