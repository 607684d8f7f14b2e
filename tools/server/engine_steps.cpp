// engine_steps.cpp: what the engine computes in a round.
// SPDX-License-Identifier: Apache-2.0
#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "tools/server/engine.h"
#include "tools/server/ticket.h"

namespace vkv {
namespace {

constexpr double kStepSmoothing = 0.1;  // weight of the newest step in the mean of lately
constexpr double kBitsPerByte = 8;

uint64_t byte_count(const SequenceStats& stats) {
  double bits = 0;
  for (const RoleStats& role : stats.role)
    bits += static_cast<double>(role.stored_bits + role.original_bits);
  return static_cast<uint64_t>(bits / kBitsPerByte);
}

}  // namespace

void Engine::prefill_piece() {
  Ticket& ticket = *prefilling_.front();
  const bool needs_media = ticket.key && ticket.prefix == nullptr;
  ticket.status = needs_media ? media_piece(ticket) : answer_piece(ticket);
  if (!ticket.status.ok() || ticket.is_complete) {
    end(ticket);
    prefilling_.clear();
  } else if (ticket.answer && !ticket.answer->reads_prompt()) {
    running_.splice(running_.end(), prefilling_);
  }
}

// One picture, or one window of their tokens.
Status Engine::media_piece(Ticket& ticket) {
  if (share_prefix(ticket) || restore_prefix(ticket)) return {};
  std::vector<VisualInput>& inputs = ticket.request.inputs;
  if (ticket.encoded < inputs.size()) {
    const std::span<const VisualInput> one(&inputs[ticket.encoded], 1);
    VKV_TRY_ASSIGN(media, host_.generator->encode_media(one, ticket.watch()));
    ticket.media.shapes.push_back(one[0].shape);
    ticket.media.embeddings.insert(ticket.media.embeddings.end(), media.embeddings.begin(),
                                   media.embeddings.end());
    inputs[ticket.encoded++].values = {};  // of no more use
    return {};
  }
  if (!ticket.ingest) {
    VKV_TRY_ASSIGN(ingest, host_.generator->begin_ingest(ticket.media, ticket.request.system));
    ticket.ingest.emplace(std::move(ingest));
  }
  VKV_TRY(host_.model->forward(*host_.cache, ticket.ingest->next(), ticket.watch()).status());
  ticket.ingest->advance();
  if (!ticket.ingest->finished()) return {};
  const MediaPrefix prefix = Generator::finish_ingest(std::move(*ticket.ingest));
  ticket.ingest.reset();
  ticket.media = {};
  add_prefix(ticket, prefix);
  keep(prefix, *ticket.key);
  return {};
}

bool Engine::share_prefix(Ticket& ticket) {
  if (ticket.encoded > 0) return false;  // only one is prefilled at a time: nobody else made it
  const std::lock_guard lock(mutex_);
  ticket.prefix = prefixes_.use(*ticket.key);
  if (ticket.prefix == nullptr) return false;
  if (ticket.shares_prefix)
    prefixes_.give_back(*ticket.key);  // it was a user already
  else
    reserved_ -= ticket.prefix_need;  // who made it has set that aside
  ticket.shares_prefix = true;
  forget_pixels(ticket);
  ticket.cached_tokens = ticket.size.media_tokens;
  return true;
}

bool Engine::restore_prefix(Ticket& ticket) {
  if (!host_.cache->options().keep_store || std::exchange(ticket.looked_in_store, true))
    return false;
  const Result<MediaPrefix> kept =
      host_.generator->resume(ticket.shapes, *ticket.key, ticket.request.system);
  if (!kept.ok()) {
    if (kept.status().code() != Code::kNotFound)
      spdlog::warn("the KV of media is computed anew: {}", kept.status().message());
    return false;
  }
  spdlog::info("media: {} tokens from the store in {:.3f} s", kept.value().token_count,
               kept.value().prefill_seconds);
  metrics_.count_restored_prefix();
  ticket.cached_tokens = ticket.size.media_tokens;
  add_prefix(ticket, kept.value());
  return true;
}

void Engine::add_prefix(Ticket& ticket, const MediaPrefix& prefix) {
  const std::lock_guard lock(mutex_);
  ticket.prefix = prefixes_.add(*ticket.key, prefix, ticket.prefix_need);
  ticket.shares_prefix = true;  // what was set aside for it is the table's now
  forget_pixels(ticket);
}

// Answers do not depend on it, so a full disk or a damaged store is no reason to fail. The oldest
// make room.
void Engine::keep(const MediaPrefix& prefix, const SequenceKey& key) {
  if (!host_.cache->options().keep_store) return;
  const auto keep_it = [&]() -> Status {
    VKV_TRY_ASSIGN(stats, host_.cache->sequence_stats(prefix.sequence));
    VKV_TRY_ASSIGN(saved, host_.cache->saved());
    std::sort(saved.begin(), saved.end(), [](const SavedSequence& a, const SavedSequence& b) {
      return a.saved_at < b.saved_at;
    });
    uint64_t bytes = byte_count(stats);
    for (const SavedSequence& sequence : saved) bytes += sequence.byte_count;
    for (const SavedSequence& sequence : saved) {
      if (bytes <= kept_bytes_max_) break;
      VKV_TRY(host_.cache->erase_saved(sequence.key));
      bytes -= sequence.byte_count;
    }
    if (bytes > kept_bytes_max_)
      return {Code::kOutOfMemory, "they are more than half of the NVMe budget"};
    return host_.generator->keep(prefix, key);
  };
  const Status kept = keep_it();
  if (!kept.ok()) spdlog::warn("the KV of media is not kept: {}", kept.message());
}

Status Engine::answer_piece(Ticket& ticket) {
  if (!ticket.answer) {
    VKV_TRY_ASSIGN(answer, ticket.prefix != nullptr
                               ? host_.generator->begin(ticket.question(), *ticket.prefix)
                               : host_.generator->begin(ticket.question(), Media()));
    ticket.answer.emplace(std::move(answer));
  }
  VKV_TRY_ASSIGN(logits, host_.model->forward(*host_.cache, ticket.answer->next(), ticket.watch()));
  take(ticket, logits);
  return {};
}

void Engine::decode_step() {
  const Stopwatch since_start;
  std::vector<ForwardRequest> batch;
  for (const auto& ticket : running_) batch.push_back(ticket->answer->next());
  const Result<std::vector<float>> logits = host_.model->forward(*host_.cache, batch, {});
  if (!logits.ok()) {  // their layers are out of step
    for (const auto& ticket : running_) {
      ticket->status = logits.status();
      end(*ticket);
    }
    running_.clear();
    return;
  }
  const size_t vocabulary = logits.value().size() / batch.size();
  size_t row = 0;
  for (auto it = running_.begin(); it != running_.end(); ++row) {
    const auto here = it++;
    const auto own = std::span(logits.value()).subspan(row * vocabulary, vocabulary);
    take(**here, own);
    if (!(*here)->is_complete) continue;
    end(**here);
    running_.erase(here);
  }
  const double seconds = since_start.seconds();
  metrics_.add_step(batch.size(), seconds);
  const std::lock_guard lock(mutex_);
  step_seconds_ += kStepSmoothing * (seconds - step_seconds_);
}

void Engine::take(Ticket& ticket, std::span<const float> logits) {
  AnswerInProgress& answer = *ticket.answer;
  const std::string piece = answer.take(logits);
  if (answer.reads_prompt()) return;
  ticket.reply->add(ticket.stop.push(piece));
  if (answer.sampled_count() == 1) {
    ticket.first_token_seconds = ticket.since_arrival.seconds();
    metrics_.add_first_token_seconds(ticket.first_token_seconds);
  }
  ticket.is_complete = answer.finished() || ticket.stop.stopped();
  if (!ticket.is_complete) return;
  ticket.reply->add(ticket.stop.finish());
  if (answer.sampled_count() > 1)
    metrics_.add_token_seconds((ticket.since_arrival.seconds() - ticket.first_token_seconds) /
                               static_cast<double>(answer.sampled_count() - 1));
}

}  // namespace vkv
