// config_fields.h: typed values of one JSON object of a configuration.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "tools/mllm/json_file.h"
#include "tools/mllm/model_config.h"

namespace vkv {

// Reads typed values of one JSON object; the first mistake is kept and everything after it is a
// default, so that a reader is a list of fields and one check at its end.
class ConfigFields {
 public:
  ConfigFields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {}

  const Json* find(const char* key) const {
    const auto found = object_.find(key);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }

  int integer(const char* key, int fallback, int least, int most) {
    const Json* const value = find(key);
    if (value == nullptr) return fallback;
    if (!value->is_number_integer() ||
        (value->is_number_unsigned() && value->get<uint64_t>() > INT32_MAX)) {
      fail(Code::kInvalidArgument, fmt::format("{} is not an integer", key));
      return fallback;
    }
    const auto number = value->get<int64_t>();
    if (number < least || number > most) {
      fail(Code::kInvalidArgument,
           fmt::format("{} is {}; it may be {} to {}", key, number, least, most));
      return fallback;
    }
    return static_cast<int>(number);
  }

  int extent(const char* key, int fallback) { return integer(key, fallback, 1, kExtentMax); }

  double positive(const char* key, double fallback) {
    const Json* const value = find(key);
    if (value == nullptr) return fallback;
    const double number = value->is_number() ? value->get<double>() : NAN;
    if (std::isfinite(number) && number > 0) return number;
    fail(Code::kInvalidArgument, fmt::format("{} is not a positive number", key));
    return fallback;
  }

  bool flag(const char* key, bool fallback) {
    const Json* const value = find(key);
    if (value == nullptr) return fallback;
    if (value->is_boolean()) return value->get<bool>();
    fail(Code::kInvalidArgument, fmt::format("{} is not true or false", key));
    return fallback;
  }

  std::string text(const char* key, const char* fallback) {
    const Json* const value = find(key);
    if (value == nullptr) return fallback;
    if (value->is_string()) return value->get<std::string>();
    fail(Code::kInvalidArgument, fmt::format("{} is not a string", key));
    return fallback;
  }

  Activation activation(const char* key, const char* fallback) {
    const std::string name = text(key, fallback);
    if (name == "gelu") return Activation::kGeluErf;
    if (name == "gelu_pytorch_tanh" || name == "gelu_new") return Activation::kGeluTanh;
    if (name == "quick_gelu") return Activation::kQuickGelu;
    if (name == "silu" || name == "swish") return Activation::kSilu;
    fail(Code::kUnsupported, fmt::format("{} is \"{}\"; there are gelu, gelu_pytorch_tanh, "
                                         "quick_gelu and silu",
                                         key, name));
    return Activation::kNone;
  }

  // Integers from 0 to `most`. `fallback` if there is no such list.
  std::vector<int> integers(const char* key, std::vector<int> fallback, int most) {
    const Json* const list = find(key);
    if (list == nullptr) return fallback;
    std::vector<int> numbers;
    bool good = list->is_array();
    for (size_t i = 0; good && i < list->size(); ++i) {
      const Json& value = (*list)[i];
      good = value.is_number_unsigned() && value.get<uint64_t>() <= static_cast<uint64_t>(most);
      if (good) numbers.push_back(value.get<int>());
    }
    if (good) return numbers;
    fail(Code::kInvalidArgument, fmt::format("{} is not a list of integers 0 to {}", key, most));
    return fallback;
  }

  void fail(Code code, const std::string& what) {
    if (status_.ok()) status_ = {code, where_ + ": " + what};
  }
  const Status& status() const { return status_; }

 private:
  const Json& object_;
  std::string where_;
  Status status_;
};

}  // namespace vkv
