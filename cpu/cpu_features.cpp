// cpu_features.cpp: asks the CPU.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/cpu_features.h"

namespace vkv {

bool cpu_has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
}

bool cpu_has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

bool cpu_has_bf16() { return __builtin_cpu_supports("avx512bf16"); }

bool cpu_has_gfni() { return __builtin_cpu_supports("gfni"); }

bool cpu_has_vnni() { return __builtin_cpu_supports("avx512vnni"); }

bool cpu_has_amx() {
  return __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-int8") &&
         __builtin_cpu_supports("amx-bf16");
}

}  // namespace vkv
