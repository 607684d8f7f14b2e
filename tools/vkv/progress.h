// progress.h: one line on the terminal that says how far the work is.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace vkv {

enum class ProgressMode : uint8_t {
  kOff,
  kLine,  // one line, drawn over and over: a terminal
  kLog,   // a line of its own a second, at most: a file
};

// A terminal gets its line, a file only what was asked for with --progress; --quiet turns both off.
ProgressMode progress_mode(bool quiet, bool progress);

// Writes to stderr. One thread.
class Progress {
 public:
  explicit Progress(ProgressMode mode) : mode_(mode) {}
  ~Progress() { clear(); }

  // Job `index` of `count` begins; a count of 1 is not mentioned.
  void begin_job(uint64_t index, uint64_t count);

  // Begins a phase, "prefill"; `unit` is what update() counts, "tokens".
  void begin_phase(std::string_view phase, std::string_view unit);

  // total 0: unknown.
  void update(uint64_t done, uint64_t total);

  // Takes the line away, before something else is printed.
  void clear();

 private:
  using Clock = std::chrono::steady_clock;

  std::string job_text(Clock::time_point now) const;
  void draw(uint64_t done, uint64_t total, Clock::time_point now);

  ProgressMode mode_;
  uint64_t job_index_ = 0;
  uint64_t job_count_ = 0;
  std::string phase_, unit_;
  bool drawn_ = false;
  Clock::time_point start_ = Clock::now();
  Clock::time_point phase_start_ = start_;
  Clock::time_point last_draw_;
};

}  // namespace vkv
