// cpu_backend.cpp: the reference engine, and the choice of an engine.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/cpu_backend.h"

#include <cstdlib>
#include <string>

#include "cpu/arena_backend.h"
#include "cpu/attend_reference.h"
#include "cpu/attend_tiles.h"

namespace vkv {
namespace {

class ReferenceBackend final : public ArenaBackend {
 public:
  ReferenceBackend(const ThreadPlan& plan, int awake_us)
      : ArenaBackend(plan, awake_us, plain_strip_functions()) {}

  std::string_view name() const override { return "cpu-reference"; }

  Status attend(std::span<const AttendItem> items) override {
    return in_arena([&]() -> Status {
      for (const AttendItem& item : items) VKV_TRY(attend_reference(item));
      return {};
    });
  }
};

}  // namespace

Result<std::unique_ptr<Backend>> make_cpu_backend(const CpuBackendOptions& options) {
  std::string engine(options.engine);
  if (engine.empty()) {
    const char* forced = std::getenv("VKV_CPU");
    engine = forced == nullptr ? "" : forced;
  }
  if (options.threads < 0)
    return Status(Code::kInvalidArgument, "threads is " + std::to_string(options.threads) +
                                              "; it must be positive, or 0 for all");
  if (options.awake_us < 0 || options.awake_us > kAwakeUsMax)
    return Status(Code::kInvalidArgument, "awake_us is " + std::to_string(options.awake_us) +
                                              "; it may be 0 to " + std::to_string(kAwakeUsMax));
  const ThreadPlan plan = options.plan.teams.empty() ? one_team(options.threads) : options.plan;
  if (engine.empty() && !contenders().empty())
    return make_contested_backend(plan, options.awake_us);
  std::string known;
  for (const TileEngine tiles : kTileEngines) {
    if (engine == name(tiles)) return make_tile_backend(tiles, plan, options.awake_us);
    known += std::string(name(tiles)) + ' ';
  }
  if (engine.empty() || engine == "reference")
    return std::unique_ptr<Backend>(new ReferenceBackend(plan, options.awake_us));
  return Status(Code::kInvalidArgument,
                "there is no CPU engine '" + engine + "'; there are: " + known + "reference");
}

}  // namespace vkv
