// teams.h: an arena of threads for each team of a plan, and the CPUs that its members are bound to.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <tbb/task_arena.h>

#include <array>
#include <cstddef>
#include <memory>
#include <vector>

#include "cpu/thread_plan.h"

namespace vkv {

// CPUs by the system's numbers.
class CpuSet {
 public:
  CpuSet() = default;
  explicit CpuSet(const std::vector<int>& cpus);
  static CpuSet of_this_thread();  // empty where the system does not say

  bool has(int cpu) const;
  bool is_empty() const;
  void bind_this_thread() const;  // if not empty; where it may not be bound, it stays as it is

 private:
  std::array<unsigned long, 128> bits_{};  // 8,192 CPUs, as many as Linux knows on this hardware
};

// Thread-safe. The calling thread enters the arena of the first team, and stays unbound.
class Teams {
 public:
  explicit Teams(const ThreadPlan& plan);
  ~Teams();
  Teams(const Teams&) = delete;
  Teams& operator=(const Teams&) = delete;

  size_t count() const { return teams_.size(); }
  int thread_count() const { return thread_count_; }  // with the caller
  int thread_count(size_t team) const;
  // Threads that the arena has beside the caller's, who counts to the first.
  int worker_count(size_t team) const { return thread_count(team) - (team == 0 ? 1 : 0); }
  tbb::task_arena& arena(size_t team) const;

  bool are_bound() const;  // or the system places threads

  // A worker is one of a team until the end of a scope, and bound to its CPUs. Not for as long as
  // it is in the arena: workers belong to all arenas of the process, and leave this one when they
  // like.
  class Membership {
   public:
    Membership(const Teams& teams, size_t team);
    ~Membership();
    Membership(const Membership&) = delete;
    Membership& operator=(const Membership&) = delete;

   private:
    CpuSet before_;
  };

  // The team near this node's memory; count() where there is none.
  size_t team_of_node(int node) const;
  // The team near the CPU that the calling thread is on; the first where there is none.
  size_t team_of_caller() const;

 private:
  struct Team;

  std::vector<std::unique_ptr<Team>> teams_;
  int thread_count_ = 0;
};

}  // namespace vkv
