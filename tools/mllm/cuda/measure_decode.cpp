// measure_decode.cpp: random weights, a full cache, and the clock around steps.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/cuda/measure_decode.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <vector>

#include "kernels/measure_attend.h"
#include "tools/mllm/cuda/random_model.h"

namespace vkv {
namespace {

constexpr int kWindowTokens = 8192;  // appended at once
constexpr int kTextTokens = 64;      // in front of the visual ones: a system prompt
constexpr int kWarmSteps = 4;
constexpr int kProductRounds = 8;

class DecodeBench {
 public:
  static Result<std::unique_ptr<DecodeBench>> make(const DecodeMeasurementOptions& options) {
    VKV_TRY_ASSIGN(model, RandomModel::make(options.text, options.cache,
                                            int64_t{options.batch_count} *
                                                (options.token_count + options.step_count),
                                            kWindowTokens));
    std::vector<SequenceId> sequences;
    for (int i = 0; i < options.batch_count; ++i) {
      VKV_TRY_ASSIGN(sequence, model.cache->create_sequence());
      sequences.push_back(sequence);
    }
    return std::unique_ptr<DecodeBench>(
        new DecodeBench(options, std::move(model), std::move(sequences)));
  }

  // Windows as a prefill leaves them, each sealed but for its newest tokens.
  Status fill() {
    const KvShape shape = model_.cache->options().shape;
    const auto kv_width = static_cast<size_t>(shape.kv_heads * shape.head_dim);
    const auto q_width = static_cast<size_t>(shape.q_heads * shape.head_dim);
    VKV_TRY_ASSIGN(k, CudaArray<float>::make(kWindowTokens * kv_width));
    VKV_TRY_ASSIGN(v, CudaArray<float>::make(kWindowTokens * kv_width));
    VKV_TRY_ASSIGN(q, CudaArray<float>::make(q_width));
    VKV_TRY_ASSIGN(out, CudaArray<float>::make(q_width));
    CudaWeights random(model_.context->stream());
    VKV_TRY(random.randomise(q, 1.0f));
    for (; position_ < options_.token_count;) {
      const int count = std::min(kWindowTokens, options_.token_count - position_);
      std::vector<Role> roles;
      for (int i = position_; i < position_ + count; ++i)
        roles.push_back(i < kTextTokens || i >= kTextTokens + options_.visual_count
                            ? Role::kText
                            : Role::kVisual);
      for (const SequenceId sequence : sequences_)
        for (int layer = 0; layer < shape.layers; ++layer) {
          VKV_TRY(random.randomise(k, 1.0f));
          VKV_TRY(random.randomise(v, 1.0f));
          VKV_TRY(model_.cache->append(layer, {.sequence = sequence,
                                               .token_count = count,
                                               .k = k.data(),
                                               .v = v.data(),
                                               .roles = roles}));
          const AttendRequest request = {.sequence = sequence,
                                         .q_len = 1,
                                         .q = q.data(),
                                         .out = out.data(),
                                         .ends_window = true};
          VKV_TRY(model_.cache->attend(layer, {&request, 1}));
        }
      position_ += count;
      VKV_TRY(model_.cache->settle());
    }
    return synchronize(model_.context->stream());
  }

  // Seconds of each step.
  Result<std::vector<double>> steps(int count) {
    std::vector<double> seconds;
    for (int i = 0; i < count; ++i) {
      const int32_t token = 1 + position_ % 1000;
      const Role role = Role::kText;
      std::vector<ForwardRequest> batch;
      for (const SequenceId sequence : sequences_)
        batch.push_back({.sequence = sequence,
                         .position = position_,
                         .tokens = {&token, 1},
                         .roles = {&role, 1}});
      const auto begin = std::chrono::steady_clock::now();
      VKV_TRY(model_.decoder->forward(*model_.cache, batch, {}).status());
      const auto end = std::chrono::steady_clock::now();
      seconds.push_back(std::chrono::duration<double>(end - begin).count());
      ++position_;
    }
    return seconds;
  }

  // Of a step, by events around append and attend of every layer.
  Result<double> attention_seconds(int count) {
    std::vector<double> seconds;
    for (int i = 0; i < count; ++i) {
      std::vector<CudaEvent> marks;
      model_.decoder->set_marks(&marks);
      const Status stepped = steps(1).status();
      model_.decoder->set_marks(nullptr);
      VKV_TRY(stepped);
      double sum = 0;
      for (size_t at = 0; at + 1 < marks.size(); at += 2) {
        VKV_TRY_ASSIGN(one, between(marks[at], marks[at + 1]));
        sum += one;
      }
      seconds.push_back(sum);
    }
    return median_of(std::move(seconds));
  }

