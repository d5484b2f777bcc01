"""Objects of the cube: members are copied as they are, can be cut out again, and zarr-python reads the whole."""

import io
import math
from dataclasses import replace
from typing import Any

import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from zarr.core.buffer import cpu
from zarr.storage import MemoryStore

from embedcube.cube.arrays import ArraySpec, ShardEncoder, layer_specs, numbers_of, object_shape
from embedcube.cube.members import ABSENT, Damaged, ObjectLayout, ObjectWriter, cut, digest_of_object, members_of
from embedcube.grid import ShardLayout, ShardRange
from embedcube.zones import ObjectShape

SHAPE = ObjectShape(windows=2, rows=2, cols=3)


def specs_of(*, apart: bool, cell_px: int, windows: int = 1) -> tuple[ArraySpec, ...]:
    """Small arrays of a layer of 8 x 8 cells in several chunks, or of a list of 4 samples."""
    layout = ShardLayout(chip_px=4, halo_px=0, cell_px=cell_px, chips=2, apart=apart)
    specs = layer_specs(layout, dimensions=5, encoding="int8", windows=windows)
    if apart:
        return specs
    return tuple(replace(spec, chunk=(windows, 2, 4, *spec.chunk[3:])) for spec in specs)


def cells_of(spec: ArraySpec) -> int:
    return spec.shard[1]


def written(spec: ArraySpec, members: dict[tuple[int, int, int], bytes]) -> tuple[bytes, ObjectLayout]:
    """An object of an array, and its layout."""
    of_cube = spec.in_objects(SHAPE if spec.axes == 3 else replace(SHAPE, cols=1))
    layout = ObjectLayout.of_spec(of_cube, cells_of(spec))
    file = io.BytesIO()
    writer = ObjectWriter(file, layout)
    for at, data in sorted(members.items()):
        writer.add(numbers_of(spec.name, at, spec.axes), data)
    writer.finish()
    return file.getvalue(), layout


def read_by_zarr(spec: ArraySpec, data: bytes) -> NDArray[Any]:
    """What zarr-python reads of an object, the only one of an array."""
    of_cube = spec.in_objects(SHAPE if spec.axes == 3 else replace(SHAPE, cols=1))
    store = MemoryStore()
    array = of_cube.create(store, "", of_cube.shard)
    store._store_dict[of_cube.key(0, 0, 0)] = cpu.Buffer.from_bytes(data)
    return np.asarray(array[...])


LAYERS = [(False, 1, 1), (False, 1, 2), (True, 4, 1), (True, 1, 1)]


