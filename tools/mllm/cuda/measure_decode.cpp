// measure_decode.cpp: random weights, a full cache, and the clock around steps.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/cuda/measure_decode.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <vector>

#include "kernels/measure_attend.h"
#include "tools/mllm/cuda/cuda_context.h"
#include "tools/mllm/cuda/cuda_decoder.h"
#include "tools/mllm/cuda/cuda_weights.h"
#include "vkv/cache.h"

namespace vkv {
namespace {

using Bf16 = __nv_bfloat16;

constexpr int kWindowTokens = 2048;  // appended at once
constexpr int kTextTokens = 64;      // in front of the visual ones: a system prompt
constexpr int kWarmSteps = 4;
constexpr int kProductRounds = 8;

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

class DecodeBench {
 public:
  static Result<std::unique_ptr<DecodeBench>> make(const DecodeMeasurementOptions& options) {
    VKV_TRY_ASSIGN(context, CudaContext::make(options.cache.device_index));
    CudaWeights weights(context->stream());
    VKV_TRY_ASSIGN(decoder, CudaDecoder<Bf16>::random(options.text, context.get(), weights));
    CacheOptions cache_options = options.cache;
    const TextConfig& text = options.text;
    cache_options.shape = {.layers = text.layers,
                           .q_heads = text.q_heads,
                           .kv_heads = text.kv_heads,
                           .head_dim = text.head_dim};
    cache_options.element = ElementType::kF32;
    cache_options.stream = context->stream();
    cache_options.dram_bytes_max = budget(options);
    if (cache_options.hbm_bytes_max == 0) cache_options.hbm_bytes_max = budget(options);
    VKV_TRY_ASSIGN(cache, Cache::open(cache_options));
    VKV_TRY_ASSIGN(sequence, cache->create_sequence());
    return std::unique_ptr<DecodeBench>(new DecodeBench(
        options, std::move(context), std::move(decoder), std::move(cache), sequence));
  }

  // Windows as a prefill leaves them, each sealed but for its newest tokens.
  Status fill() {
    const KvShape shape = cache_->options().shape;
    const auto kv_width = static_cast<size_t>(shape.kv_heads * shape.head_dim);
    const auto q_width = static_cast<size_t>(shape.q_heads * shape.head_dim);
    VKV_TRY_ASSIGN(k, CudaArray<float>::make(kWindowTokens * kv_width));
    VKV_TRY_ASSIGN(v, CudaArray<float>::make(kWindowTokens * kv_width));
    VKV_TRY_ASSIGN(q, CudaArray<float>::make(q_width));
    VKV_TRY_ASSIGN(out, CudaArray<float>::make(q_width));
    CudaWeights random(context_->stream());
    VKV_TRY(random.randomise(q, 1.0f));
    for (; position_ < options_.token_count;) {
      const int count = std::min(kWindowTokens, options_.token_count - position_);
      std::vector<Role> roles;
      for (int i = position_; i < position_ + count; ++i)
        roles.push_back(i < kTextTokens || i >= kTextTokens + options_.visual_count
                            ? Role::kText
                            : Role::kVisual);
      for (int layer = 0; layer < shape.layers; ++layer) {
        VKV_TRY(random.randomise(k, 1.0f));
        VKV_TRY(random.randomise(v, 1.0f));
        VKV_TRY(cache_->append(layer, {.sequence = sequence_,
                                       .token_count = count,
                                       .k = k.data(),
                                       .v = v.data(),
                                       .roles = roles}));
        const AttendRequest request = {.sequence = sequence_,
                                       .q_len = 1,
                                       .q = q.data(),
                                       .out = out.data(),
                                       .ends_window = true};
        VKV_TRY(cache_->attend(layer, {&request, 1}));
      }
      position_ += count;
      VKV_TRY(cache_->settle());
    }
    return synchronize(context_->stream());
  }

  // Seconds of each step.
  Result<std::vector<double>> steps(int count) {
    std::vector<double> seconds;
    for (int i = 0; i < count; ++i) {
      const int32_t token = 1 + position_ % 1000;
      const Role role = Role::kText;
      const auto begin = std::chrono::steady_clock::now();
      VKV_TRY(decoder_
                  .forward(*cache_,
                           {.sequence = sequence_,
                            .position = position_,
                            .tokens = {&token, 1},
                            .roles = {&role, 1}},
                           {})
                  .status());
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
      decoder_.set_marks(&marks);
      const Status stepped = steps(1).status();
      decoder_.set_marks(nullptr);
      VKV_TRY(stepped);
      double sum = 0;
      for (size_t at = 0; at + 1 < marks.size(); at += 2) {
        VKV_TRY_ASSIGN(one, between(marks[at], marks[at + 1]));
        sum += one;
      }
      seconds.push_back(sum);
    }
    return median(std::move(seconds));
  }

