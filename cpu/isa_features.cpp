// isa_features.cpp: cpuid leaf 7 and the state that the system saves.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/isa_features.h"

#include <cpuid.h>

#include <cstdint>
#include <utility>

namespace vkv {
namespace {

// Bits of XCR0 (Intel SDM volume 1, chapter 13).
constexpr uint64_t kAvxState = 0x6;      // XMM, upper halves of YMM
constexpr uint64_t kAvx512State = 0xe6;  // and masks, ZMM
constexpr uint64_t kAmxState = 0x60000;  // tile configuration, tile data

struct CpuidRegisters {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// All zero where the CPU has no such leaf.
CpuidRegisters cpuid(uint32_t leaf, uint32_t subleaf) {
  CpuidRegisters r;
  if (__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx) == 0) return {};
  return r;
}

bool bit(uint32_t word, int index) { return (word >> index & 1) != 0; }

uint64_t saved_state() {
  constexpr int kOsxsave = 27;
  if (!bit(cpuid(1, 0).ecx, kOsxsave)) return 0;
  uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
}

}  // namespace

IsaFeatures read_isa_features() {
  const uint64_t saved = saved_state();
  const bool has_avx = (saved & kAvxState) == kAvxState;
  const bool has_zmm = (saved & kAvx512State) == kAvx512State;
  const bool has_tiles = (saved & kAmxState) == kAmxState;
  const CpuidRegisters leaf7 = cpuid(7, 0), leaf7_1 = cpuid(7, 1);

  IsaFeatures features;
  features.avx2 = has_avx && bit(leaf7.ebx, 5);
  features.avx512f = has_zmm && bit(leaf7.ebx, 16);
  features.avx512bw = features.avx512f && bit(leaf7.ebx, 30);
  features.avx512vnni = features.avx512f && bit(leaf7.ecx, 11);
  features.gfni = features.avx512f && bit(leaf7.ecx, 8);
  features.avx512bf16 = features.avx512f && bit(leaf7_1.eax, 5);
  features.avx512fp16 = features.avx512f && bit(leaf7.edx, 23);
  const bool amx_tile = has_tiles && bit(leaf7.edx, 24);
  features.amx_int8 = amx_tile && bit(leaf7.edx, 25);
  features.amx_bf16 = amx_tile && bit(leaf7.edx, 22);
  return features;
}

std::string IsaFeatures::names() const {
  std::string names;
  for (const auto& [has, name] : {std::pair{avx2, "avx2"},
                                  {avx512f, "avx512f"},
                                  {avx512bw, "avx512bw"},
                                  {avx512vnni, "avx512vnni"},
                                  {avx512bf16, "avx512bf16"},
                                  {gfni, "gfni"},
                                  {avx512fp16, "avx512fp16"},
                                  {amx_int8, "amx_int8"},
                                  {amx_bf16, "amx_bf16"}}) {
    if (has) names += (names.empty() ? "" : " ") + std::string(name);
  }
  return names.empty() ? "none" : names;
}

}  // namespace vkv
