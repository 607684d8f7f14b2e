// media_ahead.cpp: media that a thread of their own decodes while the model computes.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/media_ahead.h"

#include <chrono>
#include <utility>

namespace vkv {
namespace {

uint64_t bytes_of(const Result<std::vector<VisualInput>>& piece) {
  uint64_t bytes = 0;
  if (piece.ok())
    for (const VisualInput& input : piece.value()) bytes += input.values.size() * sizeof(float);
  return bytes;
}

// Whether nothing comes behind it.
bool is_last(const Result<std::vector<VisualInput>>& piece) {
  return !piece.ok() || piece.value().empty();
}

}  // namespace

MediaAhead::MediaAhead(std::unique_ptr<MediaSource> source, uint64_t bytes_max)
    : source_(std::move(source)), bytes_max_(bytes_max), thread_([this] { run(); }) {}

MediaAhead::~MediaAhead() {
  stop_ = true;
  {
    const std::lock_guard lock(mutex_);  // so that the thread either sees it or already waits
  }
  changed_.notify_all();
  thread_.join();
}

void MediaAhead::run() {
  while (true) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stop_ || ready_bytes_ < bytes_max_; });
    }
    if (stop_) return;
    Piece piece = source_->next({.cancel = &stop_});
    const bool last = is_last(piece);
    {
      const std::lock_guard lock(mutex_);
      ready_bytes_ += bytes_of(piece);
      ready_.push_back(std::move(piece));
    }
    changed_.notify_all();
    if (last) return;
  }
}

Result<std::vector<VisualInput>> MediaAhead::next(const Watch& watch) {
  std::unique_lock lock(mutex_);
  while (ready_.empty()) {
    VKV_TRY(watch.check());
    changed_.wait_for(lock, std::chrono::milliseconds(100), [&] { return !ready_.empty(); });
  }
  if (is_last(ready_.front())) return ready_.front();
  Piece piece = std::move(ready_.front());
  ready_.pop_front();
  ready_bytes_ -= bytes_of(piece);
  changed_.notify_all();
  return piece;
}

}  // namespace vkv
