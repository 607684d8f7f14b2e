// c_structs_out.cpp: what the cache says, as structs for a C program.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "runtime/c_structs.h"

namespace vkv {
namespace {

vkv_tier_stats tier_in_c(const TierStats& tier) {
  return {.struct_size = sizeof(vkv_tier_stats),
          .bytes_used = tier.bytes_used,
          .bytes_peak = tier.bytes_peak,
          .bytes_max = tier.bytes_max,
          .extent_count = tier.extent_count,
          .original_bytes = tier.original_bytes};
}

vkv_role_stats role_in_c(const RoleStats& role) {
  return {.struct_size = sizeof(vkv_role_stats),
          .token_count = role.token_count,
          .value_count = role.value_count,
          .stored_bits = role.stored_bits,
          .sealed_value_count = role.sealed_value_count,
          .sealed_stored_bits = role.sealed_stored_bits,
          .nvme_value_count = role.nvme_value_count,
          .high_value_count = role.high_value_count,
          .promoted_value_count = role.promoted_value_count,
          .original_bits = role.original_bits};
}

std::vector<vkv_layer_precision> layers_in_c(const PrecisionPolicy& policy) {
  std::vector<vkv_layer_precision> layers;
  for (const LayerPrecision& layer : policy.layers) layers.push_back(layer_in_c(layer));
  return layers;
}

}  // namespace

vkv_codec_pair codec_pair_in_c(const CodecPair& pair) {
  return {.struct_size = sizeof(vkv_codec_pair),
          .k_codec = static_cast<int32_t>(pair.k),
          .v_codec = static_cast<int32_t>(pair.v),
          .k_rotated = pair.k_rotated,
          .v_per_token = pair.v_per_token,
          .k_spread = pair.k_spread,
          .v_spread = pair.v_spread};
}

vkv_layer_precision layer_in_c(const LayerPrecision& layer) {
  return {.struct_size = sizeof(vkv_layer_precision),
          .layer = layer.layer,
          .reserved = 0,
          .high = codec_pair_in_c(layer.high),
          .low = codec_pair_in_c(layer.low)};
}

vkv_policy policy_in_c(const PrecisionPolicy& policy, const char* name,
                       std::span<const vkv_layer_precision> layers) {
  return {.struct_size = sizeof(vkv_policy),
          .name = name,
          .high = codec_pair_in_c(policy.high),
          .low = codec_pair_in_c(policy.low),
          .high_fraction = policy.high_fraction,
          .visual_high_fraction_max = policy.visual_high_fraction_max,
          .sink_sigmas = policy.sink_sigmas,
          .sink_tokens = policy.sink_tokens,
          .segment_headers = policy.segment_headers,
          .layers = layers.empty() ? nullptr : layers.data(),
          .layer_count = static_cast<int64_t>(layers.size())};
}

vkv_options plain_options_in_c(const CacheOptions& options) {
  return {.struct_size = sizeof(vkv_options),
          .layers = options.shape.layers,
          .q_heads = options.shape.q_heads,
          .kv_heads = options.shape.kv_heads,
          .head_dim = options.shape.head_dim,
          .element = static_cast<int32_t>(options.element),
          .open_codec = static_cast<int32_t>(options.open_codec),
          .score_scale = options.score_scale,
          .device = static_cast<int32_t>(options.device),
          .device_index = options.device_index,
          .reserved = 0,
          .stream = options.stream,
          .preset = nullptr,
          .policy = nullptr,
          .keep_original = static_cast<int32_t>(options.keep_original),
          .recent_tokens = options.recent_tokens,
          .quality_sample_fraction = options.quality.sample_fraction,
          .quality_error_bound = options.quality.error_bound,
          .quality_action = static_cast<int32_t>(options.quality.action),
          .keep_store = options.keep_store,
          .hbm_bytes_max = options.hbm_bytes_max,
          .hbm_block_bytes_max = options.hbm_block_bytes_max,
          .hbm_ahead_bytes = options.hbm_ahead_bytes,
          .dram_bytes_max = options.dram_bytes_max,
          .dram_block_bytes_max = options.dram_block_bytes_max,
          .nvme_bytes_max = options.nvme_bytes_max,
          .store_path = nullptr,
          .extent_bytes_max = options.extent_bytes_max,
          .prefetch_extents = options.prefetch_extents,
          .io_backend = static_cast<int32_t>(options.io_backend),
          .host_share = options.host_share,
          .threads = options.threads,
          .reserved_2 = 0,
          .nvme_write_bytes_per_day = options.nvme_write_bytes_per_day};
}

OptionsInC::OptionsInC(const CacheOptions& options)
    : policy_name_(options.precision.name),
      store_path_(options.store_path),
      layers_(layers_in_c(options.precision)),
      policy_(policy_in_c(options.precision, policy_name_.c_str(), layers_)),
      c_(plain_options_in_c(options)) {
  c_.policy = &policy_;
  if (!store_path_.empty()) c_.store_path = store_path_.c_str();
}

vkv_saved_sequence saved_in_c(const SavedSequence& saved) {
  vkv_saved_sequence c{.struct_size = sizeof(c),
                       .key = {},
                       .token_count = saved.token_count,
                       .byte_count = saved.byte_count,
                       .saved_at = saved.saved_at,
                       .fits_options = saved.fits_options,
                       .reserved = 0};
  std::copy(saved.key.bytes.begin(), saved.key.bytes.end(), c.key);
  return c;
}

vkv_stats stats_in_c(const CacheStats& stats) {
  vkv_stats c{.struct_size = sizeof(c),
              .tier = {},
              .sequence_count = stats.sequence_count,
              .attend_count = stats.attend_count,
              .sealed_token_count = stats.sealed_token_count,
              .demoted_bytes = stats.demoted_bytes,
              .nvme_read_bytes = stats.nvme_read_bytes,
              .nvme_written_bytes = stats.nvme_written_bytes,
              .nvme_read_count = stats.nvme_read_count,
              .prefetch_hit_count = stats.prefetch_hit_count,
              .prefetch_ready_count = stats.prefetch_ready_count,
              .nvme_wait_seconds = stats.nvme_wait_seconds,
              .host_read_bytes = stats.host_read_bytes,
              .link_read_bytes = stats.link_read_bytes,
              .ahead_read_bytes = stats.ahead_read_bytes,
              .host_read_rate = stats.host_read_rate,
              .link_read_rate = stats.link_read_rate,
              .ahead_read_rate = stats.ahead_read_rate,
              .attend_seconds = stats.attend_seconds,
              .encode_seconds = stats.encode_seconds,
              .quality_sample_count = stats.quality.sample_count,
              .quality_error_count = stats.quality.error_count,
              .quality_error_mean = stats.quality.error_mean,
              .quality_error_max = stats.quality.error_max,
              .quality_over_bound_count = stats.quality.over_bound_count,
              .quality_promotion_count = stats.quality.promotion_count,
              .nvme_payload_bytes = stats.nvme_payload_bytes,
              .nvme_index_written_bytes = stats.nvme_index_written_bytes,
              .nvme_write_bytes_left = stats.nvme_write_bytes_left,
              .nvme_refused_save_count = stats.nvme_refused_save_count,
              .risen_bytes = stats.risen_bytes};
  std::transform(stats.tier.begin(), stats.tier.end(), c.tier, tier_in_c);
  return c;
}

vkv_sequence_stats sequence_stats_in_c(const SequenceStats& stats) {
  vkv_sequence_stats c{.struct_size = sizeof(c),
                       .token_count = stats.token_count,
                       .open_token_count = stats.open_token_count,
                       .role = {}};
  std::transform(stats.role.begin(), stats.role.end(), c.role, role_in_c);
  return c;
}

vkv_form_stats form_in_c(const FormStats& form) {
  return {.struct_size = sizeof(vkv_form_stats),
          .role = static_cast<int32_t>(form.role),
          .form = static_cast<int32_t>(form.form),
          .k_codec = static_cast<int32_t>(form.k_codec),
          .v_codec = static_cast<int32_t>(form.v_codec),
          .token_count = form.token_count,
          .byte_count = form.byte_count};
}

}  // namespace vkv
