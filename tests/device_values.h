// device_values.h: random values, on the host and on the GPU, for tests of kernels.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_bf16.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <span>
#include <type_traits>
#include <vector>

#include "kernels/cuda_handles.h"

namespace vkv {

inline std::vector<float> random_floats(int64_t count, uint32_t seed, float spread = 1.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, spread);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

// To the nearest, ties to even; no NaN.
inline uint16_t bf16_bits(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline float float_of_bf16(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

// What T makes of the values.
template <class T>
std::vector<float> rounded(std::vector<float> values) {
  if (std::is_same_v<T, __nv_bfloat16>)
    for (float& value : values) value = float_of_bf16(bf16_bits(value));
  return values;
}

// `count` values of T on the GPU, between guards. All bytes are 0xff at first, a NaN in both types.
template <class T>
class DeviceValues {
 public:
  explicit DeviceValues(int64_t count) : count_(static_cast<size_t>(count)) {
    auto array = CudaArray<T>::make(count_ + 2 * kGuards);
    VKV_CHECK(array.ok());
    array_ = std::move(array.value());
    VKV_CHECK(cudaMemset(array_.data(), 0xff, array_.size() * sizeof(T)) == cudaSuccess);
  }
  explicit DeviceValues(const std::vector<float>& values)
      : DeviceValues(static_cast<int64_t>(values.size())) {
    std::vector<uint16_t> narrow;
    for (const float value : values) narrow.push_back(bf16_bits(value));
    const bool is_float = std::is_same_v<T, float>;
    const void* const source = is_float ? static_cast<const void*>(values.data()) : narrow.data();
    VKV_CHECK(cudaMemcpy(data(), source, count_ * sizeof(T), cudaMemcpyDefault) == cudaSuccess);
  }

  T* data() const { return array_.data() + kGuards; }

  // After all work of the device. Fails if a guard is touched.
  std::vector<float> read() const {
    std::vector<std::byte> bytes(array_.size() * sizeof(T));
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    VKV_CHECK(cudaMemcpy(bytes.data(), array_.data(), bytes.size(), cudaMemcpyDefault) ==
              cudaSuccess);
    const size_t guard_bytes = kGuards * sizeof(T);
    for (size_t i = 0; i < guard_bytes; ++i)
      if (bytes[i] != std::byte{0xff} || bytes[bytes.size() - 1 - i] != std::byte{0xff}) {
        ADD_FAILURE() << "written outside of the values";
        break;
      }
    std::vector<float> values(count_);
    for (size_t i = 0; i < count_; ++i) {
      const std::byte* const at = bytes.data() + guard_bytes + i * sizeof(T);
      uint16_t narrow = 0;
      if (sizeof(T) == sizeof(float)) {
        std::memcpy(&values[i], at, sizeof(float));
      } else {
        std::memcpy(&narrow, at, sizeof(narrow));
        values[i] = float_of_bf16(narrow);
      }
    }
    return values;
  }

 private:
  static constexpr size_t kGuards = 64;
  size_t count_;
  CudaArray<T> array_;
};

// |actual - expected| <= tolerance * max(1, |expected|) everywhere; T's own rounding is allowed
// for.
template <class T>
void expect_near(std::span<const float> actual, std::span<const float> expected, float tolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  const float own = std::is_same_v<T, float> ? 0.0f : 0x1p-8f;
  float worst = 0;
  size_t where = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    const float gap = std::abs(actual[i] - expected[i]) / std::max(1.0f, std::abs(expected[i]));
    if (gap <= worst) continue;  // false for NaN
    worst = gap, where = i;
    if (std::isnan(gap)) break;
  }
  EXPECT_LE(worst, tolerance + own)
      << "at " << where << ": " << actual[where] << ", not " << expected[where];
}

}  // namespace vkv
