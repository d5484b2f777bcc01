"""Licences and citations of what campaigns usually read, by the URI of the collection or of the model.

What is not listed here is told as unknown: a wrong licence is worse than none.
"""

from dataclasses import dataclass

_COPERNICUS = "https://sentinels.copernicus.eu/documents/247904/690755/Sentinel_Data_Legal_Notice"
_SENTINEL = "free, full and open access; modified data must say so"


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Under which terms an input or a model was published, and how its publishers ask to be cited."""

    name: str
    licence: str
    cite: str
    link: str
    """where the terms are written"""


TERMS: dict[str, Terms] = {
    "https://sentiwiki.copernicus.eu/web/s2-products": Terms(
        name="Copernicus Sentinel-2",
        licence=_SENTINEL,
        cite="Contains modified Copernicus Sentinel data",
        link=_COPERNICUS,
    ),
    "https://sentiwiki.copernicus.eu/web/s1-products": Terms(
        name="Copernicus Sentinel-1",
        licence=_SENTINEL,
        cite="Contains modified Copernicus Sentinel data",
        link=_COPERNICUS,
    ),
    "https://doi.org/10.24381/cds.adbb2d47": Terms(
        name="ERA5 hourly data on single levels",
        licence="CC-BY-4.0",
        cite="Hersbach, H. et al. (2023): ERA5 hourly data on single levels from 1940 to present. Copernicus Climate "
        "Change Service (C3S) Climate Data Store (CDS). Contains modified Copernicus Climate Change Service "
        "information",
        link="https://doi.org/10.24381/cds.adbb2d47",
    ),
    "https://doi.org/10.1038/s41467-021-24638-z": Terms(
        name="MOSAIKS",
        licence="the method of an article; its filters were fitted on the data of this campaign",
        cite="Rolf, E. et al. (2021): A generalizable and accessible approach to machine learning with global "
        "satellite imagery. Nature Communications 12, 4392",
        link="https://doi.org/10.1038/s41467-021-24638-z",
    ),
    "https://doi.org/10.1017/CBO9780511612336": Terms(
        name="EOF",
        licence="the method of a book; its patterns were fitted on the data of this campaign",
        cite="von Storch, H. and Zwiers, F. W. (1999): Statistical Analysis in Climate Research. Cambridge University "
        "Press",
        link="https://doi.org/10.1017/CBO9780511612336",
    ),
    "https://doi.org/10.48550/arXiv.2304.14065": Terms(
        name="Presto",
        licence="MIT",
        cite="Tseng, G. et al. (2023): Lightweight, Pre-trained Transformers for Remote Sensing Timeseries. "
        "arXiv:2304.14065",
        link="https://doi.org/10.48550/arXiv.2304.14065",
    ),
}


def terms_of(uri: str) -> Terms:
    """The terms of a collection or model; those of an unknown one are said to be unknown."""
    unknown = Terms(name=uri, licence="not known to embedcube: ask its publisher", cite=uri, link=uri)
    return TERMS.get(uri, unknown)
