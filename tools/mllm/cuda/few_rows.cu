// few_rows.cu: a warp an output, which reads its row of the weights once for all rows of x.
// SPDX-License-Identifier: Apache-2.0
//
// Why not cuBLASLt: the products of a step of Qwen2.5-7B take it 5.7 ms on an H100 and these
// kernels 5.15 ms, 81 and 89.5 % of the speed at which memory can be read there (`vkv bench
// decode`, which prints both).
#include "kernels/overlapped_launch.cuh"
#include "tools/mllm/cuda/cuda_values.cuh"
#include "tools/mllm/cuda/few_rows.h"

namespace vkv {
namespace {

using Bf16 = __nv_bfloat16;

constexpr int kWarps = 4;     // small blocks, so that multiprocessors get equal shares
constexpr int kVector = 8;    // values of 16 bytes
constexpr int kOnTheWay = 4;  // loads of 16 bytes that a lane has waiting
// On a multiprocessor at once: then all outputs of a usual layer run side by side, and 4 loads a
// lane are 72 KiB on the way there, which covers HBM. More rows need more registers.
constexpr int blocks_for(int rows) { return rows <= 2 ? 9 : 6; }

// Weights are read once: they shall not push x out of the L1 cache.
__device__ uint4 load_weight(const Bf16* values) {
  uint4 loaded;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(loaded.x), "=r"(loaded.y), "=r"(loaded.z), "=r"(loaded.w)
               : "l"(values));
  return loaded;
}

// 8 values as floats.
__device__ void widen(const uint4& pairs, float (&values)[kVector]) {
  const uint32_t of[] = {pairs.x, pairs.y, pairs.z, pairs.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    values[2 * i] = __uint_as_float(of[i] << 16);
    values[2 * i + 1] = __uint_as_float(of[i] & 0xffff0000u);
  }
}
__device__ void load_values(const Bf16* x, float (&values)[kVector]) {
  widen(*reinterpret_cast<const uint4*>(x), values);
}
__device__ void load_values(const float* x, float (&values)[kVector]) {
  const float4 low = reinterpret_cast<const float4*>(x)[0];
  const float4 high = reinterpret_cast<const float4*>(x)[1];
  const float both[] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
  for (int i = 0; i < kVector; ++i) values[i] = both[i];
}

// sum[w][row] = weight[w] . x[row], in every lane. Waits for the previous kernel before it reads x,
// when its first loads of weights are under way; a register that was used is loaded anew at once,
// so that the memory never waits for a whole round of loads to be used up.
template <int kRows, int kWeights, class In>
__device__ void dot_rows(const Bf16* const (&weight)[kWeights], const In* x, int inputs,
                         float (&sum)[kWeights][kRows]) {
  constexpr int kSteps = kOnTheWay / kWeights;
  constexpr int kStride = 32 * kVector;
  uint4 loaded[kSteps][kWeights];
  const auto load = [&](int step, int at) {
    if (at >= inputs) return;
#pragma unroll
    for (int w = 0; w < kWeights; ++w) loaded[step][w] = load_weight(weight[w] + at);
  };
#pragma unroll
  for (int w = 0; w < kWeights; ++w)
#pragma unroll
    for (int row = 0; row < kRows; ++row) sum[w][row] = 0.0f;

  const int begin = threadIdx.x % 32 * kVector;
#pragma unroll
  for (int step = 0; step < kSteps; ++step) load(step, begin + step * kStride);
  wait_for_previous();
  for (int first = begin; first < inputs; first += kSteps * kStride)
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const int at = first + step * kStride;
      if (at >= inputs) break;
      float of_weight[kWeights][kVector];
#pragma unroll
      for (int w = 0; w < kWeights; ++w) widen(loaded[step][w], of_weight[w]);
      load(step, at + kSteps * kStride);
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
        float values[kVector];
        load_values(x + int64_t{row} * inputs + at, values);
#pragma unroll
        for (int i = 0; i < kVector; ++i)
#pragma unroll
          for (int w = 0; w < kWeights; ++w)
            sum[w][row] = fmaf(of_weight[w][i], values[i], sum[w][row]);
      }
    }
