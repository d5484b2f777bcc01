"""Find and describe the products of an archive: STAC, SAFE folders, plain folders, NetCDF stacks."""
