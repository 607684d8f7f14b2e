// host_share.h: the CPU's part of a step's attention, beside the GPU's.
// SPDX-License-Identifier: Apache-2.0
//
// Both engines read records where they lie, in pinned memory. begin() queues a kernel that leaves
// queries and means in pinned memory and raises a flag; a thread that waits for it has the CPU's
// engine attend, and raises another flag, for which the kernel that merges waits on the device. No
// call of the host lies between them, so the host may be layers ahead, as in a step without the
// CPU. What is queued on the stream behind end() may overwrite or free the records.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "kernels/cuda_handles.h"
#include "runtime/base/backend.h"
#include "vkv/status.h"

namespace vkv {

inline constexpr size_t kHostItemsMax = 16;  // of a call
inline constexpr int kHostQueriesMax = 16;   // of all items of a call together

// What the device and the CPU tell each other about a call, in pinned memory. Words of the two
// sides lie in lines of their own.
struct HostCallWords {
  alignas(128) uint32_t asked;  // number of the call whose queries have arrived
  uint64_t asked_ns;            // the device's clock
  uint64_t joined_ns;           // when the device's own part was done
  uint64_t merged_ns;           // when the CPU's was there too
  alignas(128) uint32_t done;   // number of the call that the CPU has computed
};

// Not thread-safe, and for one stream. Owns the thread, its engine, and pinned memory.
class HostShare {
 public:
  // On the current device. Errors: kOutOfMemory for pinned memory, kCuda.
  static Result<std::unique_ptr<HostShare>> make(const KvShape& shape,
                                                 std::unique_ptr<Backend> cpu);
  // Before, the stream must have ended what was queued, or been given up.
  ~HostShare();
  HostShare(const HostShare&) = delete;
  HostShare& operator=(const HostShare&) = delete;

  // Whether a call with these items fits: kHostItemsMax of them, kHostQueriesMax queries together.
  static bool fits(std::span<const AttendItem> items);

  // Has the CPU attend to the items' blocks, which it can read; q and k_mean are the device's. The
  // items must fit(). device_bytes: of pinned memory that the device will read meanwhile. Waits
  // while kCallsAhead calls are not merged yet. Errors: kCuda, and failure().
  Status begin(std::span<const AttendItem> items, uint64_t device_bytes, cudaStream_t stream);

  // Merges what the CPU computed into what lies in the items' out and lse then: what is queued
  // between the two calls.
  Status end(cudaStream_t stream);

  // What went wrong on the CPU in a call whose results are on the device by now. Stays.
  Status failure() const;

  // Of the oldest call that is merged and was not asked for.
  std::optional<ShareTiming> next_timing();

  uint64_t host_bytes() const;  // of pinned and pageable memory

 private:
  static constexpr size_t kCallsAhead = 8;

  struct Job {
    size_t call = 0;
    uint32_t number = 0;
    std::vector<AttendItem> items;  // `blocks` are set where the job is run
    std::vector<BlockView> blocks;
    std::vector<size_t> block_counts;
  };
  // What a call has, in turn.
  struct Call {
    HostCallWords* words = nullptr;
    float* q = nullptr;
    float* mean = nullptr;
    float* out = nullptr;
    float* lse = nullptr;
    CudaEvent merged;
    uint32_t number = 0;  // 0: not used yet
    uint64_t device_bytes = 0;
    uint64_t block_bytes = 0;
    double seconds = 0;  // of the CPU; written before `done`
    std::vector<AttendItem> device_items;
    std::vector<PartialView> partials;  // the CPU's
  };

  HostShare(const KvShape& shape, std::unique_ptr<Backend> cpu);
  Status take_memory();
  void run();
  Status compute(Job& job);
  bool wait_for_queries(const Call& call, uint32_t number) const;

  const KvShape shape_;
  const std::unique_ptr<Backend> cpu_;
  CudaArray<HostCallWords> words_;
  CudaArray<float> floats_;
  std::vector<Call> calls_;  // [kCallsAhead]
  uint32_t last_number_ = 0;
  uint32_t oldest_untimed_ = 1;
  std::vector<float> scratch_;  // partials of pieces; the thread's

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable posted_;
  std::deque<Job> jobs_;
  Status failure_;
  bool stops_ = false;
  std::thread thread_;
};

}  // namespace vkv
