// random_model.h: a decoder of random weights on a cache, for measuring.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_bf16.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "tools/mllm/cuda/cuda_context.h"
#include "tools/mllm/cuda/cuda_decoder.h"
#include "tools/mllm/cuda/cuda_weights.h"
#include "vkv/cache.h"

namespace vkv {

// The order of members is that of making them.
struct RandomModel {
  std::unique_ptr<CudaContext> context;
  std::unique_ptr<CudaDecoder<__nv_bfloat16>> decoder;
  std::unique_ptr<Cache> cache;

  // Shape, element, stream and DRAM budget of `cache` are filled in, and the HBM budget where it is
  // 0: room for so many tokens at 16 bit, windows of so many, and the kernels.
  static Result<RandomModel> make(const TextConfig& text, CacheOptions cache, int64_t token_count,
                                  int64_t window_tokens) {
    RandomModel model;
    VKV_TRY_ASSIGN(context, CudaContext::make(cache.device_index));
    CudaWeights weights(context->stream());
    VKV_TRY_ASSIGN(decoder, CudaDecoder<__nv_bfloat16>::random(text, context.get(), weights));
    cache.shape = {.layers = text.layers,
                   .q_heads = text.q_heads,
                   .kv_heads = text.kv_heads,
                   .head_dim = text.head_dim};
    cache.element = ElementType::kF32;
    cache.stream = context->stream();
    const int64_t token_bytes = int64_t{4} * text.kv_heads * text.head_dim * text.layers;
    const auto budget =
        static_cast<uint64_t>(token_bytes * (token_count + token_count / 8 + 3 * window_tokens)) +
        (uint64_t{1} << 30);
    cache.dram_bytes_max = budget;
    if (cache.hbm_bytes_max == 0) cache.hbm_bytes_max = budget;
    VKV_TRY_ASSIGN(opened, Cache::open(cache));
    model.context = std::move(context);
    model.decoder = std::make_unique<CudaDecoder<__nv_bfloat16>>(std::move(decoder));
    model.cache = std::move(opened);
    return model;
  }
};

// Of the current GPU, by whomever. Errors: kCuda.
inline Result<uint64_t> device_bytes_used() {
  size_t free_bytes = 0, all_bytes = 0;
  VKV_TRY(cuda_status(cudaMemGetInfo(&free_bytes, &all_bytes), "cudaMemGetInfo"));
  return uint64_t{all_bytes - free_bytes};
}

inline double median_of(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace vkv
