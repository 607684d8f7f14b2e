// summary.cpp: adds up answers and prints the table.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/summary.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string_view>
#include <tuple>

#include "tools/vkv/byte_size.h"

namespace vkv {
namespace {

using Json = nlohmann::json;

double ratio(double part, double whole) { return whole == 0 ? 0 : part / whole; }
double percent(uint64_t part, uint64_t whole) {
  return 100 * ratio(static_cast<double>(part), static_cast<double>(whole));
}

double mean(const std::vector<double>& values) {
  return ratio(std::accumulate(values.begin(), values.end(), 0.0),
               static_cast<double>(values.size()));
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

// Against 16 bit a value.
double reduction_percent(const RoleStats& role) {
  return role.value_count == 0 ? 0 : 100 * (1 - role.bits_per_value() / 16);
}
double compression(const RoleStats& role) { return ratio(16, role.bits_per_value()); }

template <class... Arguments>
void line(std::string& text, fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  fmt::format_to(std::back_inserter(text), format, std::forward<Arguments>(arguments)...);
  text += '\n';
}

Json times_json(const std::vector<double>& seconds) {
  return {
      {"count", seconds.size()}, {"median", median(seconds) * 1e3}, {"mean", mean(seconds) * 1e3}};
}

// When the run was over; its budget is 0 on the CPU.
const TierStats& hbm_of(const RunFacts& facts) {
  return facts.cache.tier[static_cast<size_t>(Tier::kHbm)];
}

Json tier_json(const TierBytes& tier, uint64_t budget) {
  return {{"bytes", tier.bytes},
          {"peak", tier.peak},
          {"budget", budget},
          {"originals", tier.originals}};
}

Json role_json(const RoleStats& role) {
  return {{"tokens", role.token_count},
          {"bits_per_value", role.bits_per_value()},
          {"stored_bytes", role.stored_bits / 8},
          {"bytes_at_16_bit", role.value_count * 2},
          {"reduction_percent", reduction_percent(role)},
          {"high_percent", percent(role.high_value_count, role.value_count)},
          {"promoted_percent", percent(role.promoted_value_count, role.value_count)},
          {"original_bytes", role.original_bits / 8},
          {"nvme_percent", percent(role.nvme_value_count, role.value_count)}};
}

Json quality_json(const QualityStats& quality) {
  return {{"samples", quality.sample_count},        {"errors", quality.error_count},
          {"error_mean", quality.error_mean},       {"error_max", quality.error_max},
          {"over_bound", quality.over_bound_count}, {"promotions", quality.promotion_count}};
}

auto form_key(const FormStats& form) {
  return std::tuple(form.role, form.form, form.k_codec, form.v_codec);
}

void add_stats(RoleStats& sum, const RoleStats& role) {
  sum.token_count += role.token_count;
  sum.value_count += role.value_count;
  sum.stored_bits += role.stored_bits;
  sum.sealed_value_count += role.sealed_value_count;
  sum.sealed_stored_bits += role.sealed_stored_bits;
  sum.nvme_value_count += role.nvme_value_count;
  sum.high_value_count += role.high_value_count;
  sum.promoted_value_count += role.promoted_value_count;
  sum.original_bits += role.original_bits;
}

void append_quality(std::string& text, const QualityStats& quality) {
  if (quality.sample_count == 0) return;
  line(text, "");
  line(text,
       "quality meter: {} samples; relative error of a head's output: mean {:.4f}, largest {:.4f}",
       quality.sample_count, quality.error_mean, quality.error_max);
  if (quality.over_bound_count > 0)
    line(text, "WARNING: {} samples above the bound; {} layers promoted anew",
         quality.over_bound_count, quality.promotion_count);
}

}  // namespace

double Totals::Accuracy::percent() const {
  return 100 * ratio(static_cast<double>(correct), static_cast<double>(total));
}

void Totals::add(const AnswerRecord& record) {
  ++answer_count_;
  if (record.expected) {
    for (Accuracy* accuracy : {&accuracy_, &groups_[record.group], &kinds_[record.kind]}) {
      accuracy->total += 1;
      accuracy->correct += record.correct ? 1 : 0;
    }
  }
  for (size_t role = 0; role < kRoleCount; ++role) {
    prompt_tokens_[role] += record.prompt_tokens[role];
    add_stats(kv_[role], record.kv[role]);
  }
  for (const FormStats& form : record.forms) {
    const auto at = std::lower_bound(
        forms_.begin(), forms_.end(), form,
        [](const FormStats& a, const FormStats& b) { return form_key(a) < form_key(b); });
    if (at == forms_.end() || form_key(*at) != form_key(form)) {
      forms_.insert(at, form);
    } else {
      at->token_count += form.token_count;
      at->byte_count += form.byte_count;
    }
  }
  answer_tokens_ += record.answer_tokens;
  for (const auto& [sum, tier] : {std::pair{&dram_, &record.dram}, {&nvme_, &record.nvme}}) {
    sum->bytes = std::max(sum->bytes, tier->bytes);
    sum->peak = std::max(sum->peak, tier->peak);
    sum->originals = std::max(sum->originals, tier->originals);
  }
  io_.extents_needed += record.io.extents_needed;
  io_.nvme_read_bytes += record.io.nvme_read_bytes;
  io_.nvme_written_bytes += record.io.nvme_written_bytes;
  io_.prefetch_hits += record.io.prefetch_hits;
  io_.prefetch_ready += record.io.prefetch_ready;
  media_seconds_.push_back(record.media_seconds);
  ttft_seconds_.push_back(record.ttft_seconds);
  if (record.tpot_seconds > 0) tpot_seconds_.push_back(record.tpot_seconds);
}

RoleStats Totals::all_roles() const {
  RoleStats all;
  for (const RoleStats& role : kv_) add_stats(all, role);
  return all;
}

void Totals::append_accuracy(std::string& text) const {
  if (accuracy_.total == 0) return;
  line(text, "accuracy     {:.1f} % ({} of {})", accuracy_.percent(), accuracy_.correct,
       accuracy_.total);
  for (const auto& [heading, parts] : {std::pair{"by media", &groups_}, {"by kind", &kinds_}}) {
    if (parts->size() < 2) continue;
    line(text, "  {}", heading);
    for (const auto& [part, accuracy] : *parts) {
      line(text, "    {:<16} {:5.1f} % ({} of {})", part.empty() ? "other" : part,
           accuracy.percent(), accuracy.correct, accuracy.total);
    }
  }
}

void Totals::append_roles(std::string& text) const {
  line(text, "");
  line(text, "{:<10}{:>12}{:>12}{:>14}{:>14}{:>11}{:>12}{:>10}", "KV of", "tokens", "bits/value",
       "stored", "at 16 bit", "saved", "high prec.", "on NVMe");
  const auto row = [&](std::string_view label, const RoleStats& role) {
    line(text, "{:<10}{:>12}{:>12.2f}{:>14}{:>14}{:>9.1f} %{:>10.1f} %{:>8.1f} %", label,
         role.token_count, role.bits_per_value(), byte_size_text(role.stored_bits / 8),
         byte_size_text(role.value_count * 2), reduction_percent(role),
         percent(role.high_value_count, role.value_count),
         percent(role.nvme_value_count, role.value_count));
  };
  for (int role = 0; role < kRoleCount; ++role) {
    const RoleStats& stats = kv_[static_cast<size_t>(role)];
    if (stats.token_count > 0) row(name(static_cast<Role>(role)), stats);
  }
  const RoleStats all = all_roles();
  row("all", all);
  append_forms(text);
  line(text, "");
  const RoleStats& visual = kv_[static_cast<size_t>(Role::kVisual)];
  line(text, "compression against 16 bit   {:.2f} x (headers, padding and tables counted)",
       compression(all));
  if (visual.value_count > 0) {
    line(text, "visual KV reduction          {:.1f} %", reduction_percent(visual));
    line(text, "visual values on NVMe        {:.1f} %",
         percent(visual.nvme_value_count, visual.value_count));
  }
  if (all.original_bits > 0)
    line(text, "16-bit originals beside them {} ({:.1f} bits more a value)",
         byte_size_text(all.original_bits / 8),
         ratio(static_cast<double>(all.original_bits), static_cast<double>(all.value_count)));
}

void Totals::append_forms(std::string& text) const {
  line(text, "");
  line(text, "{:<10}{:<10}{:<10}{:>16}{:>14}", "KV of", "form", "K/V", "tokens*layers", "stored");
  for (const FormStats& form : forms_)
    line(text, "{:<10}{:<10}{:<10}{:>16}{:>14}", name(form.role), name(form.form),
         fmt::format("{}/{}", name(form.k_codec), name(form.v_codec)), form.token_count,
         byte_size_text(form.byte_count));
}

void Totals::append_tiers(std::string& text, const RunFacts& facts) const {
  line(text, "");
  line(text, "{:<10}{:>14}{:>14}{:>14}", "tier", "used", "peak", "budget");
  const auto row = [&](std::string_view label, const TierBytes& tier, uint64_t budget) {
    line(text, "{:<10}{:>14}{:>14}{:>14}", label, byte_size_text(tier.bytes),
         byte_size_text(tier.peak), byte_size_text(budget));
  };
  const TierStats& hbm = hbm_of(facts);
  if (hbm.bytes_max > 0)
    row("hbm", {.bytes = hbm.bytes_used, .peak = hbm.bytes_peak}, hbm.bytes_max);
  row("dram", dram_, facts.dram_bytes_max);
  if (facts.cache.host_read_bytes + facts.cache.link_read_bytes + facts.cache.ahead_read_bytes > 0)
    line(text, "Steps read in DRAM: {} by the GPU, {} ahead of it, {} by the CPU",
         byte_size_text(facts.cache.link_read_bytes), byte_size_text(facts.cache.ahead_read_bytes),
         byte_size_text(facts.cache.host_read_bytes));
  if (facts.nvme_bytes_max == 0 && nvme_.peak == 0) return;
  row("nvme", nvme_, facts.nvme_bytes_max);
  line(text, "NVMe extents needed {}: {} prefetched, {} of them in time; {} read, {} written",
       io_.extents_needed, io_.prefetch_hits, io_.prefetch_ready,
       byte_size_text(io_.nvme_read_bytes), byte_size_text(io_.nvme_written_bytes));
  const CacheStats& cache = facts.cache;
  if (cache.nvme_payload_bytes == 0 && cache.nvme_refused_save_count == 0) return;
  std::string left;
  if (cache.nvme_write_bytes_left != UINT64_MAX)
    left = fmt::format("; {} of the day's writes left, {} media not kept for that",
                       byte_size_text(cache.nvme_write_bytes_left), cache.nvme_refused_save_count);
  line(text, "NVMe file written {:.3f} times its payload of {}{}", cache.write_amplification(),
       byte_size_text(cache.nvme_payload_bytes), left);
}

void Totals::append_times(std::string& text) const {
  line(text, "");
  line(text, "{:<34}{:>12}{:>12}", "milliseconds", "median", "mean");
  const auto row = [&](std::string_view label, const std::vector<double>& seconds) {
    if (seconds.empty()) return;
    line(text, "{:<34}{:>12.1f}{:>12.1f}", label, median(seconds) * 1e3, mean(seconds) * 1e3);
  };
  row("media: decode, vision tower", media_seconds_);
  row("TTFT: prefill to first token", ttft_seconds_);
  row("TPOT: a token after the first", tpot_seconds_);
}

std::string Totals::table(const RunFacts& facts) const {
  std::string text;
  line(text, "answers      {} ({} failed, {} from an earlier run) in {:.1f} s", answer_count_,
       facts.failure_count, facts.earlier_count, facts.seconds);
  append_accuracy(text);
  if (answer_count_ == 0) return text;
  line(text, "model        {}, preset {}", facts.model, facts.preset);
  if (!facts.engine.empty()) {
    line(text, "engines      attention {}, store {}", facts.engine, facts.io_engine);
  }
  std::string tokens;
  for (int role = 0; role < kRoleCount; ++role) {
    const uint64_t count = prompt_tokens_[static_cast<size_t>(role)];
    if (count > 0) tokens += fmt::format("{} {}, ", count, name(static_cast<Role>(role)));
  }
  line(text, "tokens       {}{} answered", tokens, answer_tokens_);
  append_roles(text);
  append_tiers(text, facts);
  append_times(text);
  append_quality(text, facts.cache.quality);
  return text;
}

Json Totals::json(const RunFacts& facts) const {
  Json json = {
      {"answers", answer_count_},
      {"answers_from_earlier_run", facts.earlier_count},
      {"failures", facts.failure_count},
      {"interrupted", facts.interrupted},
      {"seconds", facts.seconds},
      {"model", facts.model},
      {"preset", facts.preset},
      {"engine", facts.engine},
      {"io_engine", facts.io_engine},
      {"answer_tokens", answer_tokens_},
      {"tiers",
       {{"hbm", tier_json({.bytes = hbm_of(facts).bytes_used, .peak = hbm_of(facts).bytes_peak},
                          hbm_of(facts).bytes_max)},
        {"dram", tier_json(dram_, facts.dram_bytes_max)},
        {"nvme", tier_json(nvme_, facts.nvme_bytes_max)}}},
      {"io",
       {{"extents_needed", io_.extents_needed},
        {"nvme_read_bytes", io_.nvme_read_bytes},
        {"nvme_written_bytes", io_.nvme_written_bytes},
        {"prefetch_hits", io_.prefetch_hits},
        {"prefetch_ready", io_.prefetch_ready}}},
      {"nvme_writes",
       {{"payload_bytes", facts.cache.nvme_payload_bytes},
        {"extent_bytes", facts.cache.nvme_written_bytes},
        {"index_bytes", facts.cache.nvme_index_written_bytes},
        {"amplification", facts.cache.write_amplification()},
        {"bytes_left_of_day", facts.cache.nvme_write_bytes_left == UINT64_MAX
                                  ? Json()
                                  : Json(facts.cache.nvme_write_bytes_left)},
        {"refused_saves", facts.cache.nvme_refused_save_count}}},
      {"dram_reads",
       {{"cpu_bytes", facts.cache.host_read_bytes},
        {"gpu_bytes", facts.cache.link_read_bytes},
        {"ahead_bytes", facts.cache.ahead_read_bytes}}},
      {"quality", quality_json(facts.cache.quality)},
      {"media_ms", times_json(media_seconds_)},
      {"ttft_ms", times_json(ttft_seconds_)},
      {"tpot_ms", times_json(tpot_seconds_)}};
  for (int role = 0; role < kRoleCount; ++role) {
    const auto index = static_cast<size_t>(role);
    const std::string label(name(static_cast<Role>(role)));
    json["prompt_tokens"][label] = prompt_tokens_[index];
    json["kv"][label] = role_json(kv_[index]);
  }
  json["forms"] = Json::array();
  for (const FormStats& form : forms_)
    json["forms"].push_back({{"role", name(form.role)},
                             {"form", name(form.form)},
                             {"k", name(form.k_codec)},
                             {"v", name(form.v_codec)},
                             {"tokens_times_layers", form.token_count},
                             {"bytes", form.byte_count}});
  const RoleStats all = all_roles();
  const RoleStats& visual = kv_[static_cast<size_t>(Role::kVisual)];
  json["kv"]["all"] = role_json(all);
  json["compression"] = compression(all);
  json["visual_kv_reduction_percent"] = reduction_percent(visual);
  json["visual_nvme_percent"] = percent(visual.nvme_value_count, visual.value_count);
  if (accuracy_.total > 0) {
    const auto accuracy_json = [](const Accuracy& accuracy) {
      return Json{{"percent", accuracy.percent()},
                  {"correct", accuracy.correct},
                  {"total", accuracy.total}};
    };
    json["accuracy"] = accuracy_json(accuracy_);
    for (const auto& [part, accuracy] : groups_) {
      json["accuracy"]["groups"][part] = accuracy_json(accuracy);
    }
    for (const auto& [part, accuracy] : kinds_) {
      if (!part.empty()) json["accuracy"]["kinds"][part] = accuracy_json(accuracy);
    }
  }
  return json;
}

}  // namespace vkv
