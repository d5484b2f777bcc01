"""Two small torch modules that use nothing of embedcube, as a user might have them."""

import torch
from torch import Tensor, nn


class SmallCnn(nn.Module):
    """Pictures (b, bands, y, x) to maps (b, width, y / 8, x / 8), with a BatchNorm and a tensor made in `forward`."""

    def __init__(self, bands: int, width: int = 24) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(bands, 16, 3, padding=1), nn.BatchNorm2d(16), nn.GELU())
        self.down = nn.Conv2d(16, width, 8, stride=8)

    def forward(self, x: Tensor) -> Tensor:
        ramp = torch.linspace(0, 1, x.shape[-1], device=x.device)
        return self.down(self.stem(x) + ramp)  # type: ignore[no-any-return]


class SmallVit(nn.Module):
    """Tokens (b, 2 + n, width) of one or several frames (b, t, c, y, x): a class token, a register, patches of 16."""

    def __init__(self, bands: int, frames: int, side: int, width: int = 48) -> None:
        super().__init__()
        self.patches = nn.Conv3d(bands, width, (frames, 16, 16), stride=(frames, 16, 16))
        self.before = nn.Parameter(torch.randn(1, 2, width))
        self.places = nn.Parameter(torch.randn(1, 2 + (side // 16) ** 2, width))
        self.qkv, self.norm, self.last = nn.Linear(width, 3 * width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(0.5), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x.transpose(1, 2)).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.before.expand(x.shape[0], -1, -1), tokens], dim=1) + self.places
        q, k, v = self.qkv(self.norm(tokens)).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(q, k, v)
        tokens = tokens + seen.transpose(1, 2).flatten(2)
        return self.last(tokens + self.mlp(tokens))  # type: ignore[no-any-return]
