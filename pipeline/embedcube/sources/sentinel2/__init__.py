"""Sentinel-2: level 1C and 2A, from SAFE folders, COGs or JPEG 2000 files."""
