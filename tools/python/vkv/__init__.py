# __init__.py: VisualKV for Python: the cache itself, and vkv.Cache for transformers' models.
# SPDX-License-Identifier: Apache-2.0
"""Quantized KV caches for multimodal models in PyTorch.

    cache = vkv.Cache(model, preset="visual2", dram_bytes_max=4 << 30)
    model.generate(**inputs, past_key_values=cache)

`vkv.KvCache` is vkv::Cache of C++ with tensors by DLPack; it needs no PyTorch.
"""

from vkv._vkv import Cache as KvCache
from vkv._vkv import __version__

__all__ = ["Cache", "KvCache", "__version__"]


def __getattr__(name):
    """vkv.Cache, imported when it is asked for: transformers takes seconds."""
    if name == "Cache":
        from vkv.generation import Cache

        return Cache
    raise AttributeError(f"vkv has no {name}")
