# render.py: renders TinyVLM's labelled video frames as batched tensors, on a GPU or a CPU.
# SPDX-License-Identifier: Apache-2.0
"""A frame is 128x128 px: a coloured object (shape or digit) on a dark plain background, and the
frame's number, two white digits, burned in at the top left.  Everything is computed from integer
labels with distance functions and small glyph bitmaps, so thousands of frames a second cost
little on a GPU."""

import math

import torch
import torch.nn.functional as F

from questions import COLORS, DIGITS, KINDS, SHAPES

SIDE = 128
FONT = [  # 5x7 digits
    "01110 10001 10011 10101 11001 10001 01110",
    "00100 01100 00100 00100 00100 00100 01110",
    "01110 10001 00001 00010 00100 01000 11111",
    "11111 00010 00100 00010 00001 10001 01110",
    "00010 00110 01010 10010 11111 00010 00010",
    "11111 10000 11110 00001 00001 10001 01110",
    "00110 01000 10000 11110 10001 10001 01110",
    "11111 00001 00010 00100 01000 01000 01000",
    "01110 10001 10001 01110 10001 10001 01110",
    "01110 10001 10001 01111 00001 00010 01100",
]

LETTERS = [  # B C E F G H J K L P, see questions.TENS_LETTERS
    "11110 10001 10001 11110 10001 10001 11110",
    "01111 10000 10000 10000 10000 10000 01111",
    "11111 10000 10000 11110 10000 10000 11111",
    "11111 10000 10000 11110 10000 10000 10000",
    "01111 10000 10000 10011 10001 10001 01111",
    "10001 10001 10001 11111 10001 10001 10001",
    "00111 00010 00010 00010 00010 10010 01100",
    "10001 10010 10100 11000 10100 10010 10001",
    "10000 10000 10000 10000 10000 10000 11111",
    "11110 10001 10001 11110 10000 10000 10000",
]


def glyphs(device, font=FONT):
    rows = [[[float(c) for c in row] for row in digit.split()] for digit in font]
    return torch.tensor(rows, device=device)


def heart_star_masks(device):
    """Signed fields, positive inside, of every shape on [-1,1]^2, as [shape, R, R]."""
    size = 96
    axis = (torch.arange(size, device=device) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    radius = torch.sqrt(x * x + y * y)
    angle = torch.atan2(x, -y)
    sector = torch.remainder(angle + math.pi / 5, 2 * math.pi / 5) - math.pi / 5
    inner, outer = 0.42, 1.0
    # The edge from (outer, 0) to (inner, pi/5) in polar form, mirrored in each sector.
    px, py = outer, 0.0
    qx, qy = inner * math.cos(math.pi / 5), inner * math.sin(math.pi / 5)
    sx, sy = radius * torch.cos(sector), radius * torch.sin(sector).abs()
    star = -((qx - px) * (sy - py) - (qy - py) * (sx - px))
    hx, hy = x * 1.15, -y * 1.15 + 0.12
    heart = -((hx**2 + hy**2 - 0.72) ** 3 - 1.4 * hx**2 * hy**3)
    fields = {
        "circle": 0.95 - radius,
        "square": 0.82 - torch.maximum(x.abs(), y.abs()),
        "triangle": torch.minimum(0.8 - y, (y + 0.95) / 1.95 * 1.1 - x.abs()),
        "star": star if star[size // 2, size // 2] > 0 else -star,
        "cross": torch.maximum(
            torch.minimum(0.3 - x.abs(), 0.95 - y.abs()),
            torch.minimum(0.95 - x.abs(), 0.3 - y.abs()),
        ),
        "diamond": 1.0 - (x.abs() / 0.72 + y.abs()),
        "ring": 0.25 - (radius - 0.68).abs(),
        "heart": heart,
    }
    return torch.stack([(fields[s] > 0).float() for s in SHAPES])


class Renderer:
    def __init__(self, device):
        self.device = device
        self.digits = glyphs(device)
        self.tens = self.digits
        shapes = heart_star_masks(device)
        # Digits as objects: the 5x7 font blown up to fill the same square.
        big = F.interpolate(self.digits[:, None], size=(88, 62), mode="nearest")[:, 0]
        digit_masks = F.pad(big, (17, 17, 4, 4))
        self.masks = torch.cat([shapes, digit_masks])[:, None]
        assert self.masks.shape[0] == len(KINDS) and len(DIGITS) == 10
        self.colors = torch.tensor(list(COLORS.values()), device=device).float()
        axis = (torch.arange(SIDE, device=device) + 0.5).float()
        self.grid_y, self.grid_x = torch.meshgrid(axis, axis, indexing="ij")

    def use_letters(self):
        self.tens = glyphs(self.device, LETTERS)

    def __call__(self, kind, color, number, generator, augment=True, plain=False):
        """Frames for integer label tensors [N] -> uint8 tensor [N, 3, 128, 128]."""
        n, dev = kind.shape[0], self.device

        def rand(low, high, *shape):
            return torch.rand(n, *shape, generator=generator, device=dev) * (high - low) + low

        half = rand(26, 36)
        cx = rand(64, 88)
        cy = rand(62, 90)
        gx = (self.grid_x[None] - cx[:, None, None]) / half[:, None, None]
        gy = (self.grid_y[None] - cy[:, None, None]) / half[:, None, None]
        grid = torch.stack([gx, gy], -1)
        mask = F.grid_sample(self.masks[kind], grid, mode="bilinear", align_corners=False)
        background = rand(10, 60, 3, 1, 1)
        ink = (self.colors[color] + rand(-12, 12, 3))[:, :, None, None]
        frame = background * (1 - mask) + ink * mask
        # Burned-in number: two 5x7 digits, 3 px a dot, in a black box.
        number_bits = torch.zeros(n, 9, 13, device=dev)
        number_bits[:, 1:8, 1:6] = self.tens[number // 10]
        number_bits[:, 1:8, 7:12] = self.digits[number % 10]
        dots = number_bits.repeat_interleave(3, 1).repeat_interleave(3, 2)
        frame[:, :, 2:29, 2:41] = dots[:, None] * 235 + 5
        if augment:
            # What a video codec does to it: chroma at half resolution, for half of the frames.
            luma = frame.mean(1, keepdim=True)
            chroma = F.interpolate(
                F.avg_pool2d(frame - luma, 2), scale_factor=2, mode="bilinear", align_corners=False
            )
            soft = (torch.rand(n, 1, 1, 1, generator=generator, device=dev) < 0.5).float()
            frame = soft * (luma + chroma) + (1 - soft) * frame
            noise = torch.randn(frame.shape, generator=generator, device=dev)
            frame = frame + noise * rand(0, 5, 1, 1, 1)
        return frame.clamp(0, 255).round().to(torch.uint8)
