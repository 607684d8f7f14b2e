// cuda_decoder.cpp: the language model on the GPU, on top of vkv::Cache: tokens -> logits.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/cuda/cuda_decoder.h"

#include <algorithm>
#include <cmath>

#include "kernels/trace_range.h"
#include "tools/mllm/batch_attention.h"
#include "tools/mllm/model_tensors.h"
#include "tools/mllm/rope.h"

namespace vkv {
namespace {

// Rows that go through the wide layers at once: fills the matrix units of 132 multiprocessors, and
// the activations of a 7B model (57k bf16 a row) stay near 230 MB.
constexpr int64_t kChunkRows = 2048;
// Logits that lie in GPU memory at once: 64 x 152k in fp32 are 39 MB.
constexpr int64_t kLogitRows = 64;
// Buffers grow in these steps: prompts come in any length.
constexpr int64_t kTokenStep = 256;
// From here on a layer takes long enough that progress and a stop shall not run ahead of the GPU.
constexpr int64_t kWatchedTokens = 1024;

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

template <class T>
Result<typename CudaDecoder<T>::Layer> CudaDecoder<T>::load_layer(const TextConfig& text,
                                                                  const WeightLoader& loader,
                                                                  int index,
                                                                  CudaWeights& device_weights) {
  using Out = CudaLinear<T, float>;
  VKV_TRY_ASSIGN(names, decoder_layer_tensors(text, loader, index));
  VKV_TRY_ASSIGN(attention_norm,
                 device_weights.load<float>(loader, names.attention_norm, {text.hidden}));
  VKV_TRY_ASSIGN(mlp_norm, device_weights.load<float>(loader, names.mlp_norm, {text.hidden}));
  VKV_TRY_ASSIGN(qkv, Out::load(loader, {names.q, names.k, names.v}, device_weights));
  VKV_TRY_ASSIGN(o, Out::load(loader, {names.o}, device_weights));
  using Wide = CudaLinear<T, T>;
  VKV_TRY_ASSIGN(gate_up, Wide::load(loader, {names.gate, names.up}, device_weights));
  VKV_TRY_ASSIGN(down, Out::load(loader, {names.down}, device_weights));
  return Result<Layer>(Layer{std::move(attention_norm), std::move(mlp_norm), std::move(qkv),
                             std::move(o), std::move(gate_up), std::move(down)});
}

template <class T>
Status CudaDecoder<T>::load_rope(CudaWeights& device_weights) {
  const RopeChannels rope = rope_channels(text_.head_dim, text_.rope_theta, text_.rope_section);
  VKV_TRY_ASSIGN(frequency, device_weights.make<float>(rope.frequency.size()));
  VKV_TRY_ASSIGN(axes, device_weights.make<uint8_t>(rope.axes.size()));
  frequency_ = std::move(frequency);
  axes_ = std::move(axes);
  VKV_TRY(copy_async(axes_.data(), rope.axes.data(), rope.axes.size(), context_->stream()));
  return device_weights.copy(rope.frequency, frequency_.data());
}

template <class T>
Result<CudaDecoder<T>> CudaDecoder<T>::load(const ModelConfig& config, const Weights& weights,
                                            CudaContext* context, CudaWeights& device_weights) {
  const TextConfig& text = config.text;
  VKV_TRY_ASSIGN(tensors, decoder_tensors(text, weights));
  const WeightLoader& loader = tensors.loader;
  CudaDecoder decoder(config, context);
  VKV_TRY_ASSIGN(embedding, device_weights.load<T>(loader, DecoderTensors::kEmbedding,
                                                   {text.vocabulary, text.hidden}));
  decoder.embedding_ = std::move(embedding);
  if (!tensors.head.empty()) {
    const WeightLoader whole_names(&weights);
    VKV_TRY_ASSIGN(
        head, device_weights.load<T>(whole_names, tensors.head, {text.vocabulary, text.hidden}));
    decoder.head_ = std::move(head);
  }
  VKV_TRY_ASSIGN(final_norm,
                 device_weights.load<float>(loader, DecoderTensors::kFinalNorm, {text.hidden}));
  decoder.final_norm_ = std::move(final_norm);
  VKV_TRY(decoder.load_rope(device_weights));
  for (int index = 0; index < text.layers; ++index) {
    VKV_TRY_ASSIGN(layer, load_layer(text, loader, index, device_weights));
    decoder.layers_.push_back(std::move(layer));
  }
  return Result<CudaDecoder>(std::move(decoder));
}

template <class T>
Result<CudaDecoder<T>> CudaDecoder<T>::random(const TextConfig& text, CudaContext* context,
                                              CudaWeights& device_weights) {
  ModelConfig config;  // no token stands for a picture
  config.text = text;
  CudaDecoder decoder(std::move(config), context);
  const auto hidden = static_cast<size_t>(text.hidden);
  const size_t table = static_cast<size_t>(text.vocabulary) * hidden;
  const auto norm = [&]() -> Result<CudaArray<float>> {
    VKV_TRY_ASSIGN(array, device_weights.make<float>(hidden));
    VKV_TRY(device_weights.randomise(array, 0.0f, 1.0f));
    return Result<CudaArray<float>>(std::move(array));
  };
  VKV_TRY_ASSIGN(embedding, device_weights.make<T>(table));
  VKV_TRY(device_weights.randomise(embedding, 1.0f));
  decoder.embedding_ = std::move(embedding);
  if (!text.tied_embeddings) {
    VKV_TRY_ASSIGN(head, device_weights.make<T>(table));
    VKV_TRY(device_weights.randomise(head, 1.0f / std::sqrt(static_cast<float>(hidden))));
    decoder.head_ = std::move(head);
  }
  VKV_TRY_ASSIGN(final_norm, norm());
  decoder.final_norm_ = std::move(final_norm);
  VKV_TRY(decoder.load_rope(device_weights));
  const int q_width = text.q_heads * text.head_dim, kv_width = text.kv_heads * text.head_dim;
  using Out = CudaLinear<T, float>;
  using Wide = CudaLinear<T, T>;
  for (int index = 0; index < text.layers; ++index) {
    VKV_TRY_ASSIGN(attention_norm, norm());
    VKV_TRY_ASSIGN(mlp_norm, norm());
    VKV_TRY_ASSIGN(qkv,
                   Out::random(q_width + 2 * kv_width, text.hidden, text.qkv_bias, device_weights));
    VKV_TRY_ASSIGN(o, Out::random(text.hidden, q_width, false, device_weights));
    VKV_TRY_ASSIGN(gate_up,
                   Wide::random(2 * text.intermediate, text.hidden, false, device_weights));
    VKV_TRY_ASSIGN(down, Out::random(text.hidden, text.intermediate, false, device_weights));
    decoder.layers_.push_back({std::move(attention_norm), std::move(mlp_norm), std::move(qkv),
                               std::move(o), std::move(gate_up), std::move(down)});
  }
  return Result<CudaDecoder>(std::move(decoder));
}

template <class T>
Status CudaDecoder<T>::reserve_buffers(int64_t token_count) {
  const int64_t tokens = (token_count + kTokenStep - 1) / kTokenStep * kTokenStep;
  const int64_t chunk = std::min(tokens, kChunkRows);
  if (static_cast<int64_t>(buffers_.inputs.size()) < 4 * tokens) step_graphs_.clear();
  VKV_TRY(reserve(buffers_.pinned_inputs, 4 * tokens, CudaMemory::kPinned));
  VKV_TRY(reserve(buffers_.inputs, 4 * tokens));
  VKV_TRY(reserve(buffers_.x, tokens * text_.hidden));
  VKV_TRY(reserve(buffers_.q, tokens * q_width()));
  VKV_TRY(reserve(buffers_.k, tokens * kv_width()));
  VKV_TRY(reserve(buffers_.v, tokens * kv_width()));
  VKV_TRY(reserve(buffers_.attended, tokens * q_width()));
  if (kNarrow) VKV_TRY(reserve(buffers_.narrow, chunk * q_width()));
  VKV_TRY(reserve(buffers_.normed, chunk * text_.hidden));
  VKV_TRY(reserve(buffers_.qkv, chunk * (q_width() + 2 * kv_width())));
  VKV_TRY(reserve(buffers_.gate_up, chunk * 2 * text_.intermediate));
  return reserve(buffers_.gated, chunk * text_.intermediate);
}

// Graphs know where logits go.
template <class T>
Status CudaDecoder<T>::reserve_logits(int64_t rows) {
  if (static_cast<int64_t>(buffers_.logits.size()) >= rows * text_.vocabulary) return {};
  step_graphs_.clear();
  VKV_TRY(reserve(buffers_.pinned_logits, rows * text_.vocabulary, CudaMemory::kPinned));
  return reserve(buffers_.logits, rows * text_.vocabulary);
}

// Token ids and positions go up in one copy; visual rows, run by run, to where they belong.
template <class T>
Status CudaDecoder<T>::embed(ForwardBatch batch) {
  const int64_t tokens = token_count(batch);
  const int64_t hidden = text_.hidden;
  const cudaStream_t stream = context_->stream();
  int32_t* const host = buffers_.pinned_inputs.data();
  int32_t* next = host;
  for (const ForwardRequest& request : batch)
    next = std::copy(request.tokens.begin(), request.tokens.end(), next);
  for (const RopePosition& at : rope_positions(batch)) {
    next[0] = at.time;
    next[tokens] = at.row;
    next[2 * tokens] = at.column;
    ++next;
  }
  VKV_TRY(copy_async(buffers_.inputs.data(), host, static_cast<size_t>(4 * tokens), stream));
  VKV_TRY(launch_embed<T>({.table = embedding_.data(),
                           .tokens = buffers_.inputs.data(),
                           .x = buffers_.x.data(),
                           .rows = tokens,
                           .columns = text_.hidden,
                           .image_token = config_.image_token,
                           .video_token = config_.video_token},
                          stream));
  const float* visual = batch[0].visual.data();  // a batch of several has none
  for (int64_t begin = 0; begin < tokens;) {
    int64_t end = begin;
    while (end < tokens && config_.is_visual(host[end])) ++end;
    const auto values = static_cast<size_t>((end - begin) * hidden);
    if (values > 0) {
      VKV_TRY(copy_async(buffers_.x.data() + begin * hidden, visual, values, stream));
      visual += values;
    }
    begin = std::max(end, begin + 1);
  }
  return {};
}

template <class T>
Status CudaDecoder<T>::normalise(const CudaArray<float>& weight, const float* x, int64_t rows) {
  return launch_rms_norm<T>({.x = x,
                             .weight = weight.data(),
                             .y = buffers_.normed.data(),
                             .rows = rows,
                             .columns = text_.hidden,
                             .epsilon = text_.norm_epsilon},
                            context_->stream());
}

template <class T>
Status CudaDecoder<T>::project_qkv(const Layer& layer, int64_t token_count, const Watch& watch) {
  return for_chunks(0, token_count, watch, [&](int64_t first, int64_t rows) -> Status {
    VKV_TRY(normalise(layer.attention_norm, buffers_.x.data() + first * text_.hidden, rows));
    VKV_TRY(layer.qkv.run(buffers_.normed.data(), rows, buffers_.qkv.data(), context_->products()));
    return launch_rotate<float>({.qkv = buffers_.qkv.data(),
                                 .positions = buffers_.inputs.data() + token_count + first,
                                 .position_stride = token_count,
                                 .frequency = frequency_.data(),
                                 .axes = axes_.data(),
                                 .q = buffers_.q.data() + first * q_width(),
                                 .k = buffers_.k.data() + first * kv_width(),
                                 .v = buffers_.v.data() + first * kv_width(),
                                 .rows = rows,
                                 .q_heads = text_.q_heads,
                                 .kv_heads = text_.kv_heads,
                                 .head_dim = text_.head_dim},
                                context_->stream());
  });
}

// K and V of all tokens go to the cache, but only queries from row `first` on.
template <class T>
Status CudaDecoder<T>::attend(Cache& cache, int layer, ForwardBatch batch, int64_t first) {
  return append_and_attend(cache, layer, batch, first,
                           {.q = buffers_.q.data(),
                            .k = buffers_.k.data(),
                            .v = buffers_.v.data(),
                            .out = buffers_.attended.data(),
                            .q_width = q_width(),
                            .kv_width = kv_width()});
}

// Output projection and MLP of the tokens [first, token_count).
template <class T>
Status CudaDecoder<T>::finish_layer(const Layer& layer, int64_t first, int64_t token_count,
                                    const Watch& watch) {
  return for_chunks(first, token_count, watch, [&](int64_t begin, int64_t rows) -> Status {
    float* const x = buffers_.x.data() + begin * text_.hidden;
    VKV_TRY(project_out(layer, buffers_.attended.data() + begin * q_width(), x, rows));
    VKV_TRY(normalise(layer.mlp_norm, x, rows));
    VKV_TRY(gate(layer, rows));
    return layer.down.run_add(buffers_.gated.data(), rows, x, context_->products());
  });
}

template <class T>
Status CudaDecoder<T>::project_out(const Layer& layer, const float* attended, float* x,
                                   int64_t rows) {
  CublasProducts& products = context_->products();
  if constexpr (!kNarrow) {
    return layer.o.run_add(attended, rows, x, products);
  } else {
    if (layer.o.is_few(rows, products))
      return layer.o.run_few_add(attended, rows, x, context_->stream());
    VKV_TRY(launch_convert<T>(
        {.source = attended, .target = buffers_.narrow.data(), .count = rows * q_width()},
        context_->stream()));
    return layer.o.run_add(buffers_.narrow.data(), rows, x, products);
  }
}

// Of the normalised rows.
template <class T>
Status CudaDecoder<T>::gate(const Layer& layer, int64_t rows) {
  CublasProducts& products = context_->products();
  T* const normed = buffers_.normed.data();
  T* const gated = buffers_.gated.data();
  const cudaStream_t stream = context_->stream();
  if constexpr (kNarrow)
    if (layer.gate_up.is_few(rows, products))
      return layer.gate_up.run_gate(normed, rows, gated, stream);
  VKV_TRY(layer.gate_up.run(normed, rows, buffers_.gate_up.data(), products));
  return launch_gate<T>(
      {.gate_up = buffers_.gate_up.data(), .y = gated, .rows = rows, .columns = text_.intermediate},
      stream);
}

template <class T>
Status CudaDecoder<T>::head(int64_t first, int64_t rows) {
  VKV_TRY(normalise(final_norm_, buffers_.x.data() + first * text_.hidden, rows));
  return context_->products().run(
      Product<T, float>{.x = buffers_.normed.data(),
                        .weight = (head_.size() > 0 ? head_ : embedding_).data(),
                        .y = buffers_.logits.data(),
                        .rows = rows,
                        .outputs = text_.vocabulary,
                        .inputs = text_.hidden});
}

template <class T>
Result<std::span<const float>> CudaDecoder<T>::logits(int64_t first, int64_t row_count) {
  const int64_t vocabulary = text_.vocabulary;
  const int64_t held_rows = std::min(row_count, kLogitRows);
  VKV_TRY(reserve_logits(held_rows));
  asked_.clear();
  asked_.reserve(static_cast<size_t>(row_count * vocabulary));
  for (int64_t done = 0; done < row_count; done += held_rows) {
    const int64_t rows = std::min(held_rows, row_count - done);
    VKV_TRY(head(first + done, rows));
    const auto values = static_cast<size_t>(rows * vocabulary);
    float* const host = buffers_.pinned_logits.data();
    VKV_TRY(copy_async(host, buffers_.logits.data(), values, context_->stream()));
    VKV_TRY(synchronize(context_->stream()));
    asked_.insert(asked_.end(), host, host + values);
  }
  return std::span<const float>(asked_);
}

template <class T>
Result<std::span<const float>> CudaDecoder<T>::run(Cache& cache, const ForwardRequest& request,
                                                   const Watch& watch) {
  const TraceRange trace("prefill");
  const ForwardBatch batch(&request, 1);
  const int64_t tokens = token_count(batch);
  const int64_t first_logit = tokens - request.logit_count;
  VKV_TRY(reserve_buffers(tokens));
  VKV_TRY(embed(batch));

  const auto total = static_cast<uint64_t>(tokens) * layers_.size();
  for (size_t index = 0; index < layers_.size(); ++index) {
    VKV_TRY(project_qkv(layers_[index], tokens, watch));
    const bool is_last = index + 1 == layers_.size();
    const int64_t first_query = is_last ? first_query_of_last_layer(request) : 0;
    VKV_TRY(attend(cache, static_cast<int>(index), batch, first_query));
    VKV_TRY(finish_layer(layers_[index], is_last ? first_logit : 0, tokens, watch));
    if (tokens >= kWatchedTokens) VKV_TRY(synchronize(context_->stream()));
    watch.report(static_cast<uint64_t>(tokens) * (index + 1), total);
  }
  return logits(first_logit, request.logit_count);
}

template <class T>
Result<std::span<const float>> CudaDecoder<T>::forward(Cache& cache, ForwardBatch batch,
                                                       const Watch& watch) {
  auto result = is_step(batch) ? run_step(cache, batch, watch) : run(cache, batch[0], watch);
  const Status finished = synchronize(context_->stream());
  // What the cache found late comes before what it led to.
  VKV_TRY(cache.settle());
  VKV_TRY(result.status());
  VKV_TRY(finished);
  return result;
}

template class CudaDecoder<float>;
template class CudaDecoder<__nv_bfloat16>;

}  // namespace vkv
