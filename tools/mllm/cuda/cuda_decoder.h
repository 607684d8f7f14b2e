// cuda_decoder.h: the language model on the GPU, on top of vkv::Cache: tokens -> logits.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <span>
#include <type_traits>
#include <vector>

#include "tools/mllm/cuda/cuda_context.h"
#include "tools/mllm/cuda/cuda_weights.h"
#include "tools/mllm/forward_request.h"
#include "tools/mllm/model_config.h"
#include "tools/mllm/watch.h"
#include "tools/mllm/weights.h"
#include "vkv/cache.h"

namespace vkv {

// What Decoder does on the CPU, step for step. T is float or __nv_bfloat16: the type of weights and
// of what goes into products of many rows. K, V, queries and what attention returns are fp32, as
// the cache computes with them: a step then has nothing to convert. Not thread-safe.
//
// A step of a few tokens is a chain of pieces between the attentions: what ends one layer and
// begins the next. Each is captured as a CUDA graph at the second step of so many tokens and
// replayed from then on; token ids and positions lie in GPU memory, so that a graph stays as it is.
template <class T>
class CudaDecoder {
 public:
  // The context outlives the decoder. Errors: those of Weights::floats, kOutOfMemory, kCuda.
  static Result<CudaDecoder> load(const ModelConfig& config, const Weights& weights,
                                  CudaContext* context, CudaWeights& device_weights);

  // Random weights of the same shapes, made on the GPU; for measuring. Errors: kOutOfMemory, kCuda.
  static Result<CudaDecoder> random(const TextConfig& text, CudaContext* context,
                                    CudaWeights& device_weights);

  // As Model::forward, of a valid batch. Progress counts tokens x layers. When it returns, also
  // with an error, nothing that it queued is left. Takes GPU memory only for more tokens than ever
  // before. The logits are the decoder's, until its next call: those of 26 sequences are 16 MB,
  // which take 2 ms to copy.
  Result<std::span<const float>> forward(Cache& cache, ForwardBatch batch, const Watch& watch);

  // For measuring and tests. Weights that a step of one token reads: all, but of the embedding one
  // row.
  uint64_t step_weight_bytes() const;
  // Queues the products of a step of so many tokens, alone.
  Status queue_products(int64_t rows);
  // Where set, each step records kTime events on the stream: before and after each attention.
  void set_marks(std::vector<CudaEvent>* marks) { marks_ = marks; }
  void set_graphs(bool use) { use_graphs_ = use; }
  uint64_t graph_launch_count() const { return graph_launch_count_; }

 private:
  static constexpr bool kNarrow = std::is_same_v<T, __nv_bfloat16>;

  struct Layer {
    CudaArray<float> attention_norm, mlp_norm;  // [hidden]
    CudaLinear<T, float> qkv, o;
    CudaLinear<T, T> gate_up;
    CudaLinear<T, float> down;
  };

  // In GPU memory, but for what is pinned.
  struct Buffers {
    CudaArray<int32_t> pinned_inputs, inputs;  // [4, tokens]: token ids, positions by axis
    CudaArray<float> x;                        // [tokens, hidden], the residual stream
    CudaArray<float> q, k, v;                  // [tokens, heads, head_dim] of one layer
    CudaArray<float> attended;                 // [tokens, q_heads, head_dim]
    CudaArray<T> narrow;                       // [chunk, q_heads, head_dim]: of attended
    CudaArray<T> normed;                       // [chunk, hidden]
    CudaArray<float> qkv;                      // [chunk, q_heads + 2 kv_heads, head_dim]
    CudaArray<T> gate_up, gated;               // [chunk, 2, intermediate], [chunk, intermediate]
    CudaArray<float> pinned_logits, logits;    // [rows, vocabulary]
  };

  // Pieces of steps of one number of tokens: [layers + 1], empty until captured.
  struct StepGraphs {
    bool ran = false;  // once without: kernels are loaded, and buffers have their size
    std::vector<CudaGraphExec> pieces;
  };

  // `config`: of its vision, which tokens stand for it.
  CudaDecoder(ModelConfig config, CudaContext* context)
      : config_(std::move(config)), text_(config_.text), context_(context) {}

  static Result<Layer> load_layer(const TextConfig& text, const WeightLoader& loader, int index,
                                  CudaWeights& device_weights);
  Status load_rope(CudaWeights& device_weights);

  Status reserve_buffers(int64_t token_count);
  Status embed(ForwardBatch batch);
  Status project_qkv(const Layer& layer, int64_t token_count, const Watch& watch);
  Status attend(Cache& cache, int layer, ForwardBatch batch, int64_t first);
  Status finish_layer(const Layer& layer, int64_t first, int64_t token_count, const Watch& watch);
  Status normalise(const CudaArray<float>& weight, const float* x, int64_t rows);
  Status project_out(const Layer& layer, const float* attended, float* x, int64_t rows);
  Status gate(const Layer& layer, int64_t rows);
  Result<std::span<const float>> logits(int64_t first, int64_t row_count);
  Status head(int64_t first, int64_t rows);
  Status reserve_logits(int64_t rows);
  Result<std::span<const float>> run(Cache& cache, const ForwardRequest& request,
                                     const Watch& watch);

  // Steps (cuda_step.cpp).
  bool is_step(ForwardBatch batch) const;
  Result<std::span<const float>> run_step(Cache& cache, ForwardBatch batch, const Watch& watch);
  Status run_piece(StepGraphs& graphs, size_t index, ForwardBatch batch);
  // What stands before the attention of layer `index`, or behind that of the last.
  Status queue_piece(size_t index, ForwardBatch batch);
  Status mark();

  int64_t q_width() const { return int64_t{text_.q_heads} * text_.head_dim; }
  int64_t kv_width() const { return int64_t{text_.kv_heads} * text_.head_dim; }

  ModelConfig config_;
  TextConfig text_;
  CudaContext* context_;
  CudaArray<T> embedding_;       // [vocabulary, hidden]
  CudaArray<T> head_;            // [vocabulary, hidden]; empty: the embedding
  CudaArray<float> final_norm_;  // [hidden]
  CudaArray<float> frequency_;   // [head_dim / 2], of RoPE
  CudaArray<uint8_t> axes_;      // [head_dim / 2]
  std::vector<Layer> layers_;
  Buffers buffers_;
  std::vector<float> asked_;  // logits of the last call, where they are not all of its tokens'
  std::map<int64_t, StepGraphs> step_graphs_;  // by tokens; none survives a buffer that moves
  bool use_graphs_ = true;
  uint64_t graph_launch_count_ = 0;
  std::vector<CudaEvent>* marks_ = nullptr;
};

}  // namespace vkv
