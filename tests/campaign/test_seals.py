"""Checksums of JSON and digests of files, against hashlib and json alone."""

import hashlib
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Campaign

from embedcube.campaign.load import dump_campaign, load_campaign
from embedcube.campaign.seals import from_file, from_line, has_seal, read_digested, sealed_text, to_file, to_line
from embedcube.errors import RequestError

DOCUMENT: dict[str, Any] = {
    "z": [1, 2.5, None, True],
    "a": 'quotes " and \\ and ü and \ud800',
    "nested": {"b": 1e-9, "a": {}},
    "list": [],
}


def expected(document: dict[str, Any]) -> str:
    """The checksum as docs/promises.md defines it."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@pytest.mark.parametrize("made", [to_line, to_file])
def test_any_reader_of_json_can_check_the_checksum(made: Any) -> None:
    parsed = json.loads(made(DOCUMENT))
    assert parsed.pop("checksum") == expected(DOCUMENT)
    assert parsed == DOCUMENT


def test_what_is_written_is_read() -> None:
    assert from_line(to_line(DOCUMENT)) == DOCUMENT
    assert from_file(to_file(DOCUMENT)) == DOCUMENT


def test_numbers_are_read_as_they_were_written() -> None:
    rng = random.Random(0)
    numbers = [rng.uniform(-1, 1) * 10.0 ** rng.randrange(-300, 300) for _ in range(2000)]
    numbers += [2**63, -(2**64), 10**30, float("inf"), 5e-324]
    assert from_line(to_line({"numbers": numbers})) == {"numbers": numbers}


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"{}\n",
        b"x" * 200 + b"\n",
        bytes(500),
        to_line({"a": 1})[:-1],
        to_line({"a": 1})[1:],
        to_line({"a": 1}).replace(b"1", b"2", 1),
        to_line({"a": 1}) + b"\n",
        json.dumps({"a": 1}).encode() + b"\n",
        json.dumps({"checksum": expected({"a": 1}), "a": 1}).encode() + b"\n",
    ],
)
def test_any_other_line_is_none(line: bytes) -> None:
    assert from_line(line) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"3",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        b'{"checksum": null}',
        b'{"a": 1, "checksum": "0"}',
    ],
)
def test_any_other_file_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"checksum|JSON|codec|Expecting"):
        from_file(data)


def test_bytes_are_compared_before_they_are_used(tmp_path: Path) -> None:
    path = tmp_path / "table"
    path.write_bytes(b"abc")
    assert read_digested(path, hashlib.sha256(b"abc").hexdigest(), "plan") == b"abc"
    with pytest.raises(RequestError, match=r"table: damaged or replaced, .*; run `embedcube plan` again"):
        read_digested(path, hashlib.sha256(b"abd").hexdigest(), "plan")
    path.unlink()
    with pytest.raises(RequestError, match=r"table: there is no such file any more; run `embedcube plan` again"):
        read_digested(path, "", "plan")


def test_the_first_line_seals_the_others(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert not has_seal(path)
    path.write_text("a: 1\nb: 2\n")
    assert not has_seal(path)
    text = sealed_text("a: 1\nb: 2\n")
    path.write_text(text)
    assert has_seal(path)
    for changed in (text.replace("b:", "c:", 1), text[:-1], text + "\n", text.replace("a: 1", "a: 2")):
        path.write_text(changed)
        with pytest.raises(RequestError, match="changed since embedcube wrote it"):
            has_seal(path)


def test_a_campaign_may_come_through_a_pipe(demo: Campaign) -> None:
    """As a shell gives one: it can be read once."""
    campaign = load_campaign(demo.file)
    reading, writing = os.pipe()
    os.write(writing, dump_campaign(campaign).encode())
    os.close(writing)
    try:
        assert load_campaign(Path(f"/dev/fd/{reading}")).digest == campaign.digest
    finally:
        os.close(reading)
