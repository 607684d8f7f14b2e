// encode_workspace.h: what calls of the GPU's encoder carry to the device, and the room they need.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "kernels/cuda_handles.h"
#include "kernels/encode_part.h"

namespace vkv {

// Parts and rows of one call, written in pinned memory and copied to the device in one piece.
class EncodeStaging {
 public:
  static Result<EncodeStaging> make(size_t part_count, size_t row_count) {
    EncodeStaging staging;
    staging.parts_max_ = part_count;
    VKV_TRY(staging.allocate(row_count));
    VKV_TRY_ASSIGN(done, make_event());
    staging.done_ = std::move(done);
    return Result<EncodeStaging>(std::move(staging));
  }

  // Waits until the device no longer needs what was written before. `grew`: more room was made.
  Status begin(size_t row_count, bool* grew) {
    if (in_flight_) VKV_TRY(cuda_status(cudaEventSynchronize(done_.get()), "cudaEventSynchronize"));
    in_flight_ = false;
    rows_used_ = 0;
    *grew = row_count > rows_max_;
    return *grew ? allocate(std::max(row_count, 2 * rows_max_)) : Status();
  }

  std::span<EncodePart> parts() {
    return {reinterpret_cast<EncodePart*>(host_.data()), parts_max_};
  }
  const EncodePart* device_parts() const {
    return reinterpret_cast<const EncodePart*>(device_.data());
  }

  // nullptr where the rows are one ascending run: a part then needs only the first.
  const uint32_t* add_rows(std::span<const uint32_t> rows) {
    const auto breaks = std::adjacent_find(rows.begin(), rows.end(),
                                           [](uint32_t a, uint32_t b) { return b != a + 1; });
    if (breaks == rows.end()) return nullptr;
    const size_t at = parts_max_ * sizeof(EncodePart) + rows_used_ * sizeof(uint32_t);
    std::copy(rows.begin(), rows.end(), reinterpret_cast<uint32_t*>(host_.data() + at));
    rows_used_ += rows.size();
    return reinterpret_cast<const uint32_t*>(device_.data() + at);
  }
  size_t rows_free() const { return rows_max_ - rows_used_; }

  Status copy_to_device(size_t part_count, cudaStream_t stream) {
    in_flight_ = true;
    VKV_TRY(copy_async(device_.data(), host_.data(), part_count * sizeof(EncodePart), stream));
    const size_t rows_at = parts_max_ * sizeof(EncodePart);
    if (rows_used_ == 0) return {};
    return copy_async(device_.data() + rows_at, host_.data() + rows_at,
                      rows_used_ * sizeof(uint32_t), stream);
  }

  // After all kernels that read it were queued.
  Status end(cudaStream_t stream) {
    return cuda_status(cudaEventRecord(done_.get(), stream), "cudaEventRecord");
  }

  uint64_t device_bytes() const { return device_.size(); }

 private:
  Status allocate(size_t row_count) {
    const size_t byte_count = parts_max_ * sizeof(EncodePart) + row_count * sizeof(uint32_t);
    VKV_TRY_ASSIGN(host, CudaArray<std::byte>::make(byte_count, CudaMemory::kPinned));
    VKV_TRY_ASSIGN(device, CudaArray<std::byte>::make(byte_count));
    host_ = std::move(host);
    device_ = std::move(device);
    rows_max_ = row_count;
    return {};
  }

  CudaArray<std::byte> host_, device_;
  CudaEvent done_;
  bool in_flight_ = false;
  size_t parts_max_ = 0, rows_max_ = 0, rows_used_ = 0;
};

// Floats of the device that one call after another uses, on whatever streams.
class EncodeRoom {
 public:
  static Result<EncodeRoom> make(size_t byte_count) {
    EncodeRoom room;
    VKV_TRY_ASSIGN(floats, CudaArray<float>::make(byte_count / sizeof(float)));
    room.floats_ = std::move(floats);
    VKV_TRY_ASSIGN(done, make_event());
    room.done_ = std::move(done);
    return Result<EncodeRoom>(std::move(room));
  }

  // Work queued on `stream` from now on follows the last user's.
  Status begin(size_t count, cudaStream_t stream, bool* grew) {
    *grew = count > floats_.size();
    if (used_ && *grew)
      VKV_TRY(cuda_status(cudaEventSynchronize(done_.get()), "cudaEventSynchronize"));
    if (*grew) {
      floats_ = CudaArray<float>();  // the old memory may be what is missing
      VKV_TRY_ASSIGN(floats, CudaArray<float>::make(count));
      floats_ = std::move(floats);
    } else if (used_) {
      VKV_TRY(cuda_status(cudaStreamWaitEvent(stream, done_.get(), 0), "cudaStreamWaitEvent"));
    }
    return {};
  }
  Status end(cudaStream_t stream) {
    used_ = true;
    return cuda_status(cudaEventRecord(done_.get(), stream), "cudaEventRecord");
  }
  float* data() const { return floats_.data(); }
  uint64_t device_bytes() const { return floats_.size() * sizeof(float); }

 private:
  CudaArray<float> floats_;
  CudaEvent done_;
  bool used_ = false;
};

}  // namespace vkv
