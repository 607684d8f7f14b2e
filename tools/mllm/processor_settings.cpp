// processor_settings.cpp: where a checkpoint says how its pictures and videos are prepared.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/processor_settings.h"

#include <fmt/format.h>

#include <fstream>
#include <iterator>

namespace vkv {
namespace {

using Json = nlohmann::json;

Result<std::string> read_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!file) return Status(Code::kIo, fmt::format("{}: cannot be read", path.string()));
  return text;
}

}  // namespace

Result<ProcessorSettings> find_processor_settings(const std::filesystem::path& model_dir,
                                                  SettingsOf what) {
  std::error_code error;
  const bool of_videos = what == SettingsOf::kVideos;
  const std::filesystem::path newer = model_dir / "processor_config.json";
  if (std::filesystem::exists(newer, error)) {
    VKV_TRY_ASSIGN(text, read_text(newer));
    const Json json = Json::parse(text, nullptr, false);
    if (!json.is_object()) {
      return Status(Code::kInvalidArgument,
                    fmt::format("{}: is not a JSON object", newer.string()));
    }
    // Files of older releases hold only the text side here.
    const auto nested = json.find(of_videos ? "video_processor" : "image_processor");
    if (nested != json.end()) return ProcessorSettings{nested->dump(), newer.string()};
  }
  const std::filesystem::path video = model_dir / "video_preprocessor_config.json";
  if (of_videos && std::filesystem::exists(video, error)) {
    VKV_TRY_ASSIGN(text, read_text(video));
    return ProcessorSettings{std::move(text), video.string()};
  }
  const std::filesystem::path older = model_dir / "preprocessor_config.json";
  if (!std::filesystem::exists(older, error)) {
    if (of_videos) return find_processor_settings(model_dir, SettingsOf::kPictures);
    return Status(Code::kNotFound,
                  fmt::format("{}: has no preprocessor_config.json; it comes with the checkpoint "
                              "and says how pictures are resized",
                              model_dir.string()));
  }
  VKV_TRY_ASSIGN(text, read_text(older));
  return ProcessorSettings{std::move(text), older.string()};
}

std::string processor_type(const Json& settings) {
  std::string type;
  if (const auto it = settings.find("image_processor_type");
      it != settings.end() && it->is_string()) {
    type = it->get<std::string>();
  } else if (const auto older = settings.find("feature_extractor_type");
             older != settings.end() && older->is_string()) {
    type = older->get<std::string>();
    if (const size_t at = type.find("FeatureExtractor"); at != std::string::npos) {
      type.replace(at, std::string::npos, "ImageProcessor");
    }
  }
  if (type.ends_with("Fast")) type.resize(type.size() - 4);
  return type;
}

}  // namespace vkv
