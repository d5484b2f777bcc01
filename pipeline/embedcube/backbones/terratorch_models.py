"""What TerraTorch's registry holds of TerraMind and Prithvi: sizes, bands, normalisation, published weights.

Sizes, bands, means and standard deviations are those of TerraTorch 1.2.11, `terramind_register.py` and
`prithvi_vit.py` (a test holds them against it). They are here so that a campaign is checked, and
`embedcube models` answers, without that package.
"""

from dataclasses import dataclass
from typing import Literal

from embedcube.backbones.base import ModelCard

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

_SPELLINGS = {f"B{number}": f"B{number:02d}" for number in range(1, 10)} | {"ELEVATION": "DEM"}


def spelled(band: str) -> str:
    """A band's name as here: b2 is B02."""
    name = band.upper()
    return _SPELLINGS.get(name, name)


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """Of the bands that a model was trained on, in its order: (value - mean) / std."""

    of: dict[str, tuple[float, float]]
    """mean and standard deviation of each band"""
    source: str

    @property
    def bands(self) -> tuple[str, ...]:
        """In the model's order."""
        return tuple(self.of)


_TERRAMIND = "v1_pretraining_mean and _std of TerraTorch's terramind_register.py"

MODALITIES = {
    "S2L2A": Normalisation(
        source=_TERRAMIND,  # DN
        of={
            "B01": (1390.458, 2106.761),
            "B02": (1503.317, 2141.107),
            "B03": (1718.197, 2038.973),
            "B04": (1853.91, 2134.138),
            "B05": (2199.1, 2085.321),
            "B06": (2779.975, 1889.926),
            "B07": (2987.011, 1820.257),
            "B08": (3083.234, 1871.918),
            "B8A": (3132.22, 1753.829),
            "B09": (3162.988, 1797.379),
            "B11": (2424.884, 1434.261),
            "B12": (1857.648, 1334.311),
        },
    ),
    "S2L1C": Normalisation(
        source=_TERRAMIND,  # DN
        of={
            "B01": (2357.089, 1624.683),
            "B02": (2137.385, 1675.806),
            "B03": (2018.788, 1557.708),
            "B04": (2082.986, 1833.702),
            "B05": (2295.651, 1823.738),
            "B06": (2854.537, 1733.977),
            "B07": (3122.849, 1732.131),
            "B08": (3040.56, 1679.732),
            "B8A": (3306.481, 1727.26),
            "B09": (1473.847, 1024.687),
            "B10": (506.07, 442.165),
            "B11": (2472.825, 1331.411),
            "B12": (1838.929, 1160.419),
        },
    ),
    "S1GRD": Normalisation(source=_TERRAMIND, of={"VV": (-12.599, 5.195), "VH": (-20.293, 5.89)}),  # dB
    "S1RTC": Normalisation(source=_TERRAMIND, of={"VV": (-10.93, 4.391), "VH": (-17.329, 4.459)}),  # dB
    "DEM": Normalisation(source=_TERRAMIND, of={"DEM": (670.665, 951.272)}),  # m
}
"""TerraMind v1's, by the names that TerraTorch gives them"""

_V1 = Normalisation(
    source="PRITHVI_V1_MEAN and _STD of TerraTorch's prithvi_vit.py",  # DN of HLS
    of={
        "B02": (775, 1282),
        "B03": (1081, 1270),
        "B04": (1229, 1399),
        "B8A": (2497, 1368),
        "B11": (2204, 1292),
        "B12": (1611, 1155),
    },
)
_V2 = Normalisation(
    source="PRITHVI_V2_MEAN and _STD of TerraTorch's prithvi_vit.py",
    of={
        "B02": (1087, 2248),
        "B03": (1342, 2179),
        "B04": (1433, 2178),
        "B8A": (2734, 1850),
        "B11": (1958, 1242),
        "B12": (1363, 1049),
    },
)


@dataclass(frozen=True, kw_only=True)
class KnownModel:
    """A model of the registry whose inputs and tokens are known without building it."""

    family: Literal["terramind", "prithvi"]
    width: int
    """numbers in a token"""
    blocks: int
    heads: int
    patch_px: int = 16
    normalisation: Normalisation | None = None
    """None where it depends on the modalities"""
    coordinates: bool = False
    """takes the date of each frame and the place of the chip"""
    hub: tuple[str, str] | None = None
    """repository and file of the published weights"""


def _terramind_model(size: str, width: int, blocks: int, heads: int) -> KnownModel:
    hub = (f"ibm-esa-geospatial/TerraMind-1.0-{size}", f"TerraMind_v1_{size}.pt")
    return KnownModel(family="terramind", width=width, blocks=blocks, heads=heads, hub=hub)


def _prithvi_model(
    width: int,
    blocks: int,
    heads: int,
    hub: tuple[str, str] | None,
    *,
    patch_px: int = 16,
    coordinates: bool = False,
    normalisation: Normalisation = _V2,
) -> KnownModel:
    return KnownModel(
        family="prithvi",
        width=width,
        blocks=blocks,
        heads=heads,
        patch_px=patch_px,
        normalisation=normalisation,
        coordinates=coordinates,
        hub=hub,
    )


def _v2(size: str) -> tuple[str, str]:
    return f"ibm-nasa-geospatial/Prithvi-EO-2.0-{size}", f"Prithvi_EO_V2_{size.replace('-', '_')}.pt"


KNOWN = {
    "terramind_v1_tiny": _terramind_model("tiny", 192, 12, 3),
    "terramind_v1_small": _terramind_model("small", 384, 12, 6),
    "terramind_v1_base": _terramind_model("base", 768, 12, 12),
    "terramind_v1_large": _terramind_model("large", 1024, 24, 16),
    "prithvi_eo_v1_100": _prithvi_model(
        768, 12, 12, ("ibm-nasa-geospatial/Prithvi-EO-1.0-100M", "Prithvi_EO_V1_100M.pt"), normalisation=_V1
    ),
    "prithvi_eo_v2_tiny_tl": _prithvi_model(192, 12, 3, _v2("tiny-TL"), coordinates=True),
    "prithvi_eo_v2_100": _prithvi_model(768, 12, 12, None),
    "prithvi_eo_v2_100_tl": _prithvi_model(768, 12, 12, _v2("100M-TL"), coordinates=True),
    "prithvi_eo_v2_300": _prithvi_model(1024, 24, 16, _v2("300M")),
    "prithvi_eo_v2_300_tl": _prithvi_model(1024, 24, 16, _v2("300M-TL"), coordinates=True),
    "prithvi_eo_v2_600": _prithvi_model(1280, 32, 16, _v2("600M"), patch_px=14),
    "prithvi_eo_v2_600_tl": _prithvi_model(1280, 32, 16, _v2("600M-TL"), patch_px=14, coordinates=True),
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
