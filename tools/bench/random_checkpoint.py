# random_checkpoint.py: writes a Qwen2.5-VL checkpoint of real size with random weights.
# SPDX-License-Identifier: Apache-2.0
"""Usage: random_checkpoint.py FOLDER [--shape 7b|3b|tiny] [--seed 1]   (needs torch, safetensors)

What the published checkpoints have, made without a network: config.json, generation_config.json,
preprocessor_config.json, a byte-level tokenizer.json whose special tokens have their published
places, and bf16 weights in shards, names and shapes as published.  It measures: what it says means
nothing, and most of its tokens stand for no text.  7b takes 16 GB of disk, and one shard of memory.
"""

import argparse
import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file

SHAPES = {
    "7b": dict(
        hidden=3584,
        intermediate=18944,
        layers=28,
        heads=28,
        kv_heads=4,
        vocabulary=152064,
        rope=[16, 24, 24],
        tied=False,
        special=151643,
        positions=128000,
        vision=dict(depth=32, hidden=1280, intermediate=3420, heads=16, whole=[7, 15, 23, 31]),
    ),
    "3b": dict(
        hidden=2048,
        intermediate=11008,
        layers=36,
        heads=16,
        kv_heads=2,
        vocabulary=151936,
        rope=[16, 24, 24],
        tied=True,
        special=151643,
        positions=128000,
        vision=dict(depth=32, hidden=1280, intermediate=3420, heads=16, whole=[7, 15, 23, 31]),
    ),
    "tiny": dict(
        hidden=128,
        intermediate=192,
        layers=3,
        heads=4,
        kv_heads=2,
        vocabulary=384,
        rope=[4, 6, 6],
        tied=False,
        special=300,
        positions=128000,
        vision=dict(depth=3, hidden=64, intermediate=96, heads=4, whole=[1]),
    ),
}
# Behind <|endoftext|>, at their published distances from it.
SPECIAL = {
    "<|endoftext|>": 0,
    "<|im_start|>": 1,
    "<|im_end|>": 2,
    "<|vision_start|>": 9,
    "<|vision_end|>": 10,
    "<|vision_pad|>": 11,
    "<|image_pad|>": 12,
    "<|video_pad|>": 13,
}
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MERGES = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("i", "n"), ("o", "n"), ("e", "r"), ("Ġ", "a")]
SHARD_BYTES = 4 << 30
MERGE, PATCH, TEMPORAL = 2, 14, 2


def config(shape):
    vision, first = shape["vision"], shape["special"]
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "torch_dtype": "bfloat16",
        "hidden_act": "silu",
        "hidden_size": shape["hidden"],
        "intermediate_size": shape["intermediate"],
        "num_hidden_layers": shape["layers"],
        "num_attention_heads": shape["heads"],
        "num_key_value_heads": shape["kv_heads"],
        "vocab_size": shape["vocabulary"],
        "max_position_embeddings": shape["positions"],
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "use_sliding_window": False,
        "tie_word_embeddings": shape["tied"],
        "rope_scaling": {"type": "mrope", "mrope_section": shape["rope"]},
        "bos_token_id": first,
        "eos_token_id": first + SPECIAL["<|im_end|>"],
        "vision_start_token_id": first + SPECIAL["<|vision_start|>"],
        "vision_end_token_id": first + SPECIAL["<|vision_end|>"],
        "image_token_id": first + SPECIAL["<|image_pad|>"],
        "video_token_id": first + SPECIAL["<|video_pad|>"],
        "vision_config": {
            "model_type": "qwen2_5_vl",
            "depth": vision["depth"],
            "hidden_act": "silu",
            "hidden_size": vision["hidden"],
            "intermediate_size": vision["intermediate"],
            "num_heads": vision["heads"],
            "in_chans": 3,
            "out_hidden_size": shape["hidden"],
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": TEMPORAL,
            "spatial_patch_size": PATCH,
            "window_size": 112,
            "tokens_per_second": 2,
            "fullatt_block_indexes": vision["whole"],
        },
    }


def preprocessor():
    return {
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "patch_size": PATCH,
        "merge_size": MERGE,
        "temporal_patch_size": TEMPORAL,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
    }


