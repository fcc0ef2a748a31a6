"""Products with weights are the same whichever library makes them."""

import pytest
import torch
import torch.nn.functional as F

from tuning.products import LEAST, mapped, times

ROWS = {"small": 3, "large": 1 + LEAST // (128 * 96)}  # on either side of where the other library is asked


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("transposed", [False, True], ids=["as it is", "transposed"])
@pytest.mark.parametrize("biased", [False, True], ids=["alone", "with a bias"])
def test_a_product_is_torchs_own(rows, dtype, transposed, biased):
    made = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, 128, generator=made, dtype=dtype)
    weight = torch.randn((128, 96) if transposed else (96, 128), generator=made, dtype=dtype)
    weight = weight.mT if transposed else weight
    bias = torch.randn(96, generator=made, dtype=dtype) if biased else None
    exact = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    # sums of 128 products of size one, each rounded
    torch.testing.assert_close(times(x, weight, bias).double(), exact, rtol=0.0, atol=128 * 8 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("trained", [(True, False, False), (False, True, True), (True, True, True)], ids=str)
def test_a_maps_derivatives_are_torchs_own(rows, trained):
    made = torch.Generator().manual_seed(rows)
    given = [
        torch.randn(shape, generator=made).requires_grad_(of)
        for shape, of in zip([(rows, 128), (96, 128), 96], trained, strict=True)
    ]
    slope = torch.randn(rows, 96, generator=made)
    asked = [value for value in given if value.requires_grad]
    ours, torchs = (torch.autograd.grad(product(*given), asked, slope) for product in (mapped, F.linear))
    for one, other in zip(ours, torchs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-3)
