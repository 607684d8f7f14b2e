# peers.py: what Hugging Face's caches cost for the lengths and batches that `vkv bench peers` has.
# SPDX-License-Identifier: Apache-2.0
#
# python -c SCRIPT JSON
#
# JSON: {"shape": {...}, "tokens": [...], "batches": [...], "batch_tokens": N, "prompt_tokens": N,
# "steps": N}. Prints an object: versions, and rows of a way, tokens, batch, and seconds of a step
# and of a prompt, bytes of the GPU and of the host at their peak, or why there are none. The model
# has the shape that is asked for and random weights of bf16; for steps K and V are random too, for
# prompts they are computed.
import gc
import json
import sys
import time

import torch
import transformers
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM

DEVICE = "cuda"
PROMPT_ROUNDS = 2


def say(text):
    print(f"peers: {text}", file=sys.stderr, flush=True)


def make_model(shape):
    config = Qwen2Config(
        hidden_size=shape["hidden"],
        intermediate_size=shape["intermediate"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["q_heads"],
        num_key_value_heads=shape["kv_heads"],
        head_dim=shape["head_dim"],
        vocab_size=shape["vocabulary"],
        max_position_embeddings=1 << 20,
        tie_word_embeddings=False,
        attn_implementation="sdpa",
    )
    with torch.device(DEVICE):
        model = Qwen2ForCausalLM._from_config(config, dtype=torch.bfloat16)
    return model.eval(), config


def make_cache(way, config):
    if way == "resident":
        return DynamicCache(config=config)
    if way == "offloaded":
        return DynamicCache(config=config, offloading=True)
    from transformers import QuantizedCache

    backend, bits = way.split()[1], int(way.split()[2])
    return QuantizedCache(backend=backend, config=config, nbits=bits)


def fill(cache, config, tokens, batch):
    for layer in range(config.num_hidden_layers):
        size = (batch, config.num_key_value_heads, tokens, config.head_dim)
        key, value = (torch.randn(size, dtype=torch.bfloat16, device=DEVICE) for _ in range(2))
        cache.update(key, value, layer)
        del key, value
    torch.cuda.synchronize()


def run(model, ids, cache):
    out = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    token = out.logits[:, -1].float().cpu().argmax(-1)
    return token[:, None].to(DEVICE)


def median(values):
    return sorted(values)[len(values) // 2]


def step_seconds(model, config, way, tokens, batch, steps):
    cache = make_cache(way, config)
    fill(cache, config, tokens, batch)
    ids = torch.randint(1, 1000, (batch, 1), device=DEVICE)
    seconds = []
    for _ in range(steps + 1):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        ids = run(model, ids, cache)
        seconds.append(time.perf_counter() - begin)
    return median(seconds[1:])


def prompt_seconds(model, config, way, tokens):
    ids = torch.randint(1, 1000, (1, tokens), device=DEVICE)
    seconds = []
    for _ in range(PROMPT_ROUNDS + 1):
        cache = make_cache(way, config)
        torch.cuda.synchronize()
        begin = time.perf_counter()
        run(model, ids, cache)
        seconds.append(time.perf_counter() - begin)
        del cache
    return min(seconds[1:])


def peak_host_bytes():
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return 0


def forget_peaks():
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as refs:
            refs.write("5")
    except OSError:
        pass


def measure(row, key, call):
    forget_peaks()
    say(f"{row['way']}, {row['tokens']} tokens x {row['batch']}: {key}")
    try:
        with torch.no_grad():
            row[key] = call()
        row["device_bytes"] = max(row.get("device_bytes", 0), torch.cuda.max_memory_reserved())
        row["host_bytes"] = max(row.get("host_bytes", 0), peak_host_bytes())
    except torch.cuda.OutOfMemoryError:
        row["refused"] = "out of GPU memory"
    except Exception as error:  # whatever a backend finds wrong is what the row says
        words = f"{type(error).__name__}: {error}".strip()
        row["refused"] = words.split("\n")[0][:200]
    forget_peaks()


def main():
    asked = json.loads(sys.argv[1])
    with torch.no_grad():
        model, config = make_model(asked["shape"])
    rows = []
    for way in ["resident", "offloaded", "quantized quanto 4", "quantized hqq 4"]:
        for tokens in asked["tokens"]:
            row = {"way": way, "tokens": tokens, "batch": 1}
            rows.append(row)
            count = asked["steps"] if way == "resident" else max(3, asked["steps"] // 4)
            measure(row, "step_s", lambda: step_seconds(model, config, way, tokens, 1, count))
            if tokens == asked["prompt_tokens"] and "refused" not in row:
                measure(row, "prompt_s", lambda: prompt_seconds(model, config, way, tokens))
    for batch in asked["batches"]:
        tokens = asked["batch_tokens"]
        row = {"way": "resident", "tokens": tokens, "batch": batch}
        rows.append(row)
        count = asked["steps"]
        measure(
            row, "step_s", lambda: step_seconds(model, config, "resident", tokens, batch, count)
        )
        if "refused" in row:
            break
    versions = f"transformers {transformers.__version__}, PyTorch {torch.__version__}"
    print(json.dumps({"versions": versions, "rows": rows}))


main()
