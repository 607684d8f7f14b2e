// mma.cuh: packed codes as operands of tensor-core products.
// SPDX-License-Identifier: Apache-2.0
//
// The packing order of runtime/base/block_format.h is the order of fragments: lane 4 * g + t of a
// warp reads word (... * 4 + t) * 8 + g, and each shift of it is one register of A of
// mma.m16n8k32 (PTX ISA, "Matrix fragments for mma.m16n8k32"): registers 0 and 1 hold rows g and
// g + 8 of columns 4t .. 4t + 3, registers 2 and 3 the same rows of columns 16 + 4t .. 16 + 4t + 3.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

namespace vkv {

// One plane of a packed word: four consecutive columns of a row as bytes.
template <int kBits>
__device__ inline uint32_t code_quad(uint32_t word, int plane) {
  constexpr uint32_t kMask = 0x01010101u * ((1u << kBits) - 1);
  return word >> (kBits * plane) & kMask;
}

// Two of a quad's codes as fp16, exact: bytes 0 and 1, or 2 and 3. 0x64xx is 1024 + xx.
template <bool kUpper>
__device__ inline uint32_t halves_from_quad(uint32_t quad) {
  const uint32_t biased = __byte_perm(quad, 0x64646464u, kUpper ? 0x4342 : 0x4140);
  const __half2 codes =
      __hsub2(*reinterpret_cast<const __half2*>(&biased), __half2half2(__ushort_as_half(0x6400)));
  return *reinterpret_cast<const uint32_t*>(&codes);
}

// What goes in and what comes out are operands apart: of operands that are both ("+f"), nvcc 13.0
// loses a copy where a branch lies between two products.

// d += a x b: a [16, 32] of u8, b [32, 8] of s8. Exact.
__device__ inline void mma_m16n8k32(int32_t (&d)[4], const uint32_t (&a)[4],
                                    const uint32_t (&b)[2]) {
  const int32_t c[4] = {d[0], d[1], d[2], d[3]};
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(c[0]), "r"(c[1]),
        "r"(c[2]), "r"(c[3]));
}

// The same with b of u8.
__device__ inline void mma_m16n8k32_unsigned(int32_t (&d)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2]) {
  const int32_t c[4] = {d[0], d[1], d[2], d[3]};
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.u8.s32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(c[0]), "r"(c[1]),
        "r"(c[2]), "r"(c[3]));
}

// d += a x b: a [16, 16] and b [16, 8] of fp16, sums in fp32.
__device__ inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const float c[4] = {d[0], d[1], d[2], d[3]};
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]),
        "f"(c[2]), "f"(c[3]));
}

// The same with bf16, where kBf16 says so.
template <bool kBf16>
__device__ inline void mma_halves(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if constexpr (!kBf16) {
    mma_m16n8k16(d, a, b);
  } else {
    const float c[4] = {d[0], d[1], d[2], d[3]};
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]),
          "f"(c[2]), "f"(c[3]));
  }
}

// Four 8 x 8 matrices of 16 bits, each transposed. Lane l names row l % 8 of matrix l / 8, 16 bytes
// in shared memory.
__device__ inline void load_transposed(const void* row, uint32_t (&a)[4]) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
               : "r"(address)
               : "memory");
}

}  // namespace vkv
