"""The parameters of ERA5, with all names under which files hold them."""

from dataclasses import dataclass

from embedcube.sources.era5.steps import Method


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A parameter in ECMWF's database, https://codes.ecmwf.int/grib/param-db.

    Names in the Climate Data Store are listed in https://confluence.ecmwf.int/x/VAegBg for ERA5, and in
    https://confluence.ecmwf.int/x/5ArDCg for ERA5-Land.
    """

    id: int
    short: str
    """short name in MARS and GRIB"""
    netcdf: str
    """name of the NetCDF variable that ECMWF's tools write"""
    long: str
    """name in requests to the Climate Data Store, and in ARCO-ERA5"""
    method: Method
    """an instant, or a statistic of the hour that ends at the time (https://confluence.ecmwf.int/x/vAegBg)"""

    @property
    def names(self) -> frozenset[str]:
        """Names of this parameter alone; standard names are not unique (2t and t are both air_temperature)."""
        return frozenset((str(self.id), self.short, self.netcdf, self.long))


_POINTS = """
26 cl cl lake_cover
27 cvl cvl low_vegetation_cover
28 cvh cvh high_vegetation_cover
29 tvl tvl type_of_low_vegetation
30 tvh tvh type_of_high_vegetation
31 ci siconc sea_ice_cover
32 asn asn snow_albedo
33 rsn rsn snow_density
34 sst sst sea_surface_temperature
39 swvl1 swvl1 volumetric_soil_water_layer_1
40 swvl2 swvl2 volumetric_soil_water_layer_2
41 swvl3 swvl3 volumetric_soil_water_layer_3
42 swvl4 swvl4 volumetric_soil_water_layer_4
43 slt slt soil_type
59 cape cape convective_available_potential_energy
60 pv pv potential_vorticity
66 lai_lv lai_lv leaf_area_index_low_vegetation
67 lai_hv lai_hv leaf_area_index_high_vegetation
75 crwc crwc specific_rain_water_content
76 cswc cswc specific_snow_water_content
78 tclw tclw total_column_cloud_liquid_water
79 tciw tciw total_column_cloud_ice_water
129 z z geopotential
130 t t temperature
131 u u u_component_of_wind
132 v v v_component_of_wind
133 q q specific_humidity
134 sp sp surface_pressure
135 w w vertical_velocity
136 tcw tcw total_column_water
137 tcwv tcwv total_column_water_vapour
138 vo vo vorticity
139 stl1 stl1 soil_temperature_level_1
141 sd sd snow_depth
151 msl msl mean_sea_level_pressure
155 d d divergence
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
198 src src skin_reservoir_content
203 o3 o3 ozone_mass_mixing_ratio
206 tco3 tco3 total_column_ozone
229 iews iews instantaneous_eastward_turbulent_surface_stress
230 inss inss instantaneous_northward_turbulent_surface_stress
231 ishf ishf instantaneous_surface_sensible_heat_flux
232 ie ie instantaneous_moisture_flux
235 skt skt skin_temperature
236 stl4 stl4 soil_temperature_level_4
238 tsn tsn temperature_of_snow_layer
243 fal fal forecast_albedo
244 fsr fsr forecast_surface_roughness
246 clwc clwc specific_cloud_liquid_water_content
247 ciwc ciwc specific_cloud_ice_water_content
248 cc cc fraction_of_cloud_cover
228001 cin cin convective_inhibition
228003 zust zust friction_velocity
228007 dl dl lake_depth
228023 cbh cbh cloud_base_height
228024 deg0l deg0l zero_degree_level
228029 i10fg i10fg instantaneous_10m_wind_gust
228089 tcrw tcrw total_column_rain_water
228090 tcsw tcsw total_column_snow_water
228246 100u u100 100m_u_component_of_wind
228247 100v v100 100m_v_component_of_wind
260015 ptype ptype precipitation_type
260121 kx kx k_index
260123 totalx totalx total_totals_index
"""

_SUMS = """
8 sro sro surface_runoff
9 ssro ssro sub_surface_runoff
44 es es snow_evaporation
45 smlt smlt snowmelt
50 lspf lspf large_scale_precipitation_fraction
57 uvb uvb downward_uv_radiation_at_the_surface
142 lsp lsp large_scale_precipitation
143 cp cp convective_precipitation
144 sf sf snowfall
145 bld bld boundary_layer_dissipation
146 sshf sshf surface_sensible_heat_flux
147 slhf slhf surface_latent_heat_flux
169 ssrd ssrd surface_solar_radiation_downwards
175 strd strd surface_thermal_radiation_downwards
176 ssr ssr surface_net_solar_radiation
177 str str surface_net_thermal_radiation
178 tsr tsr top_net_solar_radiation
179 ttr ttr top_net_thermal_radiation
180 ewss ewss eastward_turbulent_surface_stress
181 nsss nsss northward_turbulent_surface_stress
182 e e evaporation
195 lgws lgws eastward_gravity_wave_surface_stress
196 mgws mgws northward_gravity_wave_surface_stress
197 gwd gwd gravity_wave_dissipation
205 ro ro runoff
208 tsrc tsrc top_net_solar_radiation_clear_sky
209 ttrc ttrc top_net_thermal_radiation_clear_sky
210 ssrc ssrc surface_net_solar_radiation_clear_sky
211 strc strc surface_net_thermal_radiation_clear_sky
212 tisr tisr toa_incident_solar_radiation
213 vimd vimd vertically_integrated_moisture_divergence
228 tp tp total_precipitation
239 csf csf convective_snowfall
240 lsf lsf large_scale_snowfall
228021 fdir fdir total_sky_direct_solar_radiation_at_surface
228022 cdir cdir clear_sky_direct_solar_radiation_at_surface
228100 evatc evatc evaporation_from_the_top_of_canopy
228101 evabs evabs evaporation_from_bare_soil
228102 evaow evaow evaporation_from_open_water_surfaces_excluding_oceans
228103 evavt evavt evaporation_from_vegetation_transpiration
228129 ssrdc ssrdc surface_solar_radiation_downward_clear_sky
228130 strdc strdc surface_thermal_radiation_downward_clear_sky
228251 pev pev potential_evaporation
"""

