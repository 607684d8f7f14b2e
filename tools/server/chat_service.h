// chat_service.h: what the server does with a request, whatever HTTP library brings it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <semaphore>
#include <string>
#include <string_view>

#include "tools/server/chat_request.h"
#include "tools/server/chat_response.h"
#include "tools/server/engine.h"
#include "tools/server/media_loader.h"

namespace vkv {

struct ChatServiceOptions {
  std::string model_name;  // as clients call it
  ChatLimits limits;
  MediaLoaderOptions media;
};

// A request that was taken, or why it was not.
struct ChatStart {
  int http_status = 200;
  std::string error;             // a body, where http_status is not 200
  int retry_after_seconds = 0;   // where it is 429
  std::shared_ptr<Reply> reply;  // where it is 200
  ChatLabel label;
  bool stream = false;
  bool include_usage = false;
};

// Any thread may call. Media of at most two requests are decoded at once, so that hostile ones
// take no more memory than that.
class ChatService {
 public:
  // The engine outlives it. Errors: those of MediaLoader::make.
  static Result<std::unique_ptr<ChatService>> make(Engine* engine,
                                                   const ChatServiceOptions& options);

  ChatStart start(std::string_view body);

  std::string models_text() const;
  Engine& engine() const { return *engine_; }

 private:
  ChatService(Engine* engine, const ChatServiceOptions& options, MediaLoader source);
  Result<ChatRequest> read(std::string_view body) const;
  Result<Submission> submit(ChatRequest request);

  Engine* engine_;
  ChatServiceOptions options_;
  MediaLoader source_;
  std::counting_semaphore<> decoders_;
  int64_t opened_at_;  // seconds since 1970
  uint64_t id_base_;
  std::atomic<uint64_t> request_count_ = 0;
};

}  // namespace vkv
