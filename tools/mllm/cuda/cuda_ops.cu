// cuda_ops.cu: the row-wise arithmetic between the matrix products, on the GPU.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "kernels/cuda_handles.h"
#include "kernels/overlapped_launch.cuh"
#include "tools/mllm/cuda/cuda_ops.h"
#include "tools/mllm/cuda/cuda_values.cuh"

namespace vkv {
namespace {

constexpr int kThreads = 256;
constexpr int kRotateThreads = 64;

// Blocks of loops over `count` values: enough to fill any GPU, and the loop takes the rest.
unsigned blocks_for(int64_t count) {
  constexpr int64_t kBlocksMax = 8192;
  return static_cast<unsigned>(std::min(kBlocksMax, (count + kThreads - 1) / kThreads));
}

__device__ int64_t first_value() { return int64_t{blockIdx.x} * blockDim.x + threadIdx.x; }
__device__ int64_t value_step() { return int64_t{gridDim.x} * blockDim.x; }

template <class T>
__global__ void rms_norm_kernel(const RmsNormParams<T> params) {
  let_next_begin();
  const float* const x = params.x + int64_t{blockIdx.x} * params.columns;
  T* const y = params.y + int64_t{blockIdx.x} * params.columns;
  float squares = 0;
  wait_for_previous();
  for (int i = threadIdx.x; i < params.columns; i += blockDim.x) squares += x[i] * x[i];
  const float mean = block_sum(squares) / static_cast<float>(params.columns);
  const float scale = 1.0f / sqrtf(mean + params.epsilon);
  for (int i = threadIdx.x; i < params.columns; i += blockDim.x)
    store(x[i] * scale * params.weight[i], y + i);
}

template <class T>
__global__ void layer_norm_kernel(const LayerNormParams<T> params) {
  const float* const x = params.x + int64_t{blockIdx.x} * params.columns;
  T* const y = params.y + int64_t{blockIdx.x} * params.columns;
  const auto columns = static_cast<float>(params.columns);
  float sum = 0, squares = 0;
  for (int i = threadIdx.x; i < params.columns; i += blockDim.x) sum += x[i];
  const float mean = block_sum(sum) / columns;
  // Two passes: E[x^2] - mean^2 would cancel.
  for (int i = threadIdx.x; i < params.columns; i += blockDim.x)
    squares += (x[i] - mean) * (x[i] - mean);
  const float scale = 1.0f / sqrtf(block_sum(squares) / columns + params.epsilon);
  for (int i = threadIdx.x; i < params.columns; i += blockDim.x)
    store((x[i] - mean) * scale * params.weight[i] + params.bias[i], y + i);
}

// blockIdx.y: the head, of q, then k, then v.
template <class T>
__global__ void rotate_kernel(const RotateParams<T> params) {
  let_next_begin();
  const int64_t row = blockIdx.x;
  const int head = blockIdx.y, half = params.head_dim / 2;
  const int heads = params.q_heads + 2 * params.kv_heads;
  const int k_head = head - params.q_heads, v_head = k_head - params.kv_heads;
  T* const target = v_head >= 0   ? params.v + (row * params.kv_heads + v_head) * params.head_dim
                    : k_head >= 0 ? params.k + (row * params.kv_heads + k_head) * params.head_dim
                                  : params.q + (row * params.q_heads + head) * params.head_dim;
  const float* const source = params.qkv + (row * heads + head) * params.head_dim;
  wait_for_previous();
  for (int i = threadIdx.x; i < half; i += blockDim.x) {
    const float a = source[i], b = source[i + half];
    if (v_head >= 0) {
      store(a, target + i);
      store(b, target + i + half);
      continue;
    }
    float sine, cosine;
    const int32_t position = params.positions[params.axes[i] * params.position_stride + row];
    sincosf(static_cast<float>(position) * params.frequency[i], &sine, &cosine);
    store(a * cosine - b * sine, target + i);
    store(b * cosine + a * sine, target + i + half);
  }
}

// blockIdx.y: the head, of q, then k.
template <class T>
__global__ void turn_kernel(const TurnParams<T> params) {
  const int64_t row = blockIdx.x;
  const int half = params.head_dim / 2;
  T* const low = params.qkv + (row * 3 * params.heads + blockIdx.y) * params.head_dim;
  T* const high = low + half;
  const int64_t angle = row % params.period * half;
  for (int i = threadIdx.x; i < half; i += blockDim.x) {
    const float a = widened(low[i]), b = widened(high[i]);
    const float cosine = params.cosine[angle + i], sine = params.sine[angle + i];
    store(a * cosine - b * sine, low + i);
    store(b * cosine + a * sine, high + i);
  }
}

template <class T>
__global__ void gate_kernel(const GateParams<T> params) {
  for (int64_t row = blockIdx.y; row < params.rows; row += gridDim.y) {
    const int i = static_cast<int>(first_value());
    if (i >= params.columns) return;
    const T* const gate = params.gate_up + row * 2 * params.columns + i;
    const float value = widened(gate[0]);
    store(value / (1.0f + expf(-value)) * widened(gate[params.columns]),
          params.y + row * params.columns + i);
  }
}

__device__ float activated(float x, Activation activation) {
  switch (activation) {
    case Activation::kSilu:
      return x / (1.0f + expf(-x));
    case Activation::kQuickGelu:
      return x / (1.0f + expf(-1.702f * x));
    case Activation::kGeluErf:
      return 0.5f * x * (1.0f + erff(x * 0.70710678f));  // 1 / sqrt(2)
    case Activation::kGeluTanh:
      return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));  // sqrt(2 / pi)
    case Activation::kNone:
      break;
  }
  return x;
}