@pytest.mark.parametrize(("apart", "cell_px", "windows"), LAYERS, ids=["map", "windows", "samples", "tokens"])
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 1 << 30), share=st.sampled_from([0.0, 0.3, 1.0]))
def test_zarr_reads_each_member_at_its_place(apart: bool, cell_px: int, windows: int, seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    specs = specs_of(apart=apart, cell_px=cell_px, windows=windows)
    encoder = ShardEncoder(specs)
    shape = replace(SHAPE, cols=1) if apart else SHAPE
    expected = {
        spec.name: np.full(spec.in_objects(shape).shard, spec.fill, spec.dtype) for spec in specs
    }  # fmt: skip
    members: dict[str, dict[tuple[int, int, int], bytes]] = {spec.name: {} for spec in specs}
    for at in np.ndindex(shape.windows, shape.rows, shape.cols):
        if rng.random() > share:
            continue
        values = {spec.name: rng.integers(0, 3, spec.shard).astype(spec.dtype) for spec in specs}
        for spec in specs:
            values[spec.name][:, : spec.shard[1] // 2] = spec.fill  # chunks that are not stored
        for spec, data in zip(specs, encoder.encode(values).values(), strict=True):
            first = [i * n for i, n in zip(at, spec.shard, strict=False)][: min(spec.axes, 3)]
            box = tuple(slice(i, i + n) for i, n in zip(first, spec.shard, strict=False))
            expected[spec.name][box if spec.axes == 3 else box[:2]] = values[spec.name]
            if data is not None:
                members[spec.name][at] = data
    for spec in specs:
        data, layout = written(spec, members[spec.name])
        np.testing.assert_array_equal(read_by_zarr(spec, data), expected[spec.name])
        index = layout.parse(data[-layout.index_bytes :])
        found = {
            at: cut(index, layout, numbers_of(spec.name, at, spec.axes), lambda start, end: data[start:end])  # noqa: B023
            for at in np.ndindex(shape.windows, shape.rows, shape.cols)
        }
        assert {at: one for at, one in found.items() if one is not None} == members[spec.name]
        assert len(list(members_of(index, layout, len(data)))) == len(members[spec.name])


def an_object() -> tuple[bytes, ObjectLayout]:
    [spec, *_] = specs_of(apart=False, cell_px=1)
    data = ShardEncoder((spec,)).encode({spec.name: np.arange(math.prod(spec.shard)).reshape(spec.shard) % 99})
    member = data[spec.name]
    assert member is not None
    return written(spec, {(0, 0, 1): member, (1, 1, 2): member})


@pytest.mark.parametrize("at", [0, 60, -20, -1])
def test_every_byte_counts(at: int) -> None:
    """Of a flipped byte the digest is another one, or it is no object any more; the same of one that was added."""
    data, layout = an_object()
    sound = digest_of_object(data, layout)

    def digest(changed: bytes) -> str:
        try:
            return digest_of_object(changed, layout)
        except Damaged:
            return "damaged"

    flipped = bytearray(data)
    flipped[at] ^= 1
    assert digest(bytes(flipped)) != sound
    assert digest(data[:60] + b"\0" + data[60:]) == "damaged"
    assert digest(data[1:]) == "damaged"
    assert digest(b"") == "damaged"


def test_an_absent_chunk_has_no_size() -> None:
    """Zarr writes both as 2^64 - 1; another size is a byte that no digest covers, and zarr-python cannot read it."""
    data, layout = an_object()
    index = layout.parse(data[-layout.index_bytes :]).copy()
    absent = tuple(np.argwhere(index[..., 0] == ABSENT)[0])
    index[absent] = ABSENT, 7
    entries = index.tobytes()
    changed = data[: -layout.index_bytes] + entries + google_crc32c.value(entries).to_bytes(4, "little")
    with pytest.raises(Damaged, match="without a size"):
        digest_of_object(changed, layout)


def test_members_that_are_out_of_order_are_damaged() -> None:
    """The bytes of an object follow from its members: in another order, it would be another object."""
    data, layout = an_object()
    index = layout.parse(data[-layout.index_bytes :]).copy()
    one, other = (layout.part(at) for at in ((0, 0, 1, 0), (1, 1, 2, 0)))
    index[one], index[other] = index[other].copy(), index[one].copy()
    with pytest.raises(Damaged):
        list(members_of(index, layout, len(data)))


@pytest.mark.parametrize(
    ("bytes_of_shard", "expected"),
    [((8, 64), (16, 8, 8)), ((48, 768), (1, 8, 8)), ((512, 128), (1, 2, 2)), ((2048, 128), (1, 1, 1))],
)
def test_objects_have_about_a_hundred_megabytes(
    bytes_of_shard: tuple[int, int], expected: tuple[int, int, int]
) -> None:
    """`bytes_of_shard` are cells along a side and features; 128 MB at most, unless one shard has more."""
    cells, features = bytes_of_shard
    layout = ShardLayout(chip_px=cells, halo_px=0, cell_px=1, chips=1)
    shape = object_shape(layout, dimensions=features, encoding="int8", windows=1)
    assert (shape.windows, shape.rows, shape.cols) == expected


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ((-734, 52, 3, 5), (-736, 48, 5, 9)),
        ((-730, 50, 2, 6), (-730, 50, 2, 6)),
        ((0, 0, 8, 8), (0, 0, 8, 8)),
        ((7, 0, 2, 1), (0, 0, 9, 1)),
    ],
    ids=["over a border", "within one object", "one whole object", "over one border"],
)
def test_arrays_begin_at_the_border_of_an_object(place: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Unless all shards lie in one object."""
    names = ("row", "col", "rows", "cols")
    moved = ObjectShape(windows=1, rows=8, cols=8).from_border(ShardRange(**dict(zip(names, place, strict=True))))
    assert (moved.row, moved.col, moved.rows, moved.cols) == expected


@pytest.mark.parametrize("shard", [(4, 10, 12, 5), (3, 8, 8, 5), (0, 8, 8, 5)])
def test_shapes_that_do_not_divide_are_refused(shard: tuple[int, ...]) -> None:
    with pytest.raises(Damaged, match="do not divide"):
        ObjectLayout.of_shapes(shard, (2, 4, 4, 5), 8, 3)


def test_zarr_writes_what_is_one_member() -> None:
    """A member is what zarr-python itself writes for an array of one shard."""
    for spec in specs_of(apart=False, cell_px=1):
        values = np.arange(math.prod(spec.shard)).reshape(spec.shard).astype(spec.dtype)
        store = MemoryStore()
        zarr_array: zarr.Array[Any] = spec.create(store, "", spec.shard)
        zarr_array[...] = values
        assert (
            ShardEncoder((spec,)).encode({spec.name: values})[spec.name]
            == store._store_dict[spec.key(0, 0, 0)].to_bytes()
        )
