# make_golden.py: tokens and logits of language models that the C++ host model must reproduce.
# SPDX-License-Identifier: Apache-2.0
"""Usage: make_golden.py random
          make_golden.py smollm2 FILE.gguf

'random' makes golden/random.gguf, a small random-weight decoder with the same metadata, tokenizer
kind and tensor types as SmolLM2's file (and F16, BF16 for good measure), and golden/random.json,
.safetensors; 'smollm2' makes golden/smollm2.json, .safetensors of the file that
tools/setup.sh --with-language-model fetches.

transformers computes on a CPU in float32 with eager attention; it decodes the GGUF file itself.
Each case of the .json has
  question       what is asked; empty if the prompt is `text` alone, without a chat around it
  text           the prompt, with its special tokens
  tokens         of the prompt
  greedy_tokens  argmax after the prompt and after each further step
  answer         text of the greedy tokens before the first end token
and in the .safetensors
  NAME.logit_ids int32 [L]         the tokens whose logits are kept
  NAME.logits    float32 [1+S,L]   after the prompt, and after feeding greedy_tokens[0..S-1]
Runs with torch 2.11, transformers 5.17, gguf 0.19, tokenizers 0.23."""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
GOLDEN = HERE / "golden"
STEPS = 8
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a small random model<|im_end|>\\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
QUESTIONS = {
    "capital": "What is the capital of France?",
    "digits": "How much is 12 + 345? Isn't it 357?",
    "spaces": "Write this again:  two  spaces,\n\ta tab\n\n\nand   lines ",
    "characters": "Was heißt «naïve» auf Deutsch? Größe 😀 — 中文 ½ ٣",
}


def pre_tokenizer():
    # As in SmolLM2's tokenizer.json: each digit alone, then GPT-2's pattern.
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )


def tokenizer_of(reader):
    """transformers 5.17 passes over tokenizer.ggml.pre, so the tokenizer is put together here."""
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    merges = reader.fields["tokenizer.ggml.merges"].contents()
    types = reader.fields["tokenizer.ggml.token_type"].contents()
    assert reader.fields["tokenizer.ggml.pre"].contents() == "smollm"
    tokenizer = Tokenizer(
        models.BPE({t: i for i, t in enumerate(tokens)}, [tuple(m.split(" ")) for m in merges])
    )
    tokenizer.pre_tokenizer = pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([t for t, kind in zip(tokens, types) if kind == 3])
    return tokenizer