template <class T>
__global__ void activate_kernel(const ActivateParams<T> params) {
  for (int64_t i = first_value(); i < params.count; i += value_step())
    store(activated(widened(params.x[i]), params.activation), params.x + i);
}

template <class T>
__global__ void embed_kernel(const EmbedParams<T> params) {
  const int32_t token = params.tokens[blockIdx.x];
  if (token == params.image_token || token == params.video_token) return;
  const T* const source = params.table + int64_t{token} * params.columns;
  float* const x = params.x + int64_t{blockIdx.x} * params.columns;
  for (int i = threadIdx.x; i < params.columns; i += blockDim.x) x[i] = widened(source[i]);
}

template <class T>
__global__ void patches_kernel(const PatchParams<T> params) {
  const int edge = params.patch_edge, grid = params.image_edge / edge;
  const int64_t count = params.image_count * grid * grid * 3 * edge * edge;
  for (int64_t i = first_value(); i < count; i += value_step()) {
    const int x = i % edge, y = i / edge % edge, channel = i / (edge * edge) % 3;
    const int64_t patch = i / (3 * edge * edge);
    const int column = patch % grid, row = patch / grid % grid;
    const int64_t image = patch / (grid * grid);
    const int64_t line = (image * 3 + channel) * params.image_edge + row * edge + y;
    store(params.images[line * params.image_edge + column * edge + x], params.patches + i);
  }
}

__global__ void positions_kernel(const PositionParams params) {
  const int classes = params.class_embedding == nullptr ? 0 : 1;
  const int64_t image = blockIdx.x / params.positions;
  const int position = blockIdx.x % params.positions;
  const float* const source =
      position < classes
          ? params.class_embedding
          : params.patches +
                (image * (params.positions - classes) + position - classes) * params.columns;
  const float* const embedding = params.embedding + int64_t{position} * params.columns;
  float* const x = params.x + int64_t{blockIdx.x} * params.columns;
  for (int i = threadIdx.x; i < params.columns; i += blockDim.x) x[i] = source[i] + embedding[i];
}

template <class T>
__global__ void keep_kernel(const KeepParams<T> params) {
  const int64_t image = blockIdx.x / params.kept;
  const int64_t row = (image + 1) * params.positions - params.kept + blockIdx.x % params.kept;
  for (int i = threadIdx.x; i < params.columns; i += blockDim.x)
    store(params.x[row * params.columns + i], params.y + int64_t{blockIdx.x} * params.columns + i);
}

template <class T>
__global__ void convert_kernel(const ConvertParams<T> params) {
  for (int64_t i = first_value(); i < params.count; i += value_step())
    store(params.source[i], params.target + i);
}

template <class T>
__global__ void random_kernel(const RandomParams<T> params) {
  for (int64_t i = first_value(); i < params.count; i += value_step()) {
    uint64_t bits = ((params.seed << 40) + static_cast<uint64_t>(i)) *
                    0x9e3779b97f4a7c15u;  // Steele 2014, "SplitMix"
    bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9u;
    bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebu;
    const float unit = static_cast<float>(bits >> 40) * 0x1p-23f - 1.0f;
    store(params.offset + params.width * unit, params.values + i);
  }
}

// One block a row.
template <class Params>
Status launch_rows(const char* name, void (*kernel)(Params), const Params& params, int64_t rows,
                   cudaStream_t stream) {
  if (rows == 0) return {};
  kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(params);
  return launch_status(name);
}

// Blocks that share `count` values.
template <class Params>
Status launch_values(const char* name, void (*kernel)(Params), const Params& params, int64_t count,
                     cudaStream_t stream) {
  if (count == 0) return {};
  kernel<<<blocks_for(count), kThreads, 0, stream>>>(params);
  return launch_status(name);
}

}  // namespace

template <class T>
Status launch_rms_norm(const RmsNormParams<T>& params, cudaStream_t stream) {
  if (params.rows == 0) return {};
  // Of few rows each has a multiprocessor to itself.
  const unsigned threads = params.rows <= 64 ? 4 * kThreads : kThreads;
  return launch_overlapped("rms_norm_kernel", rms_norm_kernel<T>,
                           {dim3(static_cast<unsigned>(params.rows)), dim3(threads)}, stream,
                           params);
}

