// parallel.h: a loop over independent tasks on the threads of the current arena.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <span>
#include <vector>

#include "cpu/crew.h"
#include "vkv/status.h"

namespace vkv {

// Threads that may take part in a loop begun here.
inline size_t loop_threads() {
  const Crew* const crew = Crew::current();
  return static_cast<size_t>(crew != nullptr ? crew->teams().thread_count()
                                             : tbb::this_task_arena::max_concurrency());
}

// Calls body(i) once for every i < ends.back(). Returns when all are done.
//
// Threads take the next i from a counter: tasks are few and of very different lengths. Those of
// team n begin with [ends[n-1], ends[n]), where a crew of several teams is at work. `work` is an
// estimate of all tasks together in nanoseconds: what takes less than waking a thread stays here.
// The counter also orders what the caller wrote before what the tasks read, and what they wrote
// before what the caller reads, in a way that sanitizers understand: libtbb is not instrumented. A
// crew, where there is one, does the same.
template <class Body>
void parallel_team_tasks(std::span<const size_t> ends, double work_ns, const Body& body) {
  constexpr double kWakeNs = 20e3;  // libtbb 2021.8 on 2 cores: 5 to 20 us
  const size_t count = ends.back(), threads = std::min(count, loop_threads());
  if (threads <= 1 || work_ns < 2 * kWakeNs) {
    for (size_t i = 0; i < count; ++i) body(i);
    return;
  }
  if (Crew* const crew = Crew::current(); crew != nullptr && crew->run(ends, body)) return;
  std::atomic<size_t> next;
  next.store(0, std::memory_order_release);
  tbb::parallel_for(
      size_t{0}, threads,
      [&](size_t) {
        for (;;) {
          const size_t i = next.fetch_add(1, std::memory_order_acq_rel);
          if (i >= count) return;
          body(i);
        }
      },
      tbb::simple_partitioner());
  (void)next.load(std::memory_order_acquire);
}

// The same for tasks that are near to no team more than to another.
template <class Body>
void parallel_tasks(size_t count, double work_ns, const Body& body) {
  parallel_team_tasks(std::span<const size_t>(&count, 1), work_ns, body);
}

// The same for a body that may fail. The error of the lowest i wins, so that the same input gives
// the same message; the others are computed all the same.
template <class Body>
Status parallel_status(size_t count, double work_ns, const Body& body) {
  std::vector<Status> statuses(count);
  parallel_tasks(count, work_ns, [&](size_t i) { statuses[i] = body(i); });
  for (Status& status : statuses)
    if (!status.ok()) return std::move(status);
  return {};
}

}  // namespace vkv
