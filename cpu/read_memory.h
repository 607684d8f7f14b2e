// read_memory.h: reads memory and does next to nothing with it, to measure how fast that goes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

namespace vkv {

// The exclusive or of all words. from: 64-byte aligned; byte_count: in 256s. Each may be used only
// where the CPU has the instructions.
namespace avx2 {
uint64_t xor_of(const std::byte* from, size_t byte_count);
}
namespace avx512 {
uint64_t xor_of(const std::byte* from, size_t byte_count);
}

}  // namespace vkv
