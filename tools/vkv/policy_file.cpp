// policy_file.cpp: reads and checks policies field by field.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/policy_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "tools/mllm/json_file.h"

namespace vkv {
namespace {

constexpr size_t kFileBytesMax = size_t{1} << 20;  // 600 times a file of 80 overrides
constexpr int kLayersMax = 4096;                   // far above any model; Cache::open knows its own
constexpr size_t kNameMax = 64;                    // bytes
constexpr std::string_view kCodecNames = "f16, bf16, i8, i4, i2, i1";

using OrderedJson = nlohmann::ordered_json;

bool is_plain(std::string_view text) {
  return !text.empty() && text.size() <= kNameMax &&
         std::none_of(text.begin(), text.end(),
                      [](unsigned char c) { return std::iscntrl(c) != 0; });
}

std::optional<Codec> codec_named(std::string_view text) {
  for (const Codec codec :
       {Codec::kF16, Codec::kBf16, Codec::kI8, Codec::kI4, Codec::kI2, Codec::kI1})
    if (name(codec) == text) return codec;
  return std::nullopt;
}

OrderedJson pair_json(const CodecPair& codecs) {
  if (codecs == CodecPair{.k = codecs.k, .v = codecs.v})
    return fmt::format("{}/{}", name(codecs.k), name(codecs.v));
  return {{"k", name(codecs.k)},           {"v", name(codecs.v)},
          {"k_rotated", codecs.k_rotated}, {"v_per_token", codecs.v_per_token},
          {"k_spread", codecs.k_spread},   {"v_spread", codecs.v_spread}};
}

// Reads the fields of one object. `path` is where it stands in the file: "" or "layers[2].".
class Fields {
 public:
  Fields(const Json& object, std::string where, std::string path)
      : object_(object), where_(std::move(where)), path_(std::move(path)) {}

  Status wrong(std::string_view field, std::string_view what) const {
    return {Code::kInvalidArgument, fmt::format("{}: \"{}{}\" {}", where_, path_, field, what)};
  }

  Status check_known(std::initializer_list<std::string_view> known) const {
    for (const auto& [field, value] : object_.items()) {
      if (std::find(known.begin(), known.end(), field) != known.end()) continue;
      return {Code::kInvalidArgument,
              fmt::format("{}: {}{} is no field here; there are {}", where_, path_,
                          Json(field).dump(), fmt::join(known, ", "))};
    }
    return {};
  }

  Status read(const char* field, std::string& target) const {
    const Json* const value = find(field);
    if (value == nullptr) return {};
    if (!value->is_string()) return wrong(field, "must be a string");
    target = value->get<std::string>();
    return {};
  }

  Status read(const char* field, bool& target) const {
    const Json* const value = find(field);
    if (value == nullptr) return {};
    if (!value->is_boolean()) return wrong(field, "must be true or false");
    target = value->get<bool>();
    return {};
  }

  Status read(const char* field, double least, double most, double& target) const {
    const Json* const value = find(field);
    if (value == nullptr) return {};
    const double number = value->is_number() ? value->get<double>() : NAN;
    if (!(number >= least && number <= most))
      return wrong(field, most < INFINITY ? fmt::format("must be a number, {} to {}", least, most)
                                          : fmt::format("must be a number, {} or more", least));
    target = number;
    return {};
  }

  Status read(const char* field, int least, int most, int& target) const {
    const Json* const value = find(field);
    if (value == nullptr) return {};
    const double number = value->is_number_integer() ? value->get<double>() : NAN;
    if (!(number >= least && number <= most))
      return wrong(field, fmt::format("must be a whole number, {} to {}", least, most));
    target = static_cast<int>(number);
    return {};
  }