#pragma unroll
  for (int w = 0; w < kWeights; ++w)
#pragma unroll
    for (int row = 0; row < kRows; ++row)
      for (int step = 16; step > 0; step /= 2)
        sum[w][row] += __shfl_xor_sync(~0u, sum[w][row], step);
}

template <int kRows, class In, class Out>
__global__ void __launch_bounds__(kWarps * 32, blocks_for(kRows))
    few_rows_kernel(const FewRowsProduct<In, Out> product) {
  let_next_begin();
  const int output = blockIdx.x * kWarps + threadIdx.x / 32;
  if (output >= product.outputs) return;
  const Bf16* const weight[] = {product.weight + int64_t{output} * product.inputs};
  float sum[1][kRows];
  dot_rows<kRows>(weight, product.x, product.inputs, sum);
  if (threadIdx.x % 32 != 0) return;
  const float bias = product.bias == nullptr ? 0.0f : widened(product.bias[output]);
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
    Out* const y = product.y + int64_t{row} * product.outputs + output;
    store((product.add ? widened(*y) : 0.0f) + sum[0][row] + bias, y);
  }
}

template <int kRows>
__global__ void __launch_bounds__(kWarps * 32, blocks_for(kRows))
    few_rows_gate_kernel(const FewRowsGate product) {
  let_next_begin();
  const int output = blockIdx.x * kWarps + threadIdx.x / 32;
  if (output >= product.outputs) return;
  const Bf16* const gate = product.weight + int64_t{output} * product.inputs;
  const Bf16* const weight[] = {gate, gate + int64_t{product.outputs} * product.inputs};
  float sum[2][kRows];
  dot_rows<kRows>(weight, product.x, product.inputs, sum);
  if (threadIdx.x % 32 != 0) return;
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
    const float value = __bfloat162float(__float2bfloat16_rn(sum[0][row]));
    const float up = __bfloat162float(__float2bfloat16_rn(sum[1][row]));
    store(value / (1.0f + expf(-value)) * up, product.y + int64_t{row} * product.outputs + output);
  }
}

template <class Product>
Status launch(const char* name, void (*const (&kernels)[kFewRows])(Product), const Product& product,
              cudaStream_t stream) {
  VKV_CHECK(product.rows >= 1 && product.rows <= kFewRows && product.inputs % kVector == 0);
  const dim3 grid(static_cast<unsigned>((product.outputs + kWarps - 1) / kWarps));
  return launch_overlapped(name, kernels[product.rows - 1], {grid, dim3(kWarps * 32)}, stream,
                           product);
}

}  // namespace

template <class In, class Out>
Status launch_few_rows(const FewRowsProduct<In, Out>& product, cudaStream_t stream) {
  constexpr void (*kKernels[kFewRows])(FewRowsProduct<In, Out>) = {
      few_rows_kernel<1, In, Out>, few_rows_kernel<2, In, Out>, few_rows_kernel<3, In, Out>,
      few_rows_kernel<4, In, Out>};
  return launch("few_rows_kernel", kKernels, product, stream);
}

Status launch_few_rows_gate(const FewRowsGate& product, cudaStream_t stream) {
  constexpr void (*kKernels[kFewRows])(FewRowsGate) = {
      few_rows_gate_kernel<1>, few_rows_gate_kernel<2>, few_rows_gate_kernel<3>,
      few_rows_gate_kernel<4>};
  return launch("few_rows_gate_kernel", kKernels, product, stream);
}

template Status launch_few_rows(const FewRowsProduct<float, float>&, cudaStream_t);
template Status launch_few_rows(const FewRowsProduct<Bf16, float>&, cudaStream_t);
template Status launch_few_rows(const FewRowsProduct<Bf16, Bf16>&, cudaStream_t);

}  // namespace vkv
