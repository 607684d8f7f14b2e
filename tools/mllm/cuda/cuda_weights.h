// cuda_weights.h: tensors of a checkpoint in the memory of a GPU.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_bf16.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda_handles.h"
#include "tools/mllm/cuda/cublas_products.h"
#include "tools/mllm/cuda/cuda_ops.h"
#include "tools/mllm/weight_loader.h"

namespace vkv {

// Brings tensors to the current device, one at a time: host memory never holds two.
class CudaWeights {
 public:
  // The stream outlives the object.
  explicit CudaWeights(cudaStream_t stream) : stream_(stream) {}

  uint64_t bytes() const { return bytes_; }  // of all arrays made so far

  // Queues the copy of `values`, rounded to T, to `target`; they may go when it returns.
  Status copy(std::span<const float> values, float* target) {
    return copy_async(target, values.data(), values.size(), stream_);
  }
  Status copy(std::span<const float> values, __nv_bfloat16* target) {
    constexpr size_t kStagedValues = size_t{4} << 20;
    if (staging_.size() == 0) {
      VKV_TRY_ASSIGN(staging, CudaArray<float>::make(kStagedValues));
      staging_ = std::move(staging);
    }
    while (!values.empty()) {
      const auto part = values.first(std::min(values.size(), kStagedValues));
      VKV_TRY(copy_async(staging_.data(), part.data(), part.size(), stream_));
      VKV_TRY(launch_convert<__nv_bfloat16>(
          {.source = staging_.data(), .target = target, .count = static_cast<int64_t>(part.size())},
          stream_));
      values = values.subspan(part.size());
      target += part.size();
    }
    return {};
  }

  // Errors: kOutOfMemory naming the need, kCuda.
  template <class T>
  Result<CudaArray<T>> make(size_t count) {
    bytes_ += count * sizeof(T);
    return CudaArray<T>::make(count);
  }

  // Uniform between -width and width, the same in every run; `offset` is added.
  template <class T>
  Status randomise(const CudaArray<T>& array, float width, float offset = 0.0f) {
    return launch_random<T>({.values = array.data(),
                             .count = static_cast<int64_t>(array.size()),
                             .seed = next_seed_++,
                             .width = width,
                             .offset = offset},
                            stream_);
  }

  // One tensor. Errors: also those of Weights::floats.
  template <class T>
  Result<CudaArray<T>> load(const WeightLoader& loader, const std::string& name,
                            std::initializer_list<int64_t> shape) {
    VKV_TRY_ASSIGN(values, loader.floats(name, shape));
    VKV_TRY_ASSIGN(array, make<T>(values.size()));
    VKV_TRY(copy(values, array.data()));
    return Result<CudaArray<T>>(std::move(array));
  }

 private:
  cudaStream_t stream_;
  CudaArray<float> staging_;  // fp32 on its way to bf16
  uint64_t bytes_ = 0;
  uint64_t next_seed_ = 1;
};

// y = x W^T + b. In and Out as in Product; activations are the caller's matter.
template <class In, class Out>
class CudaLinear {
  static constexpr bool kNarrow = std::is_same_v<In, __nv_bfloat16>;

 public:
  // Layers of the same inputs as one: their outputs stand side by side. All have a bias, or none.
  // Errors: those of Weights::floats and CudaWeights::make.
  static Result<CudaLinear> load(const WeightLoader& loader,
                                 std::initializer_list<LinearTensor> parts, CudaWeights& weights) {
    int outputs = 0;
    const LinearTensor& first = *parts.begin();
    for (const LinearTensor& part : parts) {
      VKV_CHECK(part.inputs == first.inputs && part.bias == first.bias);
      outputs += part.outputs;
    }
    VKV_TRY_ASSIGN(linear, make(outputs, first.inputs, first.bias, weights));
    Out* bias = linear.bias_.data();
    In* weight = linear.weight_.data();
    for (const LinearTensor& part : parts) {
      VKV_TRY_ASSIGN(values, loader.values(part));
      VKV_TRY(weights.copy(values.weight, weight));
      if (first.bias) VKV_TRY(weights.copy(values.bias, bias));
      weight += values.weight.size();
      bias += values.bias.size();
    }
    return Result<CudaLinear>(std::move(linear));
  }

