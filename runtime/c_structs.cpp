// c_structs.cpp: reads what a C program passes: sizes, enums, booleans, then member by member.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/c_structs.h"

namespace vkv {
namespace {

constexpr int32_t kElementTypeCount = 3, kDeviceCount = 2, kKeepOriginalCount = 3;
constexpr int32_t kQualityActionCount = 2, kIoBackendCount = 3;
constexpr int64_t kPolicyLayersMax = 1 << 20;

static_assert(static_cast<int>(ElementType::kBf16) == VKV_ELEMENT_BF16);
static_assert(static_cast<int>(Codec::kI1) == VKV_CODEC_I1);
static_assert(static_cast<int>(Device::kCuda) == VKV_DEVICE_CUDA);
static_assert(static_cast<int>(KeepOriginal::kNvme) == VKV_KEEP_ORIGINAL_NVME);
static_assert(static_cast<int>(QualityAction::kPromote) == VKV_QUALITY_PROMOTE);
static_assert(static_cast<int>(IoBackend::kThreads) == VKV_IO_THREADS);
static_assert(static_cast<int>(Role::kSink) == VKV_ROLE_SINK && kRoleCount == VKV_ROLE_COUNT);
static_assert(static_cast<int>(Tier::kNvme) == VKV_TIER_NVME && kTierCount == VKV_TIER_COUNT);
static_assert(static_cast<int>(TokenForm::kOriginal) == VKV_FORM_ORIGINAL);
static_assert(static_cast<int>(Code::kInternal) == VKV_INTERNAL);

Status check_reserved(const std::string& argument, int32_t value) {
  return value == 0 ? Status() : c_error(argument, std::to_string(value), "0");
}

Status read_pair(const std::string& where, const vkv_codec_pair& given, CodecPair& target) {
  VKV_TRY(check_struct_size(where, given.struct_size, sizeof(given)));
  VKV_TRY(read_enum(where + ".k_codec", given.k_codec, kCodecCount, target.k));
  VKV_TRY(read_enum(where + ".v_codec", given.v_codec, kCodecCount, target.v));
  VKV_TRY(read_bool(where + ".k_rotated", given.k_rotated, target.k_rotated));
  VKV_TRY(read_bool(where + ".v_per_token", given.v_per_token, target.v_per_token));
  target.k_spread = given.k_spread;
  target.v_spread = given.v_spread;
  return {};
}

Status read_precision(const vkv_options& given, PrecisionPolicy& target) {
  if (given.preset != nullptr && given.policy != nullptr)
    return {Code::kInvalidArgument,
            "options.preset and options.policy are both set: choose one, the other is NULL"};
  if (given.policy != nullptr) return read_policy(given.policy, target);
  if (given.preset == nullptr) return {};
  VKV_TRY_ASSIGN(policy, precision_preset(given.preset));
  target = std::move(policy);
  return {};
}

}  // namespace

Status c_error(const std::string& argument, const std::string& value, const std::string& range) {
  return {Code::kInvalidArgument, argument + " is " + value + "; it may be " + range};
}

Status check_struct_size(const std::string& argument, size_t struct_size, size_t own_bytes) {
  if (struct_size == own_bytes) return {};
  const std::string sizes = argument + ".struct_size is " + std::to_string(struct_size) +
                            "; it has " + std::to_string(own_bytes) + " bytes in vkv " +
                            VKV_VERSION;
  if (struct_size > own_bytes)
    return {Code::kUnsupported, sizes + ": made for a newer vkv, or not set"};
  return {Code::kInvalidArgument, sizes + ": set it to the struct's sizeof"};
}

Status check_pointer(const std::string& argument, const void* pointer, size_t alignment) {
  if (pointer == nullptr) return {Code::kInvalidArgument, argument + " is NULL"};
  if (reinterpret_cast<uintptr_t>(pointer) % alignment != 0)
    return {Code::kInvalidArgument,
            argument + " is not aligned to " + std::to_string(alignment) + " bytes"};
  return {};
}

Status check_range(const std::string& argument, int64_t value, int64_t min, int64_t max) {
  if (value >= min && value <= max) return {};
  return c_error(argument, std::to_string(value),
                 std::to_string(min) + " to " + std::to_string(max));
}

Status read_bool(const std::string& argument, int32_t value, bool& target) {
  VKV_TRY(check_range(argument, value, 0, 1));
  target = value == 1;
  return {};
}

Status read_policy(const vkv_policy* given, PrecisionPolicy& target) {
  VKV_TRY(check_struct("policy", given));
  target = PrecisionPolicy();
  target.name = given->name == nullptr ? "unnamed" : given->name;
  VKV_TRY(read_pair("policy.high", given->high, target.high));
  VKV_TRY(read_pair("policy.low", given->low, target.low));
  target.high_fraction = given->high_fraction;
  target.visual_high_fraction_max = given->visual_high_fraction_max;
  target.sink_sigmas = given->sink_sigmas;
  target.sink_tokens = given->sink_tokens;
  VKV_TRY(read_bool("policy.segment_headers", given->segment_headers, target.segment_headers));
  VKV_TRY(check_range("policy.layer_count", given->layer_count, 0, kPolicyLayersMax));
  if (given->layer_count > 0)
    VKV_TRY(check_pointer("policy.layers", given->layers, alignof(vkv_layer_precision)));
  for (int64_t i = 0; i < given->layer_count; ++i) {
    const vkv_layer_precision& layer = given->layers[i];
    const std::string where = "policy.layers[" + std::to_string(i) + "]";
    VKV_TRY(check_struct_size(where, layer.struct_size, sizeof(layer)));
    VKV_TRY(check_reserved(where + ".reserved", layer.reserved));
    LayerPrecision own{.layer = layer.layer};
    VKV_TRY(read_pair(where + ".high", layer.high, own.high));
    VKV_TRY(read_pair(where + ".low", layer.low, own.low));
    target.layers.push_back(own);
  }
  return validate(target);
}

Status read_options(const vkv_options* given, CacheOptions& target) {
  VKV_TRY(check_struct("options", given));
  VKV_TRY(check_reserved("options.reserved", given->reserved));
  VKV_TRY(check_reserved("options.reserved_2", given->reserved_2));
  target.shape = {.layers = given->layers,
                  .q_heads = given->q_heads,
                  .kv_heads = given->kv_heads,
                  .head_dim = given->head_dim};
  VKV_TRY(read_enum("options.element", given->element, kElementTypeCount, target.element));
  VKV_TRY(read_enum("options.open_codec", given->open_codec, kCodecCount, target.open_codec));
  target.score_scale = given->score_scale;
  VKV_TRY(read_enum("options.device", given->device, kDeviceCount, target.device));
  target.device_index = given->device_index;
  target.stream = given->stream;
  VKV_TRY(read_precision(*given, target.precision));
  VKV_TRY(read_enum("options.keep_original", given->keep_original, kKeepOriginalCount,
                    target.keep_original));
  target.recent_tokens = given->recent_tokens;
  target.quality.sample_fraction = given->quality_sample_fraction;
  target.quality.error_bound = given->quality_error_bound;
  VKV_TRY(read_enum("options.quality_action", given->quality_action, kQualityActionCount,
                    target.quality.action));
  VKV_TRY(read_bool("options.keep_store", given->keep_store, target.keep_store));
  target.hbm_bytes_max = given->hbm_bytes_max;
  target.hbm_block_bytes_max = given->hbm_block_bytes_max;
  target.hbm_ahead_bytes = given->hbm_ahead_bytes;
  target.dram_bytes_max = given->dram_bytes_max;
  target.dram_block_bytes_max = given->dram_block_bytes_max;
  target.nvme_bytes_max = given->nvme_bytes_max;
  target.store_path = given->store_path == nullptr ? "" : given->store_path;
  target.extent_bytes_max = given->extent_bytes_max;
  target.prefetch_extents = given->prefetch_extents;
  VKV_TRY(read_enum("options.io_backend", given->io_backend, kIoBackendCount, target.io_backend));
  target.host_share = given->host_share;
  target.threads = given->threads;
  target.nvme_write_bytes_per_day = given->nvme_write_bytes_per_day;
  return {};
}

}  // namespace vkv
