// c_settings.cpp: the calls of vkv.h that need no cache: names, versions, defaults, policies.
// SPDX-License-Identifier: Apache-2.0
#include <limits>
#include <string_view>
#include <vector>

#include "runtime/c_call.h"
#include "runtime/c_structs.h"

namespace vkv {
namespace {

constexpr int kTierLast = VKV_TIER_NVME, kRoleLast = VKV_ROLE_SINK, kCodecLast = VKV_CODEC_I1;

bool is_one_of(int32_t value, int32_t last) { return value >= 0 && value <= last; }

// The names of C++ stand in literals, which end with a zero.
template <class T>
const char* text_of(int32_t value, int32_t last) {
  return is_one_of(value, last) ? name(static_cast<T>(value)).data() : "unknown";
}

}  // namespace
}  // namespace vkv

using namespace vkv;

int32_t vkv_version(void) {
  return VKV_VERSION_MAJOR * 10000 + VKV_VERSION_MINOR * 100 + VKV_VERSION_PATCH;
}

const char* vkv_version_text(void) { return VKV_VERSION; }

const char* vkv_status_name(int32_t status) {
  constexpr const char* kNames[] = {
      "ok",   "invalid argument", "unsupported", "out of memory", "io",
      "cuda", "not found",        "data loss",   "cancelled",     "internal"};
  return is_one_of(status, VKV_INTERNAL) ? kNames[status] : "unknown";
}

const char* vkv_role_name(int32_t role) { return text_of<Role>(role, kRoleLast); }
const char* vkv_tier_name(int32_t tier) { return text_of<Tier>(tier, kTierLast); }
const char* vkv_codec_name(int32_t codec) { return text_of<Codec>(codec, kCodecLast); }
const char* vkv_keep_original_name(int32_t keep_original) {
  return text_of<KeepOriginal>(keep_original, VKV_KEEP_ORIGINAL_NVME);
}
const char* vkv_form_name(int32_t form) { return text_of<TokenForm>(form, VKV_FORM_ORIGINAL); }

const char* vkv_preset_name(int32_t index) {
  const std::vector<std::string_view> names = precision_preset_names();  // of lasting texts
  return is_one_of(index, static_cast<int32_t>(names.size()) - 1)
             ? names[static_cast<size_t>(index)].data()
             : nullptr;
}

int32_t vkv_codec_bits(int32_t codec) {
  return is_one_of(codec, kCodecLast) ? bits_of(static_cast<Codec>(codec)) : 0;
}

vkv_status vkv_policy_init(vkv_policy* policy, size_t struct_size, const char* preset) {
  return c_call([&]() -> Status {
    VKV_TRY(check_pointer("policy", policy, alignof(vkv_policy)));
    VKV_TRY(check_struct_size("policy", struct_size, sizeof(vkv_policy)));
    VKV_TRY(check_pointer("preset", preset, 1));
    VKV_TRY_ASSIGN(made, precision_preset(preset));
    const char* lasting = "";
    for (int32_t i = 0; vkv_preset_name(i) != nullptr; ++i)
      if (made.name == vkv_preset_name(i)) lasting = vkv_preset_name(i);
    *policy = policy_in_c(made, lasting, {});
    return {};
  });
}

vkv_status vkv_policy_validate(const vkv_policy* policy) {
  return c_call([&] {
    PrecisionPolicy read;
    return read_policy(policy, read);
  });
}

vkv_status vkv_policy_layer(const vkv_policy* policy, int32_t layer_index,
                            vkv_layer_precision* layer) {
  return c_call([&]() -> Status {
    PrecisionPolicy read;
    VKV_TRY(read_policy(policy, read));
    VKV_TRY(check_range("layer_index", layer_index, 0, std::numeric_limits<int32_t>::max()));
    VKV_TRY(check_struct("layer", layer));
    *layer = layer_in_c(precision_of_layer(read, layer_index));
    return {};
  });
}

vkv_status vkv_options_init(vkv_options* options, size_t struct_size) {
  return c_call([&]() -> Status {
    VKV_TRY(check_pointer("options", options, alignof(vkv_options)));
    VKV_TRY(check_struct_size("options", struct_size, sizeof(vkv_options)));
    *options = plain_options_in_c(CacheOptions());
    return {};
  });
}

vkv_status vkv_shape_validate(int32_t layers, int32_t q_heads, int32_t kv_heads, int32_t head_dim) {
  return c_call([&] {
    return validate(
        KvShape{.layers = layers, .q_heads = q_heads, .kv_heads = kv_heads, .head_dim = head_dim});
  });
}
