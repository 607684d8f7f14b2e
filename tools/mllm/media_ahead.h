// media_ahead.h: media that a thread of their own decodes while the model computes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "tools/mllm/media_source.h"

namespace vkv {

// The pieces of another source, some of them made before they are asked for.
class MediaAhead : public MediaSource {
 public:
  // A piece is begun while those that wait have fewer bytes than this.
  static constexpr uint64_t kBytesMax = uint64_t{256} << 20;

  explicit MediaAhead(std::unique_ptr<MediaSource> source, uint64_t bytes_max = kBytesMax);
  ~MediaAhead() override;  // stops the thread; waits for the frame that it decodes

  std::span<const VisualShape> shapes() const override { return source_->shapes(); }
  Result<std::vector<VisualInput>> next(const Watch& watch) override;

 private:
  using Piece = Result<std::vector<VisualInput>>;
  void run();

  const std::unique_ptr<MediaSource> source_;  // the thread's alone, but for its shapes
  const uint64_t bytes_max_;
  std::atomic<bool> stop_ = false;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Piece> ready_;  // the last one is empty or an error; guarded, as what follows
  uint64_t ready_bytes_ = 0;
  std::thread thread_;
};

}  // namespace vkv
