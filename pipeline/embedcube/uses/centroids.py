"""Centroids of the vector index: spherical k-means on a sample of a layer, the same bytes on every machine.

Vectors and centroids are int8, so that a vector's list follows from whole numbers (`cube/similar.py`). Centroids are
fitted once for a layer: later windows, and later versions of the cube with the same weights, use them unchanged.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedcube.cube.basis import sampled
from embedcube.cube.similar import nearest
from embedcube.cube.store import CubeStore
from embedcube.errors import WorkError

SAMPLE_CELLS = 40_000
"""cells that centroids are fitted on"""

_SAMPLE_CHUNKS = 256
"""chunks, spread over windows and zones, that the sample comes from when all of their cells are valid"""

_ROUNDS = 10
"""rounds of k-means; more of them changed the recall by less than 0.001"""

_CELLS_PER_LIST = 8
"""fewest cells of the sample for each list"""

MOST_LISTS = 1024


def fit_centroids(cube: CubeStore, layer: str, segment_cells: int) -> NDArray[np.int8]:
    """Centroids (list, feature) of a layer; about as many as the square root of the cells of a segment.

    Raises:
        WorkError: no cell of the layer has a vector.
    """
    sample, cells = list[NDArray[np.int8]](), 0
    for vectors in sampled(cube, layer, SAMPLE_CELLS, _SAMPLE_CHUNKS):
        sample.append(as_int8(vectors))
        cells += len(vectors)
        if cells >= SAMPLE_CELLS:
            break
    if not sample:
        raise WorkError(f"{cube.address}: no cell of layer {layer} has a vector, so there is nothing to index")
    chosen = np.concatenate(sample)[:SAMPLE_CELLS]
    lists = 1 << max(0, round(np.log2(max(1.0, segment_cells**0.5))))
    return k_means(chosen, max(1, min(MOST_LISTS, lists, len(chosen) // _CELLS_PER_LIST)))


def as_int8(vectors: NDArray[Any]) -> NDArray[np.int8]:
    """Directions of vectors (cell, feature) as int8: each divided by its largest magnitude, times 127."""
    if vectors.dtype == np.int8:
        return vectors
    numbers = vectors.astype(np.float64)
    largest = np.abs(numbers).max(axis=1, keepdims=True)
    scaled = np.divide(numbers * 127, largest, out=np.zeros_like(numbers), where=largest > 0)
    return np.asarray(np.rint(scaled), np.int8)


def k_means(vectors: NDArray[np.int8], lists: int) -> NDArray[np.int8]:
    """Spherical k-means: centroids (list, feature). A list that loses all its vectors keeps its centroid."""
    length = np.sqrt(np.einsum("cf,cf->c", vectors.astype(np.float64), vectors.astype(np.float64)))
    vectors, length = vectors[length > 0], length[length > 0]
    chosen = np.random.default_rng(0).permutation(len(vectors))[:lists]
    centroids = vectors[np.sort(chosen)]
    for _ in range(_ROUNDS):
        which = nearest(vectors, centroids)
        order = np.argsort(which, kind="stable")
        first = np.flatnonzero(np.diff(which[order], prepend=-1))
        # added one after the other, in the order of the sample: a product of matrices has an order of its own
        sums = np.add.reduceat(vectors[order] / length[order, None], first, axis=0)
        centroids = centroids.copy()
        centroids[which[order][first]] = as_int8(sums)
    return centroids
