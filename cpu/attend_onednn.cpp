// attend_onednn.cpp: splits items into tasks, one worker's tile attention each.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/attend_onednn.h"

#include <tbb/enumerable_thread_specific.h>

#include <algorithm>
#include <string>
#include <vector>

#include "cpu/arena_backend.h"
#include "cpu/cpu_features.h"
#include "cpu/parallel.h"
#include "cpu/products_onednn.h"
#include "cpu/tile_attention.h"
#include "runtime/base/check.h"

namespace vkv {
namespace {

// Rows of a task. Unpacking a tile is paid once a task, so more is better; the working set of a
// task at head_dim 128, some 5 KiB a row, should stay in a second-level cache of 1 MiB.
constexpr int kTaskRows = 128;

// Both what the CPU has and what ONEDNN_MAX_CPU_ISA leaves of it, so that one machine tests both.
bool use_avx512(const MatrixUnit& unit) { return unit.has_avx512 && cpu_has_avx512(); }

const TileFunctions& tile_functions_for(const MatrixUnit& unit) {
  return use_avx512(unit) ? avx512::tile_functions() : avx2::tile_functions();
}

const StripFunctions& strip_functions_for(const MatrixUnit& unit) {
  return use_avx512(unit) ? avx512::strip_functions() : avx2::strip_functions();
}

void split(const AttendItem& item, std::vector<AttendTask>* tasks) {
  const int queries = std::max(1, kTaskRows / item.shape.group());
  for (int kv_head = 0; kv_head < item.shape.kv_heads; ++kv_head)
    for (int query = 0; query < item.q_len; query += queries)
      tasks->push_back({&item, kv_head, query, std::min(item.q_len, query + queries)});
}

// Measured on one Zen 4 core: unpacking takes some 0.05 ns a value of K and V, and each row of
// queries as much again.
double attending_ns(const AttendItem& item) {
  double tokens = item.open.token_count;
  for (const BlockView& block : item.blocks) tokens += block.token_count;
  const double rows = static_cast<double>(item.q_len) * item.shape.group();
  return 0.05 * tokens * item.shape.kv_heads * item.shape.head_dim * (1 + rows);
}

struct Worker {
  Worker(const MatrixUnit& unit, BrgemmCache& kernels)
      : products(tile_functions_for(unit), kernels),
        attention(tile_functions_for(unit), products, unit.exact_8_bit) {}

  OnednnProducts products;
  TileAttention attention;
};

class OnednnBackend final : public ArenaBackend {
 public:
  OnednnBackend(int threads, const MatrixUnit& unit)
      : ArenaBackend(threads, strip_functions_for(unit)),
        unit_(unit),
        name_("cpu-onednn (" + std::string(unit.name) + ")"),
        workers_([this] { return std::make_unique<Worker>(unit_, kernels_); }) {}

  std::string_view name() const override { return name_; }

  Status attend(std::span<const AttendItem> items) override {
    std::vector<AttendTask> tasks;
    double work_ns = 0;
    for (const AttendItem& item : items) {
      VKV_TRY(check_attend(item));
      work_ns += attending_ns(item);
      split(item, &tasks);
    }
    return arena().execute([&] {
      return parallel_status(tasks.size(), work_ns, [&](size_t i) {
        return workers_.local()->attention.attend(tasks[i]);
      });
    });
  }

 private:
  const MatrixUnit unit_;
  const std::string name_;
  BrgemmCache kernels_;
  tbb::enumerable_thread_specific<std::unique_ptr<Worker>> workers_;
};

}  // namespace

bool onednn_engine_can_run() { return matrix_unit().has_avx2 && cpu_has_avx2(); }

Result<std::unique_ptr<Backend>> make_onednn_backend(int threads) {
  const MatrixUnit unit = matrix_unit();
  if (!onednn_engine_can_run())
    return Status(Code::kUnsupported,
                  "the onednn engine needs a CPU with AVX2, FMA and F16C; oneDNN "
                  "finds " +
                      std::string(unit.name) + "; there is: reference");
  return std::unique_ptr<Backend>(new OnednnBackend(threads, unit));
}

}  // namespace vkv
