// chat_request.h: the body of POST /v1/chat/completions.
// SPDX-License-Identifier: Apache-2.0
//
// As OpenAI's API has it, for one choice of text:
//
//   {"model": "tinyvlm", "stream": false, "max_tokens": 64, "temperature": 0, "top_p": 1, "seed":
//   1,
//    "stop": ["\n"], "messages": [
//      {"role": "system", "content": "..."},
//      {"role": "user", "content": [
//        {"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}},
//        {"type": "video_url", "video_url": {"url": "file:///clips/a.mp4", "frames": 16}},
//        {"type": "text", "text": "What is it?"}]},
//      {"role": "assistant", "content": "..."}, {"role": "user", "content": "And now?"}]}
//
// Pictures and videos stand in the first user message, and come before its text in the prompt.
// Fields that would change the answer and are not supported are refused unless they ask for
// nothing ("n": 1); so are unknown ones.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "tools/mllm/media.h"
#include "tools/mllm/sampler.h"
#include "vkv/status.h"

namespace vkv {

struct ChatLimits {
  int max_tokens = 4096;  // that a request may ask for
  int max_tokens_default = 256;
  int media_count_max = 64;
  int frames_max = 256;  // of a video
  int frames_default = 16;
};

struct MediaPart {
  bool is_video = false;
  std::string url;
  VideoSampling sampling;
};

struct ChatExchange {
  std::string question;
  std::string answer;
};

struct ChatRequest {
  std::string model;
  std::string system;  // may be empty
  std::vector<MediaPart> media;
  std::vector<ChatExchange> earlier;
  std::string question;
  Sampling sampling;
  std::vector<std::string> stop;
  bool stream = false;
  bool include_usage = false;  // in a stream
};

// Errors: kInvalidArgument and kUnsupported, in one line that names the field and says what it may
// be.
Result<ChatRequest> parse_chat_request(std::string_view body, const ChatLimits& limits);

}  // namespace vkv
