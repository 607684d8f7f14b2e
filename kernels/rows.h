// rows.h: rows of 16-bit values on the GPU: converted and moved.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "runtime/base/backend.h"
#include "vkv/status.h"

namespace vkv {

// What went wrong with one call, found by the device. All bytes 0xff: nothing.
struct LateSlot {
  static constexpr uint64_t kOfV = uint64_t{1} << 63;

  uint64_t place;         // of the first value that is not finite: its index, kOfV in V
  uint64_t encode_error;  // as kernels/encode.h has it
  uint32_t lock;          // 0: somebody writes place and value
  float value;
  bool has_bad_value() const { return place != UINT64_MAX; }
};

// Where a value is not finite, notes the first of an item in its slot, K before V, and sets *found,
// which the host reads. slots: one an item. At most kAppendItemsMax, of one element and codec.
inline constexpr size_t kAppendItemsMax = 64;
Status launch_append(std::span<const AppendItem> items, LateSlot* slots, uint32_t* found,
                     cudaStream_t stream);

// Host bytes to the device as arguments of a kernel, which is quicker than a copy. Multiples of 16.
inline constexpr size_t kWrittenBytesMax = 2048;
Status launch_write(std::byte* target, const std::byte* source, size_t byte_count,
                    cudaStream_t stream);

Status launch_to_float(ElementType element, const void* source, float* target, size_t count,
                       cudaStream_t stream);
Status launch_from_float(ElementType element, const float* source, void* target, size_t count,
                         cudaStream_t stream);

// Row kept[i] moves to row first + i, in place; kept ascends, and kept[i] >= first + i. Rows are
// whole multiples of 16 bytes, and aligned to that.
struct KeepRows {
  uint16_t* rows = nullptr;
  size_t row_values = 0;
  const uint32_t* kept = nullptr;  // of the device
  uint32_t first = 0;
  uint32_t count = 0;
};
Status launch_keep_rows(const KeepRows& work, cudaStream_t stream);

}  // namespace vkv
