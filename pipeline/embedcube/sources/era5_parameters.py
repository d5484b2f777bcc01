"""The parameters of ERA5 by all their names: none is found by luck of spelling."""

from dataclasses import dataclass

from embedcube.sources.steps import Method


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A parameter of ECMWF's table 128 or 228, https://codes.ecmwf.int/grib/param-db."""

    id: int
    short: str
    """in MARS and GRIB"""
    netcdf: str
    """of the variable, as ECMWF's tools write it"""
    long: str
    """of the variable in the Climate Data Store's requests and in ARCO-ERA5"""
    method: Method
    """what it is of the hour that ends at its time, or that it is of this point (https://confluence.ecmwf.int/x/vAegBg)"""

    @property
    def names(self) -> frozenset[str]:
        """All that name it and nothing else; standard names do not (2t and t are both an air_temperature)."""
        return frozenset((str(self.id), self.short, self.netcdf, self.long))


_POINTS = """
26 cl cl lake_cover
27 cvl cvl low_vegetation_cover
28 cvh cvh high_vegetation_cover
31 ci siconc sea_ice_cover
34 sst sst sea_surface_temperature
39 swvl1 swvl1 volumetric_soil_water_layer_1
40 swvl2 swvl2 volumetric_soil_water_layer_2
41 swvl3 swvl3 volumetric_soil_water_layer_3
42 swvl4 swvl4 volumetric_soil_water_layer_4
66 lai_lv lai_lv leaf_area_index_low_vegetation
67 lai_hv lai_hv leaf_area_index_high_vegetation
129 z z geopotential
130 t t temperature
131 u u u_component_of_wind
132 v v v_component_of_wind
133 q q specific_humidity
134 sp sp surface_pressure
135 w w vertical_velocity
136 tcw tcw total_column_water
137 tcwv tcwv total_column_water_vapour
139 stl1 stl1 soil_temperature_level_1
141 sd sd snow_depth
151 msl msl mean_sea_level_pressure
157 r r relative_humidity
159 blh blh boundary_layer_height
164 tcc tcc total_cloud_cover
165 10u u10 10m_u_component_of_wind
166 10v v10 10m_v_component_of_wind
167 2t t2m 2m_temperature
168 2d d2m 2m_dewpoint_temperature
170 stl2 stl2 soil_temperature_level_2
172 lsm lsm land_sea_mask
183 stl3 stl3 soil_temperature_level_3
186 lcc lcc low_cloud_cover
187 mcc mcc medium_cloud_cover
188 hcc hcc high_cloud_cover
203 o3 o3 ozone_mass_mixing_ratio
235 skt skt skin_temperature
236 stl4 stl4 soil_temperature_level_4
228246 100u u100 100m_u_component_of_wind
228247 100v v100 100m_v_component_of_wind
"""

_SUMS = """
8 sro sro surface_runoff
9 ssro ssro sub_surface_runoff
44 es es snow_evaporation
45 smlt smlt snowmelt
142 lsp lsp large_scale_precipitation
143 cp cp convective_precipitation
144 sf sf snowfall
146 sshf sshf surface_sensible_heat_flux
147 slhf slhf surface_latent_heat_flux
169 ssrd ssrd surface_solar_radiation_downwards
175 strd strd surface_thermal_radiation_downwards
176 ssr ssr surface_net_solar_radiation
177 str str surface_net_thermal_radiation
178 tsr tsr top_net_solar_radiation
179 ttr ttr top_net_thermal_radiation
182 e e evaporation
205 ro ro runoff
212 tisr tisr toa_incident_solar_radiation
228 tp tp total_precipitation
228251 pev pev potential_evaporation
"""

_MAXIMA = """
49 10fg fg10 10m_wind_gust_since_previous_post_processing
201 mx2t mx2t maximum_2m_temperature_since_previous_post_processing
228226 mxtpr mxtpr maximum_total_precipitation_rate_since_previous_post_processing
"""

_MINIMA = """
202 mn2t mn2t minimum_2m_temperature_since_previous_post_processing
228227 mntpr mntpr minimum_total_precipitation_rate_since_previous_post_processing
"""

_TABLES: dict[Method, str] = {"point": _POINTS, "sum": _SUMS, "maximum": _MAXIMA, "minimum": _MINIMA}

PARAMETERS = tuple(
    Parameter(id=int(id_), short=short, netcdf=netcdf, long=long, method=method)
    for method, text in _TABLES.items()
    for id_, short, netcdf, long in (line.split() for line in text.strip().splitlines())
)


def parameter(name: str) -> Parameter | None:
    """The parameter of any of its names but the standard name."""
    name = name.lstrip("0") or name
    return next((known for known in PARAMETERS if name in known.names), None)


def names_of(band: str) -> frozenset[str]:
    """All names of the parameter that `band` names; itself alone where the table lacks it."""
    known = parameter(band)
    return known.names if known else frozenset((band,))
