"""Every scene is looked at before it is used, by itself: what is found does not depend on other scenes.

`index` looks at some, so that a wrong option is told before anything is embedded. Scenes whose files say the same of
their numbers are a series: they are right or wrong for one reason. Of each series some are looked at, chosen by a hash
of their ids: so many first ones, one of each place and year, and a share of all. Where one of them is contradicted, all
scenes of its series are looked at. The others are looked at where they are read: one that is contradicted there is out
for all (`workers/rounds.py`), as if `index` had found it.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from math import floor
from pathlib import Path

from embedcube.campaign.remembered import Entry, memory_in_use
from embedcube.campaign.remembered_scene import RememberedScene, looked_at, whole
from embedcube.campaign.scene import FILLS, Asset, Scene
from embedcube.errors import CorruptInput
from embedcube.printable import without_credentials
from embedcube.sources.apart import apart
from embedcube.sources.catalog.files import lasting
from embedcube.sources.catalog.pool import spread
from embedcube.sources.catalog.unchanged import settled, token_of
from embedcube.sources.evidence import LEAST, Evidence, Judge, is_jpeg2000, look, why_unseen
from embedcube.sources.huge_blocks import without_huge_blocks
from embedcube.sources.netcdf3 import is_netcdf
from embedcube.sources.reader import retried

_FIRST = 512
"""looks at the scenes of a series that come first by the hashes of their ids: a small series is looked at whole"""

_SHARE = 128
"""further on, one scene of so many is looked at, if a look at it is one look at one file"""

_WAVELETS = 16
"""as many looks count one at a JPEG 2000, all of whose tiles are decoded for it, at a coarse resolution"""

_BLOCK_BYTES = 1 << 27
"""largest decoded block of a file that is looked at: `index` has not yet priced it"""

_AT_ONCE = 16
"""scenes that a process looks at before it tells what it saw"""

QuestionsOf = Callable[[Scene], Sequence[tuple[Asset, Judge]]]
"""The files of a scene that are looked at, and who judges what is seen; it and the judges must be picklable"""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    """What was seen of a scene."""

    words: str
    """why it cannot be used; empty if nothing contradicts"""
    asks: bool = False
    """whether that is a question, and no damage"""


def believed_when_seen(scenes: Sequence[Scene], root: Path, questions_of: QuestionsOf) -> Iterator[Scene]:
    """The scenes of an archive, in their order; those that their pixels contradict have the reason as their verdict.

    Those that were looked at are `seen`.

    Raises:
        OSError: a file could not be looked at for a reason that may pass.
    """
    # here, and not in `index` alone: a scene that cannot be used replaces none
    scenes = [scene if isinstance(scene, RememberedScene) else without_huge_blocks(scene) for scene in scenes]
    series = _all_series(scenes)
    chosen = [_chosen(scenes, places, _looks(scenes[places[0]], questions_of)) for places in series]
    answers = _answers(scenes, set[int]().union(*chosen), root, questions_of)
    suspect = [
        set(places) - seen
        for places, seen in zip(series, chosen, strict=True)
        if any(answers[place].asks for place in seen)
    ]
    answers |= _answers(scenes, set[int]().union(*suspect), root, questions_of)
    for place, scene in enumerate(scenes):
        answer = answers.get(place)
        yield scene if answer is None else looked_at(scene, answer.words, answer.asks)


class FirstLook:
    """Looks at the scenes that `index` has not looked at, each once in a process, before it is read."""

    def __init__(self, root: Path, questions_of: QuestionsOf) -> None:
        """`root` is the archive's path; `questions_of` is what `index` asks, too."""
        self._root, self._questions_of = root, questions_of
        # by digest; several threads may look at one scene at once, and see the same
        self._answers: dict[str, _Answer] = {}

    def refuse_contradicted(self, scene: Scene) -> None:
        """Refuse a scene that cannot be used, or that its pixels contradict.

        Raises:
            CorruptInput: why it cannot be used.
            OSError: it could not be looked at for a reason that may pass.
        """
        if scene.verdict:
            raise CorruptInput(scene.verdict, asks=scene.asks)
        if scene.seen:
            return
        if (digest := scene.digest) not in self._answers:
            [self._answers[digest]] = _seen([scene], root=self._root, questions_of=self._questions_of)
        if (answer := self._answers[digest]).words:
            raise CorruptInput(answer.words, asks=answer.asks)


def _all_series(scenes: Sequence[Scene]) -> list[list[int]]:
    """The places of usable scenes, those of each series."""
    found: dict[str, list[int]] = defaultdict(list)
    for place, scene in enumerate(scenes):
        if not scene.verdict:
            found[series_of(scene)].append(place)
    return list(found.values())


def series_of(scene: Scene) -> str:
    """Equal for scenes that are right or wrong for one reason, as far as their files and decisions tell."""
    if isinstance(scene, RememberedScene):
        return str(scene.more["series"])
    processing = scene.processing.replace(f"; {FILLS}", "")
    return _digest((scene.offset + 0.0, processing, scene.software, tuple(map(_kind, scene.assets))))


@lru_cache(maxsize=1 << 10)
def _digest(facts: tuple[object, ...]) -> str:
    return hashlib.blake2b(repr(facts).encode(errors="surrogatepass"), digest_size=16).hexdigest()