  Status read(const char* field, CodecPair& target) const {
    const Json* const value = find(field);
    if (value == nullptr) return {};
    if (value->is_object()) {
      const Fields codecs(*value, where_, fmt::format("{}{}.", path_, field));
      VKV_TRY(codecs.check_known({"k", "v", "k_rotated", "v_per_token", "k_spread", "v_spread"}));
      target = {};
      VKV_TRY(codecs.read_codec("k", target.k));
      VKV_TRY(codecs.read_codec("v", target.v));
      VKV_TRY(codecs.read("k_rotated", target.k_rotated));
      VKV_TRY(codecs.read("v_per_token", target.v_per_token));
      VKV_TRY(codecs.read_spread("k_spread", target.k_spread));
      return codecs.read_spread("v_spread", target.v_spread);
    }
    const auto named =
        value->is_string() ? codec_pair_named(value->get_ref<const std::string&>()) : std::nullopt;
    if (!named)
      return wrong(field, fmt::format("must be a codec ({}), a pair of K and V like \"i4/i2\", or "
                                      "{{\"k\": ..., \"v\": ...}}",
                                      kCodecNames));
    target = *named;
    return {};
  }

 private:
  const Json* find(const char* field) const {
    const auto it = object_.find(field);
    return it == object_.end() ? nullptr : &*it;
  }

  Status read_codec(const char* field, Codec& target) const {
    std::string text;
    if (find(field) == nullptr) return wrong(field, "is missing");
    VKV_TRY(read(field, text));
    const auto codec = codec_named(text);
    if (!codec) return wrong(field, fmt::format("must be a codec: {}", kCodecNames));
    target = *codec;
    return {};
  }

  Status read_spread(const char* field, float& target) const {
    double spread = target;
    VKV_TRY(read(field, 0.5, 4.0, spread));
    target = static_cast<float>(spread);
    return {};
  }

