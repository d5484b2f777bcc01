"""What TerraTorch's registry holds of TerraMind and Prithvi: sizes and published weights.

Sizes are those of TerraTorch 1.2.11, `terramind_register.py` and
`prithvi_vit.py` (a test holds them against it). They are here so that a campaign is checked, and
`embedcube models` answers, without that package.
"""

from dataclasses import dataclass
from typing import Literal

from embedcube.backbones.base import ModelCard
from embedcube.backbones.normalisation import MODALITIES, PRITHVI_V1, PRITHVI_V2, Normalisation

TERRATORCH_BAND = {
    "B01": "COASTAL_AEROSOL",
    "B02": "BLUE",
    "B03": "GREEN",
    "B04": "RED",
    "B05": "RED_EDGE_1",
    "B06": "RED_EDGE_2",
    "B07": "RED_EDGE_3",
    "B08": "NIR_BROAD",
    "B8A": "NIR_NARROW",
    "B09": "WATER_VAPOR",
    "B10": "CIRRUS",
    "B11": "SWIR_1",
    "B12": "SWIR_2",
    "VV": "VV",
    "VH": "VH",
    "DEM": "DEM",
}
"""our names of bands -> TerraTorch's"""


@dataclass(frozen=True, kw_only=True)
class KnownModel:
    """A model of the registry whose inputs and tokens are known without building it."""

    family: Literal["terramind", "prithvi"]
    width: int
    """numbers in a token"""
    blocks: int
    patch_px: int = 16
    normalisation: Normalisation | None = None
    """None where it depends on the modalities"""
    coordinates: bool = False
    """takes the date of each frame and the place of the chip"""
    hub: tuple[str, str] | None = None
    """repository and file of the published weights"""


def _terramind_model(size: str, width: int, blocks: int) -> KnownModel:
    hub = (f"ibm-esa-geospatial/TerraMind-1.0-{size}", f"TerraMind_v1_{size}.pt")
    return KnownModel(family="terramind", width=width, blocks=blocks, hub=hub)


def _prithvi_model(
    width: int,
    blocks: int,
    hub: tuple[str, str] | None,
    *,
    patch_px: int = 16,
    coordinates: bool = False,
    normalisation: Normalisation = PRITHVI_V2,
) -> KnownModel:
    return KnownModel(
        family="prithvi",
        width=width,
        blocks=blocks,
        patch_px=patch_px,
        normalisation=normalisation,
        coordinates=coordinates,
        hub=hub,
    )


def _v2(size: str) -> tuple[str, str]:
    return f"ibm-nasa-geospatial/Prithvi-EO-2.0-{size}", f"Prithvi_EO_V2_{size.replace('-', '_')}.pt"


KNOWN = {
    "terramind_v1_tiny": _terramind_model("tiny", 192, 12),
    "terramind_v1_small": _terramind_model("small", 384, 12),
    "terramind_v1_base": _terramind_model("base", 768, 12),
    "terramind_v1_large": _terramind_model("large", 1024, 24),
    "prithvi_eo_v1_100": _prithvi_model(
        768, 12, ("ibm-nasa-geospatial/Prithvi-EO-1.0-100M", "Prithvi_EO_V1_100M.pt"), normalisation=PRITHVI_V1
    ),
    "prithvi_eo_v2_tiny_tl": _prithvi_model(192, 12, _v2("tiny-TL"), coordinates=True),
    "prithvi_eo_v2_100": _prithvi_model(768, 12, None),
    "prithvi_eo_v2_100_tl": _prithvi_model(768, 12, _v2("100M-TL"), coordinates=True),
    "prithvi_eo_v2_300": _prithvi_model(1024, 24, _v2("300M")),
    "prithvi_eo_v2_300_tl": _prithvi_model(1024, 24, _v2("300M-TL"), coordinates=True),
    "prithvi_eo_v2_600": _prithvi_model(1280, 32, _v2("600M"), patch_px=14),
    "prithvi_eo_v2_600_tl": _prithvi_model(1280, 32, _v2("600M-TL"), patch_px=14, coordinates=True),
}
"""by their names in BACKBONE_REGISTRY"""

MOST_FRAMES = 4
"""that Prithvi was trained with"""


def model_cards() -> tuple[ModelCard, ...]:
    """One for each known model, and one for all the others of the registry."""
    modalities = ", ".join(f"{name} ({' '.join(one.bands)})" for name, one in MODALITIES.items())
    cards = []
    for name, known in KNOWN.items():
        norm = known.normalisation or MODALITIES["S2L2A"]
        bands = f"{' '.join(norm.bands)}, 1 to {MOST_FRAMES} frames" + (", date and place" if known.coordinates else "")
        cards.append(
            ModelCard(
                model=name,
                inputs=f"one or more of {modalities}; 1 frame" if known.family == "terramind" else bands,
                cell=f"{known.patch_px} px, or the chip",
                dimensions=f"{known.width} x layers" + (" x frames" if known.family == "prithvi" else ""),
                normalisation=norm.source,
                hub=known.hub,
            )
        )
    other = ModelCard(
        model="(any other of BACKBONE_REGISTRY)",
        inputs="any bands, 1 frame",
        cell="the stride of its feature maps, or the chip",
        dimensions="its channels, summed over layers",
        normalisation="mean and std in the campaign",
    )
    return (*cards, other)
