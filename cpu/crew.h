// crew.h: threads of an arena that stay awake for a while after each loop.
// SPDX-License-Identifier: Apache-2.0
//
// The workers of an arena go to sleep soon after the last task, and to wake all of them takes tens
// of microseconds: as much as the attention of a short layer. A crew's members are tasks of the
// arena that spin until the next loop comes, or until none has come for the time given. Meanwhile
// they take whole cores: to be used where these have nothing else to do between layers, as when a
// GPU computes what lies between two attentions.
#pragma once

#include <tbb/task_arena.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>

namespace vkv {

// Loops may be started from several threads; one at a time has the crew. Borrows the arena.
class Crew {
 public:
  Crew(tbb::task_arena& arena, std::chrono::microseconds awake) : arena_(arena), awake_(awake) {}
  ~Crew();  // waits for its members to leave
  Crew(const Crew&) = delete;
  Crew& operator=(const Crew&) = delete;

  // Calls body(i) once for every i < count, and returns true when all are done; false, and nothing
  // done, while another loop runs: that of another thread, or one around this.
  template <class Body>
  bool run(size_t count, const Body& body) {
    return run_loop(count, &body,
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
  struct Loop {
    size_t count;
    const void* body;
    Call call;
    std::atomic<size_t> next{0};
  };

  bool run_loop(size_t count, const void* body, Call call);
  static void take_part(Loop& loop);
  void summon();
  void stay();  // of a member, until it leaves

  tbb::task_arena& arena_;
  const std::chrono::microseconds awake_;
  std::atomic<bool> busy_{false};
  std::atomic<bool> leaving_{false};
  std::atomic<int> members_{0};  // that were called and have not left
  // A member that sees a new number goes inside and looks for the loop; whoever runs the loop takes
  // it away first and then waits until nobody is inside.
  std::atomic<uint64_t> loops_started_{0};
  std::atomic<Loop*> loop_{nullptr};
  std::atomic<int> inside_{0};
};

}  // namespace vkv
