// What a cache does when the driver refuses a call, memory or pinning: an error or a slower step,
// never a wrong answer. And what the driver gave is within the budgets. The linker has all calls of
// this program and its libraries come here first (--wrap).
// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <iostream>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "tests/gpu_cache_driver.h"
#include "tests/temporary_directory.h"
#include "vkv/cache.h"

namespace vkv {
namespace {

enum class DriverCall { kMalloc, kHostAlloc, kHostRegister, kCopy, kFill, kEvent, kLaunch };
constexpr std::string_view kNames[] = {"cudaMalloc",      "cudaHostAlloc",   "cudaHostRegister",
                                       "cudaMemcpyAsync", "cudaMemsetAsync", "cudaEventRecord",
                                       "cudaLaunchKernel"};
constexpr size_t kCallCount = std::size(kNames);

// Which call fails, and what memory there is. Threads: any.
class Driver {
 public:
  // The n-th of them from now on fails, and only that one, or all from there on; n 0: none.
  void fail(DriverCall call, int64_t n, bool ever_after = false) {
    ever_after_ = ever_after;
    for (auto& left : until_failure_) left = 0;
    until_failure_[static_cast<size_t>(call)] = n;
  }
  void fail_no_more() { fail(DriverCall::kMalloc, 0); }

  bool fails(DriverCall call) {
    const auto index = static_cast<size_t>(call);
    ++counts_[index];
    int64_t left = until_failure_[index];
    if (left <= 0) return false;
    left = --until_failure_[index];
    if (left > 0) return false;
    if (ever_after_) until_failure_[index] = 1;
    return true;
  }
  int64_t count(DriverCall call) const { return counts_[static_cast<size_t>(call)]; }

  struct Memory {
    uint64_t bytes = 0, peak = 0;
    std::map<const void*, size_t> pieces;
  };
  void add(Memory& memory, const void* data, size_t byte_count) {
    const std::lock_guard lock(mutex_);
    memory.pieces[data] = byte_count;
    memory.bytes += byte_count;
    memory.peak = std::max(memory.peak, memory.bytes);
  }
  void remove(Memory& memory, const void* data) {
    const std::lock_guard lock(mutex_);
    const auto found = memory.pieces.find(data);
    if (found == memory.pieces.end()) return;
    memory.bytes -= found->second;
    memory.pieces.erase(found);
  }
  void forget_peaks() {
    const std::lock_guard lock(mutex_);
    for (Memory* memory : {&device, &pinned}) memory->peak = memory->bytes;
  }

  Memory device, pinned;

 private:
  std::array<std::atomic<int64_t>, kCallCount> until_failure_{}, counts_{};
  std::atomic<bool> ever_after_ = false;
  std::mutex mutex_;
};

Driver& driver() {
  static Driver one;
  return one;
}

}  // namespace
}  // namespace vkv

using vkv::driver;
using vkv::DriverCall;

extern "C" {

#define VKV_WRAPPED(name, call, parameters, arguments) \
  cudaError_t __real_##name parameters;                \
  cudaError_t __wrap_##name parameters {               \
    if (driver().fails(call)) return cudaErrorUnknown; \
    return __real_##name arguments;                    \
  }

VKV_WRAPPED(cudaMemcpyAsync, DriverCall::kCopy,
            (void* target, const void* source, size_t count, cudaMemcpyKind kind,
             cudaStream_t stream),
            (target, source, count, kind, stream))
VKV_WRAPPED(cudaMemsetAsync, DriverCall::kFill,
            (void* target, int value, size_t count, cudaStream_t stream),
            (target, value, count, stream))
VKV_WRAPPED(cudaEventRecord, DriverCall::kEvent, (cudaEvent_t event, cudaStream_t stream),
            (event, stream))
VKV_WRAPPED(cudaLaunchKernel, DriverCall::kLaunch,
            (const void* kernel, dim3 grid, dim3 block, void** arguments, size_t shared,
             cudaStream_t stream),
            (kernel, grid, block, arguments, shared, stream))
VKV_WRAPPED(cudaLaunchKernelExC, DriverCall::kLaunch,
            (const cudaLaunchConfig_t* config, const void* kernel, void** arguments),
            (config, kernel, arguments))

