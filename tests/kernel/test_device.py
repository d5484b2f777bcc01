"""On a CPU a product of matrices has the same bits whatever the number of threads; all layers rely on it."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import pytest
import torch
from tests.edge.contexts import bare_context
from torch import Tensor, nn

from embedcube.backbones.base import Chips
from embedcube.grid import ShardLayout
from embedcube.kernel import device
from embedcube.kernel.embed import blank_chips, forward

ROWS, SUMMED, COLUMNS = (2, 3, 4, 8, 16, 64), (27, 512, 1681), (7, 10, 64, 512)


class Flattened(nn.Module):
    """A module whose vector is the chip's pixels; the chip is one cell."""

    def forward(self, chips: Chips) -> Tensor:
        return chips.x_btcyx.flatten(1)[:, None, None]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    device.exact_arithmetic(threads)


def products() -> list[Tensor]:
    """Products of several shapes, most with few rows, as one vector for each chip needs: there MKL may split sums."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for rows, summed, columns in product(ROWS, SUMMED, COLUMNS):
        x, weights = (torch.randn((n, summed), generator=generator) for n in (rows, columns))
        device.exact_products()
        made.append(x @ weights.T)
    return made


@pytest.mark.parametrize("threads", [2, 3, 4, 8])
def test_products_do_not_depend_on_the_threads(threads: int) -> None:
    device.exact_arithmetic(1)
    expected = products()
    device.exact_arithmetic(threads)
    with ThreadPoolExecutor(1) as elsewhere:
        for found in (products(), elsewhere.submit(products).result()):
            unequal = sum(not torch.equal(one, other) for one, other in zip(expected, found, strict=True))
            assert unequal == 0, f"of {len(found)} products with {threads} threads"


def test_every_thread_that_computes_gives_mkl_one_thread_where_it_does_not_heed_mkl_cbwr(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device, "_CPU", {"vendor_id": "AuthenticAMD"})
    torch.set_num_threads(2)
    context = bare_context(
        Flattened(), ShardLayout(chip_px=8, halo_px=0, cell_px=8, chips=1), bands=1, batch=2, dimensions=64
    )
    mkl_threads = device._torch_library().MKL_Get_Max_Threads

    def computed() -> tuple[int, int]:
        # torch sets it for each thread that asks it to compute
        torch.get_num_threads()
        before = mkl_threads()
        forward(context, blank_chips(context))
        return before, mkl_threads()

    with ThreadPoolExecutor(1) as elsewhere:
        assert elsewhere.submit(computed).result() == (2, 1)


def test_a_plan_names_the_processor_where_mkl_chooses_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_CPU", {"vendor_id": "GenuineIntel", "cpu family": "6", "model": "143"})
    assert device.mkl_branch() == os.environ["MKL_CBWR"]
    monkeypatch.setattr(device, "_CPU", {"vendor_id": "AuthenticAMD", "cpu family": "25", "model": "1"})
    assert device.mkl_branch() == f"{os.environ['MKL_CBWR']} on AuthenticAMD 25 1"
