# make_golden.py: token ids, pixels and logits that the C++ host model must reproduce.
# SPDX-License-Identifier: Apache-2.0
"""Usage: make_golden.py random|trained

'random' also makes the small random-weight checkpoint of the same architecture.  Everything is
computed by transformers on a CPU in float32 with eager attention; the weights are stored in
bfloat16, so they are exactly representable.  Each case NAME of cases.json has NAME.safetensors:
  input_ids      int64 [T]        prompt with each <image> expanded to image_seq_length ids
  pixel_values   float32 [N,3,H,W] what the image processor gave (only where "pixels" is true)
  image_features float32 [P,D]    projector output of the first image (only where it has images)
  prompt_logits  float32 [V]      logits at the last prompt position
  step_logits    float32 [8,V]    logits after feeding greedy_tokens[0..7] one by one
  greedy_tokens  int64 [9]        argmax of prompt_logits, then of step_logits[0..7]
(eos does not stop the steps)."""

import json
import sys
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

import build_tokenizer
import checkpoint
from questions import COLOR_NAMES, EOS_ID, KINDS, build_prompt
from render import Renderer

HERE = Path(__file__).parent


def make_images(folder):
    """Eight frames numbered 00..07 and an odd-sized picture; returns nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(20)
    kind = torch.randperm(len(KINDS), generator=generator)[:8]
    color = torch.randperm(len(COLOR_NAMES), generator=generator)
    frames = Renderer("cpu")(kind, color, torch.arange(8), generator)
    for i, frame in enumerate(frames):
        Image.fromarray(frame.permute(1, 2, 0).numpy()).save(folder / f"frame{i}.png")
    big = torch.nn.functional.interpolate(frames[3:4].float(), size=(240, 320), mode="bilinear")
    big = big + torch.linspace(-20, 20, 320)[None, None, None, :]
    big = big.clamp(0, 255).round().to(torch.uint8)[0]
    Image.fromarray(big.permute(1, 2, 0).numpy()).save(folder / "large_320x240.png")


CASES = [
    ("text_only", [], "Is there a triangle?", False),
    ("one_image", ["frame0.png"], "what color is the shape?", False),
    ("resized_image", ["large_320x240.png"], "What is in frame 03?", True),
    (
        "three_images",
        ["frame1.png", "large_320x240.png", "frame2.png"],
        "How many frames show red?",
        False,
    ),
    ("video_8_frames", [f"frame{i}.png" for i in range(8)], "What is in frame 05?", False),
]


def random_checkpoint(out_dir):
    torch.manual_seed(7)
    model = checkpoint.new_model(checkpoint.RANDOM_SIZE)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                p.uniform_(0.6, 1.4)
            elif name.endswith("bias"):
                p.normal_(0, 0.3)
            elif "embed" in name and "patch" not in name:
                p.normal_(0, 0.12)
            else:
                fan_in = p[0].numel()
                p.normal_(0, 1.6 / fan_in**0.5)
    build_tokenizer.build(out_dir)
    checkpoint.save(model, checkpoint.RANDOM_SIZE, out_dir, out_dir)


def greedy(model, inputs):
    """Logits at the last prompt position and of 8 greedy steps, with a KV cache."""
    out = model(**inputs, use_cache=True, logits_to_keep=1)
    logits = [out.logits[0, -1]]
    tokens = [int(logits[0].argmax())]
    for _ in range(8):
        out = model(
            input_ids=torch.tensor([[tokens[-1]]]),
            past_key_values=out.past_key_values,
            use_cache=True,
        )
        logits.append(out.logits[0, -1])
        tokens.append(int(logits[-1].argmax()))
    return logits, tokens


@torch.no_grad()
def write_goldens(model_dir, out_dir, image_dir):
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    processor = AutoProcessor.from_pretrained(model_dir)
    model = LlavaForConditionalGeneration.from_pretrained(
        model_dir, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    out_dir.mkdir(parents=True, exist_ok=True)
    cases = []
    for name, images, question, pixels in CASES:
        prompt = build_prompt(question, len(images))
        pictures = [Image.open(image_dir / i) for i in images]
        inputs = processor(text=prompt, images=pictures or None, return_tensors="pt")
        inputs = {
            k: v for k, v in inputs.items() if k in ("input_ids", "attention_mask", "pixel_values")
        }
        logits, tokens = greedy(model, inputs)
        tensors = {
            "input_ids": inputs["input_ids"][0],
            "prompt_logits": logits[0],
            "step_logits": torch.stack(logits[1:]),
            "greedy_tokens": torch.tensor(tokens),
        }
        case = {
            "name": name,
            "prompt": prompt,
            "images": images,
            "pixels": pixels,
            "num_prompt_tokens": int(inputs["input_ids"].shape[1]),
            "greedy_tokens": tokens,
            "answer": processor.tokenizer.decode(
                (tokens + [EOS_ID])[: (tokens + [EOS_ID]).index(EOS_ID)]
            ),
        }
        if images:
            features = model.model.get_image_features(
                pixel_values=inputs["pixel_values"][:1],
                vision_feature_layer=-1,
                vision_feature_select_strategy="full",
                return_dict=True,
            ).pooler_output[0]
            tensors["image_features"] = features.reshape(-1, features.shape[-1])
            case["pixel_values_sum"] = float(inputs["pixel_values"].double().sum())
            case["pixel_values_sum_of_squares"] = float(
                (inputs["pixel_values"].double() ** 2).sum()
            )
        if pixels:
            tensors["pixel_values"] = inputs["pixel_values"]
        save_file(
            {k: v.contiguous() for k, v in tensors.items()}, str(out_dir / f"{name}.safetensors")
        )
        cases.append(case)
        # The whole prompt and the greedy tokens in one pass must say the same.
        full = torch.cat([inputs["input_ids"][0], torch.tensor(tokens[:8])])[None]
        again = model(input_ids=full, pixel_values=inputs.get("pixel_values")).logits[0, -9:]
        top = torch.stack(logits).topk(2).values
        case["smallest_margin"] = float((top[:, 0] - top[:, 1]).min())
        difference = (again - torch.stack(logits)).abs().max().item()
        print(
            f"{name}: {case['num_prompt_tokens']} tokens, logits std "
            f"{logits[0].std():.3f}, cache vs. one pass {difference:.2e}, "
            f"margin {case['smallest_margin']:.3f}, {tokens}"
        )
        assert difference < 1e-3
    text = json.dumps(
        {"image_processor": type(processor.image_processor).__name__, "cases": cases}, indent=1
    )
    (out_dir / "cases.json").write_text(text + "\n")


def main():
    which = sys.argv[1]
    image_dir = HERE / "golden" / "images"
    make_images(image_dir)
    if which == "random":
        random_checkpoint(HERE / "golden" / "random")
        write_goldens(HERE / "golden" / "random", HERE / "golden" / "random" / "cases", image_dir)
    else:
        write_goldens(HERE / "model", HERE / "golden" / "trained", image_dir)


if __name__ == "__main__":
    main()