_MEANS = """
235020 avg_surfror msror mean_surface_runoff_rate
235021 avg_ssurfror mssror mean_sub_surface_runoff_rate
235023 avg_esrwe mser mean_snow_evaporation_rate
235024 avg_smr msmr mean_snowmelt_rate
235026 avg_ilspf mlspf mean_large_scale_precipitation_fraction
235027 avg_sduvrf msdwuvrf mean_surface_downward_uv_radiation_flux
235029 avg_lsprate mlspr mean_large_scale_precipitation_rate
235030 avg_cpr mcpr mean_convective_precipitation_rate
235031 avg_tsrwe msr mean_snowfall_rate
235032 avg_ibld mbld mean_boundary_layer_dissipation
235033 avg_ishf msshf mean_surface_sensible_heat_flux
235034 avg_slhtf mslhf mean_surface_latent_heat_flux
235035 avg_sdswrf msdwswrf mean_surface_downward_short_wave_radiation_flux
235036 avg_sdlwrf msdwlwrf mean_surface_downward_long_wave_radiation_flux
235037 avg_snswrf msnswrf mean_surface_net_short_wave_radiation_flux
235038 avg_snlwrf msnlwrf mean_surface_net_long_wave_radiation_flux
235039 avg_tnswrf mtnswrf mean_top_net_short_wave_radiation_flux
235040 avg_tnlwrf mtnlwrf mean_top_net_long_wave_radiation_flux
235041 avg_iews metss mean_eastward_turbulent_surface_stress
235042 avg_inss mntss mean_northward_turbulent_surface_stress
235043 avg_ie mer mean_evaporation_rate
235045 avg_iegwss megwss mean_eastward_gravity_wave_surface_stress
235046 avg_ingwss mngwss mean_northward_gravity_wave_surface_stress
235047 avg_igwd mgwd mean_gravity_wave_dissipation
235048 avg_rorwe mror mean_runoff_rate
235049 avg_tnswrfcs mtnswrfcs mean_top_net_short_wave_radiation_flux_clear_sky
235050 avg_tnlwrfcs mtnlwrfcs mean_top_net_long_wave_radiation_flux_clear_sky
235051 avg_snswrfcs msnswrfcs mean_surface_net_short_wave_radiation_flux_clear_sky
235052 avg_snlwrfcs msnlwrfcs mean_surface_net_long_wave_radiation_flux_clear_sky
235053 avg_tdswrf mtdwswrf mean_top_downward_short_wave_radiation_flux
235054 avg_vimdf mvimd mean_vertically_integrated_moisture_divergence
235055 avg_tprate mtpr mean_total_precipitation_rate
235058 avg_sdirswrf msdrswrf mean_surface_direct_short_wave_radiation_flux
235059 avg_sdirswrfcs msdrswrfcs mean_surface_direct_short_wave_radiation_flux_clear_sky
235068 avg_sdswrfcs msdwswrfcs mean_surface_downward_short_wave_radiation_flux_clear_sky
235069 avg_sdlwrfcs msdwlwrfcs mean_surface_downward_long_wave_radiation_flux_clear_sky
235070 avg_pevr mper mean_potential_evaporation_rate
"""
"""Mean rates of the hour, with short names of today's eccodes and older variable names, as in the Climate Data Store"""

_MAXIMA = """
49 10fg fg10 10m_wind_gust_since_previous_post_processing
201 mx2t mx2t maximum_2m_temperature_since_previous_post_processing
228226 mxtpr mxtpr maximum_total_precipitation_rate_since_previous_post_processing
"""

_MINIMA = """
202 mn2t mn2t minimum_2m_temperature_since_previous_post_processing
228227 mntpr mntpr minimum_total_precipitation_rate_since_previous_post_processing
"""

_TABLES: dict[Method, str] = {
    "point": _POINTS,
    "mean": _MEANS,
    "sum": _SUMS,
    "maximum": _MAXIMA,
    "minimum": _MINIMA,
}

PARAMETERS = tuple(
    Parameter(id=int(id_), short=short, netcdf=netcdf, long=long, method=method)
    for method, text in _TABLES.items()
    for id_, short, netcdf, long in (line.split() for line in text.strip().splitlines())
)


def parameter(name: str) -> Parameter | None:
    """The parameter with this id or name (not a standard name); None if the table does not have it."""
    name = name.lstrip("0") or name
    return next((known for known in PARAMETERS if name in known.names), None)


def names_of(band: str) -> frozenset[str]:
    """All names of the parameter that `band` names; `band` alone if the table does not have it."""
    known = parameter(band)
    return known.names if known else frozenset((band,))
