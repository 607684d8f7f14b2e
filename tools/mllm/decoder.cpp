// decoder.cpp: the language model (Qwen2 or Llama) on top of vkv::Cache: tokens -> logits.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/decoder.h"

#include <algorithm>

#include "tools/mllm/batch_attention.h"
#include "tools/mllm/model_tensors.h"
#include "tools/mllm/ops.h"
#include "tools/mllm/rope.h"

namespace vkv {
namespace {

// Rows that go through the linear layers at once: enough to fill the matrix units, and the wide
// activations of a 7B model (19k floats a row) stay under 80 MB.
constexpr int64_t kChunkRows = 1024;

size_t values(int64_t rows, int64_t columns) { return static_cast<size_t>(rows * columns); }

// Calls body(first, row_count) for chunks of the rows [first, end).
template <class Body>
Status for_chunks(int64_t first, int64_t end, const Watch& watch, const Body& body) {
  for (; first < end; first += kChunkRows) {
    VKV_TRY(watch.check());
    VKV_TRY(body(first, std::min(kChunkRows, end - first)));
  }
  return {};
}

}  // namespace

struct Decoder::Buffers {
  Buffers(const TextConfig& text, RopeTable rope_table, int64_t tokens)
      : rope(std::move(rope_table)),
        x(values(tokens, text.hidden)),
        q(values(tokens, int64_t{text.q_heads} * text.head_dim)),
        k(values(tokens, int64_t{text.kv_heads} * text.head_dim)),
        v(k.size()),
        attended(q.size()),
        normed(values(std::min(tokens, kChunkRows), text.hidden)),
        gate(values(std::min(tokens, kChunkRows), text.intermediate)),
        up(gate.size()) {}

