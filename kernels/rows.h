// rows.h: rows of 16-bit values on the GPU: converted and moved.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "runtime/base/backend.h"
#include "vkv/status.h"

namespace vkv {

inline constexpr uint64_t kNoBadValue = UINT64_MAX;

// first_bad: [2], of K and of V: lowered to the index of the first value that is not finite.
Status launch_append(const AppendItem& item, uint64_t* first_bad, cudaStream_t stream);

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
