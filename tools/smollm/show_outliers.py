# show_outliers.py: what makes the KV of a real language model hard to store in few bits.
# SPDX-License-Identifier: Apache-2.0
"""Usage: show_outliers.py FILE.gguf [TOKENS]

Runs TOKENS (1024) tokens of each passage of text/ through the model in transformers and prints a
row a layer, over all passages and KV heads:
  k max    greatest |K|, K as it is cached (after RoPE)
  k std    root of the mean of K^2
  offset   greatest |mean over tokens| of a channel of K, and
  /std     the greatest such mean in units of that channel's own standard deviation
  k first  norm of the first token's K, mean over heads, and in units of the others' mean norm
  v max, v std, v first   the same of V"""

import sys
from pathlib import Path

import gguf
import torch

from make_golden import HERE, load_model, tokenizer_of


def first_norms(values):
    """values [passages, heads, tokens, dim]: norm of the first token and of the others."""
    norms = values.norm(dim=-1)
    return float(norms[..., 0].mean()), float(norms[..., 1:].mean())


def main():
    path = Path(sys.argv[1])
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 1024
    tokenizer = tokenizer_of(gguf.GGUFReader(path))
    model = load_model(path)
    batch = [tokenizer.encode(p.read_text()).ids[:count] for p in sorted(HERE.glob("text/*.txt"))]
    with torch.no_grad():
        caches = [model(torch.tensor([ids]), logits_to_keep=1).past_key_values for ids in batch]
    print(
        "layer   k max  k std  offset   /std  k first (x)    v max  v std  v first (x)",
        flush=True,
    )
    for i in range(model.config.num_hidden_layers):
        k = torch.cat([cache.layers[i].keys for cache in caches])
        v = torch.cat([cache.layers[i].values for cache in caches])
        mean, deviation = k.mean(dim=2), k.std(dim=2)
        k_first, k_rest = first_norms(k)
        v_first, v_rest = first_norms(v)
        print(
            f"{i:5}  {k.abs().max():6.1f} {k.square().mean().sqrt():6.2f}  {mean.abs().max():6.1f}"
            f" {(mean.abs() / deviation).max():6.1f}  {k_first:6.1f} ({k_first / k_rest:4.2f})"
            f"   {v.abs().max():6.2f} {v.square().mean().sqrt():6.3f}  {v_first:6.3f}"
            f" ({v_first / v_rest:4.2f})"
        )


if __name__ == "__main__":
    main()
