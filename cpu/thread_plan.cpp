// thread_plan.cpp: CPUs by node, threads by CPUs.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/thread_plan.h"

#include <algorithm>
#include <set>

#include "cpu/threads.h"
#include "cpu/topology.h"

namespace vkv {
namespace {

int count_of(const ThreadRequest& request, int usable) {
  return request.threads > 0 ? std::min(request.threads, usable)
                             : std::max(1, usable - request.spare);
}

// A team for each node with CPUs for this process, as yet without threads. Memory on the package
// (HBM) is a node beside the CPUs of another: they are that other's.
std::vector<TeamPlan> teams_of(const Topology& topology) {
  std::vector<TeamPlan> teams;
  std::set<int> taken;
  for (const NumaNode& node : topology.nodes) {
    TeamPlan team = {.node = node.os_index, .thread_count = 0};
    for (const int cpu : node.allowed_cpus)
      if (taken.insert(cpu).second) team.cpus.push_back(cpu);
    if (!team.cpus.empty()) teams.push_back(std::move(team));
  }
  return teams;
}

// Each to the team that then has the fewest threads a CPU; the first among equals.
void hand_out(int threads, std::vector<TeamPlan>& teams) {
  for (int i = 0; i < threads; ++i)
    ++std::min_element(teams.begin(), teams.end(), [](const TeamPlan& a, const TeamPlan& b) {
        return static_cast<size_t>(a.thread_count + 1) * b.cpus.size() <
               static_cast<size_t>(b.thread_count + 1) * a.cpus.size();
      })->thread_count;
}

}  // namespace

int ThreadPlan::thread_count() const {
  int count = 0;
  for (const TeamPlan& team : teams) count += team.thread_count;
  return count;
}

ThreadPlan plan_threads(const Topology& topology, const ThreadRequest& request) {
  const int usable = topology.usable_thread_count();
  int threads = count_of(request, usable);
  std::vector<TeamPlan> teams = teams_of(topology);
  const bool has_gpu_node = topology.nodes.size() > 1 && request.gpu_node != kUnknownNode;
  ThreadPlan plan;
  if (has_gpu_node) plan.memory_nodes = {request.gpu_node};

  // 1. Near a GPU all that is read lies on one node: its CPUs first, and others only if asked for.
  const auto near = std::find_if(teams.begin(), teams.end(), [&](const TeamPlan& team) {
    return has_gpu_node && team.node == request.gpu_node;
  });
  if (near != teams.end()) {
    const int cpus = static_cast<int>(near->cpus.size());
    if (request.threads == 0) threads = count_of(request, std::min(cpus, usable));
    near->thread_count = std::min(threads, cpus);
    threads -= near->thread_count;
    plan.teams.push_back(std::move(*near));
    teams.erase(near);
  } else if (teams.size() < 2) {
    plan.teams.push_back({.thread_count = threads});
    return plan;
  }

  // 2. All others by their CPUs.
  hand_out(threads, teams);
  for (TeamPlan& team : teams)
    if (team.thread_count > 0) plan.teams.push_back(std::move(team));
  if (!has_gpu_node && plan.teams.size() > 1)
    for (const TeamPlan& team : plan.teams) plan.memory_nodes.push_back(team.node);
  return plan;
}

ThreadPlan plan_threads_here(const ThreadRequest& request) {
  // hwloc takes some 10 ms, and the nodes of a machine stay what they are.
  static const bool several_nodes = [] {
    const Result<Topology> topology = read_topology();
    return topology.ok() && topology.value().nodes.size() > 1;
  }();
  if (several_nodes) {
    const Result<Topology> topology = read_topology();
    if (topology.ok()) return plan_threads(topology.value(), request);
  }
  return {.teams = {{.thread_count = count_of(request, usable_threads())}}};
}

ThreadPlan one_team(int threads) { return {.teams = {{.thread_count = worker_threads(threads)}}}; }

}  // namespace vkv
