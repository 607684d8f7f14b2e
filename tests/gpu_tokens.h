// gpu_tokens.h: tokens, records and attention items copied to the GPU, for the tests of kernels/.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstring>
#include <list>

#include "kernels/gpu_attend.h"
#include "kernels/gpu_devices.h"
#include "tests/attend_comparison.h"

namespace vkv {

inline bool gpu_exists() {
  const auto devices = list_gpu_devices();
  return devices.ok() && !devices.value().empty();
}

// Copies bytes to the GPU, or to mapped host memory, and frees them at the end. Around them are
// bytes that must not be read: 0xff, NaN in every floating point format.
class GpuCopies {
 public:
  explicit GpuCopies(CudaMemory memory = CudaMemory::kDevice) : memory_(memory) {}

  template <class T>
  T* copy(const T* values, size_t count) {
    if (values == nullptr) return nullptr;
    constexpr size_t kPoison = 4096;
    auto array = CudaArray<std::byte>::make(count * sizeof(T) + 2 * kPoison, memory_);
    EXPECT_TRUE(array.ok()) << array.status().message();
    std::vector<std::byte> bytes(array.value().size(), std::byte{0xff});
    if (count > 0) std::memcpy(bytes.data() + kPoison, values, count * sizeof(T));
    EXPECT_EQ(cudaMemcpy(array.value().data(), bytes.data(), bytes.size(), cudaMemcpyDefault),
              cudaSuccess);
    // It may return before the bytes are there, and streams do not wait for it.
    EXPECT_EQ(cudaStreamSynchronize(nullptr), cudaSuccess);
    arrays_.push_back(std::move(array.value()));
    return reinterpret_cast<T*>(arrays_.back().data() + kPoison);
  }

  BlockView copy(const KvShape& shape, BlockView block) {
    const BlockLayout layout = block_layout(shape, block);
    block.headers = copy(block.headers, layout.headers_bytes());
    block.payload = copy(block.payload, layout.payload_bytes());
    block.live = copy(block.live, static_cast<size_t>(layout.tokens) / 32);
    return block;
  }

  // Blocks, open tokens, queries and mean; out and lse are left alone.
  AttendItem copy(AttendItem item, std::vector<BlockView>& blocks) {
    const size_t head_dim = static_cast<size_t>(item.shape.head_dim);
    const size_t kv_width = static_cast<size_t>(item.shape.kv_heads) * head_dim;
    const size_t open_values = static_cast<size_t>(item.open.token_count) * kv_width;
    item.q = copy(item.q, static_cast<size_t>(item.q_len * item.shape.q_heads) * head_dim);
    item.k_mean = copy(item.k_mean, kv_width);
    item.open.k = copy(item.open.k, open_values);
    item.open.v = copy(item.open.v, open_values);
    blocks.clear();
    for (const BlockView& block : item.blocks) blocks.push_back(copy(item.shape, block));
    item.blocks = blocks;
    return item;
  }

 private:
  CudaMemory memory_;
  std::list<CudaArray<std::byte>> arrays_;
};

// Runs items with host pointers on the GPU. Results start as NaN.
inline std::vector<Partial> run_on_gpu(
    std::span<const AttendItem> items, CudaMemory memory,
    const std::function<Status(std::span<const AttendItem>)>& attend) {
  GpuCopies copies(memory);
  std::list<std::vector<BlockView>> blocks;
  std::vector<AttendItem> there;
  std::vector<Partial> partials;
  for (const AttendItem& item : items) {
    const size_t rows = static_cast<size_t>(item.q_len * item.shape.q_heads);
    partials.push_back({std::vector<float>(rows * static_cast<size_t>(item.shape.head_dim), NAN),
                        std::vector<float>(rows, NAN)});
    there.push_back(copies.copy(item, blocks.emplace_back()));
    there.back().out = copies.copy(partials.back().out.data(), partials.back().out.size());
    there.back().lse = copies.copy(partials.back().lse.data(), rows);
  }
  const Status status = attend(there);
  EXPECT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess) << cudaGetErrorString(cudaGetLastError());
  for (size_t i = 0; i < items.size(); ++i) {
    (void)cudaMemcpy(partials[i].out.data(), there[i].out, partials[i].out.size() * sizeof(float),
                     cudaMemcpyDefault);
    (void)cudaMemcpy(partials[i].lse.data(), there[i].lse, partials[i].lse.size() * sizeof(float),
                     cudaMemcpyDefault);
  }
  return partials;
}

inline std::vector<Partial> attend_on_gpu(std::span<const AttendItem> items,
                                          CudaMemory memory = CudaMemory::kDevice) {
  auto attend = GpuAttend::make();
  EXPECT_TRUE(attend.ok()) << attend.status().message();
  return run_on_gpu(items, memory, [&](std::span<const AttendItem> there) {
    return attend.value().attend(there, nullptr);
  });
}

inline void expect_gpu_agreement(const AttendItem& item, double tolerance = 2e-4) {
  const Difference found = difference(attend_on_gpu({&item, 1})[0], attend(oracle(), item));
  EXPECT_LE(found.out, tolerance);
  EXPECT_LE(found.lse, tolerance);
}

}  // namespace vkv
