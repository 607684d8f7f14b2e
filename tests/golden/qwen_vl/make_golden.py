# make_golden.py: writes random Qwen2-VL and Qwen2.5-VL checkpoints, and what transformers computes.
# SPDX-License-Identifier: Apache-2.0
"""Usage: python make_golden.py (needs torch, torchvision, transformers 5.17)

qwen2_5_vl is in shards, with the nested configuration that transformers 5 writes; qwen2_vl is one
file with the flat configuration, rope_scaling and preprocessor_config.json of the published
checkpoints, and an output matrix of its own.  Both have weights in fp16 and a small byte-level
tokenizer.  golden.safetensors of each, CASE one of image, images, video:

  CASE.input_ids [T], CASE.positions [3, T], CASE.grid [media, 3], CASE.features [tokens, hidden],
  CASE.logits [last 6 positions, V], and in the first CASE.patches [patches, values] of images and
  video, which are the same in both; fp32, eager attention

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
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

HERE = Path(__file__).parent
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
           "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
TEXTS = ["What is in the picture? Describe the scene in one word.", "How many frames are there?",
         "The red shape moves to the left of the image, then to the right of the scene."]
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")
# What the published template gives for one turn of the user.
TEMPLATE = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}"
    "{% if c.type == 'text' %}{{ c.text }}{% else %}"
    "<|vision_start|><|{{ c.type }}_pad|><|vision_end|>{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if true %}<|im_start|>assistant\n{% endif %}"
)
ANSWER = [70, 300, 71, 100]
PIXELS = {"shortest_edge": 16 * 16, "longest_edge": 40 * 32}


def new_tokenizer(path):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=296, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(TEXTS, trainer)
    assert tokenizer.get_vocab_size() == 296
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(path), pretty=False)
    return PreTrainedTokenizerFast(tokenizer_file=str(path), eos_token="<|im_end|>",
                                   pad_token="<|endoftext|>", chat_template=TEMPLATE)


def new_model(cls, config):
    torch.manual_seed(5)
    model = cls._from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name or "ln_q" in name:
                p.uniform_(0.6, 1.4) if name.endswith("weight") else p.normal_(0, 0.2)
            elif name.endswith("bias") or "embed_tokens" in name:
                p.normal_(0, 0.3)
            else:
                p.normal_(0, 1.3 / p[0].numel() ** 0.5)
            p.copy_(p.to(torch.float16))  # so that the stored weights are exact
    return model


def media(rng):
    def smooth(frames, height, width):
        y, x = np.mgrid[0:height, 0:width]
        t = np.arange(frames)[:, None, None]
        waves = [127 + 100 * np.sin(y / (3 + c) + x / (5 - c) + 0.7 * t * (c + 1))
                 for c in range(3)]
        noise = rng.integers(-20, 20, (frames, height, width, 3))
        return np.clip(np.stack(waves, -1) + noise, 0, 255).astype(np.uint8)

    return {"wide": smooth(1, 22, 45), "tall": smooth(1, 37, 13), "clip": smooth(5, 26, 34)}


CASES = [
    {"name": "image", "media": ["wide"], "question": "What is in the picture?"},
    {"name": "images", "media": ["tall", "wide"], "question": "Which one is taller?"},
    {"name": "video", "media": ["clip"], "question": "How many frames are there?"},
]


def trained_positions(ids, kinds, grids, step_positions):
    """As the models were trained (and transformers before 5 has it): what follows a picture or
    video begins behind all of its positions, also those in time."""
    positions, grids, i = [], [tuple(g) for g in grids.tolist()], 0
    while i < len(ids):
        begin = max(max(p) for p in positions) + 1 if positions else 0
        if kinds[i] == 0:
            positions.append((begin,) * 3)
            i += 1
            continue
        t, h, w = grids.pop(0)
        h, w = h // 2, w // 2
        positions += [(begin + int(a * step_positions), begin + b, begin + c)
                      for a in range(t) for b in range(h) for c in range(w)]
        i += t * h * w
    return torch.tensor(positions).T[:, None]


def golden(model, processor, arrays, with_patches):
    tensors = {}
    for case in CASES:
        kind = "video" if case["name"] == "video" else "image"
        content = [{"type": kind} for _ in case["media"]]
        content.append({"type": "text", "text": case["question"]})
        text = processor.apply_chat_template([{"role": "user", "content": content}])
        if kind == "video":
            frames = torch.from_numpy(arrays["clip"]).permute(0, 3, 1, 2)
            meta = {"fps": 1.0, "total_num_frames": 5, "frames_indices": list(range(5))}
            inputs = processor(text=[text], videos=[frames], video_metadata=[meta],
                               return_tensors="pt")
        else:
            images = [torch.from_numpy(arrays[m][0]).permute(2, 0, 1) for m in case["media"]]
            inputs = processor(text=[text], images=images, return_tensors="pt")
        inputs = dict(inputs)
        inputs.pop("attention_mask")
        added = torch.tensor([ANSWER])
        inputs["input_ids"] = torch.cat([inputs["input_ids"], added], 1)
        inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], 0 * added], 1)
        grid = inputs.get("image_grid_thw", inputs.get("video_grid_thw"))
        patches = inputs.get("pixel_values", inputs.get("pixel_values_videos"))
        seconds = inputs.get("second_per_grid_ts")
        print(case["name"], "grid", grid.tolist(), "tokens", inputs["input_ids"].shape[1], seconds)
        with torch.no_grad():
            step_positions = 1 if seconds is None else 2 * float(seconds[0])  # 2: tokens_per_second
            positions = trained_positions(inputs["input_ids"][0].tolist(),
                                          inputs["mm_token_type_ids"][0].tolist(), grid,
                                          step_positions)
            theirs, _ = model.model.get_rope_index(
                inputs["input_ids"], inputs["mm_token_type_ids"], inputs.get("image_grid_thw"),
                inputs.get("video_grid_thw"), second_per_grid_ts=seconds)
            # 5.17: what follows a video overlaps it in time, if the video is long.
            assert torch.equal(positions, theirs) == (seconds is None)
            features = model.model.visual(patches, grid_thw=grid).pooler_output
            logits = model(**inputs, position_ids=positions).logits[0, -6:]
        if case["name"] != "image" and with_patches:
            tensors[f"{case['name']}.patches"] = patches.contiguous().clone()
        tensors |= {
            f"{case['name']}.{key}": value.contiguous().clone()
            for key, value in {"input_ids": inputs["input_ids"][0], "positions": positions[:, 0],
                               "grid": grid, "features": features, "logits": logits}.items()
        }
    return tensors


def text_fields():
    return dict(vocab_size=320, hidden_size=64, intermediate_size=48, num_hidden_layers=2,
                num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=512,
                rms_norm_eps=1e-6, bos_token_id=296, eos_token_id=298)


def tokens():
    return dict(image_token_id=302, video_token_id=303, vision_start_token_id=299,
                vision_end_token_id=300)


def write(folder, model, processor_class, arrays, with_patches, **save):
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.safetensors"):
        old.unlink()
    tokenizer = new_tokenizer(folder / "tokenizer.json")
    settings = dict(size=dict(PIXELS), patch_size=4, merge_size=2, temporal_patch_size=2)
    processor = processor_class(Qwen2VLImageProcessor(**settings), tokenizer,
                                Qwen2VLVideoProcessor(**settings), chat_template=TEMPLATE)
    tensors = golden(model, processor, arrays, with_patches)
    model.to(torch.float16).save_pretrained(folder, **save)
    save_file(tensors, folder / "golden.safetensors")
    return processor


def write_2_5(arrays):
    config = Qwen2_5_VLConfig(
        text_config=text_fields() | {"rope_parameters": {
            "rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]}},
        vision_config=dict(depth=3, hidden_size=32, intermediate_size=40, num_heads=2, patch_size=4,
                           out_hidden_size=64, window_size=24, fullatt_block_indexes=[1],
                           tokens_per_second=2),
        tie_word_embeddings=True, **tokens())
    model = new_model(Qwen2_5_VLForConditionalGeneration, config)
    folder = HERE / "qwen2_5_vl"
    processor = write(folder, model, Qwen2_5_VLProcessor, arrays, True, max_shard_size="90KB")
    processor.image_processor.save_pretrained(folder)
    both = {"image_processor": json.loads((folder / "preprocessor_config.json").read_text())}
    both["video_processor"] = json.loads(processor.video_processor.to_json_string())
    (folder / "processor_config.json").write_text(json.dumps(both, indent=1, sort_keys=True) + "\n")
    (folder / "preprocessor_config.json").unlink()


def write_2(arrays):
    config = Qwen2VLConfig(
        text_config=text_fields() | {"rope_parameters": {
            "rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]}},
        vision_config=dict(depth=2, embed_dim=32, hidden_size=64, mlp_ratio=2, num_heads=2,
                           patch_size=4),
        tie_word_embeddings=False, **tokens())
    model = new_model(Qwen2VLForConditionalGeneration, config)
    folder = HERE / "qwen2_vl"
    write(folder, model, Qwen2VLProcessor, arrays, False)
    # As the published checkpoints are.
    nested = json.loads((folder / "config.json").read_text())
    vision = nested["vision_config"]
    flat = text_fields() | tokens() | {
        "architectures": ["Qwen2VLForConditionalGeneration"], "model_type": "qwen2_vl",
        "hidden_act": "silu", "rope_theta": 1e6, "sliding_window": 32768, "torch_dtype": "float16",
        "use_sliding_window": False, "max_window_layers": 2, "tie_word_embeddings": False,
        "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
        "vision_config": {"depth": 2, "embed_dim": 32, "mlp_ratio": 2, "num_heads": 2,
                          "in_chans": 3, "hidden_size": 64, "patch_size": 4,
                          "model_type": "qwen2_vl", "spatial_merge_size": 2,
                          "spatial_patch_size": 4,
                          "temporal_patch_size": 2},
    }
    assert vision["embed_dim"] == 32
    (folder / "config.json").write_text(json.dumps(flat, indent=1, sort_keys=True) + "\n")
    preprocessor = {"min_pixels": PIXELS["shortest_edge"], "max_pixels": PIXELS["longest_edge"],
                    "patch_size": 4, "temporal_patch_size": 2, "merge_size": 2,
                    "image_mean": [0.48145466, 0.4578275, 0.40821073],
                    "image_std": [0.26862954, 0.26130258, 0.27577711],
                    "image_processor_type": "Qwen2VLImageProcessor",
                    "processor_class": "Qwen2VLProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=1) + "\n")


def main():
    arrays = media(np.random.default_rng(3))
    for name, array in arrays.items():
        np.save(HERE / f"{name}.npy", array)
    (HERE / "cases.json").write_text(json.dumps({"cases": CASES}, indent=1) + "\n")
    write_2_5(arrays)
    write_2(arrays)
    shutil.rmtree(HERE / "__pycache__", ignore_errors=True)


main()
