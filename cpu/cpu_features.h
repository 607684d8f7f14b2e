// cpu_features.h: which of the sets of loops this CPU can run.
// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace vkv {

bool cpu_has_avx2();    // and FMA, F16C: what the avx2 sources are compiled for
bool cpu_has_avx512();  // F, BW, DQ, VL: the avx512 ones
bool cpu_has_bf16();    // AVX-512 with bf16: every CPU with AMX
bool cpu_has_gfni();    // bit matrices: every CPU with AMX
bool cpu_has_vnni();    // AVX-512 with dot products of bytes
bool cpu_has_amx();     // tiles with bytes and bf16, and a system that knows them

}  // namespace vkv
