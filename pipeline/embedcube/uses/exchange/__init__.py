"""Parts of a cube as one file, for others: bundles (Zarr in a zip), tables, GeoTIFF; and what smaller vectors lose.

A bundle holds files of the cube byte for byte, or vectors made smaller (`codecs.py`), whose loss was measured.
"""