  RopeTable rope;
  std::vector<float> x;         // [tokens, hidden], the residual stream
  std::vector<float> q, k, v;   // [tokens, heads, head_dim] of one layer
  std::vector<float> attended;  // [tokens, q_heads, head_dim]
  std::vector<float> normed;    // [chunk, hidden]
  std::vector<float> gate, up;  // [chunk, intermediate]
};

Result<Decoder::Layer> Decoder::load_layer(const TextConfig& text, const WeightLoader& loader,
                                           int index) {
  VKV_TRY_ASSIGN(tensors, decoder_layer_tensors(text, loader, index));
  VKV_TRY_ASSIGN(attention_norm, loader.floats(tensors.attention_norm, {text.hidden}));
  VKV_TRY_ASSIGN(mlp_norm, loader.floats(tensors.mlp_norm, {text.hidden}));
  VKV_TRY_ASSIGN(q, loader.linear(tensors.q));
  VKV_TRY_ASSIGN(k, loader.linear(tensors.k));
  VKV_TRY_ASSIGN(v, loader.linear(tensors.v));
  VKV_TRY_ASSIGN(o, loader.linear(tensors.o));
  VKV_TRY_ASSIGN(gate, loader.linear(tensors.gate));
  VKV_TRY_ASSIGN(up, loader.linear(tensors.up));
  VKV_TRY_ASSIGN(down, loader.linear(tensors.down));
  return Layer{std::move(attention_norm),
               std::move(mlp_norm),
               std::move(q),
               std::move(k),
               std::move(v),
               std::move(o),
               std::move(gate),
               std::move(up),
               std::move(down)};
}

Result<Decoder> Decoder::load(const ModelConfig& config, const Weights& weights) {
  const TextConfig& text = config.text;
  VKV_TRY_ASSIGN(tensors, decoder_tensors(text, weights));
  const WeightLoader& loader = tensors.loader;
  VKV_TRY_ASSIGN(embedding,
                 loader.floats(DecoderTensors::kEmbedding, {text.vocabulary, text.hidden}));
  std::vector<float> head_weight;
  if (!tensors.head.empty()) {
    VKV_TRY_ASSIGN(own, weights.floats(tensors.head, {text.vocabulary, text.hidden}));
    head_weight = std::move(own);
  }
  VKV_TRY_ASSIGN(
      head, Linear::make(text.vocabulary, text.hidden,
                         head_weight.empty() ? embedding : head_weight, {}, Activation::kNone));
  VKV_TRY_ASSIGN(final_norm, loader.floats(DecoderTensors::kFinalNorm, {text.hidden}));

  Decoder decoder(config, std::move(head));
  decoder.embedding_ = std::move(embedding);
  decoder.final_norm_ = std::move(final_norm);
  decoder.bytes_ = decoder.head_.bytes() + decoder.embedding_.size() * sizeof(float);
  for (int index = 0; index < text.layers; ++index) {
    VKV_TRY_ASSIGN(layer, load_layer(text, loader, index));
    for (const Linear* linear :
         {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down})
      decoder.bytes_ += linear->bytes();
    decoder.layers_.push_back(std::move(layer));
  }
  return decoder;
}

void Decoder::embed(ForwardBatch batch, float* x) const {
  const int64_t hidden = config_.text.hidden;
  for (const ForwardRequest& request : batch) {
    const float* visual = request.visual.data();
    for (const int32_t token : request.tokens) {
      const bool is_image = config_.is_visual(token);
      const float* const row = is_image ? visual : embedding_.data() + token * hidden;
      if (is_image) visual += hidden;
      x = std::copy(row, row + hidden, x);
    }
  }
}

Status Decoder::project_qkv(Layer& layer, Buffers& buffers, int64_t token_count,
                            const Watch& watch) {
  const TextConfig& text = config_.text;
  const int64_t q_width = int64_t{text.q_heads} * text.head_dim;
  const int64_t kv_width = int64_t{text.kv_heads} * text.head_dim;
  const auto project = [&](int64_t first, int64_t rows) -> Status {
    rms_norm(buffers.x.data() + first * text.hidden, rows, layer.attention_norm, text.norm_epsilon,
             buffers.normed.data());
    VKV_TRY(layer.q.run(buffers.normed.data(), rows, buffers.q.data() + first * q_width));
    VKV_TRY(layer.k.run(buffers.normed.data(), rows, buffers.k.data() + first * kv_width));
    return layer.v.run(buffers.normed.data(), rows, buffers.v.data() + first * kv_width);
  };
  VKV_TRY(for_chunks(0, token_count, watch, project));
  buffers.rope.apply(buffers.q.data(), text.q_heads);
  buffers.rope.apply(buffers.k.data(), text.kv_heads);
  return {};
}

// K and V of all tokens go to the cache, but only queries from row `first` on.
Status Decoder::attend(Cache& cache, int layer, ForwardBatch batch, int64_t first,
                       Buffers& buffers) const {
  const int64_t q_width = int64_t{config_.text.q_heads} * config_.text.head_dim;
  const int64_t kv_width = int64_t{config_.text.kv_heads} * config_.text.head_dim;
  return append_and_attend(cache, layer, batch, first,
                           {.q = buffers.q.data(),
                            .k = buffers.k.data(),
                            .v = buffers.v.data(),
                            .out = buffers.attended.data(),
                            .q_width = q_width,
                            .kv_width = kv_width});
}

// Output projection and MLP of the tokens [first, token_count).
Status Decoder::finish_layer(Layer& layer, Buffers& buffers, int64_t first, int64_t token_count,
                             const Watch& watch) {
  const TextConfig& text = config_.text;
  const int64_t q_width = int64_t{text.q_heads} * text.head_dim;
  return for_chunks(first, token_count, watch, [&](int64_t begin, int64_t rows) -> Status {
    float* const x = buffers.x.data() + begin * text.hidden;
    VKV_TRY(layer.o.run_add(buffers.attended.data() + begin * q_width, rows, x));
    rms_norm(x, rows, layer.mlp_norm, text.norm_epsilon, buffers.normed.data());
    VKV_TRY(layer.gate.run(buffers.normed.data(), rows, buffers.gate.data()));
    VKV_TRY(layer.up.run(buffers.normed.data(), rows, buffers.up.data()));
    multiply(buffers.gate.data(), buffers.up.data(), rows * text.intermediate);
    return layer.down.run_add(buffers.gate.data(), rows, x);
  });
}

Result<std::vector<float>> Decoder::logits(const float* x, int64_t row_count) {
  if (row_count == 0) return std::vector<float>();
  std::vector<float> normed(values(row_count, config_.text.hidden));
  std::vector<float> result(values(row_count, config_.text.vocabulary));
  rms_norm(x, row_count, final_norm_, config_.text.norm_epsilon, normed.data());
  VKV_TRY(head_.run(normed.data(), row_count, result.data()));
  return result;
}

Result<std::vector<float>> Decoder::forward(Cache& cache, ForwardBatch batch, const Watch& watch) {
  const int64_t tokens = token_count(batch);
  // Past the last layer only the tokens whose logits are asked for go on; of a batch, all.
  const bool is_alone = batch.size() == 1;
  const int64_t first_logit = is_alone ? tokens - batch[0].logit_count : 0;
  const int64_t first_query = is_alone ? first_query_of_last_layer(batch[0]) : 0;
  Buffers buffers(config_.text, RopeTable(rope_positions(batch), rope_), tokens);
  embed(batch, buffers.x.data());

  const auto total = static_cast<uint64_t>(tokens) * layers_.size();
  for (size_t index = 0; index < layers_.size(); ++index) {
    VKV_TRY(project_qkv(layers_[index], buffers, tokens, watch));
    const bool is_last = index + 1 == layers_.size();
    VKV_TRY(attend(cache, static_cast<int>(index), batch, is_last ? first_query : 0, buffers));
    VKV_TRY(finish_layer(layers_[index], buffers, is_last ? first_logit : 0, tokens, watch));
    watch.report(static_cast<uint64_t>(tokens) * (index + 1), total);
  }
  VKV_TRY_ASSIGN(
      rows, logits(buffers.x.data() + first_logit * config_.text.hidden, tokens - first_logit));
  return is_alone ? std::move(rows) : asked_logits(batch, rows, config_.text.vocabulary);
}

}  // namespace vkv
