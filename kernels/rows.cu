// rows.cu: one thread a value, or a column where rows move in place.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "kernels/cuda_handles.h"
#include "kernels/rows.h"
#include "runtime/base/codec.h"

namespace vkv {
namespace {

constexpr int kThreads = 256;
constexpr size_t kBlocksMax = 4096;  // then a thread takes several values
constexpr int kRowsAhead = 8;        // loads on the way at once

static_assert(sizeof(unsigned long long) == sizeof(uint64_t));

uint32_t blocks_for(size_t count) {
  return static_cast<uint32_t>(
      std::clamp<size_t>((count + kThreads - 1) / kThreads, 1, kBlocksMax));
}

__device__ float load(ElementType element, const void* values, size_t index) {
  if (element == ElementType::kF32) return static_cast<const float*>(values)[index];
  return float_from_16_bit(codec_of(element), static_cast<const uint16_t*>(values)[index]);
}

__device__ size_t first_index() { return size_t{blockIdx.x} * kThreads + threadIdx.x; }
__device__ size_t index_step() { return size_t{gridDim.x} * kThreads; }

// blockIdx.y: K or V.
__global__ void __launch_bounds__(kThreads)
    append_kernel(const AppendItem item, unsigned long long* first_bad) {
  const bool of_v = blockIdx.y == 1;
  const void* source = of_v ? item.v : item.k;
  uint16_t* target = of_v ? item.v_target : item.k_target;
  for (size_t i = first_index(); i < item.value_count; i += index_step()) {
    const uint16_t bits = float_to_16_bit(item.codec, load(item.element, source, i));
    target[i] = bits;
    if (!is_finite(float_from_16_bit(item.codec, bits)))
      atomicMin(&first_bad[blockIdx.y], static_cast<unsigned long long>(i));
  }
}

__global__ void __launch_bounds__(kThreads)
    to_float_kernel(ElementType element, const void* source, float* target, size_t count) {
  for (size_t i = first_index(); i < count; i += index_step()) target[i] = load(element, source, i);
}

__global__ void __launch_bounds__(kThreads)
    from_float_kernel(Codec codec, const float* source, uint16_t* target, size_t count) {
  for (size_t i = first_index(); i < count; i += index_step())
    target[i] = float_to_16_bit(codec, source[i]);
}

// A thread moves one column down all rows, so that no thread reads what another has overwritten;
// rows only move up, so loading ahead of its own stores is safe too.
__global__ void __launch_bounds__(kThreads) keep_rows_kernel(const KeepRows work) {
  const size_t columns = work.row_values * sizeof(uint16_t) / sizeof(uint4);
  const size_t column = first_index();
  if (column >= columns) return;
  uint4* values = reinterpret_cast<uint4*>(work.rows) + column;
  for (uint32_t begin = 0; begin < work.count; begin += kRowsAhead) {
    uint4 moving[kRowsAhead];
#pragma unroll
    for (uint32_t i = 0; i < kRowsAhead; ++i)
      if (begin + i < work.count) moving[i] = values[work.kept[begin + i] * columns];
#pragma unroll
    for (uint32_t i = 0; i < kRowsAhead; ++i)
      if (begin + i < work.count) values[(work.first + begin + i) * columns] = moving[i];
  }
}

}  // namespace

Status launch_append(const AppendItem& item, uint64_t* first_bad, cudaStream_t stream) {
  append_kernel<<<dim3(blocks_for(item.value_count), 2), kThreads, 0, stream>>>(
      item, reinterpret_cast<unsigned long long*>(first_bad));
  return launch_status("append_kernel");
}

Status launch_to_float(ElementType element, const void* source, float* target, size_t count,
                       cudaStream_t stream) {
  to_float_kernel<<<blocks_for(count), kThreads, 0, stream>>>(element, source, target, count);
  return launch_status("to_float_kernel");
}

Status launch_from_float(ElementType element, const float* source, void* target, size_t count,
                         cudaStream_t stream) {
  from_float_kernel<<<blocks_for(count), kThreads, 0, stream>>>(
      codec_of(element), source, static_cast<uint16_t*>(target), count);
  return launch_status("from_float_kernel");
}

Status launch_keep_rows(const KeepRows& work, cudaStream_t stream) {
  const size_t columns = work.row_values * sizeof(uint16_t) / sizeof(uint4);
  // Few threads a block: there are few columns, and each wants its share of the memory's time.
  keep_rows_kernel<<<static_cast<uint32_t>((columns + kThreads - 1) / kThreads), kThreads, 0,
                     stream>>>(work);
  return launch_status("keep_rows_kernel");
}

}  // namespace vkv
