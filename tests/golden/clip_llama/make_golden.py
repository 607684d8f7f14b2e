# make_golden.py: writes a random LLaVA of the other kind, and what transformers computes with it.
# SPDX-License-Identifier: Apache-2.0
"""Usage: python make_golden.py (needs torch, transformers 5.17)

TinyVLM is SigLIP + Qwen2 with tied embeddings, last layer, all rows.  This one is CLIP + Llama with
an output matrix, the last layer but one, and no class token; its tensors have the names that
transformers 4.52 to 4.57 wrote.  golden.safetensors: pixel_values [2,3,H,W], features [2,P,D],
input_ids [T], logits [T,V]; fp32, eager attention."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

HERE = Path(__file__).parent
IMAGE = 5


def new_model():
    vision = CLIPVisionConfig(
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=80,
        image_size=44,
        patch_size=14,
    )
    text = LlamaConfig(
        vocab_size=96,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=24,
        intermediate_size=72,
        max_position_embeddings=256,
        tie_word_embeddings=False,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=9,
        tie_word_embeddings=False,
    )
    torch.manual_seed(11)
    model = LlavaForConditionalGeneration._from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name or "layrnorm" in name:
                p.uniform_(0.6, 1.4) if name.endswith("weight") else p.normal_(0, 0.2)
            elif name.endswith("bias") or "embed" in name and "patch" not in name:
                p.normal_(0, 0.3)
            else:
                p.normal_(0, 1.3 / p[0].numel() ** 0.5)
            p.copy_(p.to(torch.float16))  # so that the stored weights are exact
    return model


def main():
    model = new_model()
    pixels = torch.randn(2, 3, 44, 44)
    ids = torch.tensor([[1, 7] + [IMAGE] * 9 + [20, 21] + [IMAGE] * 9 + [30, 31, 32, 33, 34]])
    with torch.no_grad():
        features = torch.stack(list(model.get_image_features(pixels).pooler_output))
        logits = model(input_ids=ids, pixel_values=pixels).logits[0]

    model.to(torch.float16).save_pretrained(HERE)
    weights = load_file(HERE / "model.safetensors")

    def old_name(name):
        for new, old in (
            ("language_model.model.", "model.language_model."),
            ("vision_tower.", "model.vision_tower.vision_model."),
            ("multi_modal_projector.", "model.multi_modal_projector."),
            ("language_model.lm_head.", "lm_head."),
        ):
            if name.startswith(new):
                return old + name[len(new) :]
        raise SystemExit(f"unexpected tensor {name}")

    save_file(
        {old_name(k): v for k, v in weights.items()},
        HERE / "model.safetensors",
        metadata={"format": "pt"},
    )
    save_file(
        {"pixel_values": pixels, "features": features, "logits": logits, "input_ids": ids[0]},
        HERE / "golden.safetensors",
    )


main()
