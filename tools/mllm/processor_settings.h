// processor_settings.h: where a checkpoint says how its pictures and videos are prepared.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "vkv/status.h"

namespace vkv {

enum class SettingsOf : uint8_t { kPictures, kVideos };

struct ProcessorSettings {
  std::string json_text;
  std::string where;  // the file
};

// Of pictures: "image_processor" of processor_config.json if it is there, else
// preprocessor_config.json. Of videos: "video_processor" of processor_config.json, else
// video_preprocessor_config.json, else what pictures have. So transformers 5 looks for them.
// Errors: kNotFound (no such file), kInvalidArgument (not a JSON object), kIo.
Result<ProcessorSettings> find_processor_settings(const std::filesystem::path& model_dir,
                                                  SettingsOf what);

// "image_processor_type", or in older files "feature_extractor_type", without "Fast"; empty if the
// settings have none.
std::string processor_type(const nlohmann::json& settings);

}  // namespace vkv
