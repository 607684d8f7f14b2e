// image_attention.h: attention inside pictures, for the vision tower on the GPU.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "vkv/status.h"

namespace vkv {

inline constexpr int kImageHeadDimMax = 128;
inline constexpr int64_t kImagesMax = 65535;  // of gridDim.z

// out = softmax(q k^T / sqrt(head_dim)) v of every head of every image: each position sees all of
// its image. Device pointers, of multiples of 16 bytes. T is float or __nv_bfloat16; sums are fp32.
template <class T>
struct ImageAttentionParams {
  const T* qkv = nullptr;   // [image_count, positions, 3, heads, head_dim]: q, k and v
  T* out = nullptr;         // [image_count, positions, heads, head_dim]
  int64_t image_count = 0;  // 0..kImagesMax
  int positions = 0;
  int heads = 0;
  int head_dim = 0;  // 1..kImageHeadDimMax
};

// Queues the work. Errors: kCuda naming the kernel.
template <class T>
Status launch_image_attention(const ImageAttentionParams<T>& params, cudaStream_t stream);
template <>
Status launch_image_attention(const ImageAttentionParams<float>& params, cudaStream_t stream);
template <>
Status launch_image_attention(const ImageAttentionParams<__nv_bfloat16>& params,
                              cudaStream_t stream);

}  // namespace vkv
