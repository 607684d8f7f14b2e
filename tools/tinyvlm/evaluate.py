# evaluate.py: runs a checkpoint with transformers over files, and counts right answers.
# SPDX-License-Identifier: Apache-2.0
"""Usage: evaluate.py JOBS [--model DIR] [--control none|no-image|shuffled] [--out FILE]

JOBS is eval/jobs.jsonl or samples/samples.json.  Videos are decoded by ffmpeg; every frame is used,
one <image> each.  All questions of a job share one prefill of its images (a copy of the cache for
each), then the answer is generated greedily until </s>."""

import argparse
import copy
import json
import subprocess
import tempfile
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from questions import BOS, EOS_ID, IMAGE, question_suffix


def load_jobs(path):
    text = Path(path).read_text()
    if str(path).endswith(".jsonl"):
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    return json.loads(text)


def pictures_of(job, base):
    if "video" in job:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(
                [
                    "ffmpeg",
                    "-loglevel",
                    "error",
                    "-i",
                    str(base / job["video"]),
                    "-fps_mode",
                    "passthrough",
                    f"{folder}/%04d.png",
                ],
                check=True,
            )
            return [Image.open(p).convert("RGB") for p in sorted(Path(folder).glob("*.png"))]
    return [Image.open(base / p) for p in job["images"]]


class Model:
    def __init__(self, folder):
        self.processor = AutoProcessor.from_pretrained(folder)
        self.model = LlavaForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32
        ).eval()

    @torch.no_grad()
    def prefill(self, pictures):
        if not pictures:
            return None, 0
        inputs = self.processor(
            text=BOS + IMAGE * len(pictures), images=pictures, return_tensors="pt"
        )
        out = self.model(
            input_ids=inputs["input_ids"],
            pixel_values=inputs["pixel_values"],
            use_cache=True,
            logits_to_keep=1,
        )
        return out.past_key_values, inputs["input_ids"].shape[1]

    @torch.no_grad()
    def answer(self, cache, question, limit=12):
        text = question_suffix(question)
        if cache is None:
            text = BOS + text.lstrip("\n")
        ids = self.processor.tokenizer(text, return_tensors="pt")["input_ids"]
        out = self.model(input_ids=ids, past_key_values=copy.deepcopy(cache), use_cache=True)
        tokens = []
        while len(tokens) < limit:
            tokens.append(int(out.logits[0, -1].argmax()))
            if tokens[-1] == EOS_ID:
                break
            out = self.model(
                input_ids=torch.tensor([[tokens[-1]]]),
                past_key_values=out.past_key_values,
                use_cache=True,
            )
        return self.processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("jobs")
    parser.add_argument("--model", default=str(Path(__file__).parent / "model"))
    parser.add_argument("--control", default="none", choices=["none", "no-image", "shuffled"])
    parser.add_argument("--out")
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    base, jobs = Path(args.jobs).parent, load_jobs(args.jobs)
    model, table = Model(args.model), {}
    for i, job in enumerate(jobs):
        source = job
        if args.control == "shuffled":  # the media of the next job of the same sort
            same = [j for j in jobs if ("video" in j) == ("video" in job)]
            source = same[(same.index(job) + 1) % len(same)]
        pictures = [] if args.control == "no-image" else pictures_of(source, base)
        group = f"video {job['id'].split('_')[2]} frames" if "video_" in job["id"] else "image"
        if "video" in job and not job["id"].endswith("_frames"):
            group = "video"
        cache, _ = model.prefill(pictures)
        for q in job["questions"]:
            said = model.answer(cache, q["prompt"])
            right = said == q["answer"]
            for name in (group, f"{group}: {q['kind']}" if "kind" in q else None):
                if name:
                    entry = table.setdefault(name, [0, 0])
                    entry[0] += right
                    entry[1] += 1
            if args.verbose or not right and args.control == "none":
                print(
                    f"{'ok   ' if right else 'WRONG'} {job['id']}: {q['prompt']} -> {said!r} "
                    f"(right: {q['answer']!r})",
                    flush=True,
                )
    for name in sorted(table):
        right, total = table[name]
        print(f"{name}: {right}/{total} = {right / total:.3f}")
    if args.out:
        Path(args.out).write_text(
            json.dumps(
                {
                    "control": args.control,
                    "groups": {
                        k: {"right": v[0], "questions": v[1]} for k, v in sorted(table.items())
                    },
                },
                indent=1,
            )
            + "\n"
        )


if __name__ == "__main__":
    main()