  const Json& object_;
  const std::string where_;
  const std::string path_;
};

Status read_layers(const Json& layers, const std::string& where, PrecisionPolicy& policy) {
  if (!layers.is_array())
    return {Code::kInvalidArgument,
            fmt::format("{}: \"layers\" must be a list of overrides", where)};
  policy.layers.clear();
  for (size_t i = 0; i < layers.size(); ++i) {
    if (!layers[i].is_object())
      return {Code::kInvalidArgument,
              fmt::format("{}: \"layers[{}]\" must be an object", where, i)};
    const Fields fields(layers[i], where, fmt::format("layers[{}].", i));
    VKV_TRY(fields.check_known({"layer", "high", "low"}));
    LayerPrecision own = {.layer = -1, .high = policy.high, .low = policy.low};
    VKV_TRY(fields.read("layer", 0, kLayersMax - 1, own.layer));
    if (own.layer < 0) return fields.wrong("layer", "is missing");
    VKV_TRY(fields.read("high", own.high));
    VKV_TRY(fields.read("low", own.low));
    policy.layers.push_back(own);
  }
  return {};
}

Result<PrecisionPolicy> read_file(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) {
    std::string presets;
    for (const std::string_view preset : precision_preset_names())
      presets += fmt::format("{}, ", preset);
    return Status(
        Code::kNotFound,
        fmt::format("'{}' is no preset ({}no codec pair like i4/i2) and no file", path, presets));
  }
  std::ifstream file(path, std::ios::binary);
  std::string text(kFileBytesMax + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (!file.is_open() || file.bad())
    return Status(Code::kIo, fmt::format("{}: cannot be read", path));
  text.resize(static_cast<size_t>(file.gcount()));
  if (text.size() > kFileBytesMax)
    return Status(Code::kInvalidArgument,
                  fmt::format("{}: more than {} bytes is no policy", path, kFileBytesMax));
  return parse_policy(text, path, std::filesystem::path(path).stem().string());
}

}  // namespace

std::optional<CodecPair> codec_pair_named(std::string_view text) {
  const size_t slash = text.find('/');
  const auto k = codec_named(text.substr(0, slash));
  const auto v = slash == std::string_view::npos ? k : codec_named(text.substr(slash + 1));
  if (!k || !v) return std::nullopt;
  return CodecPair{.k = *k, .v = *v};
}

Result<CodecPair> codec_pair_of(std::string_view text) {
  if (const auto pair = codec_pair_named(text)) return *pair;
  return Status(Code::kInvalidArgument,
                fmt::format("no codec is called \"{}\"; there are {}, and pairs like i4/i2", text,
                            kCodecNames));
}

PrecisionPolicy uniform_policy(const CodecPair& codecs, std::string_view name) {
  PrecisionPolicy policy{
      .name = std::string(name), .high = codecs, .low = codecs, .visual_high_fraction_max = 0};
  policy.high.v_per_token |= bits_of(codecs.v) <= 4;
  return policy;
}

Result<PrecisionPolicy> policy_from(std::string_view name_or_path) {
  Result<PrecisionPolicy> preset = precision_preset(name_or_path);
  if (preset.ok()) return preset;
  if (const auto codecs = codec_pair_named(name_or_path)) {
    PrecisionPolicy policy = uniform_policy(*codecs, name_or_path);
    VKV_TRY(validate(policy));
    return policy;
  }
  return read_file(std::string(name_or_path));
}

Result<PrecisionPolicy> parse_policy(std::string_view text, const std::string& where,
                                     const std::string& name) {
  VKV_TRY_ASSIGN(json, parse_json(text, where));
  if (!json.is_object())
    return Status(Code::kInvalidArgument, fmt::format("{}: must be one JSON object", where));
  const Fields fields(json, where, "");
  VKV_TRY(fields.check_known({"name", "base", "high", "low", "high_fraction",
                              "visual_high_fraction_max", "sink_tokens", "sink_sigmas",
                              "segment_headers", "layers"}));
  std::string base = "exact";
  VKV_TRY(fields.read("base", base));
  Result<PrecisionPolicy> preset = precision_preset(base);
  if (!preset.ok())
    return fields.wrong("base", is_plain(base) ? preset.status().message() : "must be a preset");
  PrecisionPolicy policy = preset.value();
  policy.name = name;
  VKV_TRY(fields.read("name", policy.name));
  if (!is_plain(policy.name))
    return fields.wrong("name", fmt::format("must be 1 to {} printable characters", kNameMax));
  VKV_TRY(fields.read("high", policy.high));
  VKV_TRY(fields.read("low", policy.low));
  VKV_TRY(fields.read("high_fraction", 0.0, 1.0, policy.high_fraction));
  VKV_TRY(fields.read("visual_high_fraction_max", 0.0, 1.0, policy.visual_high_fraction_max));
  VKV_TRY(fields.read("sink_tokens", 0, 64, policy.sink_tokens));
  VKV_TRY(fields.read("sink_sigmas", 0.0, INFINITY, policy.sink_sigmas));
  VKV_TRY(fields.read("segment_headers", policy.segment_headers));
  if (json.contains("layers")) VKV_TRY(read_layers(json["layers"], where, policy));
  if (const Status valid = validate(policy); !valid.ok())
    return Status(valid.code(), fmt::format("{}: {}", where, valid.message()));
  return policy;
}

std::string policy_text(const PrecisionPolicy& policy) {
  OrderedJson json = {{"name", policy.name},
                      {"high", pair_json(policy.high)},
                      {"low", pair_json(policy.low)},
                      {"high_fraction", policy.high_fraction},
                      {"visual_high_fraction_max", policy.visual_high_fraction_max},
                      {"sink_tokens", policy.sink_tokens},
                      {"sink_sigmas", policy.sink_sigmas},
                      {"segment_headers", policy.segment_headers}};
  for (const LayerPrecision& own : policy.layers)
    json["layers"].push_back(
        {{"layer", own.layer}, {"high", pair_json(own.high)}, {"low", pair_json(own.low)}});
  return json.dump(1, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
}

}  // namespace vkv
