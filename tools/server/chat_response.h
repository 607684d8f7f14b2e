// chat_response.h: what the server says, as JSON of OpenAI's shapes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "tools/server/reply.h"
#include "vkv/status.h"

namespace vkv {

// What all texts of one answer have in common.
struct ChatLabel {
  std::string id;  // "chatcmpl-..."
  std::string model;
  int64_t created = 0;  // seconds since 1970
};

// {"error": {"message", "type", "param", "code"}}
std::string error_json(int http_status, std::string_view message);

// The HTTP status of what is wrong with a request, and of what went wrong with one that was right.
int request_status(const Status& status);
int engine_status(const Status& status);

std::string models_json(const ChatLabel& label);
std::string completion_json(const ChatLabel& label, std::string_view text, const ReplyEnd& end);

// Server-sent events, "data: {...}\n\n".
std::string first_event(const ChatLabel& label);
std::string text_event(const ChatLabel& label, std::string_view text);
// The end with its reason, usage if asked for, and [DONE]; or the error.
std::string end_events(const ChatLabel& label, const ReplyEnd& end, bool include_usage);

}  // namespace vkv
