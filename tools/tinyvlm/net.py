# net.py: the network for training, its modules named as in the checkpoint.
# SPDX-License-Identifier: Apache-2.0
"""Many questions share one visual prefix: a sequence is <s>, the image tokens, then blocks of
question and answer tokens.  Each block sees the prefix and itself, at the positions it would have
if it alone followed the prefix, so that training and plain inference compute the same function."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from questions import BOS_ID, VOCAB_SIZE


class VisionAttention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x):
        n, t, d = x.shape
        q, k, v = (
            p(x).view(n, t, self.heads, -1).transpose(1, 2)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(out.transpose(1, 2).reshape(n, t, d))


class VisionMlp(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class VisionLayer(nn.Module):
    def __init__(self, size):
        super().__init__()
        dim = size["vision_hidden"]
        self.layer_norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.self_attn = VisionAttention(dim, size["vision_heads"])
        self.layer_norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = VisionMlp(dim, size["vision_mlp"])

    def forward(self, x):
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class VisionEmbeddings(nn.Module):
    def __init__(self, size):
        super().__init__()
        dim, patch = size["vision_hidden"], size["patch"]
        self.patch_embedding = nn.Conv2d(3, dim, patch, stride=patch)
        self.position_embedding = nn.Embedding((size["image"] // patch) ** 2, dim)

    def forward(self, pixels):
        x = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        return x + self.position_embedding.weight


class VisionEncoder(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.layers = nn.ModuleList(VisionLayer(size) for _ in range(size["vision_layers"]))


class VisionTower(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.embeddings = VisionEmbeddings(size)
        self.encoder = VisionEncoder(size)
        self.post_layernorm = nn.LayerNorm(size["vision_hidden"], eps=1e-6)  # LLaVA skips it

    def forward(self, frames):
        """uint8 [N,3,H,W] -> raw output of the last layer [N,P,D]."""
        x = self.embeddings((frames.float() / 255 - 0.5) / 0.5)
        for layer in self.encoder.layers:
            x = layer(x)
        return x


class Projector(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.linear_1 = nn.Linear(size["vision_hidden"], size["hidden"])
        self.linear_2 = nn.Linear(size["hidden"], size["hidden"])

    def forward(self, x):
        return self.linear_2(F.gelu(self.linear_1(x)))


class RmsNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        x = x.float()
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    x = x.float()
    turned = torch.cat([-x[..., half:], x[..., :half]], -1)
    return x * cos + turned * sin


class Attention(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.head_dim = size["head_dim"]
        dim, q_dim = size["hidden"], size["heads"] * size["head_dim"]
        kv_dim = size["kv_heads"] * size["head_dim"]
        self.q_proj = nn.Linear(dim, q_dim)
        self.k_proj = nn.Linear(dim, kv_dim)
        self.v_proj = nn.Linear(dim, kv_dim)
        self.o_proj = nn.Linear(q_dim, dim, bias=False)

    def forward(self, x, cos, sin, mask):
        b, t, _ = x.shape
        q, k, v = (
            p(x).view(b, t, -1, self.head_dim).transpose(1, 2)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
        if isinstance(mask, torch.Tensor):
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        else:
            out = flex_attention(q, k, v, block_mask=mask, enable_gqa=True)
        return self.o_proj(out.transpose(1, 2).reshape(b, t, -1))


class Mlp(nn.Module):
    def __init__(self, size):
        super().__init__()
        dim, hidden = size["hidden"], size["mlp"]
        self.gate_proj = nn.Linear(dim, hidden, bias=False)
        self.up_proj = nn.Linear(dim, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, dim, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.input_layernorm = RmsNorm(size["hidden"])
        self.self_attn = Attention(size)
        self.post_attention_layernorm = RmsNorm(size["hidden"])
        self.mlp = Mlp(size)

    def forward(self, x, cos, sin, mask):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCAB_SIZE, size["hidden"])
        self.layers = nn.ModuleList(DecoderLayer(size) for _ in range(size["layers"]))
        self.norm = RmsNorm(size["hidden"])


class Language(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.model = Decoder(size)


class TinyVlm(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.size = size
        self.vision_tower = VisionTower(size)
        self.multi_modal_projector = Projector(size)
        self.language_model = Language(size)
        self.layouts = {}
        self.initialise()

    def initialise(self):
        depth = 2 * self.size["layers"]
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(p)
            elif p.dim() > 1:
                fan_in = p[0].numel()
                std = 0.02 if "embed_tokens" in name or "position" in name else fan_in**-0.5 * 0.7
                if name.endswith(
                    ("o_proj.weight", "down_proj.weight", "out_proj.weight", "fc2.weight")
                ):
                    std /= math.sqrt(depth)
                nn.init.normal_(p, 0, std)

    @torch.no_grad()
    def make_previous_token_head(self, head=0, frequencies=16, strength=60.0):
        """Sets a head of the first decoder layer to look one token back, by its biases alone.

        Rotated by RoPE, the constant query at m and key at m - 1 are equal.  Without it the two
        digits of a number in a question were not brought together in training."""
        size, dim = self.size, self.size["head_dim"]
        attention = self.language_model.model.layers[0].self_attn
        angle = size["rope_theta"] ** (-torch.arange(0, dim, 2).double() / dim)
        key = torch.zeros(dim // 2).double()
        key[:frequencies] = strength**0.5
        query = torch.cat([key * angle.cos(), -key * angle.sin()])
        rows = slice(head * dim, (head + 1) * dim)
        group = head // (size["heads"] // size["kv_heads"])
        key_rows = slice(group * dim, (group + 1) * dim)
        attention.q_proj.weight[rows] = 0
        attention.q_proj.bias[rows] = query.to(attention.q_proj.bias)
        attention.k_proj.bias[key_rows] = F.pad(key, (0, dim // 2)).to(attention.k_proj.bias)
        attention.o_proj.weight[:, rows].normal_(0, 0.04)

    def layout(self, prefix, blocks, length, device):
        """Rotary tables and attention mask of a sequence shape, cached."""
        key = (prefix, blocks, length)
        if key not in self.layouts:
            total = prefix + blocks * length
            padded = -(-total // 128) * 128
            index = torch.arange(padded, device=device)
            inside = index >= prefix
            block = torch.where(inside, (index - prefix) // length + 1, 0)
            position = torch.where(inside, prefix + (index - prefix) % length, index)
            dim = self.size["head_dim"]
            frequency = self.size["rope_theta"] ** (
                -torch.arange(0, dim, 2, device=device).double() / dim
            )
            angle = position[:, None].double() * frequency
            angle = torch.cat([angle, angle], -1)
            cos, sin = angle.cos().float(), angle.sin().float()

            def allowed(b, h, q, k):
                return (k <= q) & ((k < prefix) | (block[q] == block[k]))

            if device.type == "cuda":
                mask = create_block_mask(allowed, None, None, padded, padded, device=device)
            else:
                mask = allowed(0, 0, index[:, None], index[None, :])
            self.layouts[key] = (cos, sin, mask, padded - total)
        return self.layouts[key]

    def features(self, frames):
        return self.multi_modal_projector(self.vision_tower(frames))

    def decode(self, features, tokens):
        """features [B,F*P,D] or None, tokens [B,Q,S] -> logits [B,Q,S,V]."""
        b, blocks, length = tokens.shape
        decoder = self.language_model.model
        start = decoder.embed_tokens.weight[BOS_ID].expand(b, 1, -1).float()
        parts = [start] if features is None else [start, features.float()]
        prefix = sum(p.shape[1] for p in parts)
        cos, sin, mask, padding = self.layout(prefix, blocks, length, tokens.device)
        parts.append(decoder.embed_tokens(tokens.flatten(1)).float())
        x = F.pad(torch.cat(parts, 1), (0, 0, 0, padding))
        for layer in decoder.layers:
            x = layer(x, cos, sin, mask)
        x = x[:, prefix : prefix + blocks * length]
        logits = F.linear(decoder.norm(x), decoder.embed_tokens.weight)
        return logits.view(b, blocks, length, -1)

    def compile_layers(self):
        """One compiled graph a kind of layer and shape, shared by all layers."""
        for layer in [*self.vision_tower.encoder.layers, *self.language_model.model.layers]:
            layer.compile(dynamic=False)
