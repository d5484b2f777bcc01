"""The page of `embedcube view` as files: small, licensed, and bound to its own server. tests/browser looks at it."""

import gzip
import json
import re
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from tests.browser.running import SOURCE
from tests.cube.synthetic import write_zone
from tests.uses.serving import running

from embedcube.uses.serve.app import create_app
from embedcube.uses.view.show import PAGE

FILES = ("index.html", "view.css", "view.js")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    path = tmp_path_factory.mktemp("view") / "cube.zarr"
    write_zone(path, "layer/grid", np.ones((1, 16, 16, 4), np.float32))
    with running(create_app([path], static=PAGE)) as address, httpx.Client(base_url=address, trust_env=False) as opened:
        yield opened


def test_the_page_is_small() -> None:
    sizes = {name: len(gzip.compress((PAGE / name).read_bytes(), 9)) for name in FILES}
    assert sum(sizes.values()) < 300_000
    assert sum(sizes.values()) < 150_000, f"grown since: {sizes}"


def test_the_server_gives_it_under_a_policy_that_names_itself_alone(client: httpx.Client) -> None:
    for name in ("", *FILES):
        answer = client.get(f"/{name}")
        assert answer.status_code == 200
        rules = dict(rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; "))
        assert rules["default-src"] == "'none'"
        assert (rules["script-src"], rules["style-src"], rules["connect-src"]) == ("'self'",) * 3
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.get("/").text == (PAGE / "index.html").read_text()
    assert client.get("/v1/cubes").json()["cubes"][0]["name"] == "synthetic"
    assert client.get("/../source/main.js").status_code == 404


def test_nothing_in_it_is_inline_or_from_elsewhere() -> None:
    html = (PAGE / "index.html").read_text()
    assert re.findall(r"<script[^>]*>", html) == ['<script type="module" src="view.js">']
    assert not re.search(r"\bstyle=|\bon\w+=|https?:", html)
    assert not re.search(r"url\(|@import", (PAGE / "view.css").read_text())
    assert not re.search(r"\beval\(|new Function\(", (PAGE / "view.js").read_text())


def test_every_package_of_it_has_its_licence() -> None:
    licences = (PAGE / "LICENSES.txt").read_text()
    packages = json.loads((SOURCE / "package-lock.json").read_text())["packages"]
    named = dict(re.findall(r"^(\S+) (\d\S+) \(\S+\)$", licences, re.MULTILINE))
    assert {"ol", "proj4"} <= named.keys()
    for name, version in named.items():
        assert packages[f"node_modules/{name}"]["version"] == version
    assert licences.count("opyright") >= len(named)


def test_the_lock_names_no_host_and_every_digest() -> None:
    packages = json.loads((SOURCE / "package-lock.json").read_text())["packages"]
    assert not any("resolved" in one for one in packages.values())
    assert all(one["integrity"].startswith("sha512-") for name, one in packages.items() if name)
    own = json.loads((SOURCE / "package.json").read_text())
    assert all(re.fullmatch(r"[\d.]+", version) for version in (own["dependencies"] | own["devDependencies"]).values())


def test_only_the_page_is_beside_the_source() -> None:
    assert sorted(file.name for file in PAGE.iterdir()) == ["LICENSES.txt", *FILES]
