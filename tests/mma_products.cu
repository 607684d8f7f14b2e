// mma_products.cu: one warp feeds packed words straight to the tensor cores.
// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime.h>

#include "kernels/cuda_handles.h"
#include "kernels/mma.cuh"
#include "tests/mma_products.h"

namespace vkv {
namespace {

__device__ uint32_t pair_of_halves(const int8_t* values) {
  const __half2 pair = __floats2half2_rn(values[0], values[1]);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

template <int kBits>
__global__ void multiply(int rows, int columns, const uint32_t* packed, const int8_t* right,
                         int32_t* integers, float* halves) {
  constexpr int kPlanes = 8 / kBits, kRowTiles = kBits == 1 ? 2 : 1;
  constexpr int kWords = 4 * kRowTiles / kPlanes;
  const int g = threadIdx.x / 4, t = threadIdx.x % 4, column_tiles = columns / 32;
  for (int group = 0; group < rows / (16 * kRowTiles); ++group) {
    int32_t sums[kRowTiles][4] = {};
    float half_sums[kRowTiles][4] = {};
    for (int tile = 0; tile < column_tiles; ++tile) {
      uint32_t a[kRowTiles][4];
      const uint32_t* words = packed + (group * column_tiles + tile) * kWords * 32;
      for (int w = 0; w < kWords; ++w)
        for (int plane = 0; plane < kPlanes; ++plane) {
          const int reg = w * kPlanes + plane;
          a[reg / 4][reg % 4] = code_quad<kBits>(words[(w * 4 + t) * 8 + g], plane);
        }

      const int8_t* near = right + g * columns + tile * 32 + 4 * t;
      const int8_t* far = near + 16;
      const uint32_t b[2] = {*reinterpret_cast<const uint32_t*>(near),
                             *reinterpret_cast<const uint32_t*>(far)};
      const uint32_t lower[2] = {pair_of_halves(near), pair_of_halves(far)};
      const uint32_t upper[2] = {pair_of_halves(near + 2), pair_of_halves(far + 2)};
      for (int i = 0; i < kRowTiles; ++i) {
        mma_m16n8k32(sums[i], a[i], b);
        uint32_t a_lower[4], a_upper[4];
        for (int reg = 0; reg < 4; ++reg) {
          a_lower[reg] = halves_from_quad<false>(a[i][reg]);
          a_upper[reg] = halves_from_quad<true>(a[i][reg]);
        }
        mma_m16n8k16(half_sums[i], a_lower, lower);
        mma_m16n8k16(half_sums[i], a_upper, upper);
      }
    }
    for (int i = 0; i < kRowTiles; ++i)
      for (int reg = 0; reg < 4; ++reg) {
        const int row = (group * kRowTiles + i) * 16 + reg / 2 * 8 + g;
        const int at = row * kMmaColumns + 2 * t + reg % 2;
        integers[at] = sums[i][reg];
        halves[at] = half_sums[i][reg];
      }
  }
}

}  // namespace

Result<MmaProducts> mma_products(int bits, int rows, int columns, std::span<const uint32_t> packed,
                                 std::span<const int8_t> right) {
  int device_count = 0;
  if (cudaGetDeviceCount(&device_count) != cudaSuccess || device_count == 0)
    return Status(Code::kUnsupported, "no GPU");
  const size_t result_count = static_cast<size_t>(rows) * kMmaColumns;
  VKV_TRY_ASSIGN(a, CudaArray<uint32_t>::make(packed.size()));
  VKV_TRY_ASSIGN(b, CudaArray<int8_t>::make(right.size()));
  VKV_TRY_ASSIGN(integers, CudaArray<int32_t>::make(result_count));
  VKV_TRY_ASSIGN(halves, CudaArray<float>::make(result_count));
  VKV_TRY_ASSIGN(stream, make_stream());
  VKV_TRY(copy_async(a.data(), packed.data(), packed.size(), stream.get()));
  VKV_TRY(copy_async(b.data(), right.data(), right.size(), stream.get()));

  const auto kernel = bits == 8   ? multiply<8>
                      : bits == 4 ? multiply<4>
                      : bits == 2 ? multiply<2>
                                  : multiply<1>;
  kernel<<<1, 32, 0, stream.get()>>>(rows, columns, a.data(), b.data(), integers.data(),
                                     halves.data());
  VKV_TRY(launch_status("multiply"));

  MmaProducts products;
  products.integers.resize(result_count);
  products.halves.resize(result_count);
  VKV_TRY(copy_async(products.integers.data(), integers.data(), result_count, stream.get()));
  VKV_TRY(copy_async(products.halves.data(), halves.data(), result_count, stream.get()));
  VKV_TRY(synchronize(stream.get()));
  return products;
}

}  // namespace vkv
