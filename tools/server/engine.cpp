// engine.cpp: who gets in, and the thread that steps them.
// SPDX-License-Identifier: Apache-2.0
#include "tools/server/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "tools/server/ticket.h"
#include "tools/vkv/byte_size.h"
#include "tools/vkv/media_key.h"

namespace vkv {
namespace {

// Of the NVMe budget, what is for media that are kept; the rest is for blocks that DRAM lacks room
// for.
constexpr double kKeptFraction = 0.5;
constexpr int kRetrySecondsMax = 600;

}  // namespace

Engine::Engine(Host host, const SessionOptions& session, const EngineOptions& options)
    : host_(std::move(host)),
      session_(session),
      options_(options),
      budget_(host_.cache->options(), host_.cache->stats(), session.generator.window_tokens_max,
              host_.cache->options().keep_store ? 1 - kKeptFraction : 1),
      kept_bytes_max_(static_cast<uint64_t>(
          kKeptFraction * static_cast<double>(host_.cache->options().nvme_bytes_max))) {}

Result<std::unique_ptr<Engine>> Engine::open(const SessionOptions& session,
                                             const EngineOptions& options) {
  if (options.running_max < 1 || options.running_max > kBatchTokensMax || options.queue_max < 0 ||
      !(options.request_seconds_max > 0))
    return Status(Code::kInvalidArgument,
                  fmt::format("the engine runs 1 to {} requests at once, lets 0 or more wait, and "
                              "gives each some time",
                              kBatchTokensMax));
  VKV_TRY_ASSIGN(host, open_host(session));
  std::unique_ptr<Engine> engine(new Engine(std::move(host), session, options));
  const KvNeed least = sequence_need(engine->host_.cache->options(), {.other = 64, .generated = 16},
                                     session.generator.window_tokens_max);
  if (!engine->budget_.fits(least))
    return Status(Code::kInvalidArgument,
                  fmt::format("the budgets leave {} for requests, and a short one needs {}: raise "
                              "them, or lower --window-tokens",
                              byte_size_text(engine->budget_.bytes_max()),
                              byte_size_text(least.open_bytes + least.record_bytes)));
  engine->thread_ = std::thread([raw = engine.get()] { raw->run(); });
  return engine;
}

Engine::~Engine() { stop(0); }

Result<std::unique_ptr<Engine::Ticket>> Engine::make_ticket(EngineRequest request) const {
  auto ticket = std::make_unique<Ticket>(std::move(request));
  for (const VisualInput& input : ticket->request.inputs) {
    ticket->shapes.push_back(input.shape);
    ticket->pixel_bytes += input.values.size() * sizeof(float);
  }
  VKV_TRY_ASSIGN(size, host_.generator->size(ticket->question(), ticket->shapes));
  ticket->size = size;
  const CacheOptions& options = host_.cache->options();
  const int window = session_.generator.window_tokens_max;
  if (!ticket->shapes.empty()) {
    const std::string settings = fmt::format("{} window {} system {}", session_.media_settings,
                                             window, ticket->request.system);
    VKV_TRY_ASSIGN(key, media_key(session_.model, settings, ticket->request.inputs));
    ticket->key = key;
    ticket->prefix_need = sequence_need(
        options, {.visual = size.visual_tokens, .other = size.media_tokens - size.visual_tokens},
        window);
  }
  ticket->question_need =
      sequence_need(options,
                    {.other = size.question_tokens,
                     .generated = static_cast<uint64_t>(ticket->request.sampling.max_new_tokens),
                     .forked = size.media_tokens},
                    window);
  KvNeed all = ticket->question_need;
  all += ticket->prefix_need;
  if (budget_.fits(all)) return ticket;
  return Status(
      Code::kOutOfMemory,
      fmt::format("{} prompt tokens and {} new ones may need {} of KV; the server has {} "
                  "for all requests",
                  size.media_tokens + size.question_tokens, ticket->request.sampling.max_new_tokens,
                  byte_size_text(all.open_bytes + all.record_bytes),
                  byte_size_text(budget_.bytes_max())));
}

bool Engine::reserve(Ticket& ticket) {
  if (started_count_ + waiting_.size() >= static_cast<uint64_t>(options_.running_max)) return false;
  ticket.shares_prefix = ticket.key && prefixes_.use(*ticket.key) != nullptr;
  KvNeed need = ticket.question_need;
  if (!ticket.shares_prefix) need += ticket.prefix_need;
  KvNeed least = reserved_;  // with nothing that could go
  least -= prefixes_.idle_need();
  least += need;
  if (!budget_.fits(least)) {
    if (ticket.shares_prefix) prefixes_.give_back(*ticket.key);
    return ticket.shares_prefix = false;
  }
  reserved_ += need;
  while (!budget_.fits(reserved_)) {
    const auto dropped = prefixes_.drop_oldest();
    VKV_CHECK(dropped.has_value());
    reserved_ -= dropped->need;
    dropped_.push_back(dropped->prefix);  // out of the cache before anything new goes in
  }
  return ticket.has_room = true;
}

void Engine::give_back(Ticket& ticket) {
  if (!ticket.has_room) return;
  reserved_ -= ticket.question_need;
  if (ticket.shares_prefix)
    prefixes_.give_back(*ticket.key);
  else
    reserved_ -= ticket.prefix_need;
  ticket.has_room = false;
}

void Engine::forget_pixels(Ticket& ticket) {
  pixel_bytes_ -= std::exchange(ticket.pixel_bytes, 0);
  ticket.request.inputs.clear();
}

int Engine::retry_after_seconds() const {
  const double seconds = std::ceil(step_seconds_ * static_cast<double>(soonest_tokens_));
  return static_cast<int>(std::clamp(seconds, 1.0, double{kRetrySecondsMax}));
}

Result<Submission> Engine::submit(EngineRequest request) {
  VKV_TRY_ASSIGN(ticket, make_ticket(std::move(request)));
  const std::shared_ptr<Reply> reply = ticket->reply;
  const std::lock_guard lock(mutex_);
  if (stopping_) return Status(Code::kCancelled, "the server is stopping");
  const Submission full = {nullptr, retry_after_seconds()};
  const uint64_t pixel_bytes = ticket->pixel_bytes;
  if (pixel_bytes_ > 0 && pixel_bytes_ + pixel_bytes > options_.pixel_bytes_max) return full;
  if (queue_.empty() && reserve(*ticket))
    waiting_.push_back(std::move(ticket));
  else if (queue_.size() < static_cast<size_t>(options_.queue_max))
    queue_.push_back(std::move(ticket));
  else
    return full;
  pixel_bytes_ += pixel_bytes;
  work_.notify_one();
  return Submission{reply, 0};
}

void Engine::stop(double grace_seconds) {
  {
    const std::lock_guard lock(mutex_);
    if (!stopping_) since_stop_ = Stopwatch();
    stopping_ = true;
    stop_after_seconds_ = grace_seconds;
    work_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
}

Status Engine::ended_early(const Ticket& ticket) const {
  if (ticket.reply->cancelled()) return {Code::kCancelled, "nobody waits for the answer any more"};
  if (ticket.since_arrival.seconds() > options_.request_seconds_max)
    return {Code::kCancelled, fmt::format("the request took longer than {} s, the server's limit",
                                          options_.request_seconds_max)};
  if (stopping_ && since_stop_.seconds() > stop_after_seconds_)
    return {Code::kCancelled, "the server is stopping"};
  return {};
}

void Engine::take_ended(TicketList& tickets, TicketList& ended) const {
  for (auto it = tickets.begin(); it != tickets.end();) {
    const auto here = it++;
    (*here)->status = ended_early(**here);
    if (!(*here)->status.ok()) ended.splice(ended.end(), tickets, here);
  }
}

// First come, first served: a large request is not overtaken, or it might wait for ever.
void Engine::start_next() {
  while (!queue_.empty() && reserve(*queue_.front()))
    waiting_.splice(waiting_.end(), queue_, queue_.begin());
  if (prefilling_.empty() && !waiting_.empty()) {
    prefilling_.splice(prefilling_.end(), waiting_, waiting_.begin());
    prefilling_.front()->has_started = true;
    ++started_count_;
  }
  soonest_tokens_ = 0;
  for (const auto& ticket : running_) {
    const int64_t left = ticket->answer->sampled_count_max() - ticket->answer->sampled_count();
    if (soonest_tokens_ == 0 || left < soonest_tokens_) soonest_tokens_ = left;
  }
}

void Engine::run() {
  while (begin_round()) {
    if (!prefilling_.empty()) prefill_piece();
    if (!running_.empty()) decode_step();
  }
}

bool Engine::begin_round() {
  TicketList ended;
  std::vector<MediaPrefix> dropped;
  {
    std::unique_lock lock(mutex_);
    work_.wait(lock, [&] {
      return stopping_ || !queue_.empty() || !waiting_.empty() || !prefilling_.empty() ||
             !running_.empty();
    });
    for (TicketList* tickets : {&queue_, &waiting_, &prefilling_, &running_})
      take_ended(*tickets, ended);
    if (ended.empty()) start_next();
    dropped.swap(dropped_);
    if (stopping_ && ended.empty() && prefilling_.empty() && running_.empty()) return false;
  }
  for (const auto& ticket : ended) end(*ticket);
  // It fails only for a sequence that is not there.
  for (const MediaPrefix& prefix : dropped) (void)host_.generator->release(prefix);
  return true;
}

void Engine::end(Ticket& ticket) {
  ReplyEnd end = {.status = ticket.status};
  if (ticket.answer) {
    end.hit_length =
        !ticket.stop.stopped() && ticket.answer->finish_reason() == FinishReason::kLength;
    end.usage.answer_tokens = ticket.answer->tokens().size();
  }
  end.usage.prompt_tokens = ticket.size.media_tokens + ticket.size.question_tokens;
  end.usage.cached_tokens = ticket.cached_tokens;
  if (ticket.status.ok()) metrics_.count_answered(end.usage);
  if (ticket.reply->cancelled()) metrics_.count_cancelled();
  ticket.answer.reset();
  ticket.ingest.reset();
  {
    const std::lock_guard lock(mutex_);
    give_back(ticket);
    forget_pixels(ticket);
    if (ticket.has_started) --started_count_;
  }
  ticket.reply->finish(std::move(end));
}

ServerGauges Engine::gauges() const {
  const std::lock_guard lock(mutex_);
  return {.queued = queue_.size(),
          .waiting = waiting_.size(),
          .running = started_count_,
          .prefixes = prefixes_.count(),
          .reserved_bytes = reserved_.open_bytes + reserved_.record_bytes,
          .reserved_bytes_max = budget_.bytes_max()};
}

std::string Engine::metrics_text() const {
  return metrics_.text(gauges()) + cache_metrics(host_.cache->stats());
}

}  // namespace vkv
