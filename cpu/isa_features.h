// isa_features.h: which instructions this CPU has and the system lets programs use.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace vkv {

// Those that an engine here is written for, or may choose by.
struct IsaFeatures {
  bool avx2 = false;
  bool avx512f = false;
  bool avx512bw = false;
  bool avx512vnni = false;
  bool avx512bf16 = false;
  bool gfni = false;
  bool avx512fp16 = false;
  bool amx_int8 = false;  // with amx_tile; a process must still ask the kernel for the tile state
  bool amx_bf16 = false;

  std::string names() const;  // "avx2 avx512f …"; "none"
};

// By cpuid and xgetbv: what the CPU has but the system does not save counts as absent.
IsaFeatures read_isa_features();

}  // namespace vkv
