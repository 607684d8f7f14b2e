// arena_backend.h: what the CPU engines share: one arena of threads, the encoder, saliency.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <tbb/task_arena.h>

#include "cpu/strip_functions.h"
#include "runtime/base/backend.h"

namespace vkv {

// Calls may come from several threads at once; each blocks until its own work is done.
class ArenaBackend : public Backend {
 public:
  // threads: 0, or more than the process may use, for all those. loops: of the encoder.
  ArenaBackend(int threads, const StripFunctions& loops);

  Status encode(std::span<const EncodeItem> items) final;
  Status encode_headers(const EncodeItem& item) final;
  Status mean_key(const KvShape& shape, const OpenTokens& source, std::span<const uint32_t> rows,
                  float* mean) final;
  Status saliency(const SaliencyItem& item) final;

 protected:
  tbb::task_arena& arena() { return arena_; }

 private:
  const StripFunctions& loops_;
  tbb::task_arena arena_;
};

}  // namespace vkv
