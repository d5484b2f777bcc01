"""Units of ERA5's parameters, and the usual others in which files hold them."""

import re

_DAILY = re.compile(r"[\s.]*(?:/\s*d(?:ay)?|per day|\bd(?:ay)?-1)$")
"""What makes an amount a rate per day, at the end of a unit"""

_UNSTATED = frozenset(("", "unknown", "-", "~", "none", "1", "dimensionless", "unitless", "code table"))

_SPELLINGS: dict[str, tuple[str, ...]] = {
    "K": ("kelvin", "k", "degk", "deg_k", "degree_kelvin", "degrees_kelvin"),
    "Pa": ("pa", "pascal", "pascals", "n m-2"),
    "m": ("m", "metre", "metres", "meter", "meters", "m of water equivalent", "m water equivalent", "gpm"),
    "m s-1": ("m s-1", "m/s"),
    "J m-2": ("j m-2", "j/m2", "w s m-2"),
    "W m-2": ("w m-2", "w/m2"),
    "(0 - 1)": ("(0 - 1)", "1", "0-1", "fraction", "proportion", "m3 m-3", "m2 m-2", "kg kg-1"),
    "kg m-2 s-1": ("kg m-2 s-1", "kg/m2/s", "mm s-1", "mm/s"),
    "kg m-2": ("kg m-2", "kg/m2"),
    "m2 s-2": ("m2 s-2", "m2/s2"),
    "%": ("%", "percent"),
}
"""A unit, and its other spellings in lower case without stars"""

_CONVERSIONS: dict[str, dict[str, tuple[float, float]]] = {
    "K": dict.fromkeys(("degc", "deg_c", "c", "celsius", "degree_celsius", "degrees_celsius", "°c"), (1.0, 273.15))
    | dict.fromkeys(("degf", "deg_f", "f", "fahrenheit", "degree_fahrenheit", "degrees_fahrenheit", "°f"),
                    (5 / 9, 273.15 - 32 * 5 / 9)),
    "Pa": {"hpa": (100.0, 0.0), "mbar": (100.0, 0.0), "millibar": (100.0, 0.0), "millibars": (100.0, 0.0),
           "mb": (100.0, 0.0), "kpa": (1000.0, 0.0)},
    "m": {"mm": (1e-3, 0.0), "kg m-2": (1e-3, 0.0), "kg/m2": (1e-3, 0.0), "cm": (1e-2, 0.0),
          "mm of water equivalent": (1e-3, 0.0), "millimetres": (1e-3, 0.0), "millimeters": (1e-3, 0.0),
          "inch": (0.0254, 0.0), "inches": (0.0254, 0.0), "in": (0.0254, 0.0)},
    "m s-1": {"km h-1": (1 / 3.6, 0.0), "km/h": (1 / 3.6, 0.0), "knot": (1852 / 3600, 0.0), "knots": (1852 / 3600, 0.0),
              "kt": (1852 / 3600, 0.0)},
    "J m-2": {"kj m-2": (1e3, 0.0), "kj/m2": (1e3, 0.0), "mj m-2": (1e6, 0.0), "mj/m2": (1e6, 0.0),
              "wh m-2": (3600.0, 0.0), "w h m-2": (3600.0, 0.0), "wh/m2": (3600.0, 0.0)},
    "(0 - 1)": {"%": (1e-2, 0.0), "percent": (1e-2, 0.0), "g kg-1": (1e-3, 0.0), "g/kg": (1e-3, 0.0)},
    "m2 s-2": dict.fromkeys(("m", "gpm", "metre", "metres", "meter", "meters"), (9.80665, 0.0)),
    "%": {"1": (100.0, 0.0), "fraction": (100.0, 0.0), "(0 - 1)": (100.0, 0.0)},
}  # fmt: skip
"""For a unit the factor and the term that make it of another"""

_BY_UNIT: dict[str, str] = {
    "K": "sst t stl1 2t 2d stl2 stl3 skt stl4 tsn mx2t mn2t",
    "Pa": "sp msl",
    "m": "sd src es smlt sf e csf lsf evatc evabs evaow evavt blh cbh deg0l sro ssro lsp cp ro tp pev",
    "m s-1": "u v 10u 10v zust i10fg 100u 100v 10fg",
    "J m-2": "uvb bld sshf slhf ssrd strd ssr str tsr ttr gwd tsrc ttrc ssrc strc tisr fdir cdir ssrdc strdc",
    "W m-2": "ishf avg_sduvrf avg_ibld avg_ishf avg_slhtf avg_sdswrf avg_sdlwrf avg_snswrf avg_snlwrf avg_tnswrf "
    "avg_tnlwrf avg_igwd avg_tnswrfcs avg_tnlwrfcs avg_snswrfcs avg_snlwrfcs avg_tdswrf avg_sdirswrf avg_sdirswrfcs "
    "avg_sdswrfcs avg_sdlwrfcs",
    "(0 - 1)": "cl cvl cvh ci asn tcc lsm lcc mcc hcc fal cc swvl1 swvl2 swvl3 swvl4 crwc cswc q clwc ciwc",
    "kg m-2 s-1": "ie avg_surfror avg_ssurfror avg_esrwe avg_smr avg_lsprate avg_cpr avg_tsrwe avg_ie avg_rorwe "
    "avg_vimdf avg_tprate avg_pevr mxtpr mntpr",
    "kg m-2": "tclw tciw tcw tcwv tco3 tcrw tcsw vimd",
    "m2 s-2": "z",
    "%": "r",
}
"""Short names of the parameters by their unit, as in eccodes; others have units that files do not change"""

UNIT_OF = {short: unit for unit, names in _BY_UNIT.items() for short in names.split()}


def daily(unit: str) -> bool:
    """Whether a unit is that of an amount per day."""
    return bool(_DAILY.search(_plain(unit)))


def conversion(unit: str, wanted: str) -> tuple[float, float] | None:
    """The factor and the term that make `wanted` of numbers in a unit; None where that is not known.

    A unit that says nothing is taken for the wanted one. What an amount counts, as "per day", changes no number.
    """
    plain = _DAILY.sub("", _plain(unit)).strip()
    if plain == wanted.lower() or plain in _SPELLINGS.get(wanted, ()) or plain in _UNSTATED - {"1"}:
        return 1.0, 0.0
    if (known := _CONVERSIONS.get(wanted, {}).get(plain)) is not None:
        return known
    return (1.0, 0.0) if plain in _UNSTATED else None


def _plain(unit: str) -> str:
    return " ".join(unit.lower().replace("**", "").replace("^", "").replace("·", " ").split())
