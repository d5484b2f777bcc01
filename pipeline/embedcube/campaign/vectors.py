"""What is made of the vectors of a layer before they are stored."""

from pydantic import Field

from embedcube.campaign.fields import Block

CENTRE = "centre.offset"
"""name of the tensor (feature) of a centred layer among its frozen weights: the mean of each feature"""


class Reduce(Block):
    """Fewer numbers in each vector."""

    pca: int = Field(gt=0)
    """principal components that are kept, fitted by `fit` on the vectors of a sample and frozen with the weights"""


def refuse_centre(encoding: str, reduce: Reduce | None) -> None:
    """Raise a ValueError for a centred layer that gains nothing by it."""
    if encoding != "int8":
        raise ValueError(f"centre is for encoding int8, and this is {encoding}, which has no steps; leave centre out")
    if reduce is not None:
        raise ValueError("centre and reduce: the mean of principal components is zero already; leave centre out")
