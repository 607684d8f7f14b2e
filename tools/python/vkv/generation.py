# generation.py: a cache and an attention function for transformers' generate().
# SPDX-License-Identifier: Apache-2.0
"""`Cache` stands where transformers' DynamicCache stands. K and V go to VisualKV as they are made,
and attention of the language model is computed there, on the codes. Vision towers keep their own
attention. Roles of tokens come from the input ids: image and video placeholders are visual.
"""

import torch
import transformers
from transformers.cache_utils import CacheLayerMixin
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import (
    ALL_MASK_ATTENTION_FUNCTIONS,
    causal_mask_function,
    sdpa_mask,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from vkv._vkv import Cache as KvCache

TEXT, VISUAL, CONTROL = 0, 1, 2
WINDOW_TOKENS_MIN = 16  # fewer new tokens are a decode step or a draft, more are a prompt
OPTIONS = (
    "dram_bytes_max",
    "extent_bytes_max",
    "hbm_ahead_bytes",
    "hbm_block_bytes_max",
    "hbm_bytes_max",
    "host_share",
    "nvme_bytes_max",
    "nvme_write_bytes_per_day",
    "recent_tokens",
    "score_scale",
    "store_path",
    "threads",
)
VISUAL_NAMES = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")
CONTROL_NAMES = ("bos_token_id", "vision_start_token_id", "vision_end_token_id")


class Layer(CacheLayerMixin):
    """One layer of a Cache, which has the K and V of all of them."""

    is_sliding = False
    is_croppable = True

    def __init__(self, cache, index):
        super().__init__()
        self.cache, self.index, self.token_count = cache, index, 0

    def lazy_initialization(self, key_states, value_states):
        self.is_initialized = True

    def update(self, key_states, value_states, *args, **kwargs):
        """Takes K and V, [sequences, kv_heads, tokens, head_dim]; returns them, for `attend`."""
        self.is_initialized = True
        self.cache._append(self.index, key_states, value_states)
        self.token_count += key_states.shape[2]
        key_states._vkv_cache = self.cache
        return key_states, value_states

    def get_mask_sizes(self, query_length):
        return self.token_count + query_length, 0

    def get_seq_length(self):
        return self.token_count

    def get_max_length(self):
        return -1

    def crop(self, tokens_to_remove):
        raise NotImplementedError("crop the cache, not one layer of it")


class Cache(transformers.Cache):
    """A KV cache of VisualKV for `model.generate(..., past_key_values=cache)`.

    model: a transformers model whose language model has full causal attention in all layers. Its
    language model's attention implementation is set to "vkv", which is that of before wherever
    another cache is used.
    preset: exact, safe, balanced, visual2, visual1, extreme or onebit.
    options: those of OPTIONS, as in vkv::CacheOptions; hbm_bytes_max is needed on CUDA.

    Rows of a batch are sequences; they must be of one length, without padding. Beam search is not
    there. One generation a cache. Errors: ValueError, MemoryError for budgets that are spent,
    NotImplementedError; the words name the argument and what it may be.
    """

    def __init__(self, model, preset="exact", **options):
        for name in options:
            if name not in OPTIONS:
                known = ", ".join(OPTIONS)
                raise ValueError(f"{name} is no option of vkv.Cache; there are {known}")
        config = model.config.get_text_config(decoder=True)
        types = getattr(config, "layer_types", None) or []
        if any(kind != "full_attention" for kind in types):
            raise NotImplementedError(f"vkv needs full attention in all layers, not {set(types)}")
        self._shape = {
            "layers": config.num_hidden_layers,
            "q_heads": config.num_attention_heads,
            "kv_heads": getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
        }
        self._options = {"preset": preset, **options}
        self._visual_ids = _ids(model.config, VISUAL_NAMES)
        self._control_ids = _ids(model.config, CONTROL_NAMES) | _ids(config, CONTROL_NAMES)
        self._kv = None
        self._sequences = []
        self._roles = None
        self._scale = None
        super().__init__(layers=[Layer(self, i) for i in range(self._shape["layers"])])
        _use_vkv(model)

    # ---- What a user may ask.

    def stats(self):
        """Bytes of each tier and what was read and written, as a dict; {} before the first step."""
        return self._kv.stats() if self._kv else {}

    def sequence_stats(self, row=0):
        """Tokens and bits a value of each role, of one row of the batch."""
        return self._kv.sequence_stats(self._sequences[row])

    def engine(self):
        return self._kv.engine() if self._kv else "none yet"

    def settle(self):
        """On CUDA, before answers count: waits, and raises what the device found wrong with K and
        V (values that are not finite). Does nothing on the CPU."""
        if self._kv:
            self._kv.settle()

    # ---- What transformers asks.

    def crop(self, tokens_to_remove):
        """Drops the newest tokens of all layers, for rejected drafts."""
        count = int(tokens_to_remove)
        for sequence in self._sequences:
            self._kv.truncate(sequence, count)
        for layer in self.layers:
            layer.token_count -= count if self._sequences else 0

    def reset(self):
        """Forgets all tokens; the next ones are new sequences."""
        for sequence in self._sequences:
            self._kv.erase(sequence)
        self._sequences, self._roles = [], None
        for layer in self.layers:
            layer.token_count = 0

    def reorder_cache(self, beam_idx):
        raise NotImplementedError("vkv has no beam search: set num_beams to 1")

    def batch_repeat_interleave(self, repeats):
        raise NotImplementedError("vkv cannot repeat rows: pass the batch as it is to be")

    def batch_select_indices(self, indices):
        raise NotImplementedError("vkv cannot select rows of a batch")

    # ---- Tensors.

    def note_tokens(self, input_ids):
        """Roles of the tokens that come next, [sequences, tokens]; called before each forward."""
        roles = torch.full(input_ids.shape, TEXT, dtype=torch.uint8)
        ids = input_ids.cpu()
        for role, known in ((CONTROL, self._control_ids), (VISUAL, self._visual_ids)):
            if known:
                roles[torch.isin(ids, torch.tensor(sorted(known)))] = role
        self._roles = roles

    def _open(self, key):
        element = str(key.dtype).removeprefix("torch.")
        if element not in ("float32", "float16", "bfloat16"):
            raise ValueError(f"K has elements of {element}; they may be float32, float16, bfloat16")
        device = {"device": key.device.type}
        if key.device.type == "cuda":
            device["device_index"] = key.device.index
            # PyTorch says 0 for CUDA's default stream, whose handle, cudaStreamLegacy, is 1.
            device["stream"] = torch.cuda.current_stream(key.device).cuda_stream or 1
        if self._shape["kv_heads"] != key.shape[1]:
            raise ValueError(f"K has {key.shape[1]} heads, the model's config says otherwise")
        self._scale = self._options.get("score_scale", key.shape[3] ** -0.5)
        options = {**self._shape, **device, **self._options}
        self._kv = KvCache(head_dim=key.shape[3], element=element, **options)

    def _append(self, index, key, value):
        if self._kv is None:
            self._open(key)
        rows, _, tokens, _ = key.shape
        if not self._sequences:
            self._sequences = [self._kv.create_sequence() for _ in range(rows)]
        if rows != len(self._sequences):
            raise ValueError(f"the batch has {rows} rows, the cache {len(self._sequences)}")
        if self._roles is None or self._roles.shape != (rows, tokens):
            raise ValueError(
                f"{tokens} tokens came whose ids the cache has not seen: call the model that the "
                "cache was made for, with input_ids, or note_tokens() before"
            )
        key = key.detach().transpose(1, 2).contiguous()
        value = value.detach().transpose(1, 2).contiguous()
        for row, sequence in enumerate(self._sequences):
            self._kv.append(index, sequence, key[row], value[row], self._roles[row].numpy())

    def _attend(self, index, query, scaling):
        if scaling is not None and abs(scaling - self._scale) > 1e-6 * self._scale:
            raise ValueError(f"the model scales by {scaling}: pass score_scale={scaling} to Cache")
        q = query.detach().transpose(1, 2).contiguous()
        out = torch.empty_like(q)
        ends_window = q.shape[1] >= WINDOW_TOKENS_MIN
        self._kv.attend(index, self._sequences, q, out, ends_window)
        return out


def _ids(config, names):
    """Token ids that a config has under these names, as a set."""
    values = [getattr(config, name, None) for name in names]
    return {int(value) for value in values if isinstance(value, int)}


def _attention(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """Attention "vkv": by the cache that K came from; without one, transformers' own."""
    cache = getattr(key, "_vkv_cache", None)
    if cache is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
    if attention_mask is not None:
        raise NotImplementedError("vkv takes no attention mask beyond the causal one")
    return cache._attend(module.layer_idx, query, scaling), None


_cache_of_forward = []  # the vkv.Cache of the forward pass that is under way, innermost last


def _mask(*args, mask_function=causal_mask_function, attention_mask=None, **kwargs):
    """The mask of "vkv": none, since the cache knows what is causal; refuses all others."""
    if not _cache_of_forward or _cache_of_forward[-1] is None:
        return sdpa_mask(
            *args, mask_function=mask_function, attention_mask=attention_mask, **kwargs
        )
    if attention_mask is not None and not bool(attention_mask.all()):
        raise NotImplementedError("vkv takes no padding: batch prompts of one length, or one")
    if mask_function is not causal_mask_function:
        raise NotImplementedError("vkv has causal attention alone; the model asks for another mask")
    return None


def _before_forward(module, args, kwargs):
    cache = kwargs.get("past_key_values")
    cache = cache if isinstance(cache, Cache) else None
    _cache_of_forward.append(cache)
    input_ids = args[0] if args else kwargs.get("input_ids")
    if cache is not None and input_ids is not None:
        cache.note_tokens(input_ids)


def _after_forward(module, args, output):
    _cache_of_forward.pop()


def _use_vkv(model):
    """Sets the attention of the model's language model, once."""
    if getattr(model, "_vkv_hooked", False):
        return
    text = model.config.get_text_config(decoder=True)
    if text is model.config:
        model.set_attn_implementation("vkv")
    else:
        key = next(k for k in model.config.sub_configs if getattr(model.config, k) is text)
        model.set_attn_implementation({key: "vkv"})
    model.register_forward_pre_hook(_before_forward, with_kwargs=True)
    model.register_forward_hook(_after_forward, always_call=True)
    model._vkv_hooked = True


ALL_ATTENTION_FUNCTIONS.register("vkv", _attention)
ALL_MASK_ATTENTION_FUNCTIONS.register("vkv", _mask)
