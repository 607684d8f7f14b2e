// cuda_ops.h: the row-wise arithmetic between the matrix products, on the GPU.
// SPDX-License-Identifier: Apache-2.0
//
// What tools/mllm/ops.h does on the CPU, and the copies around it. All pointers are device
// pointers; launch_...() queues the work on the stream. T is float or __nv_bfloat16: the type that
// goes into and comes out of the products; sums and the residual stream are fp32. Where there are
// no rows, nothing is launched. Errors: kCuda naming the kernel.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "tools/mllm/model_config.h"
#include "vkv/status.h"

namespace vkv {

// y = x / sqrt(mean(x^2) + epsilon) * weight
template <class T>
struct RmsNormParams {
  const float* x = nullptr;       // [rows, columns]
  const float* weight = nullptr;  // [columns]
  T* y = nullptr;                 // [rows, columns]
  int64_t rows = 0;
  int columns = 0;
  float epsilon = 0;
};
template <class T>
Status launch_rms_norm(const RmsNormParams<T>& params, cudaStream_t stream);

// y = (x - mean) / sqrt(variance + epsilon) * weight + bias. x and y may be one.
template <class T>
struct LayerNormParams {
  const float* x = nullptr;                        // [rows, columns]
  const float *weight = nullptr, *bias = nullptr;  // [columns]
  T* y = nullptr;                                  // [rows, columns]
  int64_t rows = 0;
  int columns = 0;
  float epsilon = 0;
};
template <class T>
Status launch_layer_norm(const LayerNormParams<T>& params, cudaStream_t stream);

// Takes q, k and v of each row apart and turns q and k by the row's positions: channel i with
// channel i + head_dim / 2, by positions[axes[i]] * frequency[i]; see RopeTable.
template <class T>
struct RotateParams {
  const float* qkv = nullptr;          // [rows, q_heads + 2 kv_heads, head_dim]
  const int32_t* positions = nullptr;  // [3, position_stride]: of time, row and column
  int64_t position_stride = 0;         // at least rows
  const float* frequency = nullptr;    // [head_dim / 2]
  const uint8_t* axes = nullptr;       // [head_dim / 2], 0 to 2
  T* q = nullptr;                      // [rows, q_heads, head_dim]
  T *k = nullptr, *v = nullptr;        // [rows, kv_heads, head_dim]
  int64_t rows = 0;
  int q_heads = 0;
  int kv_heads = 0;
  int head_dim = 0;  // even, up to 256
};
template <class T>
Status launch_rotate(const RotateParams<T>& params, cudaStream_t stream);

// Turns q and k of each row, in place: channel i with channel i + head_dim / 2 by an angle of which
// the cosine and sine are given. For pictures, which all have the same angles.
template <class T>
struct TurnParams {
  T* qkv = nullptr;                                // [rows, 3, heads, head_dim]
  const float *cosine = nullptr, *sine = nullptr;  // [period, head_dim / 2]
  int64_t rows = 0;
  int64_t period = 1;  // row r has the angles of r % period
  int heads = 0;
  int head_dim = 0;  // even, up to 256
};
template <class T>
Status launch_turn(const TurnParams<T>& params, cudaStream_t stream);

// y = silu(gate) * up
template <class T>
struct GateParams {
  const T* gate_up = nullptr;  // [rows, 2, columns]
  T* y = nullptr;              // [rows, columns]
  int64_t rows = 0;
  int columns = 0;
};
template <class T>
Status launch_gate(const GateParams<T>& params, cudaStream_t stream);

// x = activation(x)
template <class T>
struct ActivateParams {
  T* x = nullptr;  // [count]
  int64_t count = 0;
  Activation activation = Activation::kNone;
};
template <class T>
Status launch_activate(const ActivateParams<T>& params, cudaStream_t stream);

// Rows of the embedding. Those of image tokens are left alone: the vision tower's go there.
template <class T>
struct EmbedParams {
  const T* table = nullptr;         // [vocabulary, columns]
  const int32_t* tokens = nullptr;  // [rows], below vocabulary
  float* x = nullptr;               // [rows, columns]
  int64_t rows = 0;
  int columns = 0;
  int32_t image_token = -1;
  int32_t video_token = -1;
};
template <class T>
Status launch_embed(const EmbedParams<T>& params, cudaStream_t stream);

// Pictures as rows of patches, row by row over the picture.
template <class T>
struct PatchParams {
  const float* images = nullptr;  // [image_count, 3, image_edge, image_edge]
  T* patches = nullptr;           // [image_count, grid, grid, 3, patch_edge, patch_edge]
  int64_t image_count = 0;
  int image_edge = 0;
  int patch_edge = 0;
};
template <class T>
Status launch_patches(const PatchParams<T>& params, cudaStream_t stream);

// Embedded patches behind the class token, if there is one, plus the positions.
struct PositionParams {
  const float* patches = nullptr;          // [image_count, positions - 1 or positions, columns]
  const float* class_embedding = nullptr;  // [columns], or null without a class token
  const float* embedding = nullptr;        // [positions, columns]
  float* x = nullptr;                      // [image_count, positions, columns]
  int64_t image_count = 0;
  int positions = 0;
  int columns = 0;
};
Status launch_positions(const PositionParams& params, cudaStream_t stream);

// The last `kept` rows of each image.
template <class T>
struct KeepParams {
  const float* x = nullptr;  // [image_count, positions, columns]
  T* y = nullptr;            // [image_count, kept, columns]
  int64_t image_count = 0;
  int positions = 0;
  int kept = 0;
  int columns = 0;
};
template <class T>
Status launch_keep(const KeepParams<T>& params, cudaStream_t stream);

// offset + width * u, u uniform between -1 and 1 and a function of seed and place.
template <class T>
struct RandomParams {
  T* values = nullptr;  // [count]
  int64_t count = 0;
  uint64_t seed = 0;
  float width = 1.0f;
  float offset = 0.0f;
};
template <class T>
Status launch_random(const RandomParams<T>& params, cudaStream_t stream);

// fp32 values as T.
template <class T>
struct ConvertParams {
  const float* source = nullptr;  // [count]
  T* target = nullptr;            // [count]
  int64_t count = 0;
};
template <class T>
Status launch_convert(const ConvertParams<T>& params, cudaStream_t stream);

}  // namespace vkv
