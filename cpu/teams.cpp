// teams.cpp: arenas, and affinity masks of threads.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/teams.h"

#include <sched.h>

#include <algorithm>

#include "runtime/base/check.h"

namespace vkv {
namespace {

constexpr size_t kBitsOfWord = 8 * sizeof(unsigned long);

}  // namespace

CpuSet::CpuSet(const std::vector<int>& cpus) {
  for (const int cpu : cpus)
    if (const size_t bit = static_cast<size_t>(cpu); bit < bits_.size() * kBitsOfWord)
      bits_[bit / kBitsOfWord] |= 1ul << bit % kBitsOfWord;
}

CpuSet CpuSet::of_this_thread() {
  CpuSet set;
  auto* const mask = reinterpret_cast<cpu_set_t*>(set.bits_.data());
  return sched_getaffinity(0, sizeof(set.bits_), mask) == 0 ? set : CpuSet();
}

bool CpuSet::has(int cpu) const {
  const size_t bit = static_cast<size_t>(cpu);
  return bit < bits_.size() * kBitsOfWord && (bits_[bit / kBitsOfWord] >> bit % kBitsOfWord & 1);
}

bool CpuSet::is_empty() const {
  return std::all_of(bits_.begin(), bits_.end(), [](unsigned long word) { return word == 0; });
}

void CpuSet::bind_this_thread() const {
  if (is_empty()) return;
  (void)sched_setaffinity(0, sizeof(bits_), reinterpret_cast<const cpu_set_t*>(bits_.data()));
}

struct Teams::Team {
  // Slots that are not reserved for callers are for workers.
  Team(const TeamPlan& plan, bool is_first)
      : node(plan.node), cpus(plan.cpus), arena(plan.thread_count, is_first ? 1 : 0) {}

  const int node;
  const CpuSet cpus;
  tbb::task_arena arena;
};

Teams::Teams(const ThreadPlan& plan) : thread_count_(plan.thread_count()) {
  VKV_CHECK(!plan.teams.empty());
  for (const TeamPlan& team : plan.teams)
    teams_.push_back(std::make_unique<Team>(team, teams_.empty()));
}

Teams::~Teams() = default;

int Teams::thread_count(size_t team) const { return teams_[team]->arena.max_concurrency(); }

tbb::task_arena& Teams::arena(size_t team) const { return teams_[team]->arena; }

bool Teams::are_bound() const {
  return std::any_of(teams_.begin(), teams_.end(),
                     [](const auto& team) { return !team->cpus.is_empty(); });
}

Teams::Membership::Membership(const Teams& teams, size_t team) {
  const CpuSet& cpus = teams.teams_[team]->cpus;
  if (cpus.is_empty()) return;
  before_ = CpuSet::of_this_thread();
  cpus.bind_this_thread();
}

Teams::Membership::~Membership() { before_.bind_this_thread(); }

size_t Teams::team_of_node(int node) const {
  const auto found = std::find_if(teams_.begin(), teams_.end(), [&](const auto& team) {
    return node != kUnknownNode && team->node == node;
  });
  return static_cast<size_t>(found - teams_.begin());
}

size_t Teams::team_of_caller() const {
  if (count() == 1) return 0;
  const int cpu = sched_getcpu();
  const auto found = std::find_if(teams_.begin(), teams_.end(),
                                  [&](const auto& team) { return team->cpus.has(cpu); });
  return found == teams_.end() ? 0 : static_cast<size_t>(found - teams_.begin());
}

}  // namespace vkv
