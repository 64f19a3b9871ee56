"""Features of lines with an export to torch (a ViT): PyTorch alone, no JAX and no dig_jax.

encoder = load("EXPORT")
tokens = encoder(pixels)      # f32[B, C, H, W] in [-1, 1] -> f32[B, rows * columns, D]
"""

import json
import pathlib

import torch
from safetensors.torch import load_file
from torch import nn


class Block(nn.Module):
    def __init__(self, width, hidden, heads):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width)})
        self.attn["proj"] = nn.Linear(width, width)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden, width)})
        self.heads = heads

    def forward(self, x):
        qkv = self.attn["qkv"](self.norm1(x)).unflatten(2, (3, self.heads, -1))
        seen = nn.functional.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4))
        x = x + self.attn["proj"](seen.transpose(1, 2).flatten(2))
        return x + self.mlp["fc2"](nn.functional.gelu(self.mlp["fc1"](self.norm2(x))))


class Encoder(nn.Module):
    """Tokens row by row. pos_embed [1, rows, columns, D]: an image takes the first columns."""

    def __init__(self, state, heads):
        super().__init__()
        kernel, names = state["patch_embed.proj.weight"], [n.split(".") for n in state]
        width, channels, *patch = kernel.shape
        hidden = state["blocks.0.mlp.fc1.weight"].shape[0]
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(channels, width, patch, patch)})
        depth = 1 + max(int(n[1]) for n in names if n[0] == "blocks")
        self.blocks = nn.ModuleList(Block(width, hidden, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6) if "norm.weight" in state else nn.Identity()
        for name in {"pos_embed", "cls_token"} & set(state):
            self.register_parameter(name, nn.Parameter(torch.zeros_like(state[name])))
        self.load_state_dict(state)

    def forward(self, pixels):
        x = self.patch_embed["proj"](pixels)
        x = x.flatten(2).transpose(1, 2) + self.pos_embed[:, :, : x.shape[3]].flatten(1, 2)
        own = hasattr(self, "cls_token")
        x = torch.cat([self.cls_token.expand(len(x), 1, -1), x], 1) if own else x
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, int(own) :]


def load(folder):
    config = json.loads(pathlib.Path(folder, "config.json").read_text())
    heads = config["method"]["encoder"]["heads"]
    return Encoder(load_file(pathlib.Path(folder, "model.safetensors")), heads).eval()
