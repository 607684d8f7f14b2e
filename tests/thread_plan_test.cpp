// Threads and memory go where a machine's nodes, limits and GPU say, on machines of any shape.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/thread_plan.h"

#include <gtest/gtest.h>

#include <numeric>
#include <string>

#include "cpu/threads.h"
#include "cpu/topology.h"

namespace vkv {
namespace {

Topology machine(const char* description) {
  const Result<Topology> topology = read_topology(description);
  EXPECT_TRUE(topology.ok()) << topology.status().message();
  return topology.ok() ? topology.value() : Topology();
}

// As an affinity mask, or a cgroup's cpuset, would: CPUs outside [first, last] are not allowed.
void allow_only(int first, int last, Topology& topology) {
  topology.allowed_pu_count = 0;
  for (NumaNode& node : topology.nodes) {
    std::erase_if(node.allowed_cpus, [&](int cpu) { return cpu < first || cpu > last; });
    topology.allowed_pu_count += static_cast<int>(node.allowed_cpus.size());
  }
}

// "node:threads/cpus" of each team, "-" for no node, then the nodes of memory.
std::string text_of(const ThreadPlan& plan) {
  std::string text;
  for (const TeamPlan& team : plan.teams)
    text += (team.node == kUnknownNode ? "-" : std::to_string(team.node)) + ":" +
            std::to_string(team.thread_count) + "/" + std::to_string(team.cpus.size()) + " ";
  text += "|";
  for (const int node : plan.memory_nodes) text += " " + std::to_string(node);
  return text;
}

TEST(thread_plan, one_node_has_one_team_that_the_system_places) {
  const Topology topology = machine("node:1 core:8 pu:2");
  EXPECT_EQ(text_of(plan_threads(topology, {})), "-:16/0 |");
  EXPECT_EQ(text_of(plan_threads(topology, {.spare = 1})), "-:15/0 |");
  EXPECT_EQ(text_of(plan_threads(topology, {.threads = 3, .spare = 1})), "-:3/0 |");
  EXPECT_EQ(text_of(plan_threads(topology, {.threads = 99})), "-:16/0 |");
  EXPECT_EQ(text_of(plan_threads(topology, {.spare = 99})), "-:1/0 |");
  // There is no other node that a GPU could be nearer to.
  EXPECT_EQ(text_of(plan_threads(topology, {.gpu_node = 0})), "-:16/0 |");
}

TEST(thread_plan, two_nodes_have_a_team_each_bound_to_its_own_cpus) {
  const ThreadPlan plan = plan_threads(machine("node:2 core:4 pu:2"), {});
  EXPECT_EQ(text_of(plan), "0:8/8 1:8/8 | 0 1");
  for (int team = 0; team < 2; ++team) {
    std::vector<int> cpus(8);
    std::iota(cpus.begin(), cpus.end(), 8 * team);
    EXPECT_EQ(plan.teams[static_cast<size_t>(team)].cpus, cpus);
  }
}

TEST(thread_plan, threads_are_handed_out_in_proportion_to_cpus) {
  const Topology four = machine("package:2 node:2 core:4 pu:1");
  EXPECT_EQ(text_of(plan_threads(four, {})), "0:4/4 1:4/4 2:4/4 3:4/4 | 0 1 2 3");
  EXPECT_EQ(text_of(plan_threads(four, {.spare = 2})), "0:4/4 1:4/4 2:3/4 3:3/4 | 0 1 2 3");
  EXPECT_EQ(text_of(plan_threads(four, {.threads = 6})), "0:2/4 1:2/4 2:1/4 3:1/4 | 0 1 2 3");
  EXPECT_EQ(text_of(plan_threads(four, {.threads = 2})), "0:1/4 1:1/4 | 0 1");
  EXPECT_EQ(text_of(plan_threads(four, {.threads = 1})), "0:1/4 |");

  Topology uneven = machine("node:2 core:8 pu:1");
  allow_only(0, 11, uneven);
  EXPECT_EQ(text_of(plan_threads(uneven, {})), "0:8/8 1:4/4 | 0 1");
  EXPECT_EQ(text_of(plan_threads(uneven, {.threads = 6})), "0:4/8 1:2/4 | 0 1");
}

TEST(thread_plan, no_plan_has_more_threads_than_cpus_or_forgets_one) {
  for (const char* description :
       {"node:1 core:3 pu:1", "node:2 core:3 pu:2", "node:4 core:5 pu:1", "node:3 core:1 pu:1"}) {
    for (int first = 0; first < 3; ++first) {
      for (int quota = 0; quota <= 21; ++quota) {
        Topology topology = machine(description);
        allow_only(first, 99, topology);
        topology.limits.cpus = quota;
        for (int threads = 0; threads <= 21; ++threads) {
          for (int gpu_node = kUnknownNode; gpu_node < 4; ++gpu_node) {
            const ThreadPlan plan =
                plan_threads(topology, {.threads = threads, .gpu_node = gpu_node});
            const int usable = topology.usable_thread_count();
            ASSERT_GE(plan.thread_count(), 1);
            ASSERT_LE(plan.thread_count(), usable);
            if (threads > 0) {
              ASSERT_EQ(plan.thread_count(), std::min(threads, usable));
            }
            for (const TeamPlan& team : plan.teams) {
              ASSERT_GE(team.thread_count, 1);
              if (team.node != kUnknownNode) {
                ASSERT_LE(team.thread_count, static_cast<int>(team.cpus.size()));
              }
            }
          }
        }
      }
    }
  }
}

TEST(thread_plan, a_mask_that_leaves_one_node_leaves_one_team) {
  Topology topology = machine("node:2 core:4 pu:1");
  allow_only(4, 7, topology);
  EXPECT_EQ(text_of(plan_threads(topology, {})), "-:4/0 |");
}

TEST(thread_plan, a_quota_counts_over_all_nodes) {
  Topology topology = machine("node:2 core:8 pu:1");
  topology.limits.cpus = 4.5;
  EXPECT_EQ(text_of(plan_threads(topology, {})), "0:3/8 1:2/8 | 0 1");
}

TEST(thread_plan, beside_a_gpu_threads_and_memory_are_near_it) {
  const Topology two = machine("node:2 core:4 pu:1");
  EXPECT_EQ(text_of(plan_threads(two, {.gpu_node = 1})), "1:4/4 | 1");
  EXPECT_EQ(text_of(plan_threads(two, {.spare = 1, .gpu_node = 1})), "1:3/4 | 1");
  EXPECT_EQ(text_of(plan_threads(two, {.threads = 2, .gpu_node = 1})), "1:2/4 | 1");
  // More than the node has, because somebody wants it so: memory stays where the GPU reads it.
  EXPECT_EQ(text_of(plan_threads(two, {.threads = 6, .gpu_node = 1})), "1:4/4 0:2/4 | 1");
  const Topology four = machine("node:4 core:2 pu:2");
  EXPECT_EQ(text_of(plan_threads(four, {.spare = 1, .gpu_node = 2})), "2:3/4 | 2");
}

TEST(thread_plan, a_gpu_whose_node_has_no_cpu_for_us_still_has_its_memory_there) {
  Topology topology = machine("node:2 core:4 pu:1");
  allow_only(0, 3, topology);
  EXPECT_EQ(text_of(plan_threads(topology, {.spare = 1, .gpu_node = 1})), "-:3/0 | 1");
}

TEST(thread_plan, a_gpu_that_is_near_to_no_node_changes_nothing) {
  const Topology two = machine("node:2 core:4 pu:1");
  EXPECT_EQ(text_of(plan_threads(two, {.gpu_node = kUnknownNode})), "0:4/4 1:4/4 | 0 1");
}

TEST(thread_plan, memory_on_the_package_is_no_node_of_its_own) {
  Topology topology = machine("node:1 core:4 pu:1");
  NumaNode package_memory = topology.nodes[0];
  package_memory.os_index = 1;  // hwloc gives it the CPUs that it is near to
  topology.nodes.push_back(package_memory);
  EXPECT_EQ(text_of(plan_threads(topology, {})), "-:4/0 |");
}

TEST(thread_plan, this_machine_gives_no_more_threads_than_are_usable) {
  const ThreadPlan plan = plan_threads_here({});
  EXPECT_EQ(plan.thread_count(), usable_threads());
  EXPECT_EQ(one_team(0).thread_count(), usable_threads());
  EXPECT_EQ(one_team(1).thread_count(), 1);
  EXPECT_EQ(plan_threads_here({.threads = 1}).thread_count(), 1);
}

}  // namespace
}  // namespace vkv
