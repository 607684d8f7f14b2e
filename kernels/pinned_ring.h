// pinned_ring.h: host bytes on their way to the device, without a wait.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "kernels/cuda_handles.h"

namespace vkv {

// Pinned memory in two halves: one is written while copies read the other. For one stream.
class PinnedRing {
 public:
  PinnedRing() = default;

  // Errors: kOutOfMemory, kCuda.
  static Result<PinnedRing> make(size_t byte_count) {
    PinnedRing ring;
    VKV_TRY_ASSIGN(bytes, CudaArray<std::byte>::make(byte_count / 2 * 2, CudaMemory::kPinned));
    ring.bytes_ = std::move(bytes);
    for (Half& half : ring.halves_) {
      VKV_TRY_ASSIGN(read, make_event());
      half.read = std::move(read);
    }
    return Result<PinnedRing>(std::move(ring));
  }

  // `source` may go when it returns. Waits only where a half as large as all that was copied since
  // is not yet read.
  Status copy(std::byte* target, const std::byte* source, size_t byte_count, cudaStream_t stream) {
    while (byte_count > 0) {
      if (used_ == half_bytes()) VKV_TRY(turn(stream));
      const size_t part = std::min(byte_count, half_bytes() - used_);
      std::byte* const pinned = bytes_.data() + now_ * half_bytes() + used_;
      std::memcpy(pinned, source, part);
      VKV_TRY(copy_async(target, pinned, part, stream));
      used_ += part;
      target += part;
      source += part;
      byte_count -= part;
    }
    return {};
  }

 private:
  struct Half {
    CudaEvent read;
    bool in_flight = false;
  };

  size_t half_bytes() const { return bytes_.size() / 2; }

  Status turn(cudaStream_t stream) {
    VKV_TRY(cuda_status(cudaEventRecord(halves_[now_].read.get(), stream), "cudaEventRecord"));
    halves_[now_].in_flight = true;
    now_ = 1 - now_;
    used_ = 0;
    if (!std::exchange(halves_[now_].in_flight, false)) return {};
    return cuda_status(cudaEventSynchronize(halves_[now_].read.get()), "cudaEventSynchronize");
  }

  CudaArray<std::byte> bytes_;
  std::array<Half, 2> halves_;
  size_t now_ = 0, used_ = 0;
};

}  // namespace vkv