cudaError_t __real_cudaMalloc(void** data, size_t byte_count);
cudaError_t __wrap_cudaMalloc(void** data, size_t byte_count) {
  if (driver().fails(DriverCall::kMalloc)) return cudaErrorMemoryAllocation;
  const cudaError_t error = __real_cudaMalloc(data, byte_count);
  if (error == cudaSuccess) driver().add(driver().device, *data, byte_count);
  return error;
}
cudaError_t __real_cudaFree(void* data);
cudaError_t __wrap_cudaFree(void* data) {
  driver().remove(driver().device, data);
  return __real_cudaFree(data);
}
cudaError_t __real_cudaHostAlloc(void** data, size_t byte_count, unsigned flags);
cudaError_t __wrap_cudaHostAlloc(void** data, size_t byte_count, unsigned flags) {
  if (driver().fails(DriverCall::kHostAlloc)) return cudaErrorMemoryAllocation;
  const cudaError_t error = __real_cudaHostAlloc(data, byte_count, flags);
  if (error == cudaSuccess) driver().add(driver().pinned, *data, byte_count);
  return error;
}
cudaError_t __real_cudaFreeHost(void* data);
cudaError_t __wrap_cudaFreeHost(void* data) {
  driver().remove(driver().pinned, data);
  return __real_cudaFreeHost(data);
}
cudaError_t __real_cudaHostRegister(void* data, size_t byte_count, unsigned flags);
cudaError_t __wrap_cudaHostRegister(void* data, size_t byte_count, unsigned flags) {
  if (driver().fails(DriverCall::kHostRegister)) return cudaErrorMemoryAllocation;
  const cudaError_t error = __real_cudaHostRegister(data, byte_count, flags);
  if (error == cudaSuccess) driver().add(driver().pinned, data, byte_count);
  return error;
}
cudaError_t __real_cudaHostUnregister(void* data);
cudaError_t __wrap_cudaHostUnregister(void* data) {
  driver().remove(driver().pinned, data);
  return __real_cudaHostUnregister(data);
}

}  // extern "C"

namespace vkv {
namespace {

class GpuFailure : public GpuCache {
 protected:
  void TearDown() override { driver().fail_no_more(); }

  // Little HBM, so that blocks go to DRAM and are read ahead from there.
  CacheOptions crowded_options(std::string_view preset) const {
    CacheOptions options = on_gpu(on_cpu(preset));
    options.hbm_block_bytes_max = 64 << 10;
    options.hbm_ahead_bytes = uint64_t{1} << 20;
    options.nvme_bytes_max = uint64_t{64} << 20;
    options.store_path = directory_ / "kv.store";
    options.dram_block_bytes_max = 128 << 10;
    return options;
  }
  // Windows and steps; what came of it.
  static Result<std::vector<float>> talk(Cache& cache, SequenceId sequence) {
    std::vector<float> all;
    int position = 0;
    for (const auto& [visual, text] : {std::pair{700, 40}, {900, 30}, {0, 1}, {0, 1}, {0, 1}}) {
      const bool is_window = visual > 0;
      VKV_TRY_ASSIGN(
          out, step(cache, {{sequence, position, picture_prompt(0, visual, text), is_window, 0}}));
      all.insert(all.end(), out.begin(), out.end());
      position += visual + text;
    }
    return all;
  }

