# checkpoint.py: configuration and export of TinyVLM as a Hugging Face LLaVA checkpoint.
# SPDX-License-Identifier: Apache-2.0
import json
import shutil
from pathlib import Path

from questions import BOS_ID, EOS_ID, IMAGE, IMAGE_ID, PAD_ID, VOCAB_SIZE

MODEL_SIZE = dict(
    image=128,
    patch=8,
    vision_hidden=192,
    vision_layers=4,
    vision_heads=3,
    vision_mlp=768,
    hidden=256,
    layers=6,
    heads=4,
    kv_heads=2,
    head_dim=64,
    mlp=768,
    rope_theta=1e7,
)
RANDOM_SIZE = dict(
    image=128,
    patch=16,
    vision_hidden=64,
    vision_layers=2,
    vision_heads=2,
    vision_mlp=160,
    hidden=128,
    layers=2,
    heads=2,
    kv_heads=1,
    head_dim=64,
    mlp=224,
    rope_theta=1e6,
)


def hf_config(size):
    from transformers import LlavaConfig, Qwen2Config, SiglipVisionConfig

    vision = SiglipVisionConfig(
        hidden_size=size["vision_hidden"],
        intermediate_size=size["vision_mlp"],
        num_hidden_layers=size["vision_layers"],
        num_attention_heads=size["vision_heads"],
        image_size=size["image"],
        patch_size=size["patch"],
        hidden_act="gelu_pytorch_tanh",
        layer_norm_eps=1e-6,
        vision_use_head=False,
    )
    text = Qwen2Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=size["hidden"],
        intermediate_size=size["mlp"],
        num_hidden_layers=size["layers"],
        num_attention_heads=size["heads"],
        num_key_value_heads=size["kv_heads"],
        hidden_act="silu",
        max_position_embeddings=32768,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": size["rope_theta"]},
        tie_word_embeddings=True,
        head_dim=size["head_dim"],
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE_ID,
        projector_hidden_act="gelu",
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_seq_length=(size["image"] // size["patch"]) ** 2,
        multimodal_projector_bias=True,
        tie_word_embeddings=True,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
    )


def new_model(size):
    from transformers import LlavaForConditionalGeneration

    return LlavaForConditionalGeneration(hf_config(size))


def save(model, size, tokenizer_dir, out_dir, dtype="bfloat16"):
    """Writes a directory that LlavaForConditionalGeneration and AutoProcessor load."""
    import torch
    from transformers import GenerationConfig

    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
        do_sample=False,
        max_new_tokens=16,
    )
    model.to(getattr(torch, dtype)).save_pretrained(out_dir)
    (out_dir / "model.safetensors").chmod(0o644)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        source = Path(tokenizer_dir) / name
        if source.resolve() != (out_dir / name).resolve():
            shutil.copy(source, out_dir / name)
    side = {"height": size["image"], "width": size["image"]}
    preprocessor = {
        "image_processor_type": "SiglipImageProcessor",
        "processor_class": "LlavaProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": side,
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    processor = {
        "processor_class": "LlavaProcessor",
        "image_token": IMAGE,
        "patch_size": size["patch"],
        "num_additional_image_tokens": 0,
        "vision_feature_select_strategy": "full",
    }
    for name, content in (
        ("preprocessor_config.json", preprocessor),
        ("processor_config.json", processor),
    ):
        (out_dir / name).write_text(json.dumps(content, indent=2) + "\n")
