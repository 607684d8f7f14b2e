// json_file.cpp: JSON whose mistakes are errors in words.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/json_file.h"

#include <fmt/format.h>

#include <set>
#include <vector>

namespace vkv {
namespace {

constexpr int kDepthMax = 64;  // of files that exist: 6; the parser recurses on destruction

// With escapes, so that whatever a key holds, a message stays one line.
std::string escaped(const std::string& text) {
  return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

Result<Json> parse_json(std::string_view text, const std::string& where) {
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  std::string duplicate;
  bool too_deep = false;
  const auto watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > kDepthMax) too_deep = true;
    if (event == Json::parse_event_t::object_start) {
      keys.emplace_back();
    } else if (event == Json::parse_event_t::object_end) {
      keys.pop_back();
    } else if (event == Json::parse_event_t::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys.back().insert(key).second && duplicate.empty()) duplicate = key;
    }
    return !too_deep;  // what is deeper is dropped
  };
  try {
    Json json = Json::parse(text.begin(), text.end(), watch);
    if (too_deep)
      return Status(Code::kDataLoss, fmt::format("{}: nested deeper than {}", where, kDepthMax));
    if (!duplicate.empty())
      return Status(Code::kDataLoss, fmt::format("{}: {} stands twice", where, escaped(duplicate)));
    return json;
  } catch (const Json::exception& error) {
    return Status(Code::kDataLoss, fmt::format("{}: not valid JSON: {}", where, error.what()));
  }
}

}  // namespace vkv
