"""Read and write campaign files: YAML to a validated and resolved `Campaign`, and back."""

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from embedcube.campaign import schema
from embedcube.campaign.backbone_parts import with_files
from embedcube.campaign.fields import read_yaml
from embedcube.campaign.geojson import read_geojson
from embedcube.campaign.run_folder import RunDir
from embedcube.campaign.seals import has_seal, sealed_text
from embedcube.errors import RequestError
from embedcube.printable import printable
from embedcube.zones import SAMPLES

_VARIABLE = re.compile(r"\$\{(\w+)\}")


class Campaign(schema.Campaign):
    """The schema's `Campaign`, read from its file. A class of its own, because the schema imports no reader."""

    @staticmethod
    def load(path: str | Path) -> "Campaign":
        """The campaign of a file, as `load_campaign` reads it."""
        return load_campaign(Path(path))

    def __repr__(self) -> str:
        windows = self.all_windows
        spans = windows[0].days if len(windows) == 1 else f"{windows[0].days} ... {windows[-1].days}"
        archives = [f"{name} ({archive.source})" for name, archive in self.archives.items()]
        layers = [f"{name} ({layer.backbone['name']})" for name, layer in self.layers.items()]
        return "\n".join(
            [
                f"Campaign {self.campaign}, digest {self.digest[:12]}",
                f"  archives  {', '.join(archives)}",
                f"  layers    {', '.join(layers)}",
                f"  windows   {len(windows)}: {spans}",
            ]
        )


def load_campaign(path: Path, *, mounted: bool = True) -> Campaign:
    """Read, validate and resolve a campaign file: paths absolute, declared variables expanded, GeoJSON inlined.

    With `mounted` false the archives need not be on this machine.

    Raises:
        RequestError: the file is wrong; one line names the key, the value found, and a right one.
    """
    sealed = has_seal(path)
    document = _document(path)
    try:
        campaign = _resolved(Campaign.model_validate(document), path.resolve().parent, mounted=mounted)
    except ValidationError as error:
        raise RequestError(f"{path}: {first_error(error)}") from None
    except ValueError as error:
        raise RequestError(f"{path}: {error}") from None
    if not sealed and path.resolve() == RunDir(campaign.run_folder.resolve()).campaign:
        raise RequestError(
            f"{path}: its first line is not that of embedcube: damaged, or written by another version; run `embedcube "
            "plan` with your own campaign file, which writes it again"
        )
    return campaign


def run_folder_of(path: Path) -> Path | None:
    """The run folder that a campaign file names, even where other keys of it are wrong; None where it names none.

    Raises:
        RequestError: the file cannot be read.
    """
    document = _document(path)
    how, env = document.get("how") or {}, document.get("env") or ()
    runs = how.get("runs", "runs") if isinstance(how, dict) else None
    name = document.get("campaign")
    if not (isinstance(name, str) and isinstance(runs, str) and isinstance(env, list | tuple)):
        return None
    try:
        return _absolute(Path(runs), path.resolve().parent, env) / name
    except ValueError:
        return None  # a variable that is not set


def _document(path: Path) -> dict[str, Any]:
    """The mapping of a campaign file, not yet validated."""
    try:
        document = read_yaml(path)
    except FileNotFoundError:
        raise RequestError(f"{path}: no such campaign file; `embedcube demo DIR` writes one to start from") from None
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error}") from None
    if not isinstance(document, dict):
        raise RequestError(f"{path}: a campaign is a mapping of keys; `embedcube schema` prints them")
    return document


def first_error(error: ValidationError) -> str:
    """The most useful of the errors of a validation, in one line that begins with the key."""
    errors = error.errors()
    # a union reports each branch; the message of our own checks says more than "should be a tuple"
    first = next((e for e in errors if e["type"] == "value_error"), errors[0])
    # pydantic names the branch of a union in the place: "windows.tuple[...]"
    place = ".".join(str(part) for part in first["loc"] if not re.search(r"WindowSteps|constrained-|\[", str(part)))
    message = first["msg"].removeprefix("Value error, ")
    found = "" if first["type"] in ("value_error", "missing") else f" (found {printable(repr(first['input']))})"
    return f"{place}: {message}{found}" if place else message


def _absolute(path: Path, folder: Path, env: Collection[str]) -> Path:
    def expand(match: re.Match[str]) -> str:
        if match[1] not in env:
            raise ValueError(f'path {path}: variable {match[1]} is not declared; add it to "env"')
        if match[1] not in os.environ:
            raise ValueError(f"path {path}: variable {match[1]} is not set")
        return os.environ[match[1]]

    return Path(os.path.normpath(folder / _VARIABLE.sub(expand, str(path))))


def _resolved(campaign: Campaign, folder: Path, *, mounted: bool) -> Campaign:
    def absolute(path: Path) -> Path:
        return _absolute(path, folder, campaign.env)

    archives = {}
    for name, archive in campaign.archives.items():
        moved = archive.model_copy(update={"path": absolute(archive.path)})
        if mounted and not moved.path.exists():
            raise ValueError(f"archives.{name}.path: {moved.path} does not exist; is its file system mounted?")
        links = {start: _absolute(place, moved.root, campaign.env) for start, place in archive.links.items()}
        if mounted and (lost := next((place for place in links.values() if not place.is_dir()), None)):
            raise ValueError(f"archives.{name}.links: {lost} is no folder")
        archives[name] = moved.model_copy(update={"links": links})
    layers = {
        name: layer.model_copy(
            update={
                "weights": absolute(layer.weights) if layer.weights else None,
                "backbone": with_files(layer.backbone, absolute),
            }
        )
        for name, layer in campaign.layers.items()
    }
    region = campaign.region
    if region is not None and region.geojson is not None:
        region = schema.Region(geometry=read_geojson(absolute(region.geojson)))
    if region is not None and (lists := [name for name in layers if campaign.grid_of(name).crs == SAMPLES]):
        raise ValueError(
            f"region: layer {lists[0]} is a list of samples, of which no region chooses some: remove region, and take "
            "samples that are not wanted out of the archive; layers on a grid go into a campaign of their own"
        )
    site = absolute(campaign.how.site) if campaign.how.site else None
    base = absolute(campaign.how.base) if campaign.how.base else None
    how = campaign.how.model_copy(update={"runs": absolute(campaign.how.runs), "site": site, "base": base})
    return campaign.model_copy(update={"archives": archives, "layers": layers, "region": region, "how": how})


def dump_campaign(campaign: schema.Campaign) -> str:
    """The campaign as YAML that `load_campaign` reads back to an equal value, with the digest of its lines."""
    document = campaign.model_dump(mode="json", exclude_none=True)
    return sealed_text(f"# digest of what is asked: {campaign.digest}\n" + yaml.safe_dump(document, sort_keys=False))
