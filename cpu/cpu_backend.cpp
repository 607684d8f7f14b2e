// cpu_backend.cpp: the reference engine, and the choice of an engine.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/cpu_backend.h"

#include <cstdlib>
#include <string>

#include "cpu/arena_backend.h"
#include "cpu/attend_onednn.h"
#include "cpu/attend_reference.h"

namespace vkv {
namespace {

class ReferenceBackend final : public ArenaBackend {
 public:
  explicit ReferenceBackend(int threads) : ArenaBackend(threads, plain_strip_functions()) {}

  std::string_view name() const override { return "cpu-reference"; }

  Status attend(std::span<const AttendItem> items) override {
    return arena().execute([&]() -> Status {
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
  if (engine.empty()) engine = onednn_engine_can_run() ? "onednn" : "reference";
  if (engine == "onednn") return make_onednn_backend(options.threads);
  if (engine == "reference") return std::unique_ptr<Backend>(new ReferenceBackend(options.threads));
  return Status(Code::kInvalidArgument,
                "there is no CPU engine '" + engine + "'; there are: onednn reference");
}

}  // namespace vkv