  static Result<CudaLinear> make(int outputs, int inputs, const LinearValues& values,
                                 CudaWeights& weights) {
    VKV_TRY_ASSIGN(linear, make(outputs, inputs, !values.bias.empty(), weights));
    VKV_TRY(weights.copy(values.weight, linear.weight_.data()));
    if (!values.bias.empty()) VKV_TRY(weights.copy(values.bias, linear.bias_.data()));
    return Result<CudaLinear>(std::move(linear));
  }

  // Zeros for biases, and values such that products keep the size of x; for measuring.
  static Result<CudaLinear> random(int outputs, int inputs, bool has_bias, CudaWeights& weights) {
    VKV_TRY_ASSIGN(linear, make(outputs, inputs, has_bias, weights));
    VKV_TRY(weights.randomise(linear.weight_, std::sqrt(3.0f / static_cast<float>(inputs))));
    if (has_bias) VKV_TRY(weights.randomise(linear.bias_, 0.0f));
    return Result<CudaLinear>(std::move(linear));
  }

  uint64_t byte_count() const { return weight_.size() * sizeof(In) + bias_.size() * sizeof(Out); }

  // Whether few_rows.h takes so many rows, in aligned memory; then run_few() adds the product of
  // rows of fp32, and run_gate() has two layers side by side, G and U: silu(x G^T) * (x U^T).
  bool is_few(int64_t rows, const CublasProducts& products) const {
    return kNarrow && products.is_few(rows, inputs_, nullptr, weight_.data());
  }
  Status run_few_add(const float* x, int64_t rows, Out* y, cudaStream_t stream) const
      requires(kNarrow) {
    return launch_few_rows<float, Out>({.x = x,
                                        .weight = weight_.data(),
                                        .bias = bias_.data(),
                                        .y = y,
                                        .rows = static_cast<int>(rows),
                                        .outputs = outputs_,
                                        .inputs = inputs_,
                                        .add = true},
                                       stream);
  }
  Status run_gate(const In* x, int64_t rows, In* y, cudaStream_t stream) const requires(kNarrow) {
    return launch_few_rows_gate({.x = x,
                                 .weight = weight_.data(),
                                 .y = y,
                                 .rows = static_cast<int>(rows),
                                 .outputs = outputs_ / 2,
                                 .inputs = inputs_},
                                stream);
  }

  // Queue the product of x [rows, inputs]. y is [rows, outputs]; run_add adds to it, in fp32.
  Status run(const In* x, int64_t rows, Out* y, CublasProducts& products) const {
    return execute(x, rows, y, false, products);
  }
  Status run_add(const In* x, int64_t rows, Out* y, CublasProducts& products) const {
    return execute(x, rows, y, true, products);
  }

 private:
  CudaLinear(int outputs, int inputs, CudaArray<In> weight, CudaArray<Out> bias)
      : outputs_(outputs), inputs_(inputs), weight_(std::move(weight)), bias_(std::move(bias)) {}

  static Result<CudaLinear> make(int outputs, int inputs, bool has_bias, CudaWeights& weights) {
    const auto height = static_cast<size_t>(outputs);
    VKV_TRY_ASSIGN(weight, weights.make<In>(height * static_cast<size_t>(inputs)));
    VKV_TRY_ASSIGN(bias, weights.make<Out>(has_bias ? height : 0));
    return Result<CudaLinear>(CudaLinear(outputs, inputs, std::move(weight), std::move(bias)));
  }

  Status execute(const In* x, int64_t rows, Out* y, bool add, CublasProducts& products) const {
    return products.run(Product<In, Out>{.x = x,
                                         .weight = weight_.data(),
                                         .bias = bias_.data(),
                                         .y = y,
                                         .rows = rows,
                                         .outputs = outputs_,
                                         .inputs = inputs_,
                                         .add = add});
  }

  int outputs_;
  int inputs_;
  CudaArray<In> weight_;  // [outputs, inputs]
  CudaArray<Out> bias_;   // [outputs], or empty
};

}  // namespace vkv
