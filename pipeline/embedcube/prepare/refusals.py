"""What is said of an archive that cannot be used: in under 300 characters, and with the next move."""

import os
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from embedcube.campaign.schema import Archive
from embedcube.printable import listed, printable, printable_path, shortened

_VERDICT = 210
"""most characters of a verdict in a refusal"""

_LOOKED_AT = 10_000
"""most files of an archive that are counted"""

_NEXT_MOVES = (
    ("unpack", ""),
    ("does not decode", "it is damaged, or not what its name says: get it again"),
    ("no coordinate reference system", "write it into the file, as with gdal_edit.py -a_srs EPSG:32632"),
    ("does not exist", "put the file there, or correct the link"),
    ("points, not a grid", "put it on a grid first"),
    ("has no file of this band", "leave the band or the mask out, or give products that have it"),
    ("is not a SAFE product", "give it as it was downloaded, or unpack it"),
)
"""Words of a verdict, and what to do about it where the verdict itself does not say it; the first that fits counts"""


def with_next_move(verdict: str) -> str:
    """A verdict, shortened, and what to do about it."""
    move = next((move for words, move in _NEXT_MOVES if words in verdict), "")
    short = shortened(verdict, _VERDICT - len(move))
    return f"{short}; {move}" if move else short


def no_scene_in(archive: Archive) -> str:
    """The place of an archive that holds no scene, what lies there, and what to do."""
    path = archive.path
    place = printable_path(path)
    if archive.search is not None:
        return f"the answers of {printable(archive.search.api, 100)}: are its collections, boxes and times right?"
    if not path.is_dir():
        return f"{place}: it holds no Item with these bands; search again, or name the folder of the files"
    kinds = Counter(Path(name).suffix.lower() or "no suffix" for name in islice(_names(path), _LOOKED_AT))
    if not kinds:
        return f"{place}: the folder is empty; is its file system mounted, and is it the right one?"
    held = listed((kind for kind, _ in kinds.most_common()), 4)
    return (
        f"{place}, which holds {kinds.total()} files ({held}): none is what the source {archive.source} reads for "
        f"{listed(archive.bands, 4)}. `embedcube sources` lists sources, docs/archives.md what each reads"
    )


def _names(folder: Path) -> Iterator[str]:
    for _, _, names in os.walk(folder):
        yield from names
