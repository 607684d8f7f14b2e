// ticket.h: a request on its way through the engine.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "runtime/base/stopwatch.h"
#include "tools/server/engine.h"
#include "tools/server/stop_text.h"

namespace vkv {

struct Engine::Ticket {
  explicit Ticket(EngineRequest asked)
      : request(std::move(asked)), reply(std::make_shared<Reply>()), stop(std::move(request.stop)) {
    for (const ChatExchange& exchange : request.earlier)
      earlier.push_back({exchange.question, exchange.answer});
  }

  Question question() const {
    return {.text = request.question,
            .earlier = earlier,
            .system = request.system,
            .sampling = request.sampling};
  }
  Watch watch() const { return {.cancel = &reply->cancelled()}; }

  EngineRequest request;
  std::vector<Exchange> earlier;  // the request's own words
  std::shared_ptr<Reply> reply;
  Stopwatch since_arrival;
  Generator::PromptSize size;
  std::optional<SequenceKey> key;  // of its media; none: text alone
  std::vector<VisualShape> shapes;
  uint64_t pixel_bytes = 0;  // of inputs, until they are of no more use

  // What is set aside for it. Of a prefix in the table the table has it.
  KvNeed question_need, prefix_need;
  bool has_room = false;
  bool has_started = false;
  bool shares_prefix = false;  // it is one of the table's users

  // The engine's thread alone.
  bool looked_in_store = false;
  Media media;         // as far as it is encoded
  size_t encoded = 0;  // inputs
  std::optional<PromptInProgress> ingest;
  const MediaPrefix* prefix = nullptr;  // the table's
  std::optional<AnswerInProgress> answer;
  StopText stop;
  uint64_t cached_tokens = 0;
  double first_token_seconds = 0;  // from arrival
  bool is_complete = false;        // the answer
  Status status;                   // why it ended before
};

}  // namespace vkv
