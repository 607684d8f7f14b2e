// attend_tiles.cpp: splits items into tasks, one worker's tile attention each.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/attend_tiles.h"

#include <tbb/enumerable_thread_specific.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <vector>

#include "cpu/arena_backend.h"
#include "cpu/cpu_features.h"
#include "cpu/merge.h"
#include "cpu/parallel.h"
#include "cpu/products_amx.h"
#include "cpu/tile_worker.h"
#include "runtime/base/check.h"

namespace vkv {
namespace {

// Rows of a task. Unpacking a tile is paid once a task, so more is better; the working set of a
// task at head_dim 128, some 5 KiB a row, should stay in a second-level cache of 1 MiB.
constexpr int kTaskRows = 128;

const StripFunctions& strip_functions_for(const MatrixUnit& unit) {
  return use_avx512(unit) ? avx512::strip_functions() : avx2::strip_functions();
}

constexpr int kFewRows = 16;

size_t part_count(const AttendItem& item) {
  if (item.q_len * item.shape.group() > kFewRows) return 1;
  return std::max<size_t>(1, (item.blocks.size() + kTaskBlocks - 1) / kTaskBlocks);
}

size_t out_values(const AttendItem& item) {
  return static_cast<size_t>(item.q_len) * item.shape.q_heads * item.shape.head_dim;
}

size_t lse_values(const AttendItem& item) {
  return static_cast<size_t>(item.q_len) * item.shape.q_heads;
}

// All tasks of a call, and the merges of items that are cut by blocks.
struct Work {
  std::vector<AttendTask> tasks;
  std::vector<MergeItem> merges;
  std::vector<PartialView> partials;  // merges point into it
};

// partials: room for all parts but the first of each item, which is computed in place.
Work cut(std::span<const AttendItem> items, float* partials) {
  Work work;
  size_t part_total = 0;
  for (const AttendItem& item : items) part_total += part_count(item);
  work.partials.reserve(part_total);
  for (const AttendItem& item : items) {
    const size_t parts = part_count(item), first = work.partials.size();
    const int queries = std::max(1, kTaskRows / item.shape.group());
    for (size_t part = 0; part < parts; ++part) {
      AttendTask task = {.item = &item, .blocks = item.blocks, .out = item.out, .lse = item.lse};
      if (parts > 1) {
        const size_t begin = part * kTaskBlocks;
        task.blocks = item.blocks.subspan(begin, std::min(kTaskBlocks, item.blocks.size() - begin));
        task.open = part + 1 == parts;
      }
      if (part > 0) {
        task.out = partials;
        task.lse = partials + out_values(item);
        partials += out_values(item) + lse_values(item);
      }
      work.partials.push_back({task.out, task.lse});
      for (task.kv_head = 0; task.kv_head < item.shape.kv_heads; ++task.kv_head)
        for (int query = 0; query < item.q_len; query += queries) {
          task.query_begin = query;
          task.query_end = std::min(item.q_len, query + queries);
          work.tasks.push_back(task);
        }
    }
    if (parts > 1)
      work.merges.push_back({.head_dim = item.shape.head_dim,
                             .row_count = lse_values(item),
                             .partials = std::span(work.partials).subspan(first, parts),
                             .out = item.out,
                             .lse = item.lse});
  }
  return work;
}

// Tasks [next, end) of one thread: neighbours, whose bytes lie side by side, so that while one is
// computed the next one's are asked for. Threads that are done take from the ranges of others.
struct alignas(64) TaskRange {
  std::atomic<size_t> next{0};
  size_t end = 0;
};

// In about equal numbers of blocks.
void cut_into_ranges(std::span<const AttendTask> tasks, size_t first, std::span<TaskRange> ranges) {
  const auto weight = [](const AttendTask& task) { return task.blocks.size() + 1; };
  size_t total = 0;
  for (const AttendTask& task : tasks) total += weight(task);
  size_t task = 0, sum = 0;
  for (size_t i = 0; i < ranges.size(); ++i) {
    ranges[i].next = first + task;
    for (; task < tasks.size() && sum * ranges.size() < total * (i + 1); ++task)
      sum += weight(tasks[task]);
    ranges[i].end = first + task;
  }
}

// Ranges for each thread; those of team n are [ends[n-1], ends[n]).
struct TeamRanges {
  std::vector<TaskRange> ranges;
  std::vector<size_t> ends;
};

TeamRanges ranges_of_one(std::span<const AttendTask> tasks, size_t threads) {
  TeamRanges all = {.ranges = std::vector<TaskRange>(std::min(tasks.size(), threads)),
                    .ends = {std::min(tasks.size(), threads)}};
  cut_into_ranges(tasks, 0, all.ranges);
  return all;
}

// Orders tasks by the team near their blocks; those near none go where the least is to do. A thread
// whose team has none has an empty range, and begins with another's.
TeamRanges ranges_of_teams(std::vector<AttendTask>& tasks, const Teams& teams) {
  std::vector<std::vector<AttendTask>> of_team(teams.count());
  std::vector<size_t> blocks(teams.count());
  const auto give = [&](size_t team, const AttendTask& task) {
    of_team[team].push_back(task);
    blocks[team] += task.blocks.size() + 1;
  };
  for (const AttendTask& task : tasks)
    if (const size_t team = teams.team_of_node(task.item->node); team < teams.count())
      give(team, task);
  for (const AttendTask& task : tasks)
    if (teams.team_of_node(task.item->node) == teams.count())
      give(static_cast<size_t>(std::min_element(blocks.begin(), blocks.end()) - blocks.begin()),
           task);

  TeamRanges all = {.ranges = std::vector<TaskRange>(static_cast<size_t>(teams.thread_count()))};
  tasks.clear();
  size_t range = 0;
  for (size_t team = 0; team < teams.count(); ++team) {
    const size_t threads = static_cast<size_t>(teams.thread_count(team));
    cut_into_ranges(of_team[team], tasks.size(), std::span(all.ranges).subspan(range, threads));
    tasks.insert(tasks.end(), of_team[team].begin(), of_team[team].end());
    all.ends.push_back(range += threads);
  }
  return all;
}

// Where a thread with range `slot` looks in turn: its own, those of its team, those of the others.
size_t range_in_turn(size_t turn, size_t slot, const TeamRanges& all) {
  const size_t team = static_cast<size_t>(std::upper_bound(all.ends.begin(), all.ends.end(), slot) -
                                          all.ends.begin());
  const size_t begin = team == 0 ? 0 : all.ends[team - 1], count = all.ends[team] - begin;
  if (turn < count) return begin + (slot - begin + turn) % count;
  return (begin + turn) % all.ranges.size();
}

// Measured on one Zen 4 core: unpacking takes some 0.05 ns a value of K and V, and each row of
// queries as much again.
double attending_ns(const AttendItem& item) {
  double tokens = item.open.token_count;
  for (const BlockView& block : item.blocks) tokens += block.token_count;
  const double rows = static_cast<double>(item.q_len) * item.shape.group();
  return 0.05 * tokens * item.shape.kv_heads * item.shape.head_dim * (1 + rows);
}

class TileBackend final : public ArenaBackend {
 public:
  // engines: as in make_products().
  TileBackend(const ThreadPlan& plan, int awake_us, std::vector<TileEngine> engines,
              const MatrixUnit& unit)
      : ArenaBackend(plan, awake_us, strip_functions_for(unit)),
        engines_(std::move(engines)),
        unit_(unit),
        name_("cpu-" + std::string(vkv::name(engines_[0])) + " (" + std::string(unit.name) + ")"),
        workers_([this] { return std::make_unique<TileWorker>(engines_, unit_, kernels_); }) {}

