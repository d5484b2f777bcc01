"""Text from data as it is printed and stored: whatever a link holds, no credential is left in it."""

import time
from urllib.parse import quote

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from embedcube.errors import CorruptInput
from embedcube.printable import listed, printable, printable_href, shortened, without_credentials

SECRET = "S3CRET"

words = st.text(st.sampled_from("abcXYZ019-_.~"), min_size=1, max_size=8)
paths = st.lists(words, min_size=1, max_size=4).map("/".join)
hosts = st.builds("{}.{}{}".format, words, words, st.sampled_from(["", ":443"]))
schemes = st.sampled_from(["https://", "HTTP://", "s3://", "ftp://", "//", "https:/", "/vsicurl/https://", "file://"])
users = st.sampled_from(["{}:" + SECRET, SECRET, SECRET + ":", "{}:a" + SECRET + "/b", "{}%3A" + SECRET])
parameters = st.sampled_from(
    [
        "sig", "Signature", "X-Amz-Signature", "X-Amz-Security-Token", "X-Amz-Credential", "x-goog-signature", "token",
        "access_token", "AWSAccessKeyId", "sas", "api_key", "apikey", "Key-Pair-Id", "password", "subscription-key",
        "se", "x", "Policy",
    ]
)  # fmt: skip
tails = st.builds("{}={}{}".format, parameters, st.just(SECRET), st.sampled_from(["", "&sv=2023", "%3D", "/+x=="]))
breaks = st.sampled_from(["", "\n", "\t", "\0"])


@st.composite
def links(draw: st.DrawFn) -> str:
    """A link with a credential: a user in front of the host, or a parameter."""
    scheme, host, path, tail = draw(schemes), draw(hosts), draw(paths), draw(tails)
    link = draw(
        st.sampled_from(
            [
                f"{scheme}{draw(users).format(draw(words))}@{host}/{path}",
                f"{scheme}{host}/{path}?{tail}",
                f"{scheme}{host}/{path}#{tail}",
                f"{scheme}{host}/{path}?sv=2023&sr=b&{tail}&st=1",
                f"./{path}?{tail}",
                f"{path}.tif?a=1&{tail}",
                f"user:{SECRET}@{host}:/{path}",
            ]
        )
    )
    place = draw(st.integers(0, len(link)))
    link = link[:place] + draw(breaks) + link[place:]
    # a break inside the secret would only make it unknown to this test
    assume(SECRET in link)
    return draw(
        st.sampled_from([link, quote(link), quote(quote(link), safe=""), f"/vsicurl?url={quote(link, safe='')}"])
    )


@given(links(), words)
@example("https:\n//S3CRET@0.0/0", "x")
def test_no_credential_is_left_in_a_link(link: str, word: str) -> None:
    for shown in (
        without_credentials(link),
        printable(link),
        printable_href(link),
        printable(f"B02: {link} does not exist; {word}"),
        printable(f"KeyError: '{link}'"),
        str(CorruptInput(f"B02: {link} {word}")),
    ):
        assert SECRET not in shown
    assert without_credentials(without_credentials(link)) == without_credentials(link)
    assert printable(link).isprintable()


@given(paths, words)
def test_a_text_without_a_credential_stays_as_it_is(path: str, word: str) -> None:
    for text in (
        path,
        f"https://{word}.org/{path}/icon@2x.png",
        f"./{path}",
        f"date=2023/{path}#2",
        f"{word}%20{path}",
    ):
        assert without_credentials(text) == text
    message = f"{path} has 3 bands, its catalogue names band number {word}; write offset: -1000?"
    assert printable(message) == message


@pytest.mark.parametrize(
    ("link", "shown"),
    [
        ("https://user:pw@host/B02.tif", "https://***@host/B02.tif"),
        ("https://acct.blob.core.windows.net/c/B02.tif?sv=1&sig=x", "https://acct.blob.core.windows.net/c/B02.tif?***"),
        ("B02.tif?sig=x", "B02.tif?***"),
        ("a b:token=xyz,c", "a b:token=***,c"),
        ("https%3A%2F%2Fuser%3Apw%40host%2Fx", "https://***@host/x"),
    ],
)
def test_what_is_left_of_a_link_says_where_it_leads(link: str, shown: str) -> None:
    assert without_credentials(link) == shown


@given(st.text(st.characters(), max_size=400), st.integers(1, 200))
def test_any_text_is_one_bounded_line_in_utf_8(text: str, most: int) -> None:
    shown = printable(text, most)
    assert shown.isprintable()
    assert len(shown) <= most + len("... (400 characters)")
    shown.encode()


def test_bytes_of_names_and_control_characters_are_escaped() -> None:
    assert printable("M\udcfcnchen") == r"M\xfcnchen"
    assert printable("x\nplan\x1b[2J\0\ud800\u202e") == r"x\nplan\x1b[2J\x00\ud800\u202e"


@pytest.mark.parametrize("piece", ["x", "a=", "?", "://", "@", "%25", "a-", "sig", "x:y@", "\0", "https://a:", " "])
def test_a_text_of_millions_of_characters_takes_no_time(piece: str) -> None:
    start = time.process_time()
    assert len(printable(piece * (5_000_000 // len(piece)))) < 400
    assert len(printable_href(piece * (5_000_000 // len(piece)))) < 400
    assert time.process_time() - start < 2


def test_the_cut_of_a_long_link_shows_no_password_either() -> None:
    assert SECRET not in printable(f"B02: https://user:{SECRET}{'x' * 100_000}@host/B02.tif does not exist")
    assert SECRET not in printable_href(f"https://user:{SECRET}{'x' * 100_000}@host/B02.tif")


@given(st.text(min_size=0, max_size=900), st.integers(40, 300))
def test_a_shortened_text_keeps_its_beginning_and_its_end(text: str, most: int) -> None:
    short = shortened(text, most)
    assert len(short) <= most
    if len(text) <= most:
        assert short == text
        return
    start, _, end = short.partition(" ... ")
    assert text.startswith(start)
    assert text.endswith(short.rpartition(" ... ")[2])
    assert start or end


def test_a_list_of_names_is_shortened() -> None:
    assert listed(["B02", "B03"]) == "B02, B03"
    assert listed([f"B{i}" for i in range(40)], 3) == "B0, B1, B2 and 37 more"
    # one more name is as short as saying so
    assert listed("abcd", 3) == "a, b, c, d"
