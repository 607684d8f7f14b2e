// vision_attention.cpp: attention inside pictures or windows, by oneDNN in fp32.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/vision_attention.h"

#include <algorithm>

#include "tools/mllm/linear.h"

namespace vkv {
namespace {

using dnnl::memory;
using Strides = memory::dims;

constexpr int64_t kScoresMax = int64_t{64} << 20;  // 256 MiB

memory strided(const memory::dims& shape, const Strides& strides, const float* values) {
  return memory({shape, memory::data_type::f32, strides}, cpu_engine(), const_cast<float*>(values));
}

void attend(const VisionAttentionParams& of, float* score_values) {
  const Strides rows = {of.positions * of.stride, of.head_dim, of.stride, 1};
  const Strides columns = {of.positions * of.stride, of.head_dim, 1, of.stride};
  const Strides square = {of.heads * of.positions * of.positions, of.positions * of.positions,
                          of.positions, 1};
  const int64_t width = of.heads * of.head_dim;
  const Strides dense = {of.positions * width, of.head_dim, width, 1};
  memory q = strided({of.parts, of.heads, of.positions, of.head_dim}, rows, of.q);
  memory k = strided({of.parts, of.heads, of.head_dim, of.positions}, columns, of.k);
  memory v = strided({of.parts, of.heads, of.positions, of.head_dim}, rows, of.v);
  memory scores = strided({of.parts, of.heads, of.positions, of.positions}, square, score_values);
  memory out = strided({of.parts, of.heads, of.positions, of.head_dim}, dense, of.out);
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
  const int64_t part_scores = params.heads * params.positions * params.positions;
  const int64_t at_once = std::clamp<int64_t>(kScoresMax / part_scores, 1, params.parts);
  const auto score_values = static_cast<size_t>(at_once * part_scores);
  if (scores.size() < score_values) scores.resize(score_values);
  VisionAttentionParams some = params;
  try {
    for (int64_t first = 0; first < params.parts; first += at_once) {
      some.parts = std::min(at_once, params.parts - first);
      const int64_t row = first * params.positions;
      some.q = params.q + row * params.stride;
      some.k = params.k + row * params.stride;
      some.v = params.v + row * params.stride;
      some.out = params.out + row * params.heads * params.head_dim;
      attend(some, scores.data());
    }
  } catch (const dnnl::error& error) {
    return onednn_status("vision attention", error);
  }
  return {};
}

}  // namespace vkv
