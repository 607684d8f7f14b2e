// cublas_products.h: y = x W^T + b on the GPU, by cuBLASLt, and of few rows by few_rows.h.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>
#include <memory>
#include <type_traits>

#include "kernels/cuda_handles.h"
#include "tools/mllm/cuda/few_rows.h"
#include "vkv/status.h"

namespace vkv {

// In and Out are float or __nv_bfloat16; sums are fp32. Device pointers, none of which overlap.
template <class In, class Out>
struct Product {
  const In* x = nullptr;       // [rows, inputs]
  const In* weight = nullptr;  // [outputs, inputs], as checkpoints store it
  const Out* bias = nullptr;   // [outputs], or null
  Out* y = nullptr;            // [rows, outputs]
  int64_t rows = 0;
  int outputs = 0;
  int inputs = 0;
  // y += x W^T + b. Only into fp32: some kernels round the product to bf16 before they add it.
  bool add = false;
};

// Not thread-safe; its workspace belongs to the one stream.
class CublasProducts {
 public:
  // On the current device. The stream outlives the object. Errors: kOutOfMemory, kCuda.
  static Result<CublasProducts> make(cudaStream_t stream);

  // Queues the product. rows 0 does nothing. Errors: kUnsupported naming the shape if cuBLASLt has
  // no kernel for it, kCuda.
  template <class In, class Out>
  Status run(const Product<In, Out>& product) {
    VKV_CHECK(!product.add || (std::is_same_v<Out, float>));
    if constexpr (std::is_same_v<In, __nv_bfloat16>)
      if (is_few(product.rows, product.inputs, product.x, product.weight))
        return launch_few_rows<In, Out>({.x = product.x,
                                         .weight = product.weight,
                                         .bias = product.bias,
                                         .y = product.y,
                                         .rows = static_cast<int>(product.rows),
                                         .outputs = product.outputs,
                                         .inputs = product.inputs,
                                         .add = product.add},
                                        stream_);
    return execute({.x = product.x,
                    .weight = product.weight,
                    .bias = product.bias,
                    .y = product.y,
                    .rows = product.rows,
                    .outputs = product.outputs,
                    .inputs = product.inputs,
                    .add = product.add,
                    .in_type = data_type<In>(),
                    .out_type = data_type<Out>()});
  }

  // Whether few_rows.h takes a product with weights of bf16.
  bool is_few(int64_t rows, int inputs, const void* x, const void* weight) const {
    const auto address = reinterpret_cast<uintptr_t>(x) | reinterpret_cast<uintptr_t>(weight);
    return rows >= 1 && rows <= few_rows_max_ && inputs % 8 == 0 && address % 16 == 0;
  }
  // Rows from which on cuBLASLt computes, for measuring: 0 makes it compute all.
  void set_few_rows_max(int64_t rows) { few_rows_max_ = rows; }

 private:
  struct DestroyHandle {
    void operator()(cublasLtHandle_t handle) const { (void)cublasLtDestroy(handle); }
  };
  using Handle = std::unique_ptr<std::remove_pointer_t<cublasLtHandle_t>, DestroyHandle>;

  struct AnyProduct {
    const void *x, *weight, *bias;
    void* y;
    int64_t rows;
    int outputs, inputs;
    bool add;
    cudaDataType_t in_type, out_type;
  };

  // What cuBLASLt's choice of a kernel depends on.
  struct Key {
    int64_t rows;
    int outputs, inputs;
    bool bias, add;
    cudaDataType_t in_type, out_type;
    uint32_t alignment_bytes;  // of all pointers
    auto operator<=>(const Key&) const = default;
  };

  struct Matrices {
    cublasLtMatmulDescOpaque_t description;
    cublasLtMatrixLayoutOpaque_t weight, x, y;
  };

  template <class T>
  static constexpr cudaDataType_t data_type() {
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, __nv_bfloat16>);
    return std::is_same_v<T, float> ? CUDA_R_32F : CUDA_R_16BF;
  }

  CublasProducts(Handle handle, CudaArray<std::byte> workspace, cudaStream_t stream)
      : handle_(std::move(handle)), workspace_(std::move(workspace)), stream_(stream) {}

  static Result<Matrices> describe(const AnyProduct& product);
  Result<cublasLtMatmulAlgo_t> choose(const Key& key, Matrices& matrices);
  Status execute(const AnyProduct& product);

  Handle handle_;
  CudaArray<std::byte> workspace_;
  cudaStream_t stream_;
  int64_t few_rows_max_ = kFewRows;
  std::map<Key, cublasLtMatmulAlgo_t> chosen_;
};

}  // namespace vkv