  TemporaryDirectory directory_;
};

TEST_F(GpuFailure, any_call_of_the_driver_may_fail_and_no_answer_is_wrong) {
  for (const std::string_view preset : {"balanced", "visual1"}) {
    std::vector<float> want;
    std::array<int64_t, kCallCount> counts{};
    {
      auto cache = must_open(crowded_options(preset));
      ASSERT_NE(cache, nullptr);
      for (size_t call = 0; call < kCallCount; ++call)
        counts[call] = -driver().count(static_cast<DriverCall>(call));
      want = talk(*cache, must_create(*cache)).value();
      for (size_t call = 0; call < kCallCount; ++call)
        counts[call] += driver().count(static_cast<DriverCall>(call));
      EXPECT_GT(cache->stats().tier[1].extent_count, 0u);
      EXPECT_GT(cache->stats().tier[2].extent_count, 0u);
      EXPECT_GT(cache->stats().ahead_read_bytes, 0u);
    }
    for (const DriverCall call : {DriverCall::kCopy, DriverCall::kFill, DriverCall::kEvent,
                                  DriverCall::kLaunch, DriverCall::kHostRegister}) {
      const int64_t count = counts[static_cast<size_t>(call)];
      int told = 0, tried = 0;
      for (int64_t n = 1; n <= count; n += std::max<int64_t>(1, count / 16)) {
        auto cache = must_open(crowded_options(preset));
        ASSERT_NE(cache, nullptr);
        const SequenceId first = must_create(*cache);
        driver().fail(call, n);
        const Result<std::vector<float>> got = talk(*cache, first);
        driver().fail_no_more();
        ++tried;
        if (got.ok()) {
          EXPECT_TRUE(same(got.value(), want)) << kNames[static_cast<size_t>(call)] << " " << n;
        } else {
          ++told;
          EXPECT_FALSE(got.status().message().empty());
        }
        // The others go on, and nothing is left of what failed.
        must(cache->erase(first));
        const SequenceId second = must_create(*cache);
        const Result<std::vector<float>> again = talk(*cache, second);
        EXPECT_TRUE(again.ok()) << kNames[static_cast<size_t>(call)] << " " << n << ": "
                                << again.status().message();
        if (again.ok()) {
          EXPECT_TRUE(same(again.value(), want))
              << kNames[static_cast<size_t>(call)] << " " << n << ", after it";
        }
        must(cache->erase(second));
        const CacheStats stats = cache->stats();
        for (const TierStats& tier : stats.tier) {
          EXPECT_EQ(tier.extent_count, 0u) << kNames[static_cast<size_t>(call)] << " " << n;
          EXPECT_LE(tier.bytes_peak, tier.bytes_max);
        }
      }
      std::cout << preset << ", " << kNames[static_cast<size_t>(call)] << ": " << tried << " of "
                << count << " calls failed, " << told << " were told of\n";
    }
  }
}

TEST_F(GpuFailure, refused_memory_is_an_error_that_says_which) {
  const CacheOptions options = crowded_options("balanced");
  const int64_t mallocs_before = driver().count(DriverCall::kMalloc);
  const int64_t allocs_before = driver().count(DriverCall::kHostAlloc);
  ASSERT_NE(must_open(options), nullptr);
  const std::pair<DriverCall, int64_t> calls[] = {
      {DriverCall::kMalloc, driver().count(DriverCall::kMalloc) - mallocs_before},
      {DriverCall::kHostAlloc, driver().count(DriverCall::kHostAlloc) - allocs_before}};
  for (const auto& [call, count] : calls) {
    EXPECT_GT(count, 0);
    for (int64_t n = 1; n <= count; ++n) {
      const uint64_t device_before = driver().device.bytes, pinned_before = driver().pinned.bytes;
      driver().fail(call, n);
      const auto cache = Cache::open(options);
      driver().fail_no_more();
      ASSERT_FALSE(cache.ok());
      EXPECT_EQ(cache.status().code(), Code::kOutOfMemory) << cache.status().message();
      EXPECT_NE(cache.status().message().find(kNames[static_cast<size_t>(call)]), std::string::npos)
          << cache.status().message();
      EXPECT_EQ(driver().device.bytes, device_before);
      EXPECT_EQ(driver().pinned.bytes, pinned_before);
    }
  }

  // The driver pins nothing at all: HBM alone has to do, and says so when it is full.
  CacheOptions without_store = on_gpu(on_cpu("balanced"));
  without_store.hbm_bytes_max = least_hbm(without_store) + (uint64_t{4} << 20);
  auto cache = must_open(without_store);
  const SequenceId sequence = must_create(*cache);
  driver().fail(DriverCall::kHostRegister, 1, /*ever_after=*/true);
  Status status;
  for (int window = 0; status.ok() && window < 80; ++window)
    status =
        step(*cache, {{sequence, 1000 * window, picture_prompt(0, 1000, 0), true, 0}}).status();
  driver().fail_no_more();
  EXPECT_EQ(status.code(), Code::kOutOfMemory);
  EXPECT_NE(status.message().find("refuses to pin"), std::string::npos) << status.message();
  must(cache->erase(sequence));
  const SequenceId next = must_create(*cache);
  EXPECT_TRUE(talk(*cache, next).ok());
}

// By the calls that this program makes, and by what the driver says is left, which also counts what
// libraries take for themselves.
TEST_F(GpuFailure, what_the_driver_gives_is_within_the_budgets) {
  { (void)talk(*must_open(on_gpu(on_cpu("visual1"))), SequenceId{1}); }  // loads libraries, kernels
  {
    auto warm = must_open(on_gpu(on_cpu("visual1")));
    must(talk(*warm, must_create(*warm)).status());
  }
  size_t free_before = 0, total = 0;
  ASSERT_EQ(cudaMemGetInfo(&free_before, &total), cudaSuccess);
  const uint64_t device_before = driver().device.bytes, pinned_before = driver().pinned.bytes;
  driver().forget_peaks();
  CacheOptions options = on_gpu(on_cpu("visual1"));
  options.dram_bytes_max = uint64_t{64} << 20;
  options.hbm_bytes_max = least_hbm(options) + (uint64_t{4} << 20);
  size_t free_after = 0;
  {
    auto cache = must_open(options);
    std::vector<SequenceId> sequences;
    for (uint32_t i = 0; i < 3; ++i) {
      sequences.push_back(must_create(*cache));
      for (int window = 0; window < 12; ++window)
        must_step(*cache, {{sequences.back(), 1000 * window, picture_prompt(0, 1000, 0), true, i}});
    }
    EXPECT_GT(cache->stats().tier[1].extent_count, 0u);
    ASSERT_EQ(cudaMemGetInfo(&free_after, &total), cudaSuccess);
  }
  // Tensors of the calls come and go beside the cache; the largest of them are of one layer.
  const uint64_t tensors = 16 * 1000 * 4 * 64 * sizeof(float);
  std::cout << "device: " << driver().device.peak - device_before << " bytes at most by calls, "
            << free_before - free_after << " by what is left, of " << options.hbm_bytes_max
            << "; pinned: " << driver().pinned.peak - pinned_before << " of "
            << options.dram_bytes_max << "\n";
  EXPECT_LE(driver().device.peak - device_before, options.hbm_bytes_max + tensors);
  EXPECT_LE(free_before - free_after, options.hbm_bytes_max + tensors);
  EXPECT_LE(driver().pinned.peak - pinned_before, options.dram_bytes_max);
  EXPECT_EQ(driver().device.bytes, device_before);
  EXPECT_EQ(driver().pinned.bytes, pinned_before);
}

}  // namespace
}  // namespace vkv
