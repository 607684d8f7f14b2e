// cuda_decoder.h: the language model on the GPU, on top of vkv::Cache: tokens -> logits.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <vector>

#include "tools/mllm/cuda/cuda_context.h"
#include "tools/mllm/cuda/cuda_weights.h"
#include "tools/mllm/forward_request.h"
#include "tools/mllm/model_config.h"
#include "tools/mllm/watch.h"
#include "tools/mllm/weights.h"
#include "vkv/cache.h"

namespace vkv {

// What Decoder does on the CPU, step for step. T is float or __nv_bfloat16: the type of weights, of
// what goes into products, and of K, V and queries. Not thread-safe.
template <class T>
class CudaDecoder {
 public:
  // The context outlives the decoder. Errors: those of Weights::floats, kOutOfMemory, kCuda.
  static Result<CudaDecoder> load(const TextConfig& text, int32_t image_token,
                                  const Weights& weights, CudaContext* context,
                                  CudaWeights& device_weights);

  // As Model::forward, of a valid request. Progress counts tokens x layers. When it returns, also
  // with an error, nothing that it queued is left. Takes GPU memory only for more tokens than ever
  // before.
  Result<std::vector<float>> forward(Cache& cache, const ForwardRequest& request,
                                     const Watch& watch);

 private:
  struct Layer {
    CudaArray<float> attention_norm, mlp_norm;  // [hidden]
    CudaLinear<T, float> qkv, o;
    CudaLinear<T, T> gate_up;
    CudaLinear<T, float> down;
  };

  // In GPU memory, but for what is pinned.
  struct Buffers {
    CudaArray<int32_t> pinned_inputs, inputs;  // [2, tokens]: token ids, positions
    CudaArray<float> x;                        // [tokens, hidden], the residual stream
    CudaArray<T> q, k, v;                      // [tokens, heads, head_dim] of one layer
    CudaArray<T> attended;                     // [tokens, q_heads, head_dim]
    CudaArray<T> normed;                       // [chunk, hidden]
    CudaArray<float> qkv;                      // [chunk, q_heads + 2 kv_heads, head_dim]
    CudaArray<T> gate_up, gated;               // [chunk, 2, intermediate], [chunk, intermediate]
    CudaArray<float> pinned_logits, logits;    // [rows, vocabulary]
  };

  CudaDecoder(const TextConfig& text, int32_t image_token, CudaContext* context)
      : text_(text), image_token_(image_token), context_(context) {}

  static Result<Layer> load_layer(const TextConfig& text, const WeightLoader& loader, int index,
                                  CudaWeights& device_weights);
  Status load_frequency(CudaWeights& device_weights);

  Status reserve_buffers(int64_t token_count);
  Status embed(const ForwardRequest& request);
  Status project_qkv(const Layer& layer, int64_t token_count, const Watch& watch);
  Status attend(Cache& cache, int layer, const ForwardRequest& request, int64_t first);
  Status finish_layer(const Layer& layer, int64_t first, int64_t token_count, const Watch& watch);
  Status normalise(const CudaArray<float>& weight, const float* x, int64_t rows);
  Result<std::vector<float>> logits(int64_t first, int64_t row_count);
  Result<std::vector<float>> run(Cache& cache, const ForwardRequest& request, const Watch& watch);

  int64_t q_width() const { return int64_t{text_.q_heads} * text_.head_dim; }
  int64_t kv_width() const { return int64_t{text_.kv_heads} * text_.head_dim; }

  TextConfig text_;
  int32_t image_token_;
  CudaContext* context_;
  CudaArray<T> embedding_;       // [vocabulary, hidden]
  CudaArray<T> head_;            // [vocabulary, hidden]; empty: the embedding
  CudaArray<float> final_norm_;  // [hidden]
  CudaArray<float> frequency_;   // [head_dim / 2], of RoPE
  std::vector<Layer> layers_;
  Buffers buffers_;
};

}  // namespace vkv
