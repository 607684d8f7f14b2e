// c_structs.h: between the structs of the C ABI and those of the C++ API.
// SPDX-License-Identifier: Apache-2.0
//
// What is read is checked first: size, alignment, enums, booleans, reserved members; what it means
// is checked by the C++ API. Errors of all: kInvalidArgument naming the member, its value and what
// it may be; kUnsupported for a struct of a newer release.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "vkv/cache.h"
#include "vkv/vkv.h"

namespace vkv {

Status c_error(const std::string& argument, const std::string& value, const std::string& range);

// `struct_size` of what the caller calls `argument`, a struct that has `own_bytes` here.
Status check_struct_size(const std::string& argument, size_t struct_size, size_t own_bytes);

// That `pointer` is neither NULL nor misaligned.
Status check_pointer(const std::string& argument, const void* pointer, size_t alignment);

template <class T>
Status check_struct(const std::string& argument, const T* given) {
  VKV_TRY(check_pointer(argument, given, alignof(T)));
  return check_struct_size(argument, given->struct_size, sizeof(T));
}

// [min, max], both included.
Status check_range(const std::string& argument, int64_t value, int64_t min, int64_t max);
Status read_bool(const std::string& argument, int32_t value, bool& target);

template <class T>
Status read_enum(const std::string& argument, int32_t value, int32_t count, T& target) {
  VKV_TRY(check_range(argument, value, 0, count - 1));
  target = static_cast<T>(value);
  return {};
}

Status read_policy(const vkv_policy* given, PrecisionPolicy& target);
Status read_options(const vkv_options* given, CacheOptions& target);

// Structs as they are returned; struct_size set.
vkv_codec_pair codec_pair_in_c(const CodecPair& pair);
vkv_layer_precision layer_in_c(const LayerPrecision& layer);
// `name` and `layers` must live as long as the result.
vkv_policy policy_in_c(const PrecisionPolicy& policy, const char* name,
                       std::span<const vkv_layer_precision> layers);
vkv_saved_sequence saved_in_c(const SavedSequence& saved);
vkv_stats stats_in_c(const CacheStats& stats);
vkv_sequence_stats sequence_stats_in_c(const SequenceStats& stats);
vkv_form_stats form_in_c(const FormStats& form);

// Options as vkv_get_options returns them, and what they point to.
class OptionsInC {
 public:
  explicit OptionsInC(const CacheOptions& options);
  OptionsInC(const OptionsInC&) = delete;

  const vkv_options& get() const { return c_; }

 private:
  const std::string policy_name_;
  const std::string store_path_;
  std::vector<vkv_layer_precision> layers_;
  vkv_policy policy_;
  vkv_options c_;
};

// options.stream and all else but what has pointers of its own: policy and store_path.
vkv_options plain_options_in_c(const CacheOptions& options);

}  // namespace vkv
