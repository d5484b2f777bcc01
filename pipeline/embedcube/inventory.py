"""index: archive -> inventory. The table of all scenes, STAC-GeoParquet; nothing lists directories after it."""

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet
from shapely.geometry import box, mapping

from embedcube.bounds import bounded
from embedcube.config import Campaign, digest_of
from embedcube.errors import RequestError, StartAgain
from embedcube.progress import Progress, silent
from embedcube.raster import raster_settings
from embedcube.registry import plugin
from embedcube.rundir import RunDir, replacing
from embedcube.scene import Asset, Scene
from embedcube.windows import utc


def index(campaign: Campaign, run: RunDir, progress: Progress = silent, *, full_digests: bool = False) -> list[Scene]:
    """Find the scenes of every archive and write the inventory; returns them in its order.

    Raises:
        RequestError: an archive shows no usable scene at all.
        StartAgain: an archive cannot be read for a reason that may pass.
    """
    scenes: list[Scene] = []
    for name, archive in campaign.archives.items():
        found = []
        try:
            with raster_settings():
                for scene in plugin("sources", archive.source)(name, bounded(campaign, name)).scenes(
                    full_digests=full_digests
                ):
                    found.append(scene)
                    progress(len(scenes) + len(found), None)
        except OSError as error:
            raise StartAgain(f"archives.{name}: {error}; start again when {archive.path} can be read") from None
        if not found:
            raise RequestError(f"archives.{name}: no scene found in {archive.path}")
        if all(scene.verdict for scene in found):
            raise RequestError(
                f"archives.{name}: none of {len(found)} scenes in {archive.path} can be used; "
                f"the first one, {found[0].id}: {found[0].verdict}"
            )
        scenes.extend(found)
    with replacing(run.inventory) as temporary:
        _write_table(campaign, scenes, temporary)
    return scenes


def read_inventory(campaign: Campaign, run: RunDir) -> list[Scene]:
    """The scenes of the inventory, in its order.

    Raises:
        RequestError: there is none, or it was made when the campaign asked otherwise; `index` makes it.
    """
    if not run.inventory.exists():
        raise RequestError(f"{run.inventory}: there is no inventory yet; run `embedcube index` first")
    table = pyarrow.parquet.read_table(run.inventory, columns=["embedcube:scene", "embedcube:asked"])
    if set(table["embedcube:asked"].unique().to_pylist()) != set(_asked(campaign).values()):
        raise RequestError(f"{run.inventory} was made for other archives or bands; run `embedcube index` again")
    return [_scene_of(text) for text in table["embedcube:scene"].to_pylist()]


def _asked(campaign: Campaign) -> dict[str, str]:
    """Digest of what is asked of each archive."""
    asked = {}
    for name, block in campaign.what["archives"].items():
        search = bounded(campaign, name).search
        asked[name] = digest_of({name: block} | ({"search": search.model_dump(mode="json")} if search else {}))
    return asked


def _write_table(campaign: Campaign, scenes: list[Scene], path: Path) -> None:
    """STAC-GeoParquet for everybody, with our own description of each scene in one more column."""
    from stac_geoparquet.arrow import parse_stac_items_to_arrow, to_parquet

    to_parquet(parse_stac_items_to_arrow(list(_items(campaign, scenes))).read_all(), path)


def _items(campaign: Campaign, scenes: list[Scene]) -> Iterator[dict[str, Any]]:
    asked = _asked(campaign)
    for scene in scenes:
        geometry = box(*scene.bbox)
        yield {
            "type": "Feature",
            "stac_version": "1.0.0",
            "id": scene.id,
            "geometry": mapping(geometry),
            "bbox": list(scene.bbox),
            "properties": {
                "datetime": scene.time.isoformat().replace("+00:00", "Z"),
                "embedcube:archive": scene.archive,
                "embedcube:asked": asked[scene.archive],
                "embedcube:digest": scene.digest,
                "embedcube:weak": scene.weak,
                "embedcube:verdict": scene.verdict,
                "embedcube:superseded_by": scene.superseded_by,
                "embedcube:scene": scene.to_json(),
            },
            "links": [],
            "assets": {asset.band: {"href": asset.path} for asset in scene.assets},
            "stac_extensions": [],
            "collection": scene.archive,
        }


def _scene_of(text: str) -> Scene:
    document = json.loads(text)
    document["time"] = utc(datetime.fromisoformat(document["time"]))
    document["end"] = utc(datetime.fromisoformat(document["end"])) if document["end"] else None
    document["bbox"] = tuple(document["bbox"])
    document["software"] = tuple(document["software"])
    document["assets"] = tuple(
        Asset(**(asset | {"transform": tuple(asset["transform"])})) for asset in document["assets"]
    )
    return Scene(**document)
