// chat_service.cpp: what the server does with a request.
// SPDX-License-Identifier: Apache-2.0
#include "tools/server/chat_service.h"

#include <fmt/format.h>

#include <chrono>
#include <random>
#include <utility>

namespace vkv {
namespace {

constexpr int kDecoders = 2;

// One of the few who may decode.
class Turn {
 public:
  explicit Turn(std::counting_semaphore<>& places) : places_(places) { places_.acquire(); }
  ~Turn() { places_.release(); }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  std::counting_semaphore<>& places_;
};

int64_t seconds_since_1970() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

ChatStart refused(int http_status, std::string_view message) {
  return {.http_status = http_status, .error = error_json(http_status, message)};
}

}  // namespace

ChatService::ChatService(Engine* engine, const ChatServiceOptions& options, MediaLoader source)
    : engine_(engine),
      options_(options),
      source_(std::move(source)),
      decoders_(kDecoders),
      opened_at_(seconds_since_1970()),
      id_base_(std::random_device()()) {}

Result<std::unique_ptr<ChatService>> ChatService::make(Engine* engine,
                                                       const ChatServiceOptions& options) {
  VKV_TRY_ASSIGN(source, MediaLoader::make(options.media));
  return std::unique_ptr<ChatService>(new ChatService(engine, options, std::move(source)));
}

Result<ChatRequest> ChatService::read(std::string_view body) const {
  VKV_TRY_ASSIGN(request, parse_chat_request(body, options_.limits));
  if (request.model == options_.model_name) return std::move(request);
  return Status(Code::kNotFound, fmt::format("there is no model of that name; this server has "
                                             "\"{}\"",
                                             options_.model_name));
}

Result<Submission> ChatService::submit(ChatRequest request) {
  EngineRequest asked{.system = std::move(request.system),
                      .earlier = std::move(request.earlier),
                      .question = std::move(request.question),
                      .sampling = request.sampling,
                      .stop = std::move(request.stop)};
  if (!request.media.empty()) {
    if (engine_->processor() == nullptr)
      return Status(Code::kInvalidArgument,
                    "the model reads text alone: ask it without pictures and videos");
    const Turn turn(decoders_);
    VKV_TRY_ASSIGN(inputs, source_.load(request.media, *engine_->processor()));
    asked.inputs = std::move(inputs);
  }
  return engine_->submit(std::move(asked));
}

ChatStart ChatService::start(std::string_view body) {
  Result<ChatRequest> request = read(body);
  if (!request.ok()) {
    const bool no_model = request.status().code() == Code::kNotFound;
    return refused(no_model ? 404 : request_status(request.status()), request.status().message());
  }
  ChatStart start = {
      .label = {.id = fmt::format("chatcmpl-{:08x}{:08x}", id_base_, request_count_.fetch_add(1)),
                .model = options_.model_name,
                .created = seconds_since_1970()},
      .stream = request.value().stream,
      .include_usage = request.value().include_usage};
  const Result<Submission> submission = submit(std::move(request.value()));
  if (!submission.ok())
    return refused(request_status(submission.status()), submission.status().message());
  start.reply = submission.value().reply;
  if (start.reply != nullptr) return start;
  ChatStart full = refused(429, fmt::format("the server is full; try again in {} s",
                                            submission.value().retry_after_seconds));
  full.retry_after_seconds = submission.value().retry_after_seconds;
  return full;
}

std::string ChatService::models_text() const {
  return models_json({.model = options_.model_name, .created = opened_at_});
}

}  // namespace vkv
