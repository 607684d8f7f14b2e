# make_golden.py: writes the pictures, videos and pixel values that the media tests compare with.
# SPDX-License-Identifier: Apache-2.0
"""Usage: make_golden.py   (needs numpy, torch, torchvision, transformers 5.17, Pillow, ffmpeg)

NAME.npy               uint8 [h, w, 3]   what was resized
NAME_WxH_FILTER.npy    uint8 [H, W, 3]   torchvision's result, as transformers' processors give it
NAME_WxH_FILTER_pil.npy                  Pillow's
clip_NAME.npy          float32 bytes as uint8: see image_processor_test.cpp
The rest are small files of many formats for media_test.cpp."""

import json
import subprocess
from pathlib import Path

import numpy as np
import torch
import torchvision.transforms.v2.functional as tvf
from PIL import Image
from transformers import CLIPImageProcessor, SiglipImageProcessor

HERE = Path(__file__).parent
rng = np.random.default_rng(11)


def picture(width, height):
    """Noise, edges and ramps: every rounding and clamping happens somewhere."""
    y, x = np.mgrid[0:height, 0:width]
    image = rng.integers(0, 256, (height, width, 3))
    image[:, : width // 3] = np.stack([x * 7, y * 5, x * y], -1)[:, : width // 3] % 256
    image[height // 2 :, width // 2 :] = ((x // 4 + y // 3) % 2 * 255)[
        height // 2 :, width // 2 :, None
    ]
    return image.astype(np.uint8)


def resizes():
    filters = {"bicubic": tvf.InterpolationMode.BICUBIC, "bilinear": tvf.InterpolationMode.BILINEAR}
    cases = {
        "small": (picture(23, 17), [(31, 40), (9, 5), (23, 8), (40, 17), (1, 1)]),
        "wide": (picture(64, 20), [(16, 16), (7, 33)]),
    }
    for name, (image, sizes) in cases.items():
        np.save(HERE / f"{name}.npy", image)
        tensor = torch.from_numpy(image).permute(2, 0, 1)[None]
        for w, h in sizes:
            for filter_name, mode in filters.items():
                out = tvf.resize(tensor, [h, w], interpolation=mode, antialias=True)[0]
                stem = f"{name}_{w}x{h}_{filter_name}"
                np.save(HERE / f"{stem}.npy", np.ascontiguousarray(out.permute(1, 2, 0).numpy()))
                pil = Image.fromarray(image).resize((w, h), getattr(Image, filter_name.upper()))
                np.save(HERE / f"{stem}_pil.npy", np.array(pil))


PROCESSORS = {
    "clip_crop": (
        CLIPImageProcessor,
        dict(size={"shortest_edge": 12}, crop_size={"height": 12, "width": 12}),
    ),
    "clip_odd_crop": (
        CLIPImageProcessor,
        dict(size={"shortest_edge": 15}, crop_size={"height": 10, "width": 14}),
    ),
    "clip_pad": (
        CLIPImageProcessor,
        dict(size={"shortest_edge": 8}, crop_size={"height": 13, "width": 15}),
    ),
    "siglip": (SiglipImageProcessor, dict(size={"height": 11, "width": 13})),
    "siglip_bilinear": (SiglipImageProcessor, dict(size={"height": 11, "width": 13}, resample=2)),
    "siglip_plain": (
        SiglipImageProcessor,
        dict(size={"height": 6, "width": 5}, do_normalize=False),
    ),
}


def processors():
    settings = {}
    for name, (kind, arguments) in PROCESSORS.items():
        processor = kind(**arguments)
        for source in ("small", "wide"):
            image = Image.fromarray(np.load(HERE / f"{source}.npy"))
            values = processor(image, return_tensors="np")["pixel_values"][0].astype(np.float32)
            # A float32 [3, H, W] as bytes [H, 4 W, 3]: the tests' only reader is of uint8.
            raw = np.ascontiguousarray(values).view(np.uint8).reshape(values.shape[1], -1, 3)
            np.save(HERE / f"{name}_{source}.npy", raw)
        settings[name] = dict(image_processor_type=kind.__name__, **arguments)
    (HERE / "processors.json").write_text(json.dumps(settings, indent=1) + "\n")


def ffmpeg(*arguments):
    subprocess.run(
        ["ffmpeg", "-hide_banner", "-loglevel", "error", "-y", *map(str, arguments)], check=True
    )


def pictures():
    image = np.load(HERE / "small.npy")
    rgb = Image.fromarray(image)
    rgb.save(HERE / "rgb.png")
    rgb.save(HERE / "lossless.webp", lossless=True)
    rgb.save(HERE / "rgb.bmp")
    alpha = rgb.convert("RGBA")
    alpha.putalpha(Image.fromarray(image[:, :, 0]))
    alpha.save(HERE / "alpha.png")
    rgb.convert("L").save(HERE / "gray.png")
    np.save(HERE / "gray.npy", np.array(rgb.convert("L").convert("RGB")))
    palette = rgb.quantize(16)
    palette.save(HERE / "palette.png")
    np.save(HERE / "palette.npy", np.array(palette.convert("RGB")))
    y, x = np.mgrid[0:40, 0:56]
    smooth = np.stack([40 + x * 3, 60 + y * 4, 200 - x * 2], -1).astype(np.uint8)
    Image.fromarray(smooth).save(HERE / "smooth.jpg", quality=95, subsampling=0)
    np.save(HERE / "smooth.npy", np.array(Image.open(HERE / "smooth.jpg")))


def videos():
    """Ten flat frames at 5 a second: red is 20 * index + 20, green 240 - 20 * index, blue 90."""
    frames = np.empty((10, 32, 48, 3), np.uint8)
    for i in range(10):
        frames[i] = (20 * i + 20, 240 - 20 * i, 90)
    frames[:, :8, :8] = (255, 255, 255)  # the upper left corner, to see turning
    raw = HERE / "frames.rgb"
    raw.write_bytes(frames.tobytes())
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "48x32", "-r", "5", "-i", raw]
    for name, matrix, arguments in [
        (
            "h264_601.mp4",
            "bt601",
            ["-c:v", "libx264", "-crf", "8", "-bf", "2", "-colorspace", "smpte170m"],
        ),
        ("h264_709.mkv", "bt709", ["-c:v", "libx264", "-crf", "8", "-colorspace", "bt709"]),
        ("full_range.mp4", "bt601", ["-c:v", "libx264", "-crf", "8", "-color_range", "pc"]),
    ]:
        span = "full" if name.startswith("full") else "limited"
        scale = (
            f"scale=out_color_matrix={matrix}:out_range={span}:flags=accurate_rnd,format=yuv420p"
        )
        ffmpeg(*source, "-vf", scale, *arguments, HERE / name)
    ffmpeg(
        "-i",
        HERE / "h264_601.mp4",
        "-c",
        "copy",
        "-metadata:s:v:0",
        "rotate=90",
        HERE / "turned.mp4",
    )
    ffmpeg("-f", "lavfi", "-i", "sine=duration=0.2", HERE / "sound_only.mkv")
    raw.unlink()


if __name__ == "__main__":
    resizes()
    processors()
    pictures()
    videos()
