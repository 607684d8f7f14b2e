// cuda_step.cpp: a step of a few tokens, as graphs between the attentions.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "kernels/trace_range.h"
#include "tools/mllm/batch_attention.h"
#include "tools/mllm/cuda/cuda_decoder.h"

namespace vkv {

template <class T>
bool CudaDecoder<T>::is_step(ForwardBatch batch) const {
  return batch.size() > 1 ||
         (token_count(batch) <= kFewRows && batch[0].visual.empty() && !batch[0].ends_window);
}

template <class T>
Status CudaDecoder<T>::mark() {
  if (marks_ == nullptr) return {};
  VKV_TRY_ASSIGN(event, make_event(EventKind::kTime));
  marks_->push_back(std::move(event));
  return cuda_status(cudaEventRecord(marks_->back().get(), context_->stream()), "cudaEventRecord");
}

template <class T>
Status CudaDecoder<T>::queue_piece(size_t index, ForwardBatch batch) {
  const int64_t tokens = token_count(batch);
  if (index == 0) {
    VKV_TRY(embed(batch));
  } else {
    VKV_TRY(finish_layer(layers_[index - 1], 0, tokens, {}));
  }
  if (index < layers_.size()) return project_qkv(layers_[index], tokens, {});
  if (logit_count(batch) == 0) return {};
  VKV_TRY(head(0, tokens));
  return copy_async(buffers_.pinned_logits.data(), buffers_.logits.data(),
                    static_cast<size_t>(tokens * text_.vocabulary), context_->stream());
}

template <class T>
Status CudaDecoder<T>::run_piece(StepGraphs& graphs, size_t index, ForwardBatch batch) {
  // The first piece has what comes from the host; a step without logits is no decode step.
  const bool as_graph = use_graphs_ && graphs.ran && index > 0 && logit_count(batch) > 0;
  if (!as_graph) return queue_piece(index, batch);

  CudaGraphExec& piece = graphs.pieces[index];
  if (piece.get() == nullptr) {
    const cudaStream_t stream = context_->stream();
    VKV_TRY(cuda_status(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
                        "cudaStreamBeginCapture"));
    const Status queued = queue_piece(index, batch);
    cudaGraph_t captured = nullptr;
    const Status ended =
        cuda_status(cudaStreamEndCapture(stream, &captured), "cudaStreamEndCapture");
    const CudaGraph graph(captured);
    VKV_TRY(queued);
    VKV_TRY(ended);
    cudaGraphExec_t made = nullptr;
    VKV_TRY(cuda_status(cudaGraphInstantiate(&made, graph.get(), 0), "cudaGraphInstantiate"));
    piece = CudaGraphExec(made);
  }
  ++graph_launch_count_;
  return cuda_status(cudaGraphLaunch(piece.get(), context_->stream()), "cudaGraphLaunch");
}

template <class T>
Result<std::span<const float>> CudaDecoder<T>::run_step(Cache& cache, ForwardBatch batch,
                                                        const Watch& watch) {
  const TraceRange trace("step");
  const int64_t tokens = token_count(batch);
  VKV_TRY(watch.check());
  VKV_TRY(reserve_buffers(tokens));
  VKV_TRY(reserve_logits(std::max(tokens, kFewRows)));
  StepGraphs& graphs = step_graphs_[tokens];
  graphs.pieces.resize(layers_.size() + 1);

  const auto total = static_cast<uint64_t>(tokens) * layers_.size();
  for (size_t index = 0; index < layers_.size(); ++index) {
    const TraceRange layer_trace("layer");
    VKV_TRY(watch.check());
    VKV_TRY(run_piece(graphs, index, batch));
    VKV_TRY(mark());
    VKV_TRY(attend(cache, static_cast<int>(index), batch, 0));
    VKV_TRY(mark());
    watch.report(static_cast<uint64_t>(tokens) * (index + 1), total);
  }
  VKV_TRY(run_piece(graphs, layers_.size(), batch));
  graphs.ran = graphs.ran || logit_count(batch) > 0;
  VKV_TRY(mark());
  VKV_TRY(synchronize(context_->stream()));
  const auto values = static_cast<size_t>(tokens * text_.vocabulary);
  const std::span<const float> all(buffers_.pinned_logits.data(), values);
  if (logit_count(batch) == tokens) return all;
  asked_ = asked_logits(batch, all, text_.vocabulary);
  return std::span<const float>(asked_);
}

template <class T>
uint64_t CudaDecoder<T>::step_weight_bytes() const {
  const uint64_t norm_bytes = final_norm_.size() * sizeof(float);
  uint64_t bytes = (embedding_.size() + static_cast<size_t>(text_.hidden)) * sizeof(T) + norm_bytes;
  for (const Layer& layer : layers_)
    bytes += 2 * norm_bytes + layer.qkv.byte_count() + layer.o.byte_count() +
             layer.gate_up.byte_count() + layer.down.byte_count();
  return bytes;
}

template <class T>
Status CudaDecoder<T>::queue_products(int64_t rows) {
  VKV_TRY(reserve_buffers(rows));
  VKV_TRY(reserve_logits(std::max(rows, kFewRows)));
  CublasProducts& products = context_->products();
  T* const normed = buffers_.normed.data();
  for (const Layer& layer : layers_) {
    VKV_TRY(layer.qkv.run(normed, rows, buffers_.qkv.data(), products));
    VKV_TRY(project_out(layer, buffers_.attended.data(), buffers_.x.data(), rows));
    VKV_TRY(gate(layer, rows));
    VKV_TRY(layer.down.run_add(buffers_.gated.data(), rows, buffers_.x.data(), products));
  }
  return head(0, rows);
}

using Logits = Result<std::span<const float>>;
using Bf16 = __nv_bfloat16;
template bool CudaDecoder<float>::is_step(ForwardBatch) const;
template bool CudaDecoder<Bf16>::is_step(ForwardBatch) const;
template Logits CudaDecoder<float>::run_step(Cache&, ForwardBatch, const Watch&);
template Logits CudaDecoder<Bf16>::run_step(Cache&, ForwardBatch, const Watch&);
template uint64_t CudaDecoder<float>::step_weight_bytes() const;
template uint64_t CudaDecoder<Bf16>::step_weight_bytes() const;
template Status CudaDecoder<float>::queue_products(int64_t);
template Status CudaDecoder<Bf16>::queue_products(int64_t);

}  // namespace vkv
