// vision_attention.cpp: attention inside pictures or windows, by oneDNN in fp32.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/vision_attention.h"

#include <algorithm>

#include "tools/mllm/linear.h"

namespace vkv {
namespace {

using dnnl::memory;
using Strides = memory::dims;

memory strided(const memory::dims& shape, const Strides& strides, const float* values) {
  return memory({shape, memory::data_type::f32, strides}, cpu_engine(), const_cast<float*>(values));
}

// The queries [first, first + queries) of each part.
void attend(const VisionAttentionParams& of, int64_t first, int64_t queries, float* score_values) {
  const int64_t width = of.heads * of.head_dim;
  const Strides rows = {of.positions * of.stride, of.head_dim, of.stride, 1};
  const Strides columns = {of.positions * of.stride, of.head_dim, 1, of.stride};
  const Strides square = {of.heads * queries * of.positions, queries * of.positions, of.positions,
                          1};
  const Strides dense = {of.positions * width, of.head_dim, width, 1};
  memory q = strided({of.parts, of.heads, queries, of.head_dim}, rows, of.q + first * of.stride);
  memory k = strided({of.parts, of.heads, of.head_dim, of.positions}, columns, of.k);
  memory v = strided({of.parts, of.heads, of.positions, of.head_dim}, rows, of.v);
  memory scores = strided({of.parts, of.heads, queries, of.positions}, square, score_values);
  memory out = strided({of.parts, of.heads, queries, of.head_dim}, dense, of.out + first * width);
  const dnnl::engine& engine = cpu_engine();
  dnnl::stream stream(engine);
  dnnl::matmul({engine, q.get_desc(), k.get_desc(), scores.get_desc()})
      .execute(stream, {{DNNL_ARG_SRC, q}, {DNNL_ARG_WEIGHTS, k}, {DNNL_ARG_DST, scores}});
  dnnl::softmax_forward({engine, dnnl::prop_kind::forward_inference,
                         dnnl::algorithm::softmax_accurate, scores.get_desc(), scores.get_desc(),
                         3})
      .execute(stream, {{DNNL_ARG_SRC, scores}, {DNNL_ARG_DST, scores}});
  dnnl::matmul({engine, scores.get_desc(), v.get_desc(), out.get_desc()})
      .execute(stream, {{DNNL_ARG_SRC, scores}, {DNNL_ARG_WEIGHTS, v}, {DNNL_ARG_DST, out}});
  stream.wait();
}

}  // namespace

Status vision_attention(const VisionAttentionParams& params, std::vector<float>& scores) {
  const int64_t width = params.heads * params.head_dim;
  if (params.positions == 1) {  // the value itself; oneDNN 3.7 errs in products over one position
    for (int64_t row = 0; row < params.parts; ++row)
      std::copy_n(params.v + row * params.stride, width, params.out + row * width);
    return {};
  }
  // Whole parts as many as fit; where one alone does not fit, some of its queries at a time.
  const int64_t query_scores = params.heads * params.positions;
  const int64_t queries =
      std::clamp<int64_t>(params.scores_max / query_scores, 1, params.positions);
  const int64_t at_once =
      std::clamp<int64_t>(params.scores_max / (query_scores * params.positions), 1, params.parts);
  const auto score_values = static_cast<size_t>(at_once * queries * query_scores);
  if (scores.size() < score_values) scores.resize(score_values);
  VisionAttentionParams some = params;
  try {
    for (int64_t part = 0; part < params.parts; part += at_once) {
      some.parts = std::min(at_once, params.parts - part);
      const int64_t row = part * params.positions;
      some.q = params.q + row * params.stride;
      some.k = params.k + row * params.stride;
      some.v = params.v + row * params.stride;
      some.out = params.out + row * width;
      for (int64_t first = 0; first < params.positions; first += queries)
        attend(some, first, std::min(queries, params.positions - first), scores.data());
    }
  } catch (const dnnl::error& error) {
    return onednn_status("vision attention", error);
  }
  return {};
}

}  // namespace vkv
