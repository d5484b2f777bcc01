"""Text that comes from data, as it may be printed, logged or stored: no credentials, no control characters, bounded.

Links in catalogues may hold a password or a signature, names of files any byte, ids any number of characters.
"""

import re
from collections.abc import Iterable
from urllib.parse import unquote

HIDDEN = "***"
"""Stands where a credential was."""

_MOST_LOOKED_AT = 1 << 14
"""characters of a text that are looked at; the rest is left out unread"""

_NAME = 60
"""characters of a name among others"""

_MARK = re.compile(r"[?#@=%]")
"""A text without any of these holds no credential"""

_LINK = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,19}:[/\\]|[/\\]{2}|/vsi")
"""What a link to another machine has, or a path of GDAL that may hold one"""

_SCHEME = re.compile(r".*?:[/\\]{1,3}|[/\\]{2}", re.DOTALL)

_SECRET = re.compile(
    r"(?P<name>(?<![A-Za-z0-9])[\w.-]{0,40}?"
    r"(?:sig|signature|token|jwt|sas|password|passwd|pwd|secret|credentials?|authorization|api[_-]?key|access[_-]?key"
    r"|access[_-]?key[_-]?id|key[_-]?pair[_-]?id|x-amz-[\w-]{1,40}|x-goog-[\w-]{1,40})=(?:bearer )?)[^\s&;,\"'<>]+",
    re.IGNORECASE,
)
"""A parameter whose name says that its value is a credential"""

_WORD = re.compile(r"[^\s\"'<>]+")

_DECODED = 3
"""how often a link may be percent-encoded"""


def without_credentials(href: str) -> str:
    """A link or path without what may be a credential, which becomes ***.

    That is: a user name and password in front of the host; the whole query and fragment of a link to another machine,
    and those of any other text if they have parameters; the value of a parameter such as `sig` or `X-Amz-Signature`
    anywhere; and all this percent-encoded, too. Other text is returned as it is.
    """
    if not _MARK.search(href):
        return href
    result = deeper = _cut(href)
    for _ in range(_DECODED):
        deeper = unquote(deeper)
        if (cut := _cut(deeper)) != deeper:
            result = deeper = cut
    return result


def _cut(text: str) -> str:
    place = min((i for i in map(text.find, "?#") if i >= 0), default=len(text) - 1)
    rest = text[place + 1 :]
    if rest and ("=" in rest or _LINK.search(text)):
        text = text[: place + 1] + HIDDEN
    return _SECRET.sub(rf"\g<name>{HIDDEN}", _without_user(text))


def _without_user(text: str) -> str:
    """Leave out a user name and password, up to the last @: `https://***@host/x`."""
    before, at, rest = text.rpartition("@")
    scheme = _SCHEME.match(before)
    kept = scheme[0] if scheme else ""
    user = before[len(kept) :]
    if not at:
        return text
    # an @ may also stand in a path, as in https://host/icon@2x.png
    if ":" in user or (scheme and "/" not in user):
        return f"{kept}{HIDDEN}@{rest}"
    # a break that was escaped may stand between the scheme and its slashes
    begin = before.rfind("//") + 2
    return f"{before[:begin]}{HIDDEN}@{rest}" if scheme and begin > 1 and "/" not in before[begin:] else text


def is_plain(text: str) -> bool:
    """Whether a text can be printed and certainly holds no credential."""
    return text.isprintable() and not _MARK.search(text)


def printable(text: object, most: int = 300) -> str:
    r"""A text from data on one line of at most about `most` characters.

    Credentials are cut out of every word of it, characters that cannot be printed are escaped as in Python (`\n`,
    `\x1b`; a byte of a file name that is not UTF-8 as `\xfc`), and the end of a longer text is left out.
    """
    whole = str(text)
    if len(whole) <= most and is_plain(whole):
        return whole  # as nearly all are
    bound = max(_MOST_LOOKED_AT, most)
    words = _escaped(whole[:bound])
    if len(whole) > bound:
        words = _without_torn_link(words)
    # a link that was percent-encoded may hold anything
    words = _escaped(_WORD.sub(lambda word: without_credentials(word[0]), words))
    return words if len(words) <= most and len(whole) <= bound else f"{words[:most]}... ({len(whole)} characters)"


def listed(names: Iterable[object], most: int = 8) -> str:
    """Names in a message, of which only the first `most` are shown: `B02, B03 and 37 more`."""
    shown = [printable(name, _NAME) for name in names]
    more = len(shown) - most
    return ", ".join(shown) if more <= 1 else f"{', '.join(shown[:most])} and {more} more"


def printable_path(path: object, most: int = 90) -> str:
    """A path in a message; of a long one only the end is shown."""
    text = printable(path)
    return text if len(text) <= most else f"...{text[-most:]}"


def shortened(text: str, most: int) -> str:
    """A text of at most `most` characters: of a longer one the middle is left out, as its end says what to do."""
    if len(text) <= most:
        return text
    end = text[len(text) - most // 2 :].partition(" ")[2] or text[len(text) - most // 2 :]
    start = text[: most - len(end) - 5]
    return f"{start.rpartition(' ')[0] or start} ... {end}"


def printable_href(href: str) -> str:
    """A link as it may be printed, logged or stored: `printable`, and a credential may hold spaces and quotes."""
    if len(href) > _MOST_LOOKED_AT:
        return f"a link of {len(href)} characters"
    return printable(without_credentials(href))


def _without_torn_link(words: str) -> str:
    """Leave out the last word if it may be a link: the end that would show a credential in it was left out."""
    start = max(map(words.rfind, " \"'<>")) + 1
    return words[:start] if ":" in words[start:] or _LINK.search(words, start) else words


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    code = ord(char)
    # Python's name for a byte of a file name that is not UTF-8
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else char.encode("unicode_escape").decode()