def _kind(asset: Asset) -> tuple[object, ...]:
    """What files of one producer have in common."""
    tiled = asset.block_cols != asset.cols
    return (
        asset.band,
        (asset.inner or asset.path).rpartition(".")[2],
        # of a product whose metadata are its own
        ".SAFE/" in f"{asset.path}/{asset.inner}",
        asset.index,
        asset.dtype,
        # NaN is unequal to itself
        str(asset.nodata),
        tuple(number + 0.0 for number in asset.also_nodata),
        asset.nodata_by,
        asset.mask,
        # -0.0 is equal to 0.0, and is written otherwise
        asset.scale + 0.0,
        asset.add + 0.0,
        # strips are as wide as the image
        (asset.block_rows, asset.block_cols) if tiled else (),
    )


def _looks(scene: Scene, questions_of: QuestionsOf) -> int:
    """How many looks a scene takes; 0 where nothing is asked, which is so for all scenes of its series."""
    return sum(_WAVELETS if is_jpeg2000(asset) else 1 for asset, _ in questions_of(scene))


def _chosen(scenes: Sequence[Scene], places: Sequence[int], looks: int) -> set[int]:
    """The scenes of a series that are looked at, if `looks` are needed for each."""
    if not looks:
        return set()
    hashed = sorted((_hash(scenes[place].id), place) for place in places)
    chosen = {place for _, place in hashed[: max(1, _FIRST // looks)]}
    share = (1 << 64) // (_SHARE * looks)
    first: dict[tuple[int, int, int], int] = {}
    for number, place in hashed:
        west, south, east, north = scenes[place].bbox
        cell = floor((west + east) / 2), floor((south + north) / 2), scenes[place].time.year
        if first.setdefault(cell, place) == place or number < share:
            chosen.add(place)
    return chosen


def _hash(id: str) -> int:
    return int.from_bytes(hashlib.blake2b(id.encode(errors="surrogatepass"), digest_size=8).digest())


def _answers(
    scenes: Sequence[Scene], places: Collection[int], root: Path, questions_of: QuestionsOf
) -> dict[int, _Answer]:
    remembered = _Remembered(root)
    answers = {place: answer for place in places if (answer := remembered.of(scenes[place])) is not None}
    ordered = sorted(place for place in places if place not in answers)
    found = spread(
        partial(_seen, root=root, questions_of=questions_of),
        [whole(scenes[place]) for place in ordered],
        at_once=_AT_ONCE,
        lost=lambda _, words: _Answer(words=words),
        name=lambda scene: scene.id,
    )
    for place, answer in zip(ordered, found, strict=True):
        answers[place] = answer
        remembered.keep(whole(scenes[place]), answer)
    return answers


class _Remembered:
    """What was seen of scenes in the last `index`, if that is remembered and their files have not changed."""

    def __init__(self, root: Path) -> None:
        self._memory, self._root = memory_in_use(), str(root)

    def of(self, scene: Scene) -> _Answer | None:
        """What was seen of a scene; None where that is not remembered."""
        if isinstance(scene, RememberedScene):
            return _Answer(words="") if scene.more["seen"] else None
        if self._memory is None:
            return None
        entry = self._memory.get("look", key := self._key(scene))
        if entry is None:
            return None
        self._memory.keep_again("look", key)
        words, asks = json.loads(entry.text)
        return _Answer(words=words, asks=asks)

    def keep(self, scene: Scene, answer: _Answer) -> None:
        """Remember what was seen of a scene, unless it may be otherwise without a change of its files."""
        if (
            self._memory is None
            or answer.asks != bool(answer.words)
            or without_credentials(answer.words) != answer.words
        ):
            return
        if settled(scene.assets):
            entry = Entry(token=b"", text=json.dumps([answer.words, answer.asks]))
            if key := self._key(scene):
                self._memory.keep("look", key, entry)

    def _key(self, scene: Scene) -> str:
        """A digest of all facts of the scene, with what was noted of its files, which changes with them."""
        return token_of(self._root, scene).hex()


def _seen(scenes: Sequence[Scene], *, root: Path, questions_of: QuestionsOf) -> list[_Answer]:
    return [_of_scene([_answer(root, *question) for question in questions_of(scene)]) for scene in scenes]


def _of_scene(answers: Sequence[_Answer]) -> _Answer:
    wrong = [answer for answer in answers if answer.words]
    return _Answer(
        words="; ".join(dict.fromkeys(answer.words for answer in wrong)),
        # damage is no question, whatever else is asked
        asks=bool(wrong) and all(answer.asks for answer in wrong),
    )


class _Barred(CorruptInput):
    """The file system does not give a file, and that will not pass."""


def _answer(root: Path, asset: Asset, judge: Judge) -> _Answer:
    """What a judge says of one file.

    Raises:
        OSError: it could not be looked at for a reason that may pass.
    """
    path = root / asset.path
    if asset.block_bytes > _BLOCK_BYTES:
        return _Answer(words="")

    def seen() -> Evidence:
        # wrong bytes of NetCDF may crash its library
        return apart(look, asset.size, path, asset) if is_netcdf(path) else look(path, asset)

    def judged(_: Exception) -> CorruptInput | OSError:
        wrong = apart(why_unseen, asset.size, path, asset) if is_netcdf(path) else why_unseen(path, asset)
        if isinstance(wrong, OSError) and (words := lasting(wrong)):
            return _Barred(f"{asset.band}: {asset.path} {words}")
        return wrong

    try:
        evidence = retried(seen, judged)
    except _Barred as barred:
        return _Answer(words=str(barred))
    except CorruptInput:
        return _Answer(words="")  # what is wrong with its bytes is found out where it is read
    return _Answer(words=judge(evidence) if evidence.values.size >= LEAST else "", asks=True)
