# synthetic_video.py: writes a video of any length as a .npy frame stack.
# SPDX-License-Identifier: Apache-2.0
"""Usage: synthetic_video.py FILE.npy [--frames 3600] [--height 224] [--width 448] [--seed 1]

Shapes of plain colours that move over a background, and a new scene every 60 frames; uint8
[frames, height, width, 3], written some frames at a time (needs numpy).  An hour at a frame a
second is 3,600 frames, 1.1 GB at 224 x 448: 128 tokens of Qwen2.5-VL for every two of them.
"""

import argparse

import numpy as np

SCENE_FRAMES = 60
FRAMES_AT_ONCE = 30


def scene(rng, height, width):
    """A background, and shapes: edge, place, speed, colour, and whether it is round."""
    shapes = [
        dict(
            edge=int(rng.integers(min(height, width) // 8, min(height, width) // 3)),
            place=rng.uniform(0, 1, 2),
            speed=rng.uniform(-0.03, 0.03, 2),
            colour=rng.integers(0, 256, 3),
            round=bool(rng.integers(2)),
        )
        for _ in range(int(rng.integers(2, 6)))
    ]
    ramp = np.linspace(0, 1, width)[None, :, None]
    left, right = rng.integers(0, 256, (2, 3))
    background = np.broadcast_to(left + (right - left) * ramp, (height, width, 3))
    return background.astype(np.uint8), shapes


def draw(background, shapes, step):
    frame = background.copy()
    height, width = frame.shape[:2]
    for shape in shapes:
        edge = shape["edge"]
        # Back and forth between the borders.
        place = np.abs((shape["place"] + step * shape["speed"] + 1) % 2 - 1)
        top, left = (place * (height - edge, width - edge)).astype(int)
        y, x = np.mgrid[0:edge, 0:edge]
        inside = np.ones((edge, edge), bool)
        if shape["round"]:
            inside = (2 * y + 1 - edge) ** 2 + (2 * x + 1 - edge) ** 2 <= edge**2
        frame[top : top + edge, left : left + edge][inside] = shape["colour"]
    return frame


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file")
    parser.add_argument("--frames", type=int, default=3600)
    parser.add_argument("--height", type=int, default=224)
    parser.add_argument("--width", type=int, default=448)
    parser.add_argument("--seed", type=int, default=1)
    a = parser.parse_args()
    if a.frames < 1 or min(a.height, a.width) < 16:
        parser.error("at least one frame, of at least 16 x 16 pixels")
    rng = np.random.default_rng(a.seed)
    with open(a.file, "wb") as file:
        np.lib.format.write_array_header_1_0(
            file,
            {"descr": "|u1", "fortran_order": False, "shape": (a.frames, a.height, a.width, 3)},
        )
        frames = []
        for i in range(a.frames):
            if i % SCENE_FRAMES == 0:
                background, shapes = scene(rng, a.height, a.width)
            frames.append(draw(background, shapes, i % SCENE_FRAMES))
            if len(frames) == FRAMES_AT_ONCE or i + 1 == a.frames:
                file.write(np.stack(frames).tobytes())
                frames = []
    print(f"{a.file}: {a.frames} frames of {a.width} x {a.height}")


if __name__ == "__main__":
    main()
