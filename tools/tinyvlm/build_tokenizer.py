# build_tokenizer.py: builds the byte-level BPE tokenizer from questions and answers.
# SPDX-License-Identifier: Apache-2.0
import json
import sys
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from questions import (
    BOS,
    COLOR_NAMES,
    EOS,
    IMAGE,
    KINDS,
    PAD,
    VIDEO_TEMPLATES,
    VOCAB_SIZE,
    question_suffix,
)

# The split pattern of Qwen2's tokenizer: every digit is a token of its own.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def corpus():
    import easy_vqa

    questions, answers, _ = easy_vqa.get_train_questions()
    texts = [question_suffix(q) + " " + a for q, a in zip(questions, answers)]
    for kind in KINDS:
        for color in COLOR_NAMES:
            for template in VIDEO_TEMPLATES.values():
                question = template.format(n="00", color=color, kind=kind)
                texts += [question_suffix(question) + f" {color} {kind}"] * 4
    # A little plain English, so that a prompt of another wording is not all bytes.
    texts += [
        "describe the picture and the video: what do you see in the first, second or last image?",
        "list every object, its shape, its color and its position, then say where it was before",
    ] * 200
    return texts


def build(out_dir):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[PAD, BOS, EOS, IMAGE],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out_dir / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "image_token": IMAGE,
        "extra_special_tokens": {"image_token": IMAGE},
        "clean_up_tokenization_spaces": False,
        "model_max_length": 32768,
        "padding_side": "left",
        "processor_class": "LlavaProcessor",
    }
    (out_dir / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return tokenizer


if __name__ == "__main__":
    tok = build(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "model")
    print("vocabulary", tok.get_vocab_size())
    for text in ["What is in frame 07?", " cyan seven", " rectangle", "Does any frame show a"]:
        print(repr(text), tok.encode(text).tokens)
