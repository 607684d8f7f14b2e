// chat_response.cpp: what the server says, as JSON.
// SPDX-License-Identifier: Apache-2.0
#include "tools/server/chat_response.h"

#include <nlohmann/json.hpp>

namespace vkv {
namespace {

using Json = nlohmann::ordered_json;

std::string text_of(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

const char* error_type(int http_status) {
  if (http_status == 429) return "rate_limit_error";
  if (http_status == 404) return "not_found_error";
  return http_status < 500 ? "invalid_request_error" : "server_error";
}

Json error_of(int http_status, std::string_view message) {
  return {{"error",
           {{"message", message},
            {"type", error_type(http_status)},
            {"param", nullptr},
            {"code", nullptr}}}};
}

const char* reason_of(const ReplyEnd& end) { return end.hit_length ? "length" : "stop"; }

Json usage_of(const ReplyUsage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.answer_tokens},
          {"total_tokens", usage.prompt_tokens + usage.answer_tokens},
          {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}}}};
}

Json chunk(const ChatLabel& label) {
  return {{"id", label.id},
          {"object", "chat.completion.chunk"},
          {"created", label.created},
          {"model", label.model}};
}

std::string choice_event(const ChatLabel& label, Json delta, Json reason) {
  Json json = chunk(label);
  json["choices"] = Json::array(
      {Json{{"index", 0}, {"delta", std::move(delta)}, {"finish_reason", std::move(reason)}}});
  return "data: " + text_of(json) + "\n\n";
}

}  // namespace

std::string error_json(int http_status, std::string_view message) {
  return text_of(error_of(http_status, message));
}

int request_status(const Status& status) {
  switch (status.code()) {
    case Code::kOutOfMemory:
      return 413;
    case Code::kCancelled:
      return 503;
    case Code::kInternal:
    case Code::kCuda:
      return 500;
    default:
      return 400;
  }
}

int engine_status(const Status& status) {
  switch (status.code()) {
    case Code::kInvalidArgument:
      return 400;
    case Code::kOutOfMemory:
    case Code::kCancelled:
      return 503;
    default:
      return 500;
  }
}

std::string models_json(const ChatLabel& label) {
  return text_of({{"object", "list"},
                  {"data", Json::array({Json{{"id", label.model},
                                             {"object", "model"},
                                             {"created", label.created},
                                             {"owned_by", "vkv"}}})}});
}

std::string completion_json(const ChatLabel& label, std::string_view text, const ReplyEnd& end) {
  return text_of(
      {{"id", label.id},
       {"object", "chat.completion"},
       {"created", label.created},
       {"model", label.model},
       {"choices", Json::array({Json{{"index", 0},
                                     {"message", {{"role", "assistant"}, {"content", text}}},
                                     {"logprobs", nullptr},
                                     {"finish_reason", reason_of(end)}}})},
       {"usage", usage_of(end.usage)}});
}

std::string first_event(const ChatLabel& label) {
  return choice_event(label, {{"role", "assistant"}, {"content", ""}}, nullptr);
}

std::string text_event(const ChatLabel& label, std::string_view text) {
  return choice_event(label, {{"content", text}}, nullptr);
}

std::string end_events(const ChatLabel& label, const ReplyEnd& end, bool include_usage) {
  if (!end.status.ok())
    return "data: " + error_json(engine_status(end.status), end.status.message()) + "\n\n";
  std::string text = choice_event(label, Json::object(), reason_of(end));
  if (include_usage) {
    Json json = chunk(label);
    json["choices"] = Json::array();
    json["usage"] = usage_of(end.usage);
    text += "data: " + text_of(json) + "\n\n";
  }
  return text + "data: [DONE]\n\n";
}

}  // namespace vkv
