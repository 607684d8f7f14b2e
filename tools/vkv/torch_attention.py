# torch_attention.py: how fast PyTorch attends at 16 bit to the lengths that `vkv bench attend` has.
# SPDX-License-Identifier: Apache-2.0
#
# python -c SCRIPT Q_HEADS KV_HEADS HEAD_DIM TOKENS BATCH Q_LEN
#
# Prints a JSON object: the version, and for each way its name and seconds of a call, or why it does
# not work. K and V are bf16 in device memory. With many queries Q_LEN tokens more are theirs, seen
# causally.
import json
import sys
import warnings

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

ROUNDS = 15
CACHE_BYTES = 256 << 20  # several times any L2
PREFILL_MIN = 17  # queries
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


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
    q_heads, kv_heads, head_dim, tokens, batch, q_len = map(int, sys.argv[1:7])
    if q_len >= PREFILL_MIN:
        tokens += q_len

    def random(heads, rows):
        return torch.randn(batch, heads, rows, head_dim, device="cuda", dtype=torch.bfloat16)

    layer_bytes = 4 * batch * kv_heads * tokens * head_dim
    q = random(q_heads, q_len)
    layers = [
        (q, random(kv_heads, tokens), random(kv_heads, tokens))
        for _ in range(max(4, -(-CACHE_BYTES // layer_bytes)))
    ]
    rows = []
    for name, call in ways(q_heads // kv_heads, q_len, tokens):
        try:
            with torch.no_grad():
                rows.append({"way": name, "seconds": median_seconds(call, layers)})
        except (RuntimeError, ValueError, TypeError) as error:
            rows.append({"way": name, "refused": str(error).splitlines()[0]})
    print(json.dumps({"version": torch.__version__, "rows": rows}))


main()
