"""All products of an archive, in whatever way it describes them."""

from collections.abc import Iterator
from pathlib import Path

from embedcube.raster import is_netcdf
from embedcube.sources.products import Names, Product
from embedcube.sources.stac import stac_products
from embedcube.sources.stack import stack_products


def find_products(root: Path, names: Names) -> Iterator[Product]:
    """The products of a file or of all below a folder, in a fixed order: STAC first, then series in NetCDF.

    Raises:
        RequestError: a catalogue file is none.
        OSError: something could not be read for a reason that may pass.
    """
    if root.is_file():
        yield from stack_products(root, names) if is_netcdf(root) else stac_products(root, names)
        return
    yield from stac_products(root, names)
    yield from stack_products(root, names)