def random_tokenizer():
    """512 tokens learnt from the passages; some bytes have none, as in SmolLM2's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    missing = {"Ā", "Ģ", "ñ", "õ", "ÿ"}
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=SPECIAL,
        initial_alphabet=[c for c in alphabet if c not in missing],
        show_progress=False,
    )
    tokenizer.train([str(p) for p in sorted((HERE / "text").glob("*.txt"))], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    return tokens, [" ".join(merge) for merge in model["merges"]]


def write_random_gguf(path):
    torch.manual_seed(20)
    hidden, layers, q_heads, kv_heads, head_dim, wide = 96, 2, 6, 2, 64, 128
    tokens, merges = random_tokenizer()
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(layers)
    writer.add_context_length(1024)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(wide)
    writer.add_head_count(q_heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_freq_base(100000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_rope_dimension_count(head_dim)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if t in SPECIAL else 1 for t in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_space_prefix(False)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)

    kinds = gguf.GGMLQuantizationType

    def add(name, rows, columns, kind, scale=1.0):
        values = (torch.randn(rows, columns) * scale / columns**0.5).numpy()
        if kind == kinds.F16:
            writer.add_tensor(name, values.astype(np.float16))
        else:
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)

    def add_norm(name):
        writer.add_tensor(name, (1 + 0.2 * torch.randn(hidden)).numpy())

    # What the layers add outweighs the embedding, else every token would ask for itself again.
    add("token_embd.weight", len(tokens), hidden, kinds.Q8_0, 3.0)
    for i in range(layers):
        add_norm(f"blk.{i}.attn_norm.weight")
        add_norm(f"blk.{i}.ffn_norm.weight")
        # Scores that tell tokens apart, so that rotary positions matter.
        add(f"blk.{i}.attn_q.weight", q_heads * head_dim, hidden, kinds.Q4_1, 1.5)
        add(f"blk.{i}.attn_k.weight", kv_heads * head_dim, hidden, kinds.Q4_1, 1.5)
        add(f"blk.{i}.attn_v.weight", kv_heads * head_dim, hidden, kinds.BF16 if i else kinds.Q4_1)
        add(f"blk.{i}.attn_output.weight", hidden, q_heads * head_dim, kinds.Q4_1, 4.0)
        add(f"blk.{i}.ffn_gate.weight", wide, hidden, kinds.Q4_1)
        add(f"blk.{i}.ffn_up.weight", wide, hidden, kinds.F16 if i else kinds.Q4_1)
        add(f"blk.{i}.ffn_down.weight", hidden, wide, kinds.Q4_1, 4.0)
    add_norm("output_norm.weight")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def load_model(path):
    return AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def greedy(model, prompt):
    """Logits after the prompt and after each of STEPS greedy tokens; and those tokens."""
    rows, chosen = [], []
    with torch.no_grad():
        out = model(torch.tensor([prompt]), use_cache=True)
        for _ in range(STEPS + 1):
            rows.append(out.logits[0, -1])
            chosen.append(int(rows[-1].argmax()))
            if len(chosen) <= STEPS:
                out = model(
                    torch.tensor([chosen[-1:]]),
                    past_key_values=out.past_key_values,
                    use_cache=True,
                )
    return torch.stack(rows), chosen


def kept_ids(logits):
    """All of a small vocabulary; of a large one every 512th token and the likeliest."""
    count = logits.shape[1]
    if count <= 1024:
        return torch.arange(count)
    return torch.cat([torch.arange(0, count, 512), logits.topk(8).indices.flatten()]).unique()


def write_goldens(gguf_path, name):
    reader = gguf.GGUFReader(gguf_path)
    tokenizer = tokenizer_of(reader)
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    if name == "random":
        system = "You are a small random model"
    end = reader.fields["tokenizer.ggml.eos_token_id"].contents()
    model = load_model(gguf_path)

    cases, tensors = [], {}
    passages = {p.stem: p.read_text()[:1500] for p in sorted((HERE / "text").glob("*.txt"))[:1]}
    for case, question in (QUESTIONS | dict.fromkeys(passages, "")).items():
        text = passages.get(case) or (
            f"<|im_start|>system\n{system}<|im_end|>\n"
            f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        )
        tokens = tokenizer.encode(text).ids
        logits, chosen = greedy(model, tokens)
        ids = kept_ids(logits)
        tensors[f"{case}.logit_ids"] = ids.to(torch.int32)
        tensors[f"{case}.logits"] = logits[:, ids].contiguous()
        before_end = chosen[: chosen.index(end)] if end in chosen else chosen
        answer = tokenizer.decode(before_end)
        cases.append(
            {
                "name": case,
                "question": question,
                "text": text,
                "tokens": tokens,
                "greedy_tokens": chosen,
                "answer": answer,
            }
        )
        print(f"{case}: {len(tokens)} tokens -> {answer!r}")
    GOLDEN.mkdir(exist_ok=True)
    save_file(tensors, GOLDEN / f"{name}.safetensors")
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    (GOLDEN / f"{name}.json").write_text(f'{{"cases": [\n{lines}\n]}}\n')


def main():
    if sys.argv[1:] == ["random"]:
        GOLDEN.mkdir(exist_ok=True)
        write_random_gguf(GOLDEN / "random.gguf")
        write_goldens(GOLDEN / "random.gguf", "random")
    elif len(sys.argv) == 3 and sys.argv[1] == "smollm2":
        write_goldens(Path(sys.argv[2]), "smollm2")
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
