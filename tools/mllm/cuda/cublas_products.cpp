// cublas_products.cpp: y = x W^T + b on the GPU, by cuBLASLt.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/cuda/cublas_products.h"

#include <algorithm>
#include <string>

namespace vkv {
namespace {

// What cuBLAS itself takes on Hopper: split sums and the tensor copy engine need some.
constexpr size_t kWorkspaceBytes = size_t{32} << 20;
// Prompts come in any length: past this many different products the choices are made anew.
constexpr size_t kChosenMax = 4096;

Status cublas_status(cublasStatus_t status, const char* call) {
  if (status == CUBLAS_STATUS_SUCCESS) return {};
  const Code code = status == CUBLAS_STATUS_ALLOC_FAILED ? Code::kOutOfMemory : Code::kCuda;
  return {code, std::string(call) + ": " + cublasLtGetStatusString(status)};
}

// The greatest power of two up to 16, what the widest loads need, that divides all addresses.
uint32_t common_alignment(std::initializer_list<const void*> pointers) {
  uintptr_t bits = 16;
  for (const void* pointer : pointers) bits |= reinterpret_cast<uintptr_t>(pointer);
  return static_cast<uint32_t>(bits & (~bits + 1));
}

template <class T>
Status set(cublasLtMatmulDescOpaque_t* description, cublasLtMatmulDescAttributes_t attribute,
           const T& value) {
  return cublas_status(
      cublasLtMatmulDescSetAttribute(description, attribute, &value, sizeof(value)),
      "cublasLtMatmulDescSetAttribute");
}

template <class T>
Status set(cublasLtMatmulPreferenceOpaque_t* preference,
           cublasLtMatmulPreferenceAttributes_t attribute, const T& value) {
  return cublas_status(
      cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)),
      "cublasLtMatmulPreferenceSetAttribute");
}

}  // namespace

Result<CublasProducts> CublasProducts::make(cudaStream_t stream) {
  cublasLtHandle_t handle = nullptr;
  VKV_TRY(cublas_status(cublasLtCreate(&handle), "cublasLtCreate"));
  Handle owned(handle);
  VKV_TRY_ASSIGN(workspace, CudaArray<std::byte>::make(kWorkspaceBytes));
  return Result<CublasProducts>(CublasProducts(std::move(owned), std::move(workspace), stream));
}

// cuBLASLt's matrices are column by column, so what it computes is y^T = W x^T: rows of ours are
// its columns, and W, which it sees as W^T, is turned.
Result<CublasProducts::Matrices> CublasProducts::describe(const AnyProduct& product) {
  Matrices matrices;
  const auto rows = static_cast<uint64_t>(product.rows);
  const auto outputs = static_cast<uint64_t>(product.outputs);
  const auto inputs = static_cast<uint64_t>(product.inputs);
  const auto layout = [](cublasLtMatrixLayoutOpaque_t* matrix, cudaDataType_t type, uint64_t height,
                         uint64_t columns) {
    return cublas_status(
        cublasLtMatrixLayoutInit(matrix, type, height, columns, static_cast<int64_t>(height)),
        "cublasLtMatrixLayoutInit");
  };
  // Without TF32: what comes in as fp32 is multiplied as fp32.
  VKV_TRY(
      cublas_status(cublasLtMatmulDescInit(&matrices.description, CUBLAS_COMPUTE_32F, CUDA_R_32F),
                    "cublasLtMatmulDescInit"));
  VKV_TRY(set(&matrices.description, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T));
  if (product.bias != nullptr) {
    VKV_TRY(set(&matrices.description, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS));
    VKV_TRY(set(&matrices.description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, product.bias));
    VKV_TRY(set(&matrices.description, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, product.out_type));
  }
  VKV_TRY(layout(&matrices.weight, product.in_type, inputs, outputs));
  VKV_TRY(layout(&matrices.x, product.in_type, inputs, rows));
  VKV_TRY(layout(&matrices.y, product.out_type, outputs, rows));
  return matrices;
}

Result<cublasLtMatmulAlgo_t> CublasProducts::choose(const Key& key, Matrices& matrices) {
  const auto found = chosen_.find(key);
  if (found != chosen_.end()) return found->second;

  cublasLtMatmulPreferenceOpaque_t preference;
  VKV_TRY(cublas_status(cublasLtMatmulPreferenceInit(&preference), "cublasLtMatmulPreferenceInit"));
  VKV_TRY(set(&preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes));
  // Parts of a split sum meet in fp32, not in the type of y.
  constexpr uint32_t kReductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  VKV_TRY(set(&preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, kReductions));
  for (const auto attribute :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
    VKV_TRY(set(&preference, attribute, key.alignment_bytes));

  cublasLtMatmulHeuristicResult_t result;
  int result_count = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      handle_.get(), &matrices.description, &matrices.weight, &matrices.x, &matrices.y, &matrices.y,
      &preference, 1, &result, &result_count);
  if (status != CUBLAS_STATUS_SUCCESS || result_count == 0)
    return Status(Code::kUnsupported,
                  "cuBLASLt has no kernel for a product of [" + std::to_string(key.rows) + ", " +
                      std::to_string(key.inputs) + "] with a weight of [" +
                      std::to_string(key.outputs) + ", " + std::to_string(key.inputs) +
                      "]: " + cublasLtGetStatusString(status));
  if (chosen_.size() >= kChosenMax) chosen_.clear();
  chosen_.emplace(key, result.algo);
  return result.algo;
}

Status CublasProducts::execute(const AnyProduct& product) {
  if (product.rows == 0) return {};
  VKV_TRY_ASSIGN(matrices, describe(product));
  VKV_TRY_ASSIGN(algorithm, choose({.rows = product.rows,
                                    .outputs = product.outputs,
                                    .inputs = product.inputs,
                                    .bias = product.bias != nullptr,
                                    .add = product.add,
                                    .in_type = product.in_type,
                                    .out_type = product.out_type,
                                    .alignment_bytes = common_alignment(
                                        {product.x, product.weight, product.bias, product.y})},
                                   matrices));
  const float one = 1.0f, kept = product.add ? 1.0f : 0.0f;
  return cublas_status(
      cublasLtMatmul(handle_.get(), &matrices.description, &one, product.weight, &matrices.weight,
                     product.x, &matrices.x, &kept, product.y, &matrices.y, product.y, &matrices.y,
                     &algorithm, workspace_.data(), workspace_.size(), stream_),
      "cublasLtMatmul");
}

}  // namespace vkv
