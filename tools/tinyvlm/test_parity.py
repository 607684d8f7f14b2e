# test_parity.py: the training network and the exported checkpoint agree.
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration

import checkpoint
from net import TinyVlm

HERE = Path(__file__).parent


@torch.no_grad()
def main():
    golden = load_file(str(HERE / "golden" / "trained" / "resized_image.safetensors"))
    net = TinyVlm(checkpoint.MODEL_SIZE).eval()
    weights = load_file(str(HERE / "model" / "model.safetensors"))
    net.load_state_dict({k: v.float() for k, v in weights.items()}, strict=True)
    frames = ((golden["pixel_values"] * 0.5 + 0.5) * 255).round().to(torch.uint8)
    prompt = golden["input_ids"]
    tail = prompt[prompt != 3][1:]  # the text after <s> and the image tokens
    tokens = torch.cat([tail, golden["greedy_tokens"][:8]])[None, None]
    logits = net.decode(net.features(frames), tokens)[0, 0, len(tail) - 1 :]
    want = torch.cat([golden["prompt_logits"][None], golden["step_logits"]])
    print("largest difference from the goldens:", (logits - want).abs().max().item())
    assert (logits - want).abs().max() < 2e-3
    model = LlavaForConditionalGeneration.from_pretrained(HERE / "model", dtype=torch.float32)
    hf = model(
        input_ids=torch.cat([prompt, golden["greedy_tokens"][:8]])[None],
        pixel_values=golden["pixel_values"],
    ).logits[0, -9:]
    print("largest difference from transformers (sdpa):", (logits - hf).abs().max().item())
    assert (logits - hf).abs().max() < 2e-3


if __name__ == "__main__":
    main()
