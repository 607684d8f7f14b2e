# make_golden.py: writes a random LLaVA-OneVision checkpoint, and what transformers makes of it.
# SPDX-License-Identifier: Apache-2.0
"""Usage: python make_golden.py (needs torch, torchvision, transformers 5.17)

Pictures are those of ../qwen_vl and large.npy, whose tokens are more than vision_aspect_ratio lets
a picture have.  golden.safetensors, CASE one of tiles, large, squares, video:

  CASE.input_ids [T], CASE.pixels [tiles, 3, H, W], CASE.features [tokens, hidden],
  CASE.logits [last 6 positions, V]; fp32, eager attention

Prompts end with the four tokens ANSWER, as if the model had said them.  cases.json: the questions.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)

HERE = Path(__file__).parent
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"]
TEXTS = [
    "What is in the picture? Describe the scene in one word.",
    "How many frames are there?",
    "The red shape moves to the left of the image, then to the right of the scene.",
]
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# What the published template gives for one turn of the user.
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role + ' ' }}"
    "{% for c in m.content %}{% if c.type != 'text' %}<{{ c.type }}>{% endif %}{% endfor %}"
    "{% for c in m.content %}{% if c.type == 'text' %}{{ '\n' + c.text }}{% endif %}{% endfor %}"
    "<|im_end|>{% endfor %}{{ '<|im_start|>assistant\n' }}"
)
ANSWER = [70, 290, 71, 100]
EDGE = 28  # 7 x 7 patches: an odd number, as in the published tower
SIZES = [[28, 28], [28, 56], [56, 28], [56, 56], [28, 84], [84, 28]]
CASES = [
    {"name": "tiles", "media": ["../qwen_vl/wide"], "question": "What is in the picture?"},
    {"name": "large", "media": ["large"], "question": "Describe the scene."},
    {
        "name": "squares",
        "media": ["../qwen_vl/tall", "../qwen_vl/wide"],
        "question": "Which one is taller?",
    },
    {"name": "video", "media": ["../qwen_vl/clip"], "question": "How many frames are there?"},
]


def new_tokenizer(path):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=296, show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXTS, trainer)
    assert tokenizer.get_vocab_size() == 296
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(path), pretty=False)
    return PreTrainedTokenizerFast(
        tokenizer_file=str(path),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=TEMPLATE,
    )


def new_model():
    vision = SiglipVisionConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=40,
        image_size=EDGE,
        patch_size=4,
        vision_use_head=False,
    )
    text = Qwen2Config(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        bos_token_id=296,
        eos_token_id=298,
        tie_word_embeddings=True,
    )
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=299,
        video_token_index=300,
        image_grid_pinpoints=SIZES,
        vision_aspect_ratio="anyres_max_2",
        tie_word_embeddings=True,
    )
    torch.manual_seed(9)
    cls = LlavaOnevisionForConditionalGeneration
    model = cls._from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.uniform_(0.6, 1.4) if name.endswith("weight") else p.normal_(0, 0.2)
            elif name.endswith("bias") or "embed_tokens" in name or p.dim() == 1:
                p.normal_(0, 0.3)
            else:
                p.normal_(0, 1.3 / p[0].numel() ** 0.5)
            p.copy_(p.to(torch.float16))  # so that the stored weights are exact
    return model


def golden(model, processor):
    tensors = {}
    for case in CASES:
        kind = "video" if case["name"] == "video" else "image"
        content = [{"type": kind} for _ in case["media"]]
        content.append({"type": "text", "text": case["question"]})
        text = processor.apply_chat_template([{"role": "user", "content": content}])
        arrays = [torch.from_numpy(np.load(HERE / f"{m}.npy")) for m in case["media"]]
        if kind == "video":
            frames = arrays[0].permute(0, 3, 1, 2)
            inputs = processor(text=[text], videos=[frames], return_tensors="pt")
        else:
            # A list in a list: the pictures of one prompt.
            images = [[a[0].permute(2, 0, 1) for a in arrays]]
            inputs = processor(text=[text], images=images, return_tensors="pt")
        inputs = dict(inputs)
        inputs.pop("attention_mask")
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([ANSWER])], 1)
        with torch.no_grad():
            if kind == "video":
                pixels = inputs["pixel_values_videos"]
                features = model.model.get_video_features(pixels).pooler_output[0]
                features = torch.cat([features, model.model.image_newline[None]])
            else:
                pixels = inputs["pixel_values"]
                features = model.model.get_image_features(
                    pixels, inputs["image_sizes"], batch_num_images=inputs["batch_num_images"]
                ).pooler_output
                features = torch.cat(list(features))
            logits = model(**inputs).logits[0, -6:]
        print(case["name"], pixels.shape, features.shape, inputs["input_ids"].shape)
        tensors |= {
            f"{case['name']}.{key}": value.contiguous().clone()
            for key, value in {
                "input_ids": inputs["input_ids"][0],
                "pixels": pixels.flatten(0, 1),
                "features": features,
                "logits": logits,
            }.items()
        }
    return tensors


def main():
    rng = np.random.default_rng(4)
    y, x = np.mgrid[0:60, 0:52]
    waves = [127 + 100 * np.sin(y / (3 + c) + x / (5 - c)) for c in range(3)]
    noise = rng.integers(-20, 20, (1, 60, 52, 3))
    large = np.clip(np.stack(waves, -1)[None] + noise, 0, 255).astype(np.uint8)
    np.save(HERE / "large.npy", large)
    (HERE / "cases.json").write_text(json.dumps({"cases": CASES}, indent=1) + "\n")
    model = new_model()
    tokenizer = new_tokenizer(HERE / "tokenizer.json")
    settings = dict(size={"height": EDGE, "width": EDGE})
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(image_grid_pinpoints=SIZES, **settings),
        tokenizer,
        LlavaOnevisionVideoProcessor(**settings),
        num_image_tokens=49,
        vision_feature_select_strategy="full",
        chat_template=TEMPLATE,
        vision_aspect_ratio="anyres_max_2",
    )
    tensors = golden(model, processor)
    processor.image_processor.save_pretrained(HERE)
    video = json.loads(processor.video_processor.to_json_string())
    (HERE / "video_preprocessor_config.json").write_text(json.dumps(video, indent=1) + "\n")
    model.to(torch.float16).save_pretrained(HERE)
    save_file(tensors, HERE / "golden.safetensors")
    shutil.rmtree(HERE / "__pycache__", ignore_errors=True)


main()
