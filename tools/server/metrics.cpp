// metrics.cpp: counters as text.
// SPDX-License-Identifier: Apache-2.0
#include "tools/server/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace vkv {
namespace {

constexpr double kFirstTokenBounds[] = {.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120};
constexpr double kTokenBounds[] = {.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1};

class Page {
 public:
  // Values without labels.
  template <class Value>
  void counter(const char* name, Value value, const char* help) {
    add(name, "counter", help);
    text_ += fmt::format("{} {}\n", name, value);
  }
  template <class Value>
  void gauge(const char* name, Value value, const char* help) {
    add(name, "gauge", help);
    text_ += fmt::format("{} {}\n", name, value);
  }

  // One a tier that exists.
  void tiers(const CacheStats& stats, const char* name, uint64_t TierStats::*field,
             const char* help) {
    add(name, "gauge", help);
    for (const Tier tier : {Tier::kHbm, Tier::kDram, Tier::kNvme}) {
      const TierStats& of = stats.tier[static_cast<size_t>(tier)];
      if (of.bytes_max > 0)
        text_ += fmt::format("{}{{tier=\"{}\"}} {}\n", name, vkv::name(tier), of.*field);
    }
  }

  void add(const char* name, const char* type, const char* help) {
    text_ += fmt::format("# HELP {} {}\n# TYPE {} {}\n", name, help, name, type);
  }
  void line(const std::string& line) { text_ += line; }
  std::string take() { return std::move(text_); }

 private:
  std::string text_;
};

void add_nvme(Page& page, const CacheStats& stats) {
  page.counter("vkv_nvme_read_bytes_total", stats.nvme_read_bytes, "Bytes read from the store.");
  page.counter("vkv_nvme_written_bytes_total", stats.nvme_written_bytes,
               "Bytes of records and states written to the store, with rounding.");
  page.counter("vkv_nvme_payload_bytes_total", stats.nvme_payload_bytes,
               "Of them, what was asked for.");
  page.counter("vkv_nvme_index_written_bytes_total", stats.nvme_index_written_bytes,
               "Bytes of the store's index written.");
  page.gauge("vkv_nvme_write_amplification", stats.write_amplification(),
             "Bytes written to the store for a byte of payload; 0 before any.");
  if (stats.nvme_write_bytes_left != UINT64_MAX)
    page.gauge("vkv_nvme_write_bytes_left", stats.nvme_write_bytes_left,
               "Left of the day's write budget.");
  page.counter("vkv_nvme_refused_saves_total", stats.nvme_refused_save_count,
               "Media not kept because the write budget is short.");
  page.counter("vkv_demoted_bytes_total", stats.demoted_bytes,
               "Bytes evicted to a slower tier, where a budget was reached.");
  page.counter("vkv_risen_bytes_total", stats.risen_bytes,
               "Bytes that came back to a faster tier, where there was room again.");
  page.counter("vkv_nvme_reads_total", stats.nvme_read_count,
               "Extents on NVMe that attention needed: the denominator of hits.");
  page.counter("vkv_prefetch_hits_total", stats.prefetch_hit_count,
               "Of them, read ahead: the read had been issued before.");
  page.counter("vkv_prefetch_ready_total", stats.prefetch_ready_count,
               "Of the hits, there before they were needed.");
  page.counter("vkv_nvme_wait_seconds_total", stats.nvme_wait_seconds,
               "Stalls: time that attention stood still for a read.");
}

void add_overlap(Page& page, const CacheStats& stats) {
  page.counter("vkv_host_read_bytes_total", stats.host_read_bytes,
               "Bytes in DRAM that the CPU attended to beside the GPU.");
  page.counter("vkv_link_read_bytes_total", stats.link_read_bytes,
               "Bytes in DRAM that the GPU read while it attended.");
  page.counter("vkv_ahead_read_bytes_total", stats.ahead_read_bytes,
               "Bytes in DRAM brought ahead of their layer, overlapped with weights.");
}

void add_quality(Page& page, const QualityStats& quality) {
  page.counter("vkv_quality_samples_total", quality.sample_count, "Samples of the quality meter.");
  page.gauge("vkv_quality_error_mean", quality.error_mean,
             "Mean relative error of a head's output in them.");
  page.gauge("vkv_quality_error_max", quality.error_max, "The largest.");
  page.counter("vkv_quality_over_bound_total", quality.over_bound_count,
               "Samples above the bound.");
}

}  // namespace

