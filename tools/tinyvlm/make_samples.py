# make_samples.py: sample media and the held-out evaluation set as PNG and MP4 files.
# SPDX-License-Identifier: Apache-2.0
"""Usage: make_samples.py (needs ffmpeg and the easy_vqa package)

Writes samples/ (media and samples.json) and eval/ (media and jobs.jsonl).  Images come from
easy-vqa's test split, scaled to 128x128; videos are rendered from seeds never trained on."""

import json
import random
import subprocess
from pathlib import Path

import torch
from PIL import Image
from tokenizers import Tokenizer

from data import VideoQuestions
from questions import VIDEO_KINDS
from render import Renderer

HERE = Path(__file__).parent
SAMPLE_SEED, EVAL_SEED = 501, 502


def write_video(frames, path, fps, crf=14):
    """uint8 [N,3,H,W] -> H.264 in yuv444p, visually lossless at crf 14, every frame kept."""
    n, _, height, width = frames.shape
    data = frames.permute(0, 2, 3, 1).contiguous().numpy().tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [
            "ffmpeg",
            "-y",
            "-loglevel",
            "error",
            "-f",
            "rawvideo",
            "-pix_fmt",
            "rgb24",
            "-s",
            f"{width}x{height}",
            "-r",
            str(fps),
            "-i",
            "-",
            "-c:v",
            "libx264",
            "-pix_fmt",
            "yuv444p",
            "-crf",
            str(crf),
            "-preset",
            "slow",
            "-threads",
            "1",
            "-fflags",
            "+bitexact",
            "-flags:v",
            "+bitexact",
            str(path),
        ],
        input=data,
        check=True,
    )


def easy_vqa_questions():
    import easy_vqa

    paths = easy_vqa.get_test_image_paths()
    by_image = {}
    for question, answer, image in zip(*easy_vqa.get_test_questions()):
        by_image.setdefault(image, []).append((question, answer))
    return paths, by_image


def upscaled(path, side=128):
    return Image.open(path).convert("RGB").resize((side, side), Image.BICUBIC)


class Videos:
    def __init__(self, seed):
        self.tokenizer = Tokenizer.from_file(str(HERE / "model" / "tokenizer.json"))
        self.questions = VideoQuestions(self.tokenizer, torch.device("cpu"))
        self.renderer = Renderer("cpu")
        self.generator = torch.Generator().manual_seed(seed)

    def make(self, frames, count, picker, kinds=None):
        """One video and count questions of different kinds about it."""
        batch = self.questions.sample(1, frames, 60, self.generator)
        pixels = self.renderer(
            batch["kind"][0], batch["color"][0], batch["number"][0], self.generator
        )
        asked, seen = [], set()
        order = list(range(60))
        picker.shuffle(order)
        wanted = list(kinds or VIDEO_KINDS)
        picker.shuffle(wanted)
        if not kinds:  # "frame" and "which" are asked most
            wanted = picker.sample(["frame", "which"], 2) + wanted
        for kind in wanted * 3:
            for i in order:
                text, answer = self.questions.to_text(batch, 0, i, self.tokenizer)
                if VIDEO_KINDS[int(batch["question"][0, i])] == kind and text not in seen:
                    seen.add(text)
                    asked.append({"prompt": text, "answer": answer, "kind": kind})
                    break
            if len(asked) == count:
                break
        return pixels, asked


def save_image(tensor, path):
    Image.fromarray(tensor.permute(1, 2, 0).numpy()).save(path)


def make_samples(folder):
    folder.mkdir(parents=True, exist_ok=True)
    picker, videos, items = random.Random(5), Videos(SAMPLE_SEED), []
    paths, by_image = easy_vqa_questions()
    for i in (3, 5, 8):
        name = f"easy_vqa_{i}.png"
        upscaled(paths[i]).save(folder / name)
        chosen = [(q, a) for q, a in by_image[i] if a not in ("yes", "no")][:1]
        chosen += [(q, a) for q, a in by_image[i] if a in ("yes", "no")][:1]
        items.append(
            {
                "id": name[:-4],
                "images": [name],
                "questions": [{"prompt": q, "answer": a} for q, a in chosen],
            }
        )
    # Not at the model's size: an easy-vqa picture and a frame, both stretched to 320x240.
    Image.open(paths[12]).convert("RGB").resize((320, 240), Image.BICUBIC).save(
        folder / "easy_vqa_12_320x240.png"
    )
    items.append(
        {
            "id": "easy_vqa_12_320x240",
            "images": ["easy_vqa_12_320x240.png"],
            "questions": [
                {"prompt": q, "answer": a} for q, a in by_image[12] if a not in ("yes", "no")
            ][:1],
        }
    )
    pixels, asked = videos.make(1, 2, picker, ["frame", "which"])
    big = (
        torch.nn.functional.interpolate(
            pixels.float(), size=(240, 320), mode="bicubic", antialias=True
        )
        .clamp(0, 255)
        .round()
        .to(torch.uint8)
    )
    save_image(big[0], folder / "frame_320x240.png")
    items.append({"id": "frame_320x240", "images": ["frame_320x240.png"], "questions": asked})
    for n, fps in ((8, 1), (8, 2), (16, 1), (16, 2)):
        pixels, asked = videos.make(n, 6, picker)
        name = f"video_{n}_frames_{fps}fps.mp4"
        write_video(pixels, folder / name, fps)
        items.append({"id": name[:-4], "video": name, "questions": asked})
    (folder / "samples.json").write_text(json.dumps(items, indent=1) + "\n")


def make_eval(folder):
    (folder / "images").mkdir(parents=True, exist_ok=True)
    picker, videos, lines = random.Random(6), Videos(EVAL_SEED), []
    paths, by_image = easy_vqa_questions()
    for i in picker.sample(sorted(by_image), 84):
        name = f"images/easy_vqa_{i:04d}.png"
        upscaled(paths[i]).save(folder / name)
        open_ended = [(q, a) for q, a in by_image[i] if a not in ("yes", "no")]
        yes_no = [(q, a) for q, a in by_image[i] if a in ("yes", "no")]
        picker.shuffle(open_ended)
        # As many right answers yes as no, so that always saying one thing does not pay.
        yes = [x for x in yes_no if x[1] == "yes"][:1]
        no = [x for x in yes_no if x[1] == "no"][:1]
        chosen = list(dict.fromkeys(open_ended[:1] + yes + no))
        lines.append(
            {
                "id": f"easy_vqa_{i:04d}",
                "images": [name],
                "questions": [{"prompt": q, "answer": a} for q, a in chosen],
            }
        )
    for j, n in enumerate([8] * 16 + [16] * 20 + [32] * 6):
        pixels, asked = videos.make(n, 4, picker)
        name = f"videos/video_{j:02d}_{n}_frames.mp4"
        write_video(pixels, folder / name, 1)
        lines.append({"id": f"video_{j:02d}_{n}_frames", "video": name, "questions": asked})
    with open(folder / "jobs.jsonl", "w") as out:
        for line in lines:
            out.write(json.dumps(line) + "\n")
    images = [x for x in lines if "images" in x]
    print(
        len(images),
        "images",
        sum(len(x["questions"]) for x in images),
        "questions;",
        len(lines) - len(images),
        "videos",
        sum(len(x["questions"]) for x in lines if "video" in x),
        "questions",
    )


if __name__ == "__main__":
    make_samples(HERE / "samples")
    make_eval(HERE / "eval")
