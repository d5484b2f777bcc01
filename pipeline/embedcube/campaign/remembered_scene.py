"""A scene that is taken from the last inventory: at first only what decisions over several scenes ask for is known.

Whatever else is asked of it is read from the inventory then. So an archive of a hundred thousand scenes that has grown
by a few is indexed without making all scenes again.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, replace
from datetime import datetime
from functools import cached_property
from typing import Any

from pydantic_core import from_json, to_json

from embedcube.campaign.scene import FILLS, Asset, Scene

_FACTS = ("id", "acquisition", "bbox", "offset", "version", "subject", "strip", "product")
"""fields that are remembered"""

_MORE = ("base", "series", "bands", "weak", "declared", "seen", "superseded_by", "processing")
"""what else is remembered: `processing` before it was decided whether the scene fills, what `believed.py` compares,
bands and digests of its files, and the fields that were decided over several scenes"""

_DEFAULTS = {one.name: one.default for one in fields(Scene) if one.default is not MISSING and one.name != "assets"}


def scene_text(scene: Scene, series: str) -> str:
    """What is remembered of a scene without a verdict, beside time, archive and files; `series` as `series_of` says."""
    base = scene.processing.replace(f"; {FILLS}", "")
    facts = [getattr(scene, name) for name in _FACTS]
    more = [base, series, bands_of(scene), scene.weak, scene.declared]
    return to_json([*facts, *more, scene.seen, scene.superseded_by, scene.processing]).decode()


class RememberedScene(Scene):
    """A scene without a verdict whose Item and files are as they were. Its `assets` are read when they are asked for.

    What is decided about it, by the functions of this module, costs no reading.
    """

    _more: dict[str, Any]
    _read: Callable[[str], Scene]

    @classmethod
    def of(
        cls, text: str, archive: str, time: datetime, end: datetime | None, read: Callable[[str], Scene]
    ) -> "RememberedScene":
        """The scene of a text, as nothing were decided yet; `read` gives the scene with an id from the inventory."""
        values = from_json(text)
        facts, more = values[: len(_FACTS)], dict(zip(_MORE, values[len(_FACTS) :], strict=True))
        own = _DEFAULTS | dict(zip(_FACTS, facts, strict=True)) | {"archive": archive, "time": time, "end": end}
        own |= {"bbox": tuple(own["bbox"]), "processing": more["base"], "_more": more, "_read": read}
        return cls._made(own)

    @classmethod
    def _made(cls, values: dict[str, Any]) -> "RememberedScene":
        # the constructor of so many frozen fields takes longer than all else here
        one = object.__new__(cls)
        vars(one).update(values)
        return one

    def but(self, decided: Mapping[str, Any]) -> "RememberedScene":
        """The same scene with other decisions, by field."""
        return self._made({**vars(self), **decided})

    @cached_property
    def assets(self) -> tuple[Asset, ...]:
        """The files, from the inventory."""
        return self._read(self.id).assets

    @property
    def more(self) -> dict[str, Any]:
        """What is remembered of it beside its fields."""
        return self._more

    @property
    def placed(self) -> bool:
        """True: it has files."""
        return True

    @property
    def weak(self) -> bool:
        """Whether a digest of its files is of their first bytes and size alone."""
        return bool(self._more["weak"])

    @property
    def declared(self) -> bool:
        """Whether a digest of its files is a checksum of the catalogue, not compared with the bytes."""
        return bool(self._more["declared"])

    @property
    def as_it_was(self) -> bool:
        """Whether all that is decided is as it was, so that its row of the inventory is the same."""
        return all(getattr(self, name) == self._more[name] for name in ("seen", "superseded_by", "processing"))

    def filling(self) -> Scene:
        """The same scene, told that it fills what a newer, split one does not show."""
        return self.but({"processing": f"{self._more['base']}; {FILLS}"})

    def read(self) -> Scene:
        """All of the scene, with what is decided now."""
        decided = {name: getattr(self, name) for name in ("seen", "superseded_by", "processing")}
        return replace(self._read(self.id), **decided)

    def to_json(self) -> str:
        """All of the scene as JSON, for the inventory."""
        return self.read().to_json()

    def __eq__(self, other: object) -> bool:
        """Whether another scene has the same facts, remembered or not."""
        return self.read() == whole(other) if isinstance(other, Scene) else NotImplemented

    def __hash__(self) -> int:
        """Equal for scenes with the same facts, remembered or not."""
        return hash(self.read())


def looked_at(scene: Scene, words: str, asks: bool) -> Scene:
    """The scene when its pixels have been looked at, with what they contradict as its verdict."""
    if isinstance(scene, RememberedScene) and not words:
        return scene.but({"seen": True})
    return replace(whole(scene), verdict=words, asks=asks, seen=True)


def superseded(scene: Scene, by: str) -> Scene:
    """The scene when the one with the id `by` is used instead."""
    return scene.but({"superseded_by": by}) if isinstance(scene, RememberedScene) else replace(scene, superseded_by=by)


def bands_of(scene: Scene) -> tuple[str, ...]:
    """The bands of the files of a scene, in their order."""
    if isinstance(scene, RememberedScene):
        return tuple(scene.more["bands"])
    return tuple(asset.band for asset in scene.assets)


def has_files(scene: Scene) -> bool:
    """Whether any file of a scene could be opened."""
    return isinstance(scene, RememberedScene) or bool(scene.assets)


def whole(scene: Scene) -> Scene:
    """The scene with all that is known of it."""
    return scene.read() if isinstance(scene, RememberedScene) else scene
