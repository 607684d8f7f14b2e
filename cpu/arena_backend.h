// arena_backend.h: what the CPU engines share: teams of threads, the encoder, saliency.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "cpu/crew.h"
#include "cpu/strip_functions.h"
#include "cpu/teams.h"
#include "runtime/base/backend.h"

namespace vkv {

// Calls may come from several threads at once; each blocks until its own work is done.
class ArenaBackend : public Backend {
 public:
  // awake_us: as in CpuBackendOptions. loops: of the encoder.
  ArenaBackend(const ThreadPlan& plan, int awake_us, const StripFunctions& loops);

  Status merge(std::span<const MergeItem> items) final;
  Status encode(std::span<const EncodeItem> items) final;
  Status encode_headers(const EncodeItem& item) final;
  Status mean_key(const KvShape& shape, const OpenTokens& source, std::span<const uint32_t> rows,
                  float* mean) final;
  Status saliency(const SaliencyItem& item) final;
  Status squared_distances(const KvShape& shape, const OpenTokens& source,
                           std::span<const uint32_t> rows, const float* mean,
                           std::span<float> distances) final;
  Result<std::optional<BadValue>> append(std::span<const AppendItem> items) final;
  Status to_float(ElementType element, const void* source, float* target, size_t count) final;
  Status from_float(ElementType element, const float* source, void* target, size_t count) final;
  Status keep_rows(uint16_t* rows, size_t row_values, std::span<const uint32_t> kept) final;
  Status copy(void* target, const void* source, size_t byte_count) final;
  Status zero(std::span<std::byte> bytes) final;

 protected:
  const Teams& teams() const { return teams_; }

  // Runs body() in the arena of the first team, with the crew if there is one.
  template <class Body>
  auto in_arena(const Body& body) {
    return teams_.arena(0).execute([&] {
      const Crew::Scope scope(crew_.get());
      return body();
    });
  }

 private:
  const StripFunctions& loops_;
  const Teams teams_;
  // Where threads are bound, as those of several teams are, or stay awake. Ends before the teams.
  std::unique_ptr<Crew> crew_;
};

}  // namespace vkv
