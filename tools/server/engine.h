// engine.h: many requests at once on one model and one cache: start here.
// SPDX-License-Identifier: Apache-2.0
//
// One thread owns the model and steps all requests. In each round it brings in one piece of one
// prompt (a picture through the vision tower, or a window of at most window_tokens_max tokens) and
// then one token of every answer that runs, as one batch: no answer waits longer than one piece.
//
// A request starts when all the memory that it can need at most is set aside (kv_need.h). Until
// then it waits in a queue of bounded length, first come first served; when that is full too, it
// is refused with the time to wait. So requests that run never fail for want of memory.
//
// Media are a prefix of their own, which later requests with the same media share (prefix_table.h)
// and which the cache's store keeps beyond the process (Cache::save), where it is kept. Answers do
// not depend on whether they were there.
#pragma once

#include <condition_variable>
#include <deque>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "runtime/base/stopwatch.h"
#include "tools/server/chat_request.h"
#include "tools/server/kv_need.h"
#include "tools/server/metrics.h"
#include "tools/server/prefix_table.h"
#include "tools/server/reply.h"
#include "tools/vkv/host.h"
#include "vkv/status.h"

namespace vkv {

struct EngineOptions {
  int running_max = 16;              // requests in prefill or decode; up to kBatchTokensMax
  int queue_max = 64;                // requests that wait for room; 0: none does
  double request_seconds_max = 600;  // from arrival; then it ends with an error
  // Pixels of requests whose media are not read yet; one request may exceed it alone.
  uint64_t pixel_bytes_max = uint64_t{4} << 30;
};

struct EngineRequest {
  std::string system;  // may be empty
  std::vector<ChatExchange> earlier;
  std::string question;
  std::vector<VisualInput> inputs;  // of all media, in order
  Sampling sampling;
  std::vector<std::string> stop;
};

// Null: running and queue are full; some room is expected after the time.
struct Submission {
  std::shared_ptr<Reply> reply;
  int retry_after_seconds = 0;
};

// Any thread may call.
class Engine {
 public:
  // Errors: those of open_host; kInvalidArgument for options out of range and budgets that no
  // request fits.
  static Result<std::unique_ptr<Engine>> open(const SessionOptions& session,
                                              const EngineOptions& options);
  ~Engine();  // cancels what runs

  // Errors: kInvalidArgument for a prompt that the model cannot take; kOutOfMemory for one that
  // exceeds the budgets even alone; kCancelled when the engine is stopping.
  Result<Submission> submit(EngineRequest request);

  // Takes nothing new, gives what runs and waits that much time to end, cancels the rest.
  void stop(double grace_seconds);

  std::string metrics_text() const;
  ServerMetrics& metrics() { return metrics_; }
  CacheStats cache_stats() const { return host_.cache->stats(); }
  ServerGauges gauges() const;

  const MediaProcessor* processor() const { return host_.processor ? &*host_.processor : nullptr; }
  const Host& host() const { return host_; }

 private:
  struct Ticket;  // a request on its way
  using TicketList = std::list<std::unique_ptr<Ticket>>;

  Engine(Host host, const SessionOptions& session, const EngineOptions& options);

  // ---- engine.cpp: who gets in, and the thread.
  Result<std::unique_ptr<Ticket>> make_ticket(EngineRequest request) const;
  // These hold the lock.
  bool reserve(Ticket& ticket);
  void give_back(Ticket& ticket);
  void forget_pixels(Ticket& ticket);
  int retry_after_seconds() const;
  Status ended_early(const Ticket& ticket) const;
  void take_ended(TicketList& tickets, TicketList& ended) const;
  void start_next();

  void run();
  bool begin_round();        // false: all is done, for ever
  void end(Ticket& ticket);  // frees all that it has, then says so

  // ---- engine_steps.cpp: what a round computes. On the engine's thread.
  void prefill_piece();
  Status media_piece(Ticket& ticket);
  Status answer_piece(Ticket& ticket);
  bool share_prefix(Ticket& ticket);  // with who has it already
  bool restore_prefix(Ticket& ticket);
  void add_prefix(Ticket& ticket, const MediaPrefix& prefix);
  void keep(const MediaPrefix& prefix, const SequenceKey& key);
  void decode_step();
  // Shows what the logits add.
  void take(Ticket& ticket, std::span<const float> logits);

  Host host_;
  const SessionOptions session_;
  const EngineOptions options_;
  const KvBudget budget_;
  const uint64_t kept_bytes_max_;  // on NVMe, of media that are kept
  ServerMetrics metrics_;

  mutable std::mutex mutex_;  // guards what follows, down to the thread's own
  std::condition_variable work_;
  KvNeed reserved_;
  PrefixTable prefixes_;
  std::vector<MediaPrefix> dropped_;  // taken out of the table, still in the cache
  TicketList queue_;                  // wait for room
  TicketList waiting_;                // have room
  uint64_t pixel_bytes_ = 0;          // of all that are not read yet
  uint64_t started_count_ = 0;        // of those in prefilling_ and running_
  int64_t soonest_tokens_ = 0;        // until the first of those that run ends, at most
  double step_seconds_ = 0.05;        // lately
  bool stopping_ = false;
  double stop_after_seconds_ = 0;
  Stopwatch since_stop_;

  // The thread's own.
  TicketList prefilling_;  // at most one
  TicketList running_;
  std::thread thread_;
};

}  // namespace vkv
