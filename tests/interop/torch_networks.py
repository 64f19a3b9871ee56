"""Tiny ViTs in PyTorch, each as its project's description has it; only where torch is installed.

Written from ../shared/reference/methods.md (1.1, 5.2, 8.1, 10.1, 11.2) and the names in the
projects' checkpoints. They compute what the official networks compute, at width 8 and depth 2.
"""

import math

import numpy as np
import torch
from torch import nn

from tests.interop.import_cases import CASES, HEADS, HEIGHT, PATCH, WIDE, WIDTH

GRID = (HEIGHT // PATCH, WIDE // PATCH)


class Attention(nn.Module):
    def __init__(self, bias):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=bias == "full")
        if bias == "q and v":
            self.q_bias, self.v_bias = (nn.Parameter(torch.zeros(WIDTH)) for _ in range(2))
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        rows, tokens, _ = x.shape
        x = self.qkv(x)
        if hasattr(self, "q_bias"):
            x = x + torch.cat([self.q_bias, torch.zeros(WIDTH), self.v_bias])
        query, key, value = x.reshape(rows, tokens, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(2, 3) / math.sqrt(WIDTH // HEADS)).softmax(-1)
        return self.proj((weights @ value).transpose(1, 2).reshape(rows, tokens, WIDTH))


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x):
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(WIDTH))


class Block(nn.Module):
    def __init__(self, bias, scale):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, 1e-6), nn.LayerNorm(WIDTH, 1e-6)
        self.attn, self.mlp, self.scale = Attention(bias), Mlp(), scale
        if scale == "gamma":
            self.gamma_1, self.gamma_2 = (nn.Parameter(torch.ones(WIDTH)) for _ in range(2))
        elif scale == "ls":
            self.ls1, self.ls2 = Scale(), Scale()

    def forward(self, x):
        one = two = 1.0
        if self.scale == "gamma":
            one, two = self.gamma_1, self.gamma_2
        elif self.scale == "ls":
            one, two = self.ls1.gamma, self.ls2.gamma
        x = x + one * self.attn(self.norm1(x))
        return x + two * self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Conv2d(3, WIDTH, PATCH, PATCH)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class Vit(nn.Module):
    def __init__(self, case):
        super().__init__()
        self.case, places = case, GRID[0] * GRID[1]
        self.patch_embed = PatchEmbed()
        self.blocks = nn.ModuleList(Block(case.bias, case.scale) for _ in range(2))
        self.norm = nn.LayerNorm(WIDTH, 1e-6) if case.norm else nn.Identity()
        if case.token:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        table = {
            "flat": flat,
            "square": lambda: two_d(math.isqrt(places), math.isqrt(places)),
            "meshgrid": meshgrid,
            "two_d": lambda: two_d(*GRID),
            "trained": lambda: torch.randn(places, WIDTH),
        }[case.table]()
        if case.token == "read":
            first = torch.randn(1, WIDTH) if case.table == "trained" else torch.zeros(1, WIDTH)
            table = torch.cat([first, table])
        # DiG keeps its table out of the state dict.
        self.pos_embed = table[None] if case.table == "flat" else nn.Parameter(table[None])

    def forward(self, x):
        x = self.patch_embed(x)
        if self.case.token == "read":
            x = torch.cat([self.cls_token.expand(len(x), 1, -1), x], 1)
        x = x + self.pos_embed
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return x[:, 1:] if self.case.token == "read" else x


def flat():
    """1-D code of the row-major index, sin and cos interleaved."""
    table = np.zeros((GRID[0] * GRID[1], WIDTH))
    for place in range(len(table)):
        for j in range(WIDTH):
            angle = place / 10000 ** (2 * (j // 2) / WIDTH)
            table[place, j] = math.cos(angle) if j % 2 else math.sin(angle)
    return torch.tensor(table, dtype=torch.float32)


def waves(position):
    quarter = WIDTH // 4
    angles = [position / 10000 ** (k / quarter) for k in range(quarter)]
    return [math.sin(a) for a in angles] + [math.cos(a) for a in angles]


def two_d(rows, columns):
    """2-D code, places row by row: that of the column, then that of the row."""
    places = [(row, column) for row in range(rows) for column in range(columns)]
    return torch.tensor([waves(column) + waves(row) for row, column in places])


def meshgrid():
    """MoCo v3: the numbers of the columns change slowest."""
    rows, columns = GRID
    places = [(row, column) for column in range(columns) for row in range(rows)]
    return torch.tensor([waves(column) + waves(row) for row, column in places])


def write(name, seed):
    """{"state/..": weights, "image" u8[2, 3, H, W], "tokens" f32[2, N, D]} of a case."""
    case = CASES[name]
    torch.manual_seed(seed)
    network = Vit(case)
    with torch.no_grad():
        for parameter_name, parameter in network.named_parameters():
            if parameter_name != "pos_embed":
                parameter.add_(0.3 * torch.randn_like(parameter))
    image = torch.randint(0, 256, (2, 3, HEIGHT, WIDE), dtype=torch.uint8)
    mean, std = (torch.tensor(x)[None, :, None, None] for x in case.pixels)
    with torch.no_grad():
        tokens = network((image / 255 - mean) / std)
    state = {f"state/{case.prefix}{k}": v.detach() for k, v in network.state_dict().items()}
    state |= {f"state/{name}": torch.zeros(2) for name in case.others}
    arrays = state | {"image": image, "tokens": tokens}
    return {k: np.ascontiguousarray(v.numpy()) for k, v in arrays.items()}
