// host_words.cuh: words that the device and the host wait for.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace vkv {

__device__ inline uint64_t device_ns() {
  uint64_t ns;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(ns));
  return ns;
}

// What this thread knows to be written is seen by whoever sees the number.
__device__ inline void raise_for_host(uint32_t* word, uint32_t number) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(word), "r"(number) : "memory");
}

// Returns when the host has raised the word to the number.
__device__ inline void wait_for_host(const uint32_t* word, uint32_t number) {
  for (;;) {
    uint32_t seen;
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(seen) : "l"(word) : "memory");
    if (seen == number) return;
    __nanosleep(100);
  }
}

}  // namespace vkv
