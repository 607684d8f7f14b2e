// processor_fields.h: settings of an image processor, and how grey levels become values.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>

#include <array>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "tools/mllm/resize.h"
#include "vkv/status.h"

namespace vkv {

// Fields of the settings with their defaults; the first field of a wrong kind becomes `status`.
struct ProcessorFields {
  const nlohmann::json& json;
  const std::string& where;
  Status status;

  void refuse(std::string_view field, std::string_view what) {
    if (!status.ok()) return;
    status = Status(Code::kInvalidArgument, fmt::format("{}: \"{}\" {}", where, field, what));
  }

  const nlohmann::json* find(const char* field) const {
    const auto it = json.find(field);
    return it == json.end() || it->is_null() ? nullptr : &*it;
  }

  bool boolean(const char* field, bool otherwise) {
    const nlohmann::json* value = find(field);
    if (value == nullptr) return otherwise;
    if (!value->is_boolean()) return refuse(field, "must be true or false"), otherwise;
    return value->get<bool>();
  }

  double positive(const char* field, double otherwise) {
    const nlohmann::json* value = find(field);
    if (value == nullptr) return otherwise;
    const double number = value->is_number() ? value->get<double>() : 0.0;
    if (!(number > 0)) return refuse(field, "must be a number above 0"), otherwise;
    return number;
  }

  std::array<double, 3> channels(const char* field, std::array<double, 3> otherwise, bool nonzero) {
    const nlohmann::json* value = find(field);
    if (value == nullptr) return otherwise;
    std::array<double, 3> numbers = otherwise;
    bool good = value->is_array() && value->size() == 3;
    for (size_t c = 0; good && c < 3; ++c) {
      good = (*value)[c].is_number();
      if (good) numbers[c] = (*value)[c].get<double>();
      if (nonzero && numbers[c] == 0) good = false;
    }
    if (!good)
      refuse(field, nonzero ? "must be three numbers, none of them 0" : "must be three numbers");
    return numbers;
  }
};

// CLIP's (OpenAI), which many processors took over.
inline constexpr std::array<double, 3> kClipMean = {0.48145466, 0.4578275, 0.40821073};
inline constexpr std::array<double, 3> kClipDeviation = {0.26862954, 0.26130258, 0.27577711};

// value = (level - mean) / deviation; or level * factor when nothing is normalised.
struct PixelScale {
  bool do_normalize = true;
  float factor = 1.0f;
  std::array<float, 3> mean = {};
  std::array<float, 3> deviation = {};

  float value(float level, size_t channel) const {
    return do_normalize ? (level - mean[channel]) / deviation[channel] : level * factor;
  }

  // Where the settings are silent, mean and deviation are those given, and 255 levels become 1.
  static PixelScale read(ProcessorFields& fields, const std::array<double, 3>& default_mean,
                         const std::array<double, 3>& default_deviation) {
    PixelScale scale;
    const bool rescale = fields.boolean("do_rescale", true);
    const double factor = rescale ? fields.positive("rescale_factor", 1.0 / 255.0) : 1.0;
    scale.do_normalize = fields.boolean("do_normalize", true);
    scale.factor = static_cast<float>(factor);
    const std::array<double, 3> mean = fields.channels("image_mean", default_mean, false);
    const std::array<double, 3> deviation = fields.channels("image_std", default_deviation, true);
    for (size_t c = 0; c < 3; ++c) {
      // transformers fuses both steps: fp32 statistics times 1 / factor.
      scale.mean[c] = static_cast<float>(mean[c]) * static_cast<float>(1.0 / factor);
      scale.deviation[c] = static_cast<float>(deviation[c]) * static_cast<float>(1.0 / factor);
    }
    return scale;
  }
};

inline Resample read_resample(ProcessorFields& fields) {
  const double resample = fields.positive("resample", 3);
  if (resample != 2 && resample != 3)
    fields.refuse("resample",
                  fmt::format("is {}; there are 2 (bilinear) and 3 (bicubic)", resample));
  return resample == 2 ? Resample::kBilinear : Resample::kBicubic;
}

}  // namespace vkv
