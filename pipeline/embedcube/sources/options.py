"""The block `options` of an archive: keys that only its source knows, checked like the rest of the campaign file."""

from collections.abc import Container

from embedcube.campaign.fields import nearest
from embedcube.campaign.options import Checked, check_options
from embedcube.campaign.schema import Archive
from embedcube.errors import RequestError
from embedcube.sources.catalog.products import Known, Names


def read_options(kind: type[Checked], name: str, archive: Archive, *, free: Container[str] = ()) -> Checked:
    """The options of archive `name`, as an instance of `kind`.

    Options that are mappings have bands of the archive as keys, unless they are named in `free`.

    Raises:
        RequestError: an option is unknown, missing or wrong, or names a band that the archive does not read.
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
                    f'{place}.{key}: band "{band}" is not one of the bands of the archive'
                    f"{nearest(str(band), archive.read_bands)}"
                )
    return options


def band_names(archive: Archive, variables: dict[str, str]) -> Names:
    """Names of each band in files or their catalogue: the one that `variables` gives it, and its own one otherwise."""
    return {band: Known.of((variables.get(band, band),), (band,)) for band in archive.bands}


def refuse_keys(name: str, archive: Archive, instead: dict[str, str]) -> None:
    """Refuse keys of an archive that have no meaning for its source; `instead` says for each what to do.

    Raises:
        RequestError: one of these keys is set.
    """
    for key, advice in instead.items():
        if (value := getattr(archive, key)) != Archive.model_fields[key].default:
            shown = f": {value}" if isinstance(value, str | float) else ""
            raise RequestError(f"archives.{name}.{key}{shown} means nothing to the source {archive.source}; {advice}")
