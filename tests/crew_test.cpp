// crew_test: a crew calls every index once, whoever else is there, each team its own first, and
// leaves when it is not needed. SPDX-License-Identifier: Apache-2.0
#include "cpu/crew.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <tbb/global_control.h>

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
  const Teams teams({.teams = {{.thread_count = 2}}});
  Crew crew(teams, 500us);
  for (const auto rest : {0us, 100us, 3000us}) {
    for (int round = 0; round < 50; ++round) {
      for (const size_t count : {size_t{0}, size_t{1}, size_t{2}, size_t{100}})
        expect_each_once(count, [&](const auto& body) { EXPECT_TRUE(crew.run({{count}}, body)); });
      std::this_thread::sleep_for(rest);
    }
  }
}

TEST(crew, what_the_caller_wrote_before_is_seen_and_what_members_wrote_is_seen_after) {
  const Teams teams({.teams = {{.thread_count = 2}}});
  Crew crew(teams, 1000us);
  std::vector<int> in(64), out(64);
  for (int round = 0; round < 200; ++round) {
    for (int& x : in) x = round;
    EXPECT_TRUE(crew.run({{out.size()}}, [&](size_t i) { out[i] = in[i] + 1; }));
    for (const int x : out) EXPECT_EQ(x, round + 1);
  }
}

TEST(crew, a_loop_inside_a_loop_is_done_without_the_crew) {
  const Teams teams({.teams = {{.thread_count = 2}}});
  Crew crew(teams, 500us);
  teams.arena(0).execute([&] {
    const Crew::Scope scope(&crew);
    std::atomic<int> calls = 0;
    parallel_tasks(4, 1e9, [&](size_t) { parallel_tasks(5, 1e9, [&](size_t) { ++calls; }); });
    EXPECT_EQ(calls, 20);
  });
  EXPECT_EQ(Crew::current(), nullptr);
}

TEST(crew, callers_on_several_threads_all_get_their_work_done) {
  const Teams teams({.teams = {{.thread_count = 2}}});
  Crew crew(teams, 500us);
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
  const Teams teams({.teams = {{.thread_count = 2}}});
  for (int round = 0; round < 20; ++round) {
    Crew crew(teams, 1000000us);
    if (round % 2 == 0) {
      EXPECT_TRUE(crew.run({{size_t{1}}}, [](size_t) {}));
    }
  }
}

// CPUs of this thread's mask.
std::vector<int> allowed_cpus() {
  cpu_set_t mask;
  EXPECT_EQ(sched_getaffinity(0, sizeof(mask), &mask), 0);
  std::vector<int> cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
    if (CPU_ISSET(cpu, &mask)) cpus.push_back(cpu);
  return cpus;
}

// Two nodes with a CPU and two threads each, as if this machine had them.
ThreadPlan two_teams(const std::vector<int>& cpus) {
  return {.teams = {{.node = 0, .thread_count = 2, .cpus = {cpus.front()}},
                    {.node = 1, .thread_count = 2, .cpus = {cpus.back()}}},
          .memory_nodes = {0, 1}};
}

// So that a machine of two CPUs has workers for two teams.
const tbb::global_control kThreads(tbb::global_control::max_allowed_parallelism, 5);

TEST(crew, teams_call_each_index_once_awake_or_not) {
  const Teams teams(two_teams(allowed_cpus()));
  EXPECT_EQ(teams.thread_count(), 4);
  for (const auto awake : {0us, 500us}) {
    Crew crew(teams, awake);
    for (int round = 0; round < 100; ++round) {
      const std::vector<size_t> ends[] = {{0}, {1}, {100}, {0, 0}, {0, 7}, {7, 7}, {3, 100}};
      for (const std::vector<size_t>& some : ends)
        expect_each_once(some.back(), [&](const auto& body) { EXPECT_TRUE(crew.run(some, body)); });
      if (round % 10 == 0) std::this_thread::sleep_for(1ms);
    }
  }
}

TEST(crew, workers_are_bound_while_they_are_in_a_team_and_the_caller_never_is) {
  const std::vector<int> cpus = allowed_cpus();
  if (cpus.size() < 2) GTEST_SKIP() << "one CPU";
  const Teams teams(two_teams(cpus));
  Crew crew(teams, 2000us);
  const auto caller = std::this_thread::get_id();
  std::atomic<int> calls_of_workers = 0, calls_far = 0;
  const auto deadline = std::chrono::steady_clock::now() + 10s;
  while (calls_of_workers < 200 && std::chrono::steady_clock::now() < deadline) {
    EXPECT_TRUE(crew.run({{size_t{20}, size_t{40}}}, [&](size_t i) {
      const auto end = std::chrono::steady_clock::now() + 50us;
      while (std::chrono::steady_clock::now() < end) {
      }
      if (std::this_thread::get_id() == caller) {
        EXPECT_EQ(allowed_cpus(), cpus);
        return;
      }
      const std::vector<int> bound = allowed_cpus();
      ++calls_of_workers;
      EXPECT_EQ(bound.size(), 1u);
      // Another team's are taken when one's own are done.
      calls_far += bound.front() != (i < 20 ? cpus.front() : cpus.back());
    }));
  }
  EXPECT_GE(calls_of_workers, 200);
  EXPECT_LT(calls_far, calls_of_workers / 2);

  // Outside, the same workers have all CPUs again.
  tbb::task_arena elsewhere(4);
  std::this_thread::sleep_for(5ms);
  elsewhere.execute(
      [&] { tbb::parallel_for(0, 100, [&](int) { EXPECT_EQ(allowed_cpus(), cpus); }); });
}

TEST(crew, teams_know_nodes_and_where_the_caller_is) {
  const std::vector<int> cpus = allowed_cpus();
  const Teams teams({.teams = {{.node = 2, .cpus = {cpus.back()}}, {.node = 5, .cpus = cpus}}});
  EXPECT_EQ(teams.team_of_node(2), 0u);
  EXPECT_EQ(teams.team_of_node(5), 1u);
  EXPECT_EQ(teams.team_of_node(0), teams.count());
  EXPECT_EQ(teams.team_of_node(kUnknownNode), teams.count());
  std::thread([&] {
    cpu_set_t mask;
    CPU_ZERO(&mask);
    CPU_SET(cpus.front(), &mask);
    ASSERT_EQ(sched_setaffinity(0, sizeof(mask), &mask), 0);
    EXPECT_EQ(teams.team_of_caller(), cpus.size() > 1 ? 1u : 0u);
  }).join();
}

}  // namespace
}  // namespace vkv