std::string cache_metrics(const CacheStats& stats) {
  Page page;
  page.tiers(stats, "vkv_tier_bytes", &TierStats::bytes_used, "Bytes used in a tier.");
  page.tiers(stats, "vkv_tier_bytes_peak", &TierStats::bytes_peak, "The most so far.");
  page.tiers(stats, "vkv_tier_bytes_max", &TierStats::bytes_max, "The budget.");
  page.tiers(stats, "vkv_tier_extents", &TierStats::extent_count, "Extents that lie there.");
  page.tiers(stats, "vkv_tier_original_bytes", &TierStats::original_bytes,
             "Of the bytes, 16-bit originals.");
  page.gauge("vkv_sequences", stats.sequence_count, "Sequences in the cache.");
  page.counter("vkv_attend_calls_total", stats.attend_count, "Attention calls, one a layer.");
  page.counter("vkv_attend_seconds_total", stats.attend_seconds, "Time in them.");
  page.counter("vkv_encode_seconds_total", stats.encode_seconds, "Time of encoding and placing.");
  page.counter("vkv_sealed_tokens_total", stats.sealed_token_count,
               "Tokens encoded, times layers.");
  const auto has = [&](Tier tier) { return stats.tier[static_cast<size_t>(tier)].bytes_max > 0; };
  if (has(Tier::kNvme)) add_nvme(page, stats);
  if (has(Tier::kHbm)) add_overlap(page, stats);
  if (stats.quality.sample_count > 0) add_quality(page, stats.quality);
  return page.take();
}

void Histogram::add(double value) {
  const auto bound = std::lower_bound(bounds_.begin(), bounds_.end(), value);
  if (bound != bounds_.end()) ++counts_[static_cast<size_t>(bound - bounds_.begin())];
  ++count_;
  sum_ += value;
}

std::string Histogram::text(const std::string& name, const std::string& help) const {
  std::string text = fmt::format("# HELP {} {}\n# TYPE {} histogram\n", name, help, name);
  uint64_t so_far = 0;
  for (size_t i = 0; i < bounds_.size(); ++i) {
    so_far += counts_[i];
    text += fmt::format("{}_bucket{{le=\"{}\"}} {}\n", name, bounds_[i], so_far);
  }
  return text + fmt::format("{}_bucket{{le=\"+Inf\"}} {}\n{}_sum {}\n{}_count {}\n", name, count_,
                            name, sum_, name, count_);
}

ServerMetrics::ServerMetrics() : first_token_(kFirstTokenBounds), token_(kTokenBounds) {}

void ServerMetrics::count_request(int http_status) {
  const std::lock_guard lock(mutex_);
  ++requests_[http_status];
}

void ServerMetrics::count_cancelled() {
  const std::lock_guard lock(mutex_);
  ++cancelled_;
}

void ServerMetrics::count_answered(const ReplyUsage& usage) {
  const std::lock_guard lock(mutex_);
  usage_.prompt_tokens += usage.prompt_tokens;
  usage_.cached_tokens += usage.cached_tokens;
  usage_.answer_tokens += usage.answer_tokens;
}

void ServerMetrics::count_restored_prefix() {
  const std::lock_guard lock(mutex_);
  ++restored_prefixes_;
}

void ServerMetrics::add_first_token_seconds(double seconds) {
  const std::lock_guard lock(mutex_);
  first_token_.add(seconds);
}

void ServerMetrics::add_token_seconds(double seconds) {
  const std::lock_guard lock(mutex_);
  token_.add(seconds);
}

void ServerMetrics::add_step(uint64_t batch, double seconds) {
  const std::lock_guard lock(mutex_);
  ++steps_;
  step_requests_ += batch;
  step_seconds_ += seconds;
}

std::string ServerMetrics::text(const ServerGauges& gauges) const {
  const std::lock_guard lock(mutex_);
  Page page;
  page.add("vkv_requests_total", "counter", "Requests answered, by HTTP status.");
  for (const auto& [status, count] : requests_)
    page.line(fmt::format("vkv_requests_total{{code=\"{}\"}} {}\n", status, count));
  page.counter("vkv_requests_cancelled_total", cancelled_, "Requests whose client went away.");
  page.gauge("vkv_requests_queued", gauges.queued, "Requests that wait for room.");
  page.gauge("vkv_requests_waiting", gauges.waiting, "Requests with room that wait for prefill.");
  page.gauge("vkv_requests_running", gauges.running, "Requests in prefill or decode.");
  page.gauge("vkv_reserved_bytes", gauges.reserved_bytes,
             "Memory set aside for requests and media, at most needed.");
  page.gauge("vkv_reserved_bytes_max", gauges.reserved_bytes_max, "What may be.");
  page.gauge("vkv_media_prefixes", gauges.prefixes, "Media whose KV is in the cache.");
  page.counter("vkv_media_restored_total", restored_prefixes_, "Media read from the kept store.");
  page.counter("vkv_prompt_tokens_total", usage_.prompt_tokens,
               "Tokens of prompts of complete answers.");
  page.counter("vkv_cached_tokens_total", usage_.cached_tokens, "Of them, not computed anew.");
  page.counter("vkv_answer_tokens_total", usage_.answer_tokens, "Tokens of answers.");
  page.counter("vkv_decode_steps_total", steps_, "Decode steps.");
  page.counter("vkv_decode_step_requests_total", step_requests_, "Requests in them, summed.");
  page.counter("vkv_decode_step_seconds_total", step_seconds_, "Time of them.");
  return page.take() +
         first_token_.text("vkv_time_to_first_token_seconds", "From arrival to the first token.") +
         token_.text("vkv_time_per_output_token_seconds", "Mean of the later tokens, an answer.");
}

}  // namespace vkv
