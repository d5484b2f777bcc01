"""Sentinel-1: backscatter that is already calibrated, or GRD products that are calibrated and geocoded on reading."""
