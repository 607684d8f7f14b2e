// few_rows.h: y = x W^T + b where x has so few rows that only the reading of W takes time.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "vkv/status.h"

namespace vkv {

inline constexpr int64_t kFewRows = 4;  // a token, or a short draft

// In and Out are float or __nv_bfloat16; sums are fp32. Device pointers, none of which overlap; x
// and weight of multiples of 16 bytes.
template <class In, class Out>
struct FewRowsProduct {
  const In* x = nullptr;                  // [rows, inputs]
  const __nv_bfloat16* weight = nullptr;  // [outputs, inputs]
  const Out* bias = nullptr;              // [outputs], or null
  Out* y = nullptr;                       // [rows, outputs]
  int rows = 0;                           // 1..kFewRows
  int outputs = 0;
  int inputs = 0;    // a multiple of 8
  bool add = false;  // y += x W^T + b
};
// The weights may not be written by the kernel before it on the stream: it reads them while that
// one still runs. Errors: kCuda naming the kernel.
template <class In, class Out>
Status launch_few_rows(const FewRowsProduct<In, Out>& product, cudaStream_t stream);

// y = silu(x G^T) * (x U^T), with the products rounded to bf16 as if they had been stored.
struct FewRowsGate {
  const __nv_bfloat16* x = nullptr;       // [rows, inputs]
  const __nv_bfloat16* weight = nullptr;  // [2, outputs, inputs]: G, U
  __nv_bfloat16* y = nullptr;             // [rows, outputs]
  int rows = 0;                           // 1..kFewRows
  int outputs = 0;
  int inputs = 0;  // a multiple of 8
};
Status launch_few_rows_gate(const FewRowsGate& product, cudaStream_t stream);

}  // namespace vkv