template <class T>
Status launch_layer_norm(const LayerNormParams<T>& params, cudaStream_t stream) {
  return launch_rows("layer_norm_kernel", layer_norm_kernel<T>, params, params.rows, stream);
}

template <class T>
Status launch_rotate(const RotateParams<T>& params, cudaStream_t stream) {
  VKV_CHECK(params.head_dim % 2 == 0 && params.head_dim <= 256);
  if (params.rows == 0) return {};
  const dim3 grid(static_cast<unsigned>(params.rows),
                  static_cast<unsigned>(params.q_heads + 2 * params.kv_heads));
  return launch_overlapped("rotate_kernel", rotate_kernel<T>, {grid, dim3(kRotateThreads)}, stream,
                           params);
}

template <class T>
Status launch_turn(const TurnParams<T>& params, cudaStream_t stream) {
  VKV_CHECK(params.head_dim % 2 == 0 && params.head_dim <= 256);
  if (params.rows == 0) return {};
  const dim3 grid(static_cast<unsigned>(params.rows), static_cast<unsigned>(2 * params.heads));
  turn_kernel<<<grid, kRotateThreads, 0, stream>>>(params);
  return launch_status("turn_kernel");
}

template <class T>
Status launch_gate(const GateParams<T>& params, cudaStream_t stream) {
  if (params.rows == 0) return {};
  constexpr int64_t kGridRowsMax = 65535;  // of gridDim.y
  const dim3 grid(static_cast<unsigned>((params.columns + kThreads - 1) / kThreads),
                  static_cast<unsigned>(std::min(kGridRowsMax, params.rows)));
  gate_kernel<<<grid, kThreads, 0, stream>>>(params);
  return launch_status("gate_kernel");
}

template <class T>
Status launch_activate(const ActivateParams<T>& params, cudaStream_t stream) {
  if (params.activation == Activation::kNone) return {};
  return launch_values("activate_kernel", activate_kernel<T>, params, params.count, stream);
}

template <class T>
Status launch_embed(const EmbedParams<T>& params, cudaStream_t stream) {
  return launch_rows("embed_kernel", embed_kernel<T>, params, params.rows, stream);
}

template <class T>
Status launch_patches(const PatchParams<T>& params, cudaStream_t stream) {
  const int64_t covered = params.image_edge / params.patch_edge * params.patch_edge;
  return launch_values("patches_kernel", patches_kernel<T>, params,
                       params.image_count * 3 * covered * covered, stream);
}

Status launch_positions(const PositionParams& params, cudaStream_t stream) {
  return launch_rows("positions_kernel", positions_kernel, params,
                     params.image_count * params.positions, stream);
}

template <class T>
Status launch_keep(const KeepParams<T>& params, cudaStream_t stream) {
  return launch_rows("keep_kernel", keep_kernel<T>, params, params.image_count * params.kept,
                     stream);
}

template <class T>
Status launch_convert(const ConvertParams<T>& params, cudaStream_t stream) {
  return launch_values("convert_kernel", convert_kernel<T>, params, params.count, stream);
}

template <class T>
Status launch_random(const RandomParams<T>& params, cudaStream_t stream) {
  return launch_values("random_kernel", random_kernel<T>, params, params.count, stream);
}

using Bf16 = __nv_bfloat16;
template Status launch_rms_norm(const RmsNormParams<float>&, cudaStream_t);
template Status launch_rms_norm(const RmsNormParams<Bf16>&, cudaStream_t);
template Status launch_layer_norm(const LayerNormParams<float>&, cudaStream_t);
template Status launch_layer_norm(const LayerNormParams<Bf16>&, cudaStream_t);
template Status launch_rotate(const RotateParams<float>&, cudaStream_t);
template Status launch_rotate(const RotateParams<Bf16>&, cudaStream_t);
template Status launch_turn(const TurnParams<float>&, cudaStream_t);
template Status launch_turn(const TurnParams<Bf16>&, cudaStream_t);
template Status launch_gate(const GateParams<float>&, cudaStream_t);
template Status launch_gate(const GateParams<Bf16>&, cudaStream_t);
template Status launch_activate(const ActivateParams<float>&, cudaStream_t);
template Status launch_activate(const ActivateParams<Bf16>&, cudaStream_t);
template Status launch_embed(const EmbedParams<float>&, cudaStream_t);
template Status launch_embed(const EmbedParams<Bf16>&, cudaStream_t);
template Status launch_patches(const PatchParams<float>&, cudaStream_t);
template Status launch_patches(const PatchParams<Bf16>&, cudaStream_t);
template Status launch_keep(const KeepParams<float>&, cudaStream_t);
template Status launch_keep(const KeepParams<Bf16>&, cudaStream_t);
template Status launch_convert(const ConvertParams<float>&, cudaStream_t);
template Status launch_convert(const ConvertParams<Bf16>&, cudaStream_t);
template Status launch_random(const RandomParams<float>&, cudaStream_t);
template Status launch_random(const RandomParams<Bf16>&, cudaStream_t);

}  // namespace vkv
