// thread_plan.h: how many threads work near which memory: decided here, done by cpu/teams.h.
// SPDX-License-Identifier: Apache-2.0
//
// A machine of one node has one team of threads, which the system places. One of several has a team
// a node: its threads are bound to the node's CPUs, and blocks take turns on the nodes that have a
// team, so that each reads its own (cpu/attend_tiles.cpp). Threads are bound to a node, not to a
// CPU each: what counts is how far memory is, and two processes that both chose "the first four
// CPUs" would stand in each other's way while others are idle.
//
// Memory that a GPU reads lies on the node nearest to it, and so do the threads that attend beside
// that GPU.
#pragma once

#include <vector>

#include "runtime/base/numa_node.h"

namespace vkv {

struct Topology;

struct TeamPlan {
  int node = kUnknownNode;  // unknown: of the whole machine
  int thread_count = 1;
  std::vector<int> cpus;  // that its threads are bound to; empty: to none
};

struct ThreadPlan {
  // The calling thread works too, as one of the first; it is not bound.
  std::vector<TeamPlan> teams;
  std::vector<int> memory_nodes;  // that memory is taken from by turns; empty: the system decides

  int thread_count() const;  // of all teams
};

struct ThreadRequest {
  int threads = 0;              // 0: all that the process may use, but `spare`; never more
  int spare = 0;                // left to I/O, or to a caller who does not wait
  int gpu_node = kUnknownNode;  // nearest to the GPU that reads the memory
};

// At least one team, of one thread at least. Of the CPUs that the process may use, at most as many
// as its quotas are worth; teams in proportion to the CPUs of their nodes.
ThreadPlan plan_threads(const Topology& topology, const ThreadRequest& request);

// The same for this machine and the calling thread's affinity mask; one team where hwloc sees
// nothing.
ThreadPlan plan_threads_here(const ThreadRequest& request);

// One team of so many threads, as worker_threads() has it.
ThreadPlan one_team(int threads);

}  // namespace vkv
