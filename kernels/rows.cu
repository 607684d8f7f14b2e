// rows.cu: one thread a value, or a column where rows move in place.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>

#include "kernels/cuda_handles.h"
#include "kernels/overlapped_launch.cuh"
#include "kernels/rows.h"
#include "runtime/base/codec.h"

namespace vkv {
namespace {

constexpr int kThreads = 256;
constexpr size_t kBlocksMax = 4096;  // then a thread takes several values
constexpr int kRowsAhead = 8;        // loads on the way at once

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

// By few threads in a run of the program, if any.
__device__ void note_bad_value(LateSlot* slot, uint64_t place, float value) {
  volatile LateSlot* const noted = slot;
  for (bool done = false; !done && place < noted->place;) {
    if (atomicCAS(&slot->lock, ~0u, 0u) != ~0u) continue;
    if (place < noted->place) {
      noted->place = place;
      noted->value = value;
    }
    __threadfence();
    atomicExch(&slot->lock, ~0u);
    done = true;
  }
}

// Of AppendItems, what differs from one to the next.
struct AppendRows {
  size_t value_count;
  const void* source[2];  // K, V
  uint16_t* target[2];
};
struct AppendBatch {
  ElementType element;
  Codec codec;
  AppendRows rows[kAppendItemsMax];
};

// blockIdx.y: K or V. blockIdx.z: the item.
__global__ void __launch_bounds__(kThreads)
    append_kernel(const __grid_constant__ AppendBatch batch, LateSlot* slots,
                  volatile uint32_t* found) {
  let_next_begin();
  const bool of_v = blockIdx.y == 1;
  const AppendRows& rows = batch.rows[blockIdx.z];
  LateSlot* const slot = slots + blockIdx.z;
  const void* source = rows.source[blockIdx.y];
  uint16_t* target = rows.target[blockIdx.y];
  wait_for_previous();
  for (size_t i = first_index(); i < rows.value_count; i += index_step()) {
    const float value = load(batch.element, source, i);
    const uint16_t bits = float_to_16_bit(batch.codec, value);
    target[i] = bits;
    if (is_finite(float_from_16_bit(batch.codec, bits))) continue;
    note_bad_value(slot, i | (of_v ? LateSlot::kOfV : 0), value);
    *found = 1;
  }
}

__global__ void __launch_bounds__(kThreads)
    to_float_kernel(ElementType element, const void* source, float* target, size_t count) {
  let_next_begin();
  wait_for_previous();
  for (size_t i = first_index(); i < count; i += index_step()) target[i] = load(element, source, i);
}

__global__ void __launch_bounds__(kThreads)
    from_float_kernel(Codec codec, const float* source, uint16_t* target, size_t count) {
  let_next_begin();
  wait_for_previous();
  for (size_t i = first_index(); i < count; i += index_step())
    target[i] = float_to_16_bit(codec, source[i]);
}

struct WrittenBytes {
  uint4 values[kWrittenBytesMax / sizeof(uint4)];
};

__global__ void __launch_bounds__(kThreads)
    write_kernel(const __grid_constant__ WrittenBytes bytes, uint4* target, uint32_t count) {
  let_next_begin();
  wait_for_previous();
  for (uint32_t i = threadIdx.x; i < count; i += kThreads) target[i] = bytes.values[i];
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

Status launch_append(std::span<const AppendItem> items, LateSlot* slots, uint32_t* found,
                     cudaStream_t stream) {
  VKV_CHECK(!items.empty() && items.size() <= kAppendItemsMax);
  AppendBatch batch{.element = items.front().element, .codec = items.front().codec};
  size_t most = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    const AppendItem& item = items[i];
    VKV_CHECK(item.element == batch.element && item.codec == batch.codec);
    batch.rows[i] = {item.value_count, {item.k, item.v}, {item.k_target, item.v_target}};
    most = std::max(most, item.value_count);
  }
  const dim3 grid(blocks_for(most), 2, static_cast<uint32_t>(items.size()));
  return launch_overlapped("append_kernel", append_kernel, {grid, dim3(kThreads)}, stream, batch,
                           slots, found);
}

Status launch_to_float(ElementType element, const void* source, float* target, size_t count,
                       cudaStream_t stream) {
  return launch_overlapped("to_float_kernel", to_float_kernel,
                           {dim3(blocks_for(count)), dim3(kThreads)}, stream, element, source,
                           target, count);
}

Status launch_from_float(ElementType element, const float* source, void* target, size_t count,
                         cudaStream_t stream) {
  return launch_overlapped("from_float_kernel", from_float_kernel,
                           {dim3(blocks_for(count)), dim3(kThreads)}, stream, codec_of(element),
                           source, static_cast<uint16_t*>(target), count);
}

Status launch_write(std::byte* target, const std::byte* source, size_t byte_count,
                    cudaStream_t stream) {
  VKV_CHECK(byte_count <= kWrittenBytesMax && byte_count % sizeof(uint4) == 0);
  WrittenBytes bytes;
  std::memcpy(bytes.values, source, byte_count);
  return launch_overlapped("write_kernel", write_kernel, {dim3(1), dim3(kThreads)}, stream, bytes,
                           reinterpret_cast<uint4*>(target),
                           static_cast<uint32_t>(byte_count / sizeof(uint4)));
}

Status launch_keep_rows(const KeepRows& work, cudaStream_t stream) {
  const size_t columns = work.row_values * sizeof(uint16_t) / sizeof(uint4);
  // Few threads a block: there are few columns, and each wants its share of the memory's time.
  keep_rows_kernel<<<static_cast<uint32_t>((columns + kThreads - 1) / kThreads), kThreads, 0,
                     stream>>>(work);
  return launch_status("keep_rows_kernel");
}

}  // namespace vkv
