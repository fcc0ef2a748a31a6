"""Products with frozen weights are the same whichever library makes them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

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
def test_a_frozen_maps_derivative_is_torchs_own(rows):
    torch.manual_seed(rows)
    module = nn.Linear(128, 96).requires_grad_(False)
    x = torch.randn(rows, 128, requires_grad=True)
    slope = torch.randn(rows, 96)
    (ours,) = torch.autograd.grad(mapped(x, module), x, slope)
    (torchs,) = torch.autograd.grad(module(x), x, slope)
    torch.testing.assert_close(ours, torchs, rtol=0.0, atol=1e-4)