def byte_letters():
    """The 256 characters that stand for bytes (GPT-2)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(256 - len(plain))]


def tokenizer(shape):
    words = byte_letters() + [a + b for a, b in MERGES]
    special = [
        {
            "id": shape["special"] + at,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for text, at in SPECIAL.items()
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": SPLIT},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {
                    "type": "ByteLevel",
                    "add_prefix_space": False,
                    "trim_offsets": True,
                    "use_regex": False,
                },
            ],
        },
        "post_processor": None,
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {word: i for i, word in enumerate(words)},
            "merges": MERGES,
        },
    }


def tensors(shape):
    """Names and shapes, in the order of the shards."""
    hidden, inner = shape["hidden"], shape["intermediate"]
    kv = hidden // shape["heads"] * shape["kv_heads"]
    yield "model.embed_tokens.weight", (shape["vocabulary"], hidden)
    for i in range(shape["layers"]):
        layer = f"model.layers.{i}."
        for name, rows in (("q", hidden), ("k", kv), ("v", kv)):
            yield f"{layer}self_attn.{name}_proj.weight", (rows, hidden)
            yield f"{layer}self_attn.{name}_proj.bias", (rows,)
        yield layer + "self_attn.o_proj.weight", (hidden, hidden)
        for name, rows, columns in (
            ("gate", inner, hidden),
            ("up", inner, hidden),
            ("down", hidden, inner),
        ):
            yield f"{layer}mlp.{name}_proj.weight", (rows, columns)
        yield layer + "input_layernorm.weight", (hidden,)
        yield layer + "post_attention_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    if not shape["tied"]:
        yield "lm_head.weight", (shape["vocabulary"], hidden)

    vision = shape["vision"]
    width, inner, merged = vision["hidden"], vision["intermediate"], vision["hidden"] * MERGE**2
    yield "visual.patch_embed.proj.weight", (width, 3, TEMPORAL, PATCH, PATCH)
    for i in range(vision["depth"]):
        block = f"visual.blocks.{i}."
        for name, rows, columns in (
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.gate_proj", inner, width),
            ("mlp.up_proj", inner, width),
            ("mlp.down_proj", width, inner),
        ):
            yield f"{block}{name}.weight", (rows, columns)
            yield f"{block}{name}.bias", (rows,)
        yield block + "norm1.weight", (width,)
        yield block + "norm2.weight", (width,)
    yield "visual.merger.ln_q.weight", (width,)
    for name, rows in (("0", merged), ("2", hidden)):
        yield f"visual.merger.mlp.{name}.weight", (rows, merged)
        yield f"visual.merger.mlp.{name}.bias", (rows,)


def random_tensor(name, shape, generator):
    """Products keep their inputs' size, so that nothing overflows or dies out."""
    if "norm" in name or "ln_q" in name:
        return torch.ones(shape, dtype=torch.bfloat16)
    scale = 0.1 if name.endswith("bias") else 1.0 / math.sqrt(math.prod(shape[1:]))
    if name == "model.embed_tokens.weight":
        scale = 1.0
    values = torch.empty(shape, dtype=torch.bfloat16, device=generator.device)
    return values.normal_(0, scale, generator=generator).cpu()


def write_weights(folder, shape, seed):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(seed)
    shards, shard, shard_bytes, total = [], {}, 0, 0

    def finish():
        nonlocal shard, shard_bytes
        path = folder / f"shard-{len(shards):05d}.tmp"
        save_file(shard, path, metadata={"format": "pt"})
        shards.append((path, list(shard)))
        shard, shard_bytes = {}, 0

    for name, extents in tensors(shape):
        tensor = random_tensor(name, extents, generator)
        if shard and shard_bytes + tensor.nbytes > SHARD_BYTES:
            finish()
        shard[name] = tensor
        shard_bytes += tensor.nbytes
        total += tensor.nbytes
    finish()
    places = {}
    for i, (path, names) in enumerate(shards):
        target = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        path.rename(folder / target)
        places |= {name: target for name in names}
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    return total, len(shards)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    shape, folder = SHAPES[arguments.shape], arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.safetensors"):
        old.unlink()
    settings = config(shape)
    ends = {key: settings[key] for key in ("bos_token_id", "eos_token_id")}
    for name, content in (
        ("config", settings),
        ("generation_config", ends),
        ("preprocessor_config", preprocessor()),
        ("tokenizer", tokenizer(shape)),
    ):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    total, count = write_weights(folder, shape, arguments.seed)
    print(f"{folder}: {total / 1e9:.2f} GB of weights in {count} shards")


if __name__ == "__main__":
    main()
