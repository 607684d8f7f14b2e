# make_videos.py: held-out videos and questions about them, as many as wanted, for vkv.
# SPDX-License-Identifier: Apache-2.0
"""Usage: make_videos.py OUT [--videos N] [--frames N] [--questions N] [--seed N] [--crf N] [--npy]

Writes OUT/videos and OUT/jobs.jsonl (appends to it), which `vkv run --jobs` and `vkv quality
--jobs` take. The seed must be none that TinyVLM was trained or evaluated with (below 1000)."""

import argparse
import json
import random
from pathlib import Path

import numpy as np

from make_samples import Videos, write_video


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--videos", type=int, default=150)
    parser.add_argument("--frames", type=int, default=8, help="of a video: 8, 16, 32 or 64")
    parser.add_argument("--questions", type=int, default=24, help="of a video, at most")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--crf", type=int, default=14, help="of H.264; more is smaller")
    parser.add_argument("--npy", action="store_true", help="frame stacks: needs no ffmpeg")
    arguments = parser.parse_args()
    if arguments.seed < 1000:
        parser.error("--seed must be at least 1000")

    picker, videos = random.Random(arguments.seed), Videos(arguments.seed)
    (arguments.out / "videos").mkdir(parents=True, exist_ok=True)
    count = 0
    with open(arguments.out / "jobs.jsonl", "a", encoding="utf-8") as jobs:
        for i in range(arguments.videos):
            pixels, asked = videos.make(arguments.frames, arguments.questions, picker)
            suffix = "npy" if arguments.npy else "mp4"
            name = f"videos/{arguments.frames}_frames_{arguments.seed}_{i:04d}.{suffix}"
            if arguments.npy:
                np.save(arguments.out / name, pixels.permute(0, 2, 3, 1).contiguous().numpy())
            else:
                write_video(pixels, arguments.out / name, 1, arguments.crf)
            job = {"id": Path(name).stem, "video": name, "questions": asked}
            jobs.write(json.dumps(job) + "\n")
            count += len(asked)
    print(f"{count} questions about {arguments.videos} videos added to {arguments.out}/jobs.jsonl")


if __name__ == "__main__":
    main()
