# make_golden.py: writes token ids and text as Hugging Face's tokenizers library has them.
# SPDX-License-Identifier: Apache-2.0
"""Usage: python make_golden.py (needs tokenizers 0.23)

gpt2_style.json is trained here on a few sentences; unlike TinyVLM's tokenizer it has ByteLevel's
own pattern, a prefix space, merges as "a b", a token that is added but not special, one that is
looked for after normalisation, and NFKC.  cases.json has, for it and for TinyVLM's tokenizer, texts
with ids and with what the ids decode to, and ids that are no text."""
import json
from pathlib import Path

from tokenizers import (AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers,
                        trainers)

HERE = Path(__file__).parent
TINYVLM = HERE.parents[2] / "tools/tinyvlm/golden/random/tokenizer.json"

TEXTS = [
    "", " ", "   ", "a", "What color is the shape?", "  two  spaces  between  ", "trailing   ",
    "Don't we'll THEY'RE I'd it's o'clock 'S 'LL", "x'ſ", "tabs\tand\nnew\r\nlines\n\n\n  end\n ",
    "0123456789 3.14159 1,000,000 ½ ² Ⅷ ٣٤٥", "snake_case camelCase ALL_CAPS __init__ a+b=c;",
    "Grüße aus Köln, naïve café", "cafe\u0301 A\u030angstro\u0308m \u1100\u1161\u11a8",
    "Привет, мир! Съешь ещё этих булок", "你好,世界。今天天气很好", "こんにちは世界 カタカナ ﾊﾝｶｸ",
    "안녕하세요 세계", "مرحبا بالعالم", "שלום עולם", "नमस्ते दुनिया", "สวัสดีชาวโลก", "Ελληνικά",
    "😀 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 ❤️ 🤷🏽‍♀️", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈 𠜎",
    "\u00a0nbsp\u2003em\u3000ideographic\u200bzero",
    "\u0085next\u2028line\u2029para", "nul\x00bell\x07esc\x1b\x7f", "\ufeffbom \ufffd \u202ertl",
    "<s>", "</s>text<pad>", "<image><image>\nQuestion: what? Answer:", "<s><image> <s>",
    "<imag<image>e>",
    "< s > <S> <image", "a<tool>b <tool>", "x ﬁn y ﬁn", "ﬁ ligature ① Å", "!!!???... ---- ====",
    "a" * 300, "ab" * 200, " " * 100 + "x", "\n" * 50, "éèêë" * 20, "the the the Question Answer",
]
BROKEN = [[200], [129, 145], [195, 131], [0, 1, 2, 3], [], [100000]]


def gpt2_style():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=420, show_progress=False,
                                  special_tokens=["<s>", "</s>", "<image>"],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([t for t in TEXTS if "<" not in t], trainer)
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False),
                          AddedToken("fin", normalized=True)])
    written = json.loads(tokenizer.to_str())
    written["model"]["merges"] = [" ".join(pair) for pair in written["model"]["merges"]]
    path = HERE / "gpt2_style.json"
    path.write_text(json.dumps(written, ensure_ascii=False, separators=(",", ":")) + "\n")
    return path


def cases(path):
    tokenizer = Tokenizer.from_file(str(path))
    encoded = []
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        encoded.append({"text": text, "ids": ids, "decoded": tokenizer.decode(ids)})
    return {"encoded": encoded,
            "broken": [{"ids": ids, "decoded": tokenizer.decode(ids)} for ids in BROKEN]}


def main():
    goldens = {"gpt2_style": cases(gpt2_style()), "tinyvlm": cases(TINYVLM)}
    (HERE / "cases.json").write_text(json.dumps(goldens, separators=(",", ":")) + "\n")


main()
