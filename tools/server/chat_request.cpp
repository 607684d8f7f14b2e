// chat_request.cpp: reads and checks a request's JSON.
// SPDX-License-Identifier: Apache-2.0
#include "tools/server/chat_request.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

namespace vkv {
namespace {

using Json = nlohmann::json;

// Values and nesting that a request needs are few; each costs memory of many times its text.
constexpr size_t kValuesMax = 100'000;
constexpr size_t kDepthMax = 32;
constexpr size_t kStopsMax = 4;
constexpr size_t kStopBytesMax = 256;

Status wrong(std::string_view field, std::string_view what) {
  return {Code::kInvalidArgument, fmt::format("\"{}\" {}", field, what)};
}

// In quotes, escaped, and not too long.
std::string in_quotes(const std::string& text) {
  constexpr size_t kShownMax = 40;
  const std::string shown = text.size() <= kShownMax ? text : text.substr(0, kShownMax) + "...";
  return Json(shown).dump(-1, ' ', true, Json::error_handler_t::replace);
}

// Before anything is built of it. Commas and brackets in strings do not count.
Status check_extent(std::string_view body) {
  size_t values = 1, depth = 0;
  bool in_string = false;
  for (size_t at = 0; at < body.size(); ++at) {
    const char c = body[at];
    if (in_string) {
      if (c == '\\') ++at;
      in_string = c != '"';
      continue;
    }
    in_string = c == '"';
    values += c == ',' || c == '[' || c == '{' ? 1 : 0;
    depth += c == '[' || c == '{' ? 1 : 0;
    depth -= (c == ']' || c == '}') && depth > 0 ? 1 : 0;
    if (values > kValuesMax || depth > kDepthMax)
      return {Code::kInvalidArgument,
              fmt::format("the body has more than {} values, or more than {} inside each other",
                          kValuesMax, kDepthMax)};
  }
  return {};
}

Status check_fields(const Json& object, std::string_view where,
                    std::initializer_list<std::string_view> known) {
  for (const auto& [field, value] : object.items())
    if (std::find(known.begin(), known.end(), field) == known.end())
      return {Code::kInvalidArgument, fmt::format("{} has no field {}; there are {}", where,
                                                  in_quotes(field), fmt::join(known, ", "))};
  return {};
}

// The field, or null where it is missing or null, which says the same.
const Json* find(const Json& object, const char* field) {
  const auto it = object.find(field);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

Status read_string(const Json& object, const char* field, std::string& target) {
  const Json* value = find(object, field);
  if (value == nullptr) return {};
  if (!value->is_string()) return wrong(field, "must be a string");
  target = value->get<std::string>();
  return {};
}

Status read_bool(const Json& object, const char* field, bool& target) {
  const Json* value = find(object, field);
  if (value == nullptr) return {};
  if (!value->is_boolean()) return wrong(field, "must be true or false");
  target = value->get<bool>();
  return {};
}

Status read_number(const Json& object, const char* field, double& target) {
  const Json* value = find(object, field);
  if (value == nullptr) return {};
  if (!value->is_number()) return wrong(field, "must be a number");
  target = value->get<double>();
  return {};
}

Status read_count(const Json& object, const char* field, int most, int& target) {
  const Json* value = find(object, field);
  if (value == nullptr) return {};
  const bool fits = value->is_number_unsigned() && value->get<uint64_t>() >= 1 &&
                    value->get<uint64_t>() <= static_cast<uint64_t>(most);
  if (!fits) return wrong(field, fmt::format("must be a whole number from 1 to {}", most));
  target = value->get<int>();
  return {};
}

Status read_seed(const Json& object, uint64_t& target) {
  const Json* value = find(object, "seed");
  if (value == nullptr) return {};
  if (!value->is_number_integer()) return wrong("seed", "must be a whole number");
  target = value->is_number_unsigned() ? value->get<uint64_t>()
                                       : static_cast<uint64_t>(value->get<int64_t>());
  return {};
}

Status read_stop(const Json& object, std::vector<std::string>& stops) {
  const Json* value = find(object, "stop");
  if (value == nullptr) return {};
  const Json list = value->is_array() ? *value : Json::array({*value});
  const std::string what = fmt::format("must be a text, or up to {} of them, of 1 to {} bytes each",
                                       kStopsMax, kStopBytesMax);
  if (list.size() > kStopsMax) return wrong("stop", what);
  for (const Json& stop : list) {
    if (!stop.is_string()) return wrong("stop", what);
    stops.push_back(stop.get<std::string>());
    if (stops.back().empty() || stops.back().size() > kStopBytesMax) return wrong("stop", what);
  }
  return {};
}

// What is not supported may stand where it asks for nothing.
Status check_unsupported(const Json& root) {
  const std::pair<const char*, Json> neutral[] = {
      {"n", 1},           {"logprobs", false},     {"top_logprobs", 0}, {"frequency_penalty", 0},
      {"tools", {}},      {"presence_penalty", 0}, {"functions", {}},   {"logit_bias", {}},
      {"modalities", {}}, {"audio", {}},           {"prediction", {}}};
  for (const auto& [field, value] : neutral) {
    const Json* given = find(root, field);
    if (given == nullptr || *given == value || (value.is_null() && given->empty())) continue;
    if (std::string_view(field) == "modalities" && *given == Json::array({"text"})) continue;
    return {Code::kUnsupported, fmt::format("\"{}\" is not supported: leave it out", field)};
  }
  const Json* format = find(root, "response_format");
  if (format != nullptr && *format != Json{{"type", "text"}})
    return {Code::kUnsupported,
            "\"response_format\" is not supported but for {\"type\": \"text\"}"};
  return {};
}

class MessageReader {
 public:
  MessageReader(const ChatLimits& limits, ChatRequest& target) : limits_(limits), target_(target) {}

  Status read(const Json& messages) {
    for (const Json& message : messages) {
      const Status status = read_message(message);
      if (!status.ok())
        return {status.code(), fmt::format("message {}: {}", index_, status.message())};
      ++index_;
    }
    if (!last_is_user_) return wrong("messages", "must end with one of the user");
    target_.question = std::move(exchange_.question);
    return {};
  }

 private:
  Status read_message(const Json& message) {
    if (!message.is_object()) return wrong("messages", "must be a list of objects");
    VKV_TRY(check_fields(message, "a message",
                         {"role", "content", "name", "refusal", "annotations", "audio",
                          "tool_calls", "function_call"}));
    std::string role;
    VKV_TRY(read_string(message, "role", role));
    std::string text;
    has_media_ = false;
    VKV_TRY(read_content(message, text));
    if (role == "system" || role == "developer") return take_system(std::move(text));
    if (role == "user") return take_user(std::move(text));
    if (role == "assistant") return take_assistant(std::move(text));
    return wrong("role", fmt::format("is {}; there are system, developer, user and assistant",
                                     in_quotes(role)));
  }

  Status take_system(std::string text) {
    if (has_media_) return wrong("content", "of a system message must be text");
    if (seen_user_) return wrong("role", "system may only stand before the first user message");
    target_.system += target_.system.empty() ? text : "\n" + text;
    return {};
  }

  Status take_user(std::string text) {
    if (has_media_ && (!target_.earlier.empty() || seen_answer_))
      return wrong("content", "may have pictures and videos in the first user message alone");
    if (last_is_user_) {
      exchange_.question += "\n" + text;
      return {};
    }
    if (seen_answer_) target_.earlier.push_back(std::exchange(exchange_, {}));
    exchange_.question = std::move(text);
    seen_user_ = last_is_user_ = true;
    seen_answer_ = false;
    return {};
  }

  Status take_assistant(std::string text) {
    if (has_media_) return wrong("content", "of the assistant must be text");
    if (!seen_user_) return wrong("role", "assistant may only stand behind a user message");
    exchange_.answer += seen_answer_ ? "\n" + text : text;
    seen_answer_ = true;
    last_is_user_ = false;
    return {};
  }

  Status read_content(const Json& message, std::string& text) {
    const Json* content = find(message, "content");
    if (content == nullptr) return wrong("content", "is missing");
    if (content->is_string()) {
      text = content->get<std::string>();
      return {};
    }
    if (!content->is_array()) return wrong("content", "must be a text or a list of parts");
    for (const Json& part : *content) VKV_TRY(read_part(part, text));
    return {};
  }

  Status read_part(const Json& part, std::string& text) {
    if (!part.is_object()) return wrong("content", "must be a text or a list of parts");
    std::string type;
    VKV_TRY(read_string(part, "type", type));
    if (type == "text") {
      VKV_TRY(check_fields(part, "a text part", {"type", "text"}));
      std::string words;
      if (find(part, "text") == nullptr) return wrong("text", "is missing");
      VKV_TRY(read_string(part, "text", words));
      text += words;
      return {};
    }
    if (type == "image_url" || type == "video_url" || type == "video")
      return read_medium(part, type);
    return wrong("type", fmt::format("is {}; there are text, image_url, video_url and video",
                                     in_quotes(type)));
  }

  // {"type": T, T: "url" or {"url": ..}}; of a video with "frames" or "fps".
  Status read_medium(const Json& part, const std::string& type) {
    has_media_ = true;
    MediaPart medium{.is_video = type != "image_url"};
    const std::initializer_list<std::string_view> fields = {"type", type, "frames", "fps"};
    VKV_TRY(check_fields(part, "this part", fields));
    const Json* value = find(part, type.c_str());
    if (value == nullptr) return wrong(type, "is missing");
    Json object = value->is_string() ? Json{{"url", *value}} : *value;
    if (!object.is_object()) return wrong(type, "must be a URL, or an object with \"url\"");
    for (const char* field : {"frames", "fps"})
      if (const Json* own = find(part, field)) object[field] = *own;
    VKV_TRY(check_fields(object, type, {"url", "detail", "frames", "fps"}));
    VKV_TRY(read_string(object, "url", medium.url));
    if (medium.url.empty()) return wrong("url", "is missing");
    VKV_TRY(read_sampling(object, medium));
    if (static_cast<int>(target_.media.size()) == limits_.media_count_max)
      return wrong("content",
                   fmt::format("has more than {} pictures and videos", limits_.media_count_max));
    target_.media.push_back(std::move(medium));
    return {};
  }

  Status read_sampling(const Json& object, MediaPart& medium) const {
    const bool has_fps = find(object, "fps") != nullptr;
    if (!medium.is_video)
      return has_fps || find(object, "frames") != nullptr
                 ? wrong("frames", "and \"fps\" are for videos")
                 : Status();
    if (has_fps)
      return wrong("fps", "is not supported: say how many \"frames\", which are evenly spaced");
    medium.sampling.frame_count = limits_.frames_default;
    return read_count(object, "frames", limits_.frames_max, medium.sampling.frame_count);
  }

  const ChatLimits& limits_;
  ChatRequest& target_;
  ChatExchange exchange_;   // the last one
  size_t index_ = 0;        // of the message
  bool has_media_ = false;  // the message
  bool seen_user_ = false, seen_answer_ = false, last_is_user_ = false;
};

Status read_stream(const Json& root, ChatRequest& request) {
  VKV_TRY(read_bool(root, "stream", request.stream));
  const Json* options = find(root, "stream_options");
  if (options == nullptr) return {};
  if (!options->is_object()) return wrong("stream_options", "must be an object");
  if (!request.stream) return wrong("stream_options", "need \"stream\": true");
  VKV_TRY(check_fields(*options, "stream_options", {"include_usage", "include_obfuscation"}));
  return read_bool(*options, "include_usage", request.include_usage);
}

}  // namespace

Result<ChatRequest> parse_chat_request(std::string_view body, const ChatLimits& limits) {
  VKV_TRY(check_extent(body));
  const Json root = Json::parse(body, nullptr, false);
  if (root.is_discarded())
    return Status(Code::kInvalidArgument, "the body is not valid JSON in UTF-8");
  if (!root.is_object()) return Status(Code::kInvalidArgument, "the body is not a JSON object");
  VKV_TRY(check_fields(root, "the request",
                       {"model",
                        "messages",
                        "max_tokens",
                        "max_completion_tokens",
                        "temperature",
                        "top_p",
                        "seed",
                        "stop",
                        "stream",
                        "stream_options",
                        "n",
                        "user",
                        "metadata",
                        "store",
                        "service_tier",
                        "safety_identifier",
                        "prompt_cache_key",
                        "parallel_tool_calls",
                        "tool_choice",
                        "logprobs",
                        "top_logprobs",
                        "frequency_penalty",
                        "presence_penalty",
                        "tools",
                        "functions",
                        "logit_bias",
                        "modalities",
                        "audio",
                        "prediction",
                        "response_format"}));
  VKV_TRY(check_unsupported(root));
  ChatRequest request;
  VKV_TRY(read_string(root, "model", request.model));
  if (request.model.empty()) return wrong("model", "is missing; GET /v1/models lists it");
  VKV_TRY(read_stream(root, request));
  request.sampling.max_new_tokens = limits.max_tokens_default;
  for (const char* field : {"max_tokens", "max_completion_tokens"})
    VKV_TRY(read_count(root, field, limits.max_tokens, request.sampling.max_new_tokens));
  VKV_TRY(read_number(root, "temperature", request.sampling.temperature));
  VKV_TRY(read_number(root, "top_p", request.sampling.top_p));
  VKV_TRY(read_seed(root, request.sampling.seed));
  VKV_TRY(validate(request.sampling));
  VKV_TRY(read_stop(root, request.stop));
  const Json* messages = find(root, "messages");
  if (messages == nullptr || !messages->is_array() || messages->empty())
    return wrong("messages", "must be a list of at least one message");
  VKV_TRY(MessageReader(limits, request).read(*messages));
  return request;
}

}  // namespace vkv
