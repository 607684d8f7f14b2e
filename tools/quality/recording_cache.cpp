// recording_cache.cpp: keeps what passes through, and plays it again.
// SPDX-License-Identifier: Apache-2.0
#include "tools/quality/recording_cache.h"

#include <algorithm>

namespace vkv {
namespace {

size_t width(const KvShape& shape, int heads) {
  return static_cast<size_t>(heads) * static_cast<size_t>(shape.head_dim);
}

}  // namespace

Status RecordingCache::append(int layer, std::span<const AppendRequest> requests) {
  VKV_TRY(cache_->append(layer, requests));
  if (queries_max_ == 0) return {};
  for (const AppendRequest& request : requests) record(layer, request);
  return {};
}

void RecordingCache::record(int layer, const AppendRequest& request) {
  const KvShape& shape = options().shape;
  const size_t values = static_cast<size_t>(request.token_count) * width(shape, shape.kv_heads);
  const auto* const k = static_cast<const float*>(request.k);
  const auto* const v = static_cast<const float*>(request.v);
  Recording::Layer& target = recording_.layers[static_cast<size_t>(layer)];
  target.k.insert(target.k.end(), k, k + values);
  target.v.insert(target.v.end(), v, v + values);
  if (layer == 0)
    recording_.roles.insert(recording_.roles.end(), request.roles.begin(), request.roles.end());
}

Status RecordingCache::attend(int layer, std::span<const AttendRequest> requests) {
  VKV_TRY(cache_->attend(layer, requests));
  if (queries_max_ == 0 || requests.empty()) return {};
  const AttendRequest& request = requests.front();
  const int count = std::min(request.q_len, queries_max_);
  const size_t row = width(options().shape, options().shape.q_heads);
  const size_t skipped = static_cast<size_t>(request.q_len - count) * row;
  const size_t values = static_cast<size_t>(count) * row;
  const auto* const q = static_cast<const float*>(request.q) + skipped;
  const auto* const out = static_cast<const float*>(request.out) + skipped;
  Recording::Layer& target = recording_.layers[static_cast<size_t>(layer)];
  target.query_count = count;
  target.q.assign(q, q + values);
  target.out.assign(out, out + values);
  return {};
}

Status replay(const Recording& recording, Cache& cache, SequenceId sequence, bool ends_window,
              std::vector<std::vector<float>>* outs) {
  std::vector<float> out;
  for (size_t layer = 0; layer < recording.layers.size(); ++layer) {
    const Recording::Layer& source = recording.layers[layer];
    VKV_TRY(cache.append(static_cast<int>(layer),
                         {.sequence = sequence,
                          .token_count = static_cast<int>(recording.roles.size()),
                          .k = source.k.data(),
                          .v = source.v.data(),
                          .roles = recording.roles}));
    out.resize(source.q.size());
    const AttendRequest request = {.sequence = sequence,
                                   .q_len = source.query_count,
                                   .q = source.q.data(),
                                   .out = out.data(),
                                   .ends_window = ends_window};
    VKV_TRY(cache.attend(static_cast<int>(layer), {&request, 1}));
    if (outs != nullptr) outs->push_back(out);
  }
  return {};
}

}  // namespace vkv