  std::string_view name() const override { return name_; }

  Status attend(std::span<const AttendItem> items) override {
    double work_ns = 0;
    size_t partial_values = 0;
    for (const AttendItem& item : items) {
      VKV_TRY(check_attend(item));
      work_ns += attending_ns(item);
      partial_values += (part_count(item) - 1) * (out_values(item) + lse_values(item));
    }
    // The calling thread's, kept: memory that is new in each call costs more than the merge.
    std::vector<float>& partials = partials_.local();
    if (partials.size() < partial_values) partials.resize(partial_values);
    Work work = cut(items, partials.data());
    return in_arena([&]() -> Status {
      VKV_TRY(attend_tasks(work.tasks, work_ns));
      merge_partials(work.merges);
      return {};
    });
  }

 private:
  // Errors: the first task's that failed. Orders the tasks.
  Status attend_tasks(std::vector<AttendTask>& tasks, double work_ns) {
    if (tasks.empty()) return {};
    TeamRanges all = teams().count() > 1
                         ? ranges_of_teams(tasks, teams())
                         : ranges_of_one(tasks, static_cast<size_t>(teams().thread_count()));
    const size_t slots = all.ranges.size();
    struct Failure {
      size_t task = 0;
      Status status;
    };
    std::vector<Failure> failures(slots);
    parallel_team_tasks(all.ends, work_ns, [&](size_t slot) {
      TileWorker& worker = *workers_.local();
      for (size_t turn = 0; turn < slots; ++turn) {
        TaskRange& range = all.ranges[range_in_turn(turn, slot, all)];
        for (size_t task; (task = range.next.fetch_add(1)) < range.end;) {
          const AttendTask* const next = task + 1 < range.end ? &tasks[task + 1] : nullptr;
          Status status = worker.attention.attend(tasks[task], next);
          Failure& failure = failures[slot];
          if (!status.ok() && (failure.status.ok() || task < failure.task))
            failure = {task, std::move(status)};
        }
      }
      worker.products->release();  // the task that was expected may have gone to another thread
    });
    const Failure* first = nullptr;
    for (const Failure& failure : failures)
      if (!failure.status.ok() && (first == nullptr || failure.task < first->task))
        first = &failure;
    return first == nullptr ? Status() : first->status;
  }

