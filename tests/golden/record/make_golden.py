# make_golden.py: golden_record_test's records, from the text of block_format.h and codec.h alone.
# SPDX-License-Identifier: Apache-2.0
"""Usage: make_golden.py   (needs numpy)

Prints every small record as lines "offset: 16 bytes", without lines of zeros, and of a larger one,
of 70 tokens of 64 channels, the FNV-1a hash. Shares no code with the project: one number at a time,
numpy for fp32 and fp16 only."""

import numpy as np

F = np.float32
BITS = {"i8": 8, "i4": 4, "i2": 2, "i1": 1}


def sum_of(terms):
    """32 partial sums, then the tree."""
    sums = [F(0)] * 32
    for i, term in enumerate(terms):
        sums[i % 32] = F(sums[i % 32] + term)
    for step in (16, 8, 4, 2, 1):
        for j in range(step):
            sums[j] = F(sums[j] + sums[j + step])
    return sums[0]


def half(x):
    return F(np.float16(x))


def encode_value(x, zero, scale, limit):
    inverse = F(0) if scale == 0 else F(F(1) / scale)
    position = F(F(x - zero) * inverse)
    return F(np.rint(min(max(position, F(0)), F(limit))))


def header_of(values, bits):
    """Scale and zero of one channel, or of one token of V."""
    low, high, limit = min(values), max(values), F(2**bits - 1)
    if low == high:
        return F(0), half(low)
    if bits == 1:
        count = F(len(values))
        mean = F(sum_of(values) / count)
        spread = F(sum_of([F(abs(F(x - mean))) for x in values]) / count)
        low, step = F(mean - spread), F(F(2) * spread)
        for _ in range(3):
            middle = F(low + F(F(0.5) * step))
            upper = [x for x in values if x >= middle]
            if len(upper) in (0, len(values)):
                break
            upper_mean = F(sum_of([x if x >= middle else F(0) for x in values]) / F(len(upper)))
            lower_sum = sum_of([F(0) if x >= middle else x for x in values])
            low = F(lower_sum / F(len(values) - len(upper)))
            step = F(upper_mean - low)
        return half(step), half(low)
    best = None
    for step in {8: [0], 4: [0, 1, 2, 3], 2: range(0, 15, 2)}[bits]:
        r = F(F(20 - step) / F(20))
        span = F(high - low)
        scale = half(F(F(span * r) / limit))
        zero = half(F(low + F(F(F(F(1) - r) * F(0.5)) * span)))
        errors = []
        for x in values:
            code = encode_value(x, zero, scale, limit)
            difference = F(x - F(zero + F(scale * code)))
            square = F(difference * difference)
            errors.append(F(square * square) if bits == 4 else square)
        error = sum_of(errors)
        if best is None or error < best[0]:
            best = (error, scale, zero)
    return best[1], best[2]


def code_of(x, scale, zero, bits):
    if bits == 1:
        return int(scale != 0 and x >= F(zero + F(F(0.5) * scale)))
    return int(encode_value(x, zero, scale, 2**bits - 1))


def rotate(row):
    """Butterflies of distance 1, 2, 4, then 1 / sqrt(count)."""
    x = list(row)
    h = 1
    while h < len(x):
        for i in range(len(x)):
            if i & h == 0:
                x[i], x[i + h] = F(x[i] + x[i + h]), F(x[i] - x[i + h])
        h *= 2
    return [F(value * F(1 / np.sqrt(np.float64(len(x))))) for value in x]


def pack(codes, bits, rows, columns):
    """codes: {(row, column): code}."""
    payload = bytearray(rows * columns * bits // 8)
    planes, row_tiles = 8 // bits, 2 if bits == 1 else 1
    words = 4 * row_tiles // planes
    for (row, column), code in codes.items():
        rg, rt = row // (16 * row_tiles), row // 16 % row_tiles
        r0, g = row % 16 // 8, row % 8
        kt, h = column // 32, column % 32 // 16
        t, i = column % 16 // 4, column % 4
        reg = rt * 4 + h * 2 + r0
        w, p = reg // planes, reg % planes
        word = (((rg * (columns // 32) + kt) * words + w) * 4 + t) * 8 + g
        payload[4 * word + i] |= code << (bits * p)
    return bytes(payload)


def padded(count):
    return (count + 31) // 32 * 32


def part(values, bits, is_k, per_token):
    """values: [token][channel]. Returns its header and its payload."""
    tokens, channels = len(values), len(values[0])
    lanes = tokens if per_token else channels
    scales = np.zeros(padded(lanes), np.float16)
    zeros = np.zeros(padded(lanes), np.float16)
    codes = {}
    for lane in range(lanes):
        samples = values[lane] if per_token else [row[lane] for row in values]
        scale, zero = header_of(samples, bits)
        scales[lane], zeros[lane] = scale, zero
        for i, x in enumerate(samples):
            token, channel = (lane, i) if per_token else (i, lane)
            at = (token, channel) if is_k else (channel, token)
            codes[at] = code_of(x, scale, zero, bits)
    shape = (padded(tokens), padded(channels)) if is_k else (padded(channels), padded(tokens))
    return scales.tobytes() + zeros.tobytes(), pack(codes, bits, *shape)


def record(codec, tokens, channels, rotated=False, per_token=False):
    bits = BITS[codec]
    c_range = range(channels)
    scale = [2 if t % 16 == 5 else 1 for t in range(tokens)]  # some tokens stand out
    k = [[F(((7 * t + 3 * c) % 11 - 4 + c / 4) * scale[t]) for c in c_range] for t in range(tokens)]
    v = [[F(((5 * t + 7 * c) % 13 / 4 - 1) * scale[t]) for c in c_range] for t in range(tokens)]
    if rotated:  # relative to a mean of c / 4
        k = [rotate([F(x - F(c / 4)) for c, x in enumerate(row)]) for row in k]
    k_header, k_payload = part(k, bits, True, False)
    v_header, v_payload = part(v, bits, False, per_token)
    return k_header + v_header + k_payload + v_payload


def fnv1a(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def show(codec, **variant):
    print(codec, " ".join(variant))
    data = record(codec, 3, 8, **variant)
    for line in range(0, len(data), 16):
        if any(data[line : line + 16]):
            print(f"{line:04x}: {data[line : line + 16].hex()}")
    print(f"larger: {fnv1a(record(codec, 70, 64, **variant)):016x}")


for name in BITS:
    show(name)
for name in BITS:
    show(name, per_token=True)
for name in ("i2", "i1"):
    show(name, rotated=True)
