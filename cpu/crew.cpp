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
  for (const std::atomic<int>& members : members_)
    while (members != 0) std::this_thread::yield();
}

bool Crew::run_loop(std::span<const size_t> ends, const void* body, Call call) {
  if (busy_.exchange(true)) return false;
  summon();
  Loop loop = {.lists = std::vector<List>(ends.size()), .body = body, .call = call};
  for (size_t i = 0; i < ends.size(); ++i) {
    loop.lists[i].next = i == 0 ? 0 : ends[i - 1];
    loop.lists[i].end = ends[i];
  }
  loop_ = &loop;
  ++loops_started_;
  take_part(loop, teams_.team_of_caller());
  loop_ = nullptr;
  while (inside_ != 0) _mm_pause();
  busy_ = false;
  return true;
}

void Crew::take_part(Loop& loop, size_t team) {
  const size_t count = loop.lists.size();
  for (size_t i = 0; i < count; ++i) {
    List& list = loop.lists[(team + i) % count];
    for (size_t task; (task = list.next.fetch_add(1)) < list.end;) loop.call(loop.body, task);
  }
}

// Those who come late find the loop running, or wait for the next.
void Crew::summon() {
  for (size_t team = 0; team < teams_.count(); ++team) {
    while (members_[team] < teams_.worker_count(team)) {
      ++members_[team];
      teams_.arena(team).enqueue([this, team] {
        stay(team);
        --members_[team];
      });
    }
  }
}

void Crew::stay(size_t team) {
  using Clock = std::chrono::steady_clock;
  const Scope no_crew(nullptr);
  const Teams::Membership membership(teams_, team);
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
    if (Loop* const loop = loop_) take_part(*loop, team);
    --inside_;
    last_work = Clock::now();
  }
}

}  // namespace vkv
