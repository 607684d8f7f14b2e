// crew_test: a crew calls every index once, whoever else is there, and leaves when it is not
// needed. SPDX-License-Identifier: Apache-2.0
#include "cpu/crew.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "cpu/parallel.h"

namespace vkv {
namespace {

using namespace std::chrono_literals;

void expect_each_once(size_t count, const auto& run) {
  std::vector<std::atomic<int>> calls(count);
  run([&](size_t i) { ++calls[i]; });
  for (const std::atomic<int>& one : calls) EXPECT_EQ(one, 1);
}

TEST(crew, each_index_is_called_once_however_often_it_works_and_rests) {
  tbb::task_arena arena(2);
  Crew crew(arena, 500us);
  for (const auto rest : {0us, 100us, 3000us}) {
    for (int round = 0; round < 50; ++round) {
      for (const size_t count : {size_t{0}, size_t{1}, size_t{2}, size_t{100}})
        expect_each_once(count, [&](const auto& body) { EXPECT_TRUE(crew.run(count, body)); });
      std::this_thread::sleep_for(rest);
    }
  }
}

TEST(crew, what_the_caller_wrote_before_is_seen_and_what_members_wrote_is_seen_after) {
  tbb::task_arena arena(2);
  Crew crew(arena, 1000us);
  std::vector<int> in(64), out(64);
  for (int round = 0; round < 200; ++round) {
    for (int& x : in) x = round;
    EXPECT_TRUE(crew.run(out.size(), [&](size_t i) { out[i] = in[i] + 1; }));
    for (const int x : out) EXPECT_EQ(x, round + 1);
  }
}

TEST(crew, a_loop_inside_a_loop_is_done_without_the_crew) {
  tbb::task_arena arena(2);
  Crew crew(arena, 500us);
  arena.execute([&] {
    const Crew::Scope scope(&crew);
    std::atomic<int> calls = 0;
    parallel_tasks(4, 1e9, [&](size_t) { parallel_tasks(5, 1e9, [&](size_t) { ++calls; }); });
    EXPECT_EQ(calls, 20);
  });
  EXPECT_EQ(Crew::current(), nullptr);
}

TEST(crew, callers_on_several_threads_all_get_their_work_done) {
  tbb::task_arena arena(2);
  Crew crew(arena, 500us);
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 3; ++caller)
    callers.emplace_back([&] {
      for (int round = 0; round < 100; ++round) {
        const Crew::Scope scope(&crew);
        expect_each_once(7, [&](const auto& body) { parallel_tasks(7, 1e9, body); });
      }
    });
  for (std::thread& caller : callers) caller.join();
}

TEST(crew, it_may_end_before_anyone_came) {
  tbb::task_arena arena(2);
  for (int round = 0; round < 20; ++round) {
    Crew crew(arena, 1000000us);
    if (round % 2 == 0) {
      EXPECT_TRUE(crew.run(1, [](size_t) {}));
    }
  }
}

}  // namespace
}  // namespace vkv
