// read_ahead.h: blocks on their way from pinned DRAM into HBM before attention asks for them.
// SPDX-License-Identifier: Apache-2.0
//
// While a GPU reads the weights of a layer, its link has nothing to do. start() has the copy engine
// bring blocks of the layer that comes next into a buffer, behind the attention that reads what the
// buffer holds; the attention of that layer reads the copies, and the rest through the link as
// before. So one buffer is enough, of as many bytes as the link moves between two attentions.
//
// A copy stands for its block while nothing has written what it was read from: stop() comes before
// anything that may.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "kernels/cuda_handles.h"
#include "runtime/base/backend.h"
#include "vkv/status.h"

namespace vkv {

// Not thread-safe. `stream` is always the one that attends; copies have a stream of their own.
// Before the destructor, `stream` must have ended what was queued.
class ReadAhead {
 public:
  ReadAhead() = default;  // no room: nothing is ever read ahead

  // On the current device, to which `buffer` belongs; borrowed. Errors: kCuda.
  static Result<ReadAhead> make(std::span<std::byte> buffer);
  ReadAhead(ReadAhead&&) = default;
  ReadAhead& operator=(ReadAhead&&) = default;
  ~ReadAhead();

  size_t room() const { return buffer_.size(); }

  // Gives up the copies there are and queues those of the blocks, from the first on, as many as
  // fit. Groups as in Backend::read_ahead(): a copy from two allocations would fail.
  // Headers that are not in front of their payload stay where they are. Returns the bytes under
  // way. Errors: kCuda.
  Result<uint64_t> start(int label, const KvShape& shape,
                         std::span<const std::span<const BlockView>> groups, cudaStream_t stream);

  // Has `view` point to the copy of its block, where there is one. Views are asked for in the order
  // of start(); what was passed over is not found.
  bool take(BlockView& view);

  // Before and after the work that reads what was taken.
  Status begin_reading(cudaStream_t stream);
  Status end_reading(cudaStream_t stream);

  // From now on nothing is taken, and what is queued on `stream`, any, follows the copies.
  Status stop(cudaStream_t stream);

  // Of the oldest copies that were waited for and not asked for. Does not wait.
  std::optional<AheadTiming> next_timing();

 private:
  static constexpr size_t kTimings = 64;  // a step of a large model, which the host is ahead

  struct Copy {
    const std::byte* source = nullptr;  // of the headers, or of the payload where they lie apart
    const std::byte* target = nullptr;
  };
  struct Timing {
    CudaEvent begun, copied, needed;
    int label = 0;  // the caller's
    uint64_t byte_count = 0;
    bool waited_for = false;
  };

  Timing& newest() { return timings_[(started_ - 1) % kTimings]; }

  std::span<std::byte> buffer_;
  CudaStream copies_;
  CudaEvent read_;  // when the buffer may be written again
  std::vector<Timing> timings_;
  std::vector<Copy> list_;
  size_t next_ = 0;  // of the list
  bool taken_ = false;
  bool read_recorded_ = false;
  bool under_way_ = false;  // copies that the attending stream has not been told to wait for
  uint64_t started_ = 0;    // calls of start() that copied
  uint64_t told_ = 0;       // of them, those whose timing was told or given up
};

}  // namespace vkv
