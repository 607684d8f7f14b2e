# export.py: turns the weights that train.py wrote into a Hugging Face checkpoint directory.
# SPDX-License-Identifier: Apache-2.0
"""Usage: export.py model.safetensors OUT_DIR"""

import sys

import torch
from safetensors.torch import load_file

import build_tokenizer
import checkpoint


def main():
    weights = load_file(sys.argv[1])
    model = checkpoint.new_model(checkpoint.MODEL_SIZE)
    own = {}
    for name, value in weights.items():  # names in the file -> names in memory
        own["model." + name.replace("language_model.model.", "language_model.")] = value
    own["lm_head.weight"] = own["model.language_model.embed_tokens.weight"]
    model.load_state_dict({k: v.float() for k, v in own.items()}, strict=True)
    build_tokenizer.build(sys.argv[2])
    checkpoint.save(model, checkpoint.MODEL_SIZE, sys.argv[2], sys.argv[2])
    count = sum(p.numel() for p in model.parameters())
    print(f"{count / 1e6:.2f} M parameters", torch.__version__)


if __name__ == "__main__":
    main()