  Result<double> products_seconds(int64_t few_rows_max) {
    model_.context->products().set_few_rows_max(few_rows_max);
    std::vector<double> seconds;
    VKV_TRY_ASSIGN(begin, make_event(EventKind::kTime));
    VKV_TRY_ASSIGN(end, make_event(EventKind::kTime));
    for (int round = 0; round <= kProductRounds; ++round) {
      VKV_TRY(record(begin));
      VKV_TRY(model_.decoder->queue_products(options_.batch_count));
      VKV_TRY(record(end));
      VKV_TRY(synchronize(model_.context->stream()));
      VKV_TRY_ASSIGN(one, between(begin, end));
      if (round > 0) seconds.push_back(one);
    }
    model_.context->products().set_few_rows_max(kFewRows);
    return median_of(std::move(seconds));
  }

  CudaDecoder<__nv_bfloat16>& decoder() { return *model_.decoder; }
  Cache& cache() { return *model_.cache; }
  const std::vector<SequenceId>& sequences() const { return sequences_; }

 private:
  DecodeBench(const DecodeMeasurementOptions& options, RandomModel model,
              std::vector<SequenceId> sequences)
      : options_(options), model_(std::move(model)), sequences_(std::move(sequences)) {}

  Status record(const CudaEvent& event) {
    return cuda_status(cudaEventRecord(event.get(), model_.context->stream()), "cudaEventRecord");
  }
  static Result<double> between(const CudaEvent& begin, const CudaEvent& end) {
    float milliseconds = 0;
    VKV_TRY(cuda_status(cudaEventElapsedTime(&milliseconds, begin.get(), end.get()),
                        "cudaEventElapsedTime"));
    return milliseconds * 1e-3;
  }

  const DecodeMeasurementOptions options_;
  RandomModel model_;
  std::vector<SequenceId> sequences_;
  int position_ = 0;
};

}  // namespace

Result<DecodeMeasurement> measure_decode(const DecodeMeasurementOptions& options) {
  DecodeMeasurement result;
  if (options.trace_count > 0) VKV_TRY(ActivityTrace::prepare());
  VKV_TRY_ASSIGN(bench, DecodeBench::make(options));
  VKV_TRY_ASSIGN(read_speed, measure_read_speed(Tier::kHbm));
  result.read_bytes_per_second = read_speed;
  VKV_TRY(bench->fill());
  result.weight_bytes = bench->decoder().step_weight_bytes();

  VKV_TRY(bench->steps(kWarmSteps).status());
  uint64_t bits = 0, values = 0;
  for (const SequenceId sequence : bench->sequences()) {
    VKV_TRY_ASSIGN(stats, bench->cache().sequence_stats(sequence));
    for (const RoleStats& role : stats.role) {
      bits += role.stored_bits;
      values += role.value_count;
    }
  }
  result.kv_bytes = bits / 8;
  result.bits_per_value = static_cast<double>(bits) / static_cast<double>(values);
  const CacheStats before = bench->cache().stats();
  VKV_TRY_ASSIGN(seconds, bench->steps(options.step_count));
  result.seconds = median_of(seconds);
  result.seconds_max = *std::max_element(seconds.begin(), seconds.end());
  const CacheStats used = bench->cache().stats();
  result.hbm_bytes = used.tier[static_cast<size_t>(Tier::kHbm)].bytes_used;
  result.dram_bytes = used.demoted_bytes - used.risen_bytes;
  result.host_read_bytes = used.host_read_bytes - before.host_read_bytes;
  result.link_read_bytes = used.link_read_bytes - before.link_read_bytes;
  result.ahead_read_bytes = used.ahead_read_bytes - before.ahead_read_bytes;
  result.ahead_read_rate = used.ahead_read_rate;
  result.host_read_rate = used.host_read_rate;
  result.link_read_rate = used.link_read_rate;
  VKV_TRY_ASSIGN(device_bytes, device_bytes_used());
  result.device_bytes = device_bytes;
  if (result.dram_bytes > 0) {
    VKV_TRY_ASSIGN(link, measure_read_speed(Tier::kDram));
    result.link_bytes_per_second = link;
  }

  if (options.trace_count > 0) {
    VKV_TRY_ASSIGN(trace, ActivityTrace::begin());
    VKV_TRY(bench->steps(options.trace_count).status());
    VKV_TRY_ASSIGN(spans, trace->end());
    result.trace = std::move(spans);
  }
  const int few = std::max(1, options.step_count / 4);
  bench->decoder().set_graphs(false);
  VKV_TRY_ASSIGN(plain, bench->steps(few));
  result.seconds_plain = median_of(plain);
  bench->decoder().set_graphs(true);
  VKV_TRY_ASSIGN(attention, bench->attention_seconds(few));
  result.attention_seconds = attention;
  VKV_TRY_ASSIGN(products, bench->products_seconds(kFewRows));
  result.products_seconds = products;
  VKV_TRY_ASSIGN(cublas, bench->products_seconds(0));
  result.cublas_seconds = cublas;
  return result;
}

}  // namespace vkv
