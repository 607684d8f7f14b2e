// crew.cpp: how members come, wait and leave.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/crew.h"

#include <immintrin.h>

#include <thread>

namespace vkv {
namespace {

thread_local Crew* current_crew = nullptr;

}  // namespace

Crew* Crew::current() { return current_crew; }

Crew::Scope::Scope(Crew* crew) : outer_(current_crew) { current_crew = crew; }
Crew::Scope::~Scope() { current_crew = outer_; }

Crew::~Crew() {
  leaving_ = true;
  while (members_ != 0) std::this_thread::yield();
}

bool Crew::run_loop(size_t count, const void* body, Call call) {
  if (busy_.exchange(true)) return false;
  summon();
  Loop loop = {.count = count, .body = body, .call = call};
  loop_ = &loop;
  ++loops_started_;
  take_part(loop);
  loop_ = nullptr;
  while (inside_ != 0) _mm_pause();
  busy_ = false;
  return true;
}

void Crew::take_part(Loop& loop) {
  for (;;) {
    const size_t i = loop.next.fetch_add(1);
    if (i >= loop.count) return;
    loop.call(loop.body, i);
  }
}

// Those who come late find the loop running, or wait for the next.
void Crew::summon() {
  const int wanted = arena_.max_concurrency() - 1;  // and the caller
  while (members_ < wanted) {
    ++members_;
    arena_.enqueue([this] { stay(); });
  }
}

void Crew::stay() {
  using Clock = std::chrono::steady_clock;
  const Scope no_crew(nullptr);
  uint64_t seen = 0;
  Clock::time_point last_work = Clock::now();
  while (!leaving_) {
    const uint64_t started = loops_started_;
    if (started == seen) {
      _mm_pause();
      if (Clock::now() - last_work > awake_) break;
      continue;
    }
    seen = started;
    ++inside_;
    if (Loop* const loop = loop_) take_part(*loop);
    --inside_;
    last_work = Clock::now();
  }
  --members_;
}

}  // namespace vkv
