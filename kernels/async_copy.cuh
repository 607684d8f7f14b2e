// async_copy.cuh: copies into shared memory that say when they have arrived.
// SPDX-License-Identifier: Apache-2.0
//
// Arrivals are counted by an mbarrier in shared memory: each phase waits for one arrive() and for
// all that was tied to it. From sm_90 on one lane has the copy engine move whole runs of bytes
// (cp.async.bulk); before, each lane copies 16 bytes at a time.
#pragma once

#include <cuda_pipeline.h>

#include <cstddef>
#include <cstdint>

namespace vkv {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define VKV_HOPPER 1
inline constexpr bool kBulkCopies = true;
#else
#define VKV_HOPPER 0
inline constexpr bool kBulkCopies = false;
#endif

__device__ inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ inline void init_arrivals(uint64_t* barriers, int count) {
  for (int i = 0; i < count; ++i)
    asm volatile("mbarrier.init.shared.b64 [%0], 1;" ::"r"(shared_address(barriers + i))
                 : "memory");
#if VKV_HOPPER
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// Of the phase with this parity: 0, then 1, and so on in turn.
__device__ inline void wait_arrival(const uint64_t* barrier, uint32_t parity) {
  uint32_t arrived = 0;
  while (arrived == 0) {
#if VKV_HOPPER
    asm volatile(
        "{\n .reg .pred p;\n mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        " selp.u32 %0, 1, 0, p;\n}"
        : "=r"(arrived)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
#else
    asm volatile(
        "{\n .reg .pred p;\n mbarrier.test_wait.parity.shared.b64 p, [%1], %2;\n"
        " selp.u32 %0, 1, 0, p;\n}"
        : "=r"(arrived)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
#endif
  }
}

// The phase waits for the 16-byte copies that this lane has begun; arrive() comes after it.
__device__ inline void tie_lane_copies(uint64_t* barrier) {
  asm volatile("cp.async.mbarrier.arrive.shared.b64 [%0];" ::"r"(shared_address(barrier))
               : "memory");
}

__device__ inline void arrive(uint64_t* barrier) {
  asm volatile("{\n .reg .b64 state;\n mbarrier.arrive.shared.b64 state, [%0];\n}" ::"r"(
                   shared_address(barrier))
               : "memory");
}

// By one lane: arrives, and the phase waits for so many bytes of bulk copies too.
__device__ inline void arrive_with_bytes(uint64_t* barrier, uint32_t byte_count) {
#if VKV_HOPPER
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(byte_count)
      : "memory");
#else
  (void)byte_count;
  arrive(barrier);
#endif
}

// By one lane. Addresses and count are multiples of 16.
__device__ inline void copy_bulk(std::byte* target, const std::byte* source, uint32_t byte_count,
                                 uint64_t* barrier) {
#if VKV_HOPPER
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared_address(target)),
      "l"(source), "r"(byte_count), "r"(shared_address(barrier))
      : "memory");
#else
  (void)target, (void)source, (void)byte_count, (void)barrier;
#endif
}

// By a whole warp, to be followed by tie_lane_copies().
__device__ inline void copy_by_lanes(std::byte* target, const std::byte* source,
                                     uint32_t byte_count) {
  for (uint32_t at = threadIdx.x % 32 * 16; at < byte_count; at += 512)
    __pipeline_memcpy_async(target + at, source + at, 16);
}

}  // namespace vkv
