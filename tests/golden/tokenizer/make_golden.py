# make_golden.py: writes token ids and text as Hugging Face's tokenizers library has them.
# SPDX-License-Identifier: Apache-2.0
"""Usage: python make_golden.py (needs tokenizers 0.23)

gpt2_style.json is trained here on a few sentences; unlike TinyVLM's tokenizer it has ByteLevel's
own pattern, a prefix space, merges as "a b", a token that is added but not special, one that is
looked for after normalisation, and NFKC.  prepend_style.json and metaspace_style.json are of
SentencePiece's kind, with bytes for what is in no token, as LLaVA-1.5's: the first as older files
have it, the second as newer.  cases.json has, for these and for TinyVLM's tokenizer, texts with ids
and with what the ids decode to, and ids that are no text; of the second kind none, whose broken
bytes are counted otherwise; "chat" has prompts of LLaVA-1.5."""
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


SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def sentencepiece_style(name):
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    metaspace = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always", split=True)
    tokenizer.pre_tokenizer = metaspace
    trainer = trainers.BpeTrainer(vocab_size=560, show_progress=False, limit_alphabet=60,
                                  special_tokens=SPECIAL + BYTES)
    tokenizer.train_from_iterator([t for t in TEXTS if t.isascii() and "<" not in t], trainer)
    written = json.loads(tokenizer.to_str())
    # Bytes are tokens of the vocabulary alone.
    written["added_tokens"] = [t for t in written["added_tokens"] if t["content"] in SPECIAL]
    if name == "prepend_style":
        written["pre_tokenizer"] = None
        written["normalizer"] = {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u2581"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]}
    else:
        written["pre_tokenizer"] = {"type": "Metaspace", "replacement": "\u2581",
                                    "prepend_scheme": "first", "split": False}
    written["decoder"] = {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
        {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    written["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                   {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}
    tokenizer = Tokenizer.from_str(json.dumps(written))
    tokenizer.add_special_tokens(["<image>", "<pad>"])
    path = HERE / f"{name}.json"
    written = json.loads(tokenizer.to_str())
    path.write_text(json.dumps(written, ensure_ascii=False, separators=(",", ":")) + "\n")
    return path


def chat(path):
    """What LLaVA-1.5's chat template makes of pictures and a question."""
    tokenizer = Tokenizer.from_file(str(path))
    prompts = []
    for images, question in [(0, "What is a shape?"), (1, "What is a shape?"), (3, "a  b"),
                             (1, " Grüße\nb ")]:
        text = "USER: " + "<image>\n" * images + question + " ASSISTANT:"
        prompts.append({"images": images, "question": question, "ids": tokenizer.encode(text).ids})
    return prompts


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
    for name in ("prepend_style", "metaspace_style"):
        path = sentencepiece_style(name)
        goldens[name] = cases(path) | {"broken": [], "chat": chat(path)}
    (HERE / "cases.json").write_text(json.dumps(goldens, separators=(",", ":")) + "\n")


main()