  const std::vector<TileEngine> engines_;
  const MatrixUnit unit_;
  const std::string name_;
  BrgemmCache kernels_;
  tbb::enumerable_thread_specific<std::unique_ptr<TileWorker>> workers_;
  tbb::enumerable_thread_specific<std::vector<float>> partials_;
};

}  // namespace

std::string_view name(TileEngine engine) {
  switch (engine) {
    case TileEngine::kAmx:
      return "amx";
    case TileEngine::kVnni:
      return "vnni";
    case TileEngine::kAmxEmulated:
      return "amx-emulated";
    default:
      return "onednn";
  }
}

Status can_run(TileEngine engine) {
  const MatrixUnit unit = matrix_unit();
  const auto lacks = [&](const char* what) {
    return Status(Code::kUnsupported, "the " + std::string(name(engine)) + " engine needs " + what +
                                          "; oneDNN finds " + std::string(unit.name));
  };
  if (!unit.has_avx2 || !cpu_has_avx2()) return lacks("a CPU with AVX2, FMA and F16C");
  if (engine == TileEngine::kVnni && !(use_avx512(unit) && cpu_has_vnni() && cpu_has_gfni()))
    return lacks("a CPU with AVX-512 VNNI and GFNI");
  const bool has_tiles = engine == TileEngine::kAmx || engine == TileEngine::kAmxEmulated;
  if (has_tiles && !(use_avx512(unit) && cpu_has_bf16() && cpu_has_gfni()))
    return lacks("a CPU with AVX-512, bf16 and GFNI");
  if (engine == TileEngine::kAmx && !amx_can_run())
    return lacks("a CPU with AMX for bytes and bf16, and a system that lets it be used");
  return {};
}

Result<std::unique_ptr<Backend>> make_tile_backend(TileEngine engine, const ThreadPlan& plan,
                                                   int awake_us) {
  VKV_TRY(can_run(engine));
  return std::unique_ptr<Backend>(new TileBackend(plan, awake_us, {engine}, matrix_unit()));
}

std::vector<TileEngine> contenders() {
  std::vector<TileEngine> engines;
  const MatrixUnit unit = matrix_unit();
  for (const TileEngine engine : kTileEngines) {
    if (engine == TileEngine::kAmxEmulated || !can_run(engine).ok()) continue;
    if (!engines.empty() && !exact_8_bit(engine, unit)) continue;
    engines.push_back(engine);
    if (engines.size() == 2) break;
  }
  return engines;
}

std::vector<ContestResult> contest_results() {
  const std::vector<TileEngine> engines = contenders();
  std::vector<ContestResult> results;
  if (engines.size() < 2) return results;
  BrgemmCache kernels;
  const MatrixUnit unit = matrix_unit();
  const auto products = [&](size_t i) {
    return make_products(std::span(engines).subspan(i, 1), unit, kernels);
  };
  const std::unique_ptr<TileProducts> first = products(0), second = products(1);
  for (const int rows : kContestRows)
    for (const int bits : kContestBits)
      results.push_back({bits, rows, engines[contest_table().winner(bits, rows, *first, *second)]});
  first->release();
  second->release();
  return results;
}

std::unique_ptr<Backend> make_contested_backend(const ThreadPlan& plan, int awake_us) {
  return std::make_unique<TileBackend>(plan, awake_us, contenders(), matrix_unit());
}

}  // namespace vkv
