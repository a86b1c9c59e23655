"""Local response normalization against torch's, which has another meaning of alpha."""

import torch
from torch import nn

from fanin.models.lrn import LocalResponseNorm


def test_is_torchs_with_alpha_summed_instead_of_averaged():
    maps = 30 * torch.randn(2, 7, 4, 4, dtype=torch.float64)
    torchs = nn.LocalResponseNorm(size=5, alpha=5 * 1e-4, beta=0.75, k=2.0)
    torch.testing.assert_close(LocalResponseNorm()(maps), torchs(maps))


def test_a_channel_is_quieted_by_its_two_neighbours_on_each_side():
    maps = torch.zeros(1, 7, 1, 1, dtype=torch.float64)
    maps[0, 3] = 100.0
    probed = maps.expand(7, 7, 1, 1) + torch.eye(7, dtype=torch.float64)[:, :, None, None]
    small = LocalResponseNorm()(probed)[torch.arange(7), torch.arange(7), 0, 0]
    quiet = small < 0.5
    assert quiet.tolist() == [False, True, True, False, True, True, False]
