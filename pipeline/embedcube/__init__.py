"""Multi-year Sentinel and ERA5 archives turned into one chunked Zarr cube of AI embeddings.

Start reading at `embedcube.kernel.embed`: the one function that a laptop, a Slurm task and a test all call.
To use a finished cube, `embedcube.cube` is enough, and so is xarray alone.
"""

__version__ = "0.1.0"
