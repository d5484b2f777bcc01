"""The block `options` of an archive: what its source alone knows, checked like the rest of the campaign file."""

from collections.abc import Container

from embedcube.campaign.fields import nearest
from embedcube.campaign.options import Checked, check_options
from embedcube.campaign.schema import Archive
from embedcube.errors import RequestError
from embedcube.sources.catalog.products import Names


def read_options(kind: type[Checked], name: str, archive: Archive, *, free: Container[str] = ()) -> Checked:
    """The options of archive `name` as a `kind`; those that are mappings, but the `free`, have bands for keys.

    Raises:
        RequestError: naming the option that is unknown, missing or wrong, and those that there are; or the band that
            is not wanted.
    """
    place = f"archives.{name}.options"
    try:
        options = check_options(kind, archive.options, place)
    except ValueError as error:
        raise RequestError(str(error)) from None
    for key, value in archive.options.items():
        for band in value if isinstance(value, dict) and key not in free else ():
            if band not in archive.read_bands:
                raise RequestError(
                    f'{place}.{key}: band "{band}" is not wanted{nearest(str(band), archive.read_bands)}'
                )
    return options


def band_names(archive: Archive, variables: dict[str, str]) -> Names:
    """By what names files or their catalogue may call each band: its own, and the one that `variables` gives it."""
    return {band: frozenset({band.lower(), variables.get(band, band).lower()}) for band in archive.bands}


def refuse_keys(name: str, archive: Archive, instead: dict[str, str]) -> None:
    """Refuse keys of an archive that mean nothing to its source; `instead` says for each what to do.

    Raises:
        RequestError: one of them is not at its default.
    """
    for key, advice in instead.items():
        if (found := getattr(archive, key)) != Archive.model_fields[key].default:
            said = f": {found}" if isinstance(found, str | float) else ""
            raise RequestError(f"archives.{name}.{key}{said} means nothing to the source {archive.source}; {advice}")
