"""Means and standard deviations of the bands that published models were trained on.

TerraMind's and Prithvi's are those of TerraTorch 1.2.11, `terramind_register.py` and `prithvi_vit.py` (a test compares
them).
"""

from dataclasses import dataclass

_SPELLINGS = {f"B{number}": f"B{number:02d}" for number in range(1, 10)} | {"ELEVATION": "DEM"}


def spelled(band: str) -> str:
    """A band's name as spelled in these tables: b2 is B02."""
    name = band.upper()
    return _SPELLINGS.get(name, name)


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """Normalisation of the bands that a model was trained on, (value - mean) / std."""

    of: dict[str, tuple[float, float]]
    """mean and standard deviation of each band, in the model's order"""
    source: str
    """where the numbers were taken from"""

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands, in the model's order."""
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
"""tables of TerraMind v1, by TerraTorch's names of the modalities"""

PRITHVI_V1 = Normalisation(
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

PRITHVI_V2 = Normalisation(
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
