"""ERA5 and archives like it: GRIB, NetCDF or Zarr, as points of time on a lattice."""
