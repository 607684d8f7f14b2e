// mma_products.cu: one warp feeds packed words straight to the tensor cores.
// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime.h>

#include <string>

#include "kernels/mma.cuh"
#include "tests/mma_products.h"

namespace vkv {
namespace {

Status cuda_status(cudaError_t error, const char* call) {
  if (error == cudaSuccess) return {};
  return {Code::kCuda, std::string(call) + ": " + cudaGetErrorString(error)};
}

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

// Device memory of one call.
class DeviceBytes {
 public:
  ~DeviceBytes() { (void)cudaFree(data_); }
  Status allocate(size_t byte_count) {
    return cuda_status(cudaMalloc(&data_, byte_count), "cudaMalloc");
  }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
};

}  // namespace

Result<MmaProducts> mma_products(int bits, int rows, int columns, std::span<const uint32_t> packed,
                                 std::span<const int8_t> right) {
  int device_count = 0;
  if (cudaGetDeviceCount(&device_count) != cudaSuccess || device_count == 0)
    return Status(Code::kUnsupported, "no GPU");
  DeviceBytes a, b, integers, halves;
  const size_t result_count = static_cast<size_t>(rows) * kMmaColumns;
  VKV_TRY(a.allocate(packed.size_bytes()));
  VKV_TRY(b.allocate(right.size_bytes()));
  VKV_TRY(integers.allocate(result_count * sizeof(int32_t)));
  VKV_TRY(halves.allocate(result_count * sizeof(float)));
  const auto copy = [](void* to, const void* from, size_t byte_count) {
    return cuda_status(cudaMemcpy(to, from, byte_count, cudaMemcpyDefault), "cudaMemcpy");
  };
  VKV_TRY(copy(a.as<void>(), packed.data(), packed.size_bytes()));
  VKV_TRY(copy(b.as<void>(), right.data(), right.size_bytes()));

  const auto kernel = bits == 8   ? multiply<8>
                      : bits == 4 ? multiply<4>
                      : bits == 2 ? multiply<2>
                                  : multiply<1>;
  kernel<<<1, 32>>>(rows, columns, a.as<uint32_t>(), b.as<int8_t>(), integers.as<int32_t>(),
                    halves.as<float>());
  VKV_TRY(cuda_status(cudaGetLastError(), "multiply"));

  MmaProducts products;
  products.integers.resize(result_count);
  products.halves.resize(result_count);
  VKV_TRY(copy(products.integers.data(), integers.as<void>(), result_count * sizeof(int32_t)));
  VKV_TRY(copy(products.halves.data(), halves.as<void>(), result_count * sizeof(float)));
  return products;
}

}  // namespace vkv
