// read_memory.cpp: whole lines into four sums; compiled once for each instruction set.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/read_memory.h"

#include "cpu/lanes.h"

namespace vkv::VKV_ISA {

uint64_t xor_of(const std::byte* from, size_t byte_count) {
  Ints a = {}, b = {}, c = {}, d = {};
  for (size_t i = 0; i < byte_count; i += 256) {
    a ^= load<Ints>(from + i);
    b ^= load<Ints>(from + i + 64);
    c ^= load<Ints>(from + i + 128);
    d ^= load<Ints>(from + i + 192);
  }
  uint64_t words[8], sum = 0;
  store(words, (a ^ b) ^ (c ^ d));
  for (const uint64_t word : words) sum ^= word;
  return sum;
}

}  // namespace vkv::VKV_ISA
