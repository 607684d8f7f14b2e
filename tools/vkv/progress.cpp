// progress.cpp: draws the line, at most ten times a second.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

namespace vkv {
namespace {

double seconds_between(std::chrono::steady_clock::time_point from,
                       std::chrono::steady_clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

std::string duration_text(double seconds) {
  const auto whole = static_cast<int64_t>(seconds + 0.5);
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02} min", whole / 3600, whole / 60 % 60);
}

}  // namespace

ProgressMode progress_mode(bool quiet, bool progress) {
  if (quiet) return ProgressMode::kOff;
  if (isatty(STDERR_FILENO) == 1) return ProgressMode::kLine;
  return progress ? ProgressMode::kLog : ProgressMode::kOff;
}

void Progress::begin_job(uint64_t index, uint64_t count) {
  if (job_count_ == 0) start_ = Clock::now();
  job_index_ = index;
  job_count_ = count;
}

void Progress::begin_phase(std::string_view phase, std::string_view unit) {
  phase_ = phase;
  unit_ = unit;
  phase_start_ = Clock::now();
  update(0, 0);
}

void Progress::update(uint64_t done, uint64_t total) {
  if (mode_ == ProgressMode::kOff) return;
  const Clock::time_point now = Clock::now();
  const double pause_seconds = mode_ == ProgressMode::kLine ? 0.1 : 1.0;
  if (last_draw_ != Clock::time_point() && seconds_between(last_draw_, now) < pause_seconds) return;
  last_draw_ = now;
  draw(done, total, now);
}

std::string Progress::job_text(Clock::time_point now) const {
  if (job_count_ <= 1) return {};
  std::string text = fmt::format("job {} of {}", job_index_ + 1, job_count_);
  const double seconds = seconds_between(start_, now);
  if (job_index_ > 0 && seconds > 0) {
    const double rate = static_cast<double>(job_index_) / seconds;
    text += fmt::format(", {:.2f} jobs/s, {} left", rate,
                        duration_text(static_cast<double>(job_count_ - job_index_) / rate));
  }
  return text + " | ";
}

void Progress::draw(uint64_t done, uint64_t total, Clock::time_point now) {
  std::string text = job_text(now) + phase_;
  if (total > 0) {
    text += fmt::format(" {} of {} {}", done, total, unit_);
  } else if (done > 0) {
    text += fmt::format(" {} {}", done, unit_);
  }
  const double seconds = seconds_between(phase_start_, now);
  if (done > 0 && seconds > 0.2) {
    const double rate = static_cast<double>(done) / seconds;
    text += fmt::format(", {:.1f} {}/s", rate, unit_);
    if (total > done)
      text += fmt::format(", {} left", duration_text(static_cast<double>(total - done) / rate));
  }
  // \r\x1b[K: back to the first column, and the rest of the line is erased.
  const bool line = mode_ == ProgressMode::kLine;
  std::fputs(line ? ("\r\x1b[K" + text).c_str() : (text + "\n").c_str(), stderr);
  std::fflush(stderr);
  drawn_ = line;
}

void Progress::clear() {
  if (!drawn_) return;
  std::fputs("\r\x1b[K", stderr);
  std::fflush(stderr);
  drawn_ = false;
}

}  // namespace vkv
