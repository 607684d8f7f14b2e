# torch_attention.py: how fast PyTorch attends at 16 bit to the lengths that `vkv bench attend` and
# `vkv bench cpu` have.
# SPDX-License-Identifier: Apache-2.0
#
# python -c SCRIPT Q_HEADS KV_HEADS HEAD_DIM TOKENS BATCH Q_LEN CPU_THREADS
#
# Prints a JSON object: the version, and for each way its name and seconds of a call, or why it does
# not work. K and V are bf16 in device memory, or in the CPU's if
# CPU_THREADS is not 0. With many queries Q_LEN tokens more are theirs, seen causally, on the GPU.
import json
import sys
import time
import warnings

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

ROUNDS = 15
CPU_ROUNDS = 3
CACHE_BYTES = 256 << 20  # several times any L2
PREFILL_MIN = 17  # queries
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


def median_cpu_seconds(call, layers):
    seconds = []
    for _ in range(CPU_ROUNDS + 1):
        begin = time.perf_counter()
        for layer in layers:
            call(*layer)
        seconds.append(time.perf_counter() - begin)
    return sorted(seconds[1:])[CPU_ROUNDS // 2] / len(layers)


def median_seconds(call, layers):
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    milliseconds = []
    for _ in range(ROUNDS + 1):
        begin.record()
        for layer in layers:
            call(*layer)
        end.record()
        end.synchronize()
        milliseconds.append(begin.elapsed_time(end))
    return sorted(milliseconds[1:])[ROUNDS // 2] * 1e-3 / len(layers)


def cpu_ways(group):
    def attend(q, k, v):
        return scaled_dot_product_attention(q, k, v, **({"enable_gqa": True} if group > 1 else {}))

    yield "scaled_dot_product_attention", attend


def ways(group, q_len, tokens):
    """Names and functions of q, k and v; some do not work everywhere."""
    prefill = q_len >= PREFILL_MIN

    def attend(q, k, v, backend, expand, mask):
        if expand:
            k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
        gqa = {"enable_gqa": True} if group > 1 and not expand else {}
        if backend is None:
            return scaled_dot_product_attention(q, k, v, attn_mask=mask, **gqa)
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(q, k, v, attn_mask=mask, **gqa)

    # "plain" ways let every query see all.
    for name, backend in BACKENDS.items():
        for expand in (False, True) if group > 1 else (False,):
            suffix = ", K and V expanded first" if expand else ""
            plain = "plain, " if prefill else ""
            yield plain + name + suffix, lambda *x, b=backend, e=expand: attend(*x, b, e, None)
    if prefill:
        mask = causal_lower_right(q_len, tokens)
        for expand in (False, True) if group > 1 else (False,):
            suffix = ", K and V expanded first" if expand else ""
            yield "causal" + suffix, lambda *x, e=expand: attend(*x, None, e, mask)


def main():
    warnings.simplefilter("ignore")  # about ways that do not work
    q_heads, kv_heads, head_dim, tokens, batch, q_len, cpu_threads = map(int, sys.argv[1:8])
    if cpu_threads:
        torch.set_num_threads(cpu_threads)
    elif q_len >= PREFILL_MIN:
        tokens += q_len
    device = "cpu" if cpu_threads else "cuda"

    def random(heads, rows):
        return torch.randn(batch, heads, rows, head_dim, device=device, dtype=torch.bfloat16)

    layer_bytes = 4 * batch * kv_heads * tokens * head_dim
    q = random(q_heads, q_len)
    layers = [
        (q, random(kv_heads, tokens), random(kv_heads, tokens))
        for _ in range(max(2 if cpu_threads else 4, -(-CACHE_BYTES // layer_bytes)))
    ]
    rows = []
    group = q_heads // kv_heads
    for name, call in cpu_ways(group) if cpu_threads else ways(group, q_len, tokens):
        try:
            with torch.no_grad():
                measure = median_cpu_seconds if cpu_threads else median_seconds
                rows.append({"way": name, "seconds": measure(call, layers)})
        except (RuntimeError, ValueError, TypeError) as error:
            rows.append({"way": name, "refused": str(error).splitlines()[0]})
    print(json.dumps({"version": torch.__version__, "rows": rows}))


main()
