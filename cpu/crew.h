// crew.h: threads of teams that work on one loop, and stay awake for a while after it.
// SPDX-License-Identifier: Apache-2.0
//
// The workers of an arena go to sleep soon after the last task, and to wake all of them takes tens
// of microseconds: as much as the attention of a short layer. A crew's members are tasks of the
// arenas that spin until the next loop comes, or until none has come for the time given. Meanwhile
// they take whole cores: to be used where these have nothing else to do between layers, as when a
// GPU computes what lies between two attentions. Where no time is given, members leave after their
// loop. Members are bound to the CPUs of their team, and so do several teams work together.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "cpu/teams.h"

namespace vkv {

// Loops may be started from several threads; one at a time has the crew. Borrows the teams.
class Crew {
 public:
  Crew(const Teams& teams, std::chrono::microseconds awake)
      : teams_(teams), awake_(awake), members_(teams.count()) {}
  ~Crew();  // waits for its members to leave
  Crew(const Crew&) = delete;
  Crew& operator=(const Crew&) = delete;

  const Teams& teams() const { return teams_; }

  // Calls body(i) once for every i < ends.back(), and returns true when all are done; false, and
  // nothing done, while another loop runs: that of another thread, or one around this. Threads of
  // team n begin with [ends[n-1], ends[n]), and go on with those of the next. There may be fewer
  // ends than teams, one at least.
  template <class Body>
  bool run(std::span<const size_t> ends, const Body& body) {
    return run_loop(ends, &body,
                    [](const void* some, size_t i) { (*static_cast<const Body*>(some))(i); });
  }

  // What parallel_tasks() uses on this thread; nullptr: none.
  static Crew* current();

  // Makes a crew, or none, the current one until the end of a scope.
  class Scope {
   public:
    explicit Scope(Crew* crew);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Crew* const outer_;
  };

 private:
  using Call = void (*)(const void* body, size_t i);
  struct alignas(64) List {
    std::atomic<size_t> next{0};
    size_t end = 0;
  };
  struct Loop {
    std::vector<List> lists;
    const void* body;
    Call call;
  };

  bool run_loop(std::span<const size_t> ends, const void* body, Call call);
  static void take_part(Loop& loop, size_t team);
  void summon();
  void stay(size_t team);  // of a member, until it leaves

  const Teams& teams_;
  const std::chrono::microseconds awake_;
  std::atomic<bool> busy_{false};
  std::atomic<bool> leaving_{false};
  std::vector<std::atomic<int>> members_;  // of each team, that were called and have not left
  // A member that sees a new number goes inside and looks for the loop; whoever runs the loop takes
  // it away first and then waits until nobody is inside.
  std::atomic<uint64_t> loops_started_{0};
  std::atomic<Loop*> loop_{nullptr};
  std::atomic<int> inside_{0};
};

}  // namespace vkv
