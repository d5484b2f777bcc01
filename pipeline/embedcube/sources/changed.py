"""Notice files whose bytes changed after `index`, without reading every file again.

Times and numbers that the file system keeps of a file are no digest: they differ after a copy, and may be equal after a
change. Where they differ from those that `index` noted, the digest is computed again.
"""

import logging
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from embedcube.campaign.scene import Asset, Noted
from embedcube.sources.catalog.digests import Look, noted, whole_digest
from embedcube.sources.catalog.products import File

log = logging.getLogger(__name__)


def change_of(
    path: Path,
    asset: Asset,
    status: os.stat_result,
    compare: Callable[[Path, Asset], str] | None = None,
) -> str:
    """In what a file differs from the one that was indexed, in words; empty if it does not, or if that is not known.

    A file that looks untouched is not read. `compare` looks at the bytes; without it that is `compare_file`. Its answer
    is kept as long as the file looks the same.

    Raises:
        OSError: the file could not be read.
    """
    now = noted(status, asset.noted.sample)
    if not asset.noted.inode or now == asset.noted:
        return ""
    if not (reason := _answer(compare or compare_file, path, asset, asset.noted, now)):
        return ""
    return f"{asset.band}: {asset.path} has not the bytes that were indexed ({reason}); run `embedcube index` again"


# `before` and `now` are arguments so that a file that is touched again is compared again
@lru_cache(maxsize=1 << 14)
def _answer(compare: Callable[[Path, Asset], str], path: Path, asset: Asset, before: Noted, now: Noted) -> str:
    reason = compare(path, asset)
    if not reason and asset.digest.startswith("weak:"):
        log.warning(
            "%s was touched after `embedcube index`; what was noted of its bytes is the same, but not all were noted. "
            "`embedcube index --digest full` notes all",
            path,
        )
    return reason


def compare_file(path: Path, asset: Asset) -> str:
    """Why a file or zip member has other bytes than when it was indexed; empty if that is not known.

    A digest over all bytes is computed again. Of a weak one, the first bytes and the noted blocks are compared: a
    change elsewhere is not seen.
    """
    if not asset.digest.startswith("weak:"):
        found = whole_digest(File(path=path, inner=asset.inner), asset.digest.partition(":")[0])
        return "" if found == asset.digest else f"{found[:19]} now, {asset.digest[:19]} then"
    if not asset.noted.sample:
        return ""  # the digest is over its name
    look = Look.at(path)
    if look.digest == asset.digest and look.noted.sample == asset.noted.sample:
        return ""
    return "its first bytes differ" if look.digest != asset.digest else "its bytes differ beyond the first ones"