  Result<double> products_seconds(int64_t few_rows_max) {
    context_->products().set_few_rows_max(few_rows_max);
    std::vector<double> seconds;
    VKV_TRY_ASSIGN(begin, make_event(EventKind::kTime));
    VKV_TRY_ASSIGN(end, make_event(EventKind::kTime));
    for (int round = 0; round <= kProductRounds; ++round) {
      VKV_TRY(record(begin));
      VKV_TRY(decoder_.queue_products());
      VKV_TRY(record(end));
      VKV_TRY(synchronize(context_->stream()));
      VKV_TRY_ASSIGN(one, between(begin, end));
      if (round > 0) seconds.push_back(one);
    }
    context_->products().set_few_rows_max(kFewRows);
    return median(std::move(seconds));
  }

  CudaDecoder<Bf16>& decoder() { return decoder_; }
  CudaContext& context() { return *context_; }
  Cache& cache() { return *cache_; }
  SequenceId sequence() const { return sequence_; }

 private:
  DecodeBench(const DecodeMeasurementOptions& options, std::unique_ptr<CudaContext> context,
              CudaDecoder<Bf16> decoder, std::unique_ptr<Cache> cache, SequenceId sequence)
      : options_(options),
        context_(std::move(context)),
        decoder_(std::move(decoder)),
        cache_(std::move(cache)),
        sequence_(sequence) {}

  // All at 16 bit, a window of every layer twice, and what the kernels need.
  static uint64_t budget(const DecodeMeasurementOptions& options) {
    const TextConfig& text = options.text;
    const uint64_t token_bytes = uint64_t{4} * static_cast<uint64_t>(text.kv_heads) *
                                 static_cast<uint64_t>(text.head_dim) *
                                 static_cast<uint64_t>(text.layers);
    const auto tokens = static_cast<uint64_t>(options.token_count + options.step_count);
    return token_bytes * (tokens + tokens / 8 + 3 * kWindowTokens) + (uint64_t{1} << 30);
  }

  Status record(const CudaEvent& event) {
    return cuda_status(cudaEventRecord(event.get(), context_->stream()), "cudaEventRecord");
  }
  static Result<double> between(const CudaEvent& begin, const CudaEvent& end) {
    float milliseconds = 0;
    VKV_TRY(cuda_status(cudaEventElapsedTime(&milliseconds, begin.get(), end.get()),
                        "cudaEventElapsedTime"));
    return milliseconds * 1e-3;
  }

  const DecodeMeasurementOptions options_;
  std::unique_ptr<CudaContext> context_;
  CudaDecoder<Bf16> decoder_;
  std::unique_ptr<Cache> cache_;
  SequenceId sequence_;
  int position_ = 0;
};

}  // namespace

Result<DecodeMeasurement> measure_decode(const DecodeMeasurementOptions& options) {
  DecodeMeasurement result;
  VKV_TRY_ASSIGN(bench, DecodeBench::make(options));
  VKV_TRY_ASSIGN(read_speed, measure_read_speed(Tier::kHbm));
  result.read_bytes_per_second = read_speed;
  VKV_TRY(bench->fill());
  result.weight_bytes = bench->decoder().step_weight_bytes();

  VKV_TRY(bench->steps(kWarmSteps).status());
  VKV_TRY_ASSIGN(stats, bench->cache().sequence_stats(bench->sequence()));
  uint64_t bits = 0, values = 0;
  for (const RoleStats& role : stats.role) {
    bits += role.stored_bits;
    values += role.value_count;
  }
  result.kv_bytes = bits / 8;
  result.bits_per_value = static_cast<double>(bits) / static_cast<double>(values);
  const CacheStats before = bench->cache().stats();
  VKV_TRY_ASSIGN(seconds, bench->steps(options.step_count));
  result.seconds = median(seconds);
  result.seconds_max = *std::max_element(seconds.begin(), seconds.end());
  const CacheStats used = bench->cache().stats();
  result.hbm_bytes = used.tier[static_cast<size_t>(Tier::kHbm)].bytes_used;
  result.dram_bytes = used.demoted_bytes;
  result.host_read_bytes = used.host_read_bytes - before.host_read_bytes;
  result.link_read_bytes = used.link_read_bytes - before.link_read_bytes;
  result.ahead_read_bytes = used.ahead_read_bytes - before.ahead_read_bytes;
  result.ahead_read_rate = used.ahead_read_rate;
  result.host_read_rate = used.host_read_rate;
  result.link_read_rate = used.link_read_rate;
  if (result.dram_bytes > 0) {
    VKV_TRY_ASSIGN(link, measure_read_speed(Tier::kDram));
    result.link_bytes_per_second = link;
  }

  const int few = std::max(1, options.step_count / 4);
  bench->decoder().set_graphs(false);
  VKV_TRY_ASSIGN(plain, bench->steps(few));
  result.seconds_plain = median(plain);
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
