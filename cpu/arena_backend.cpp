// arena_backend.cpp: runs the shared work inside the arena.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/arena_backend.h"

#include "cpu/encode.h"
#include "cpu/saliency.h"
#include "cpu/threads.h"

namespace vkv {

ArenaBackend::ArenaBackend(int threads, const StripFunctions& loops)
    : loops_(loops), arena_(worker_threads(threads)) {}

Status ArenaBackend::encode(std::span<const EncodeItem> items) {
  return arena_.execute([&] { return encode_blocks(items, loops_); });
}

Status ArenaBackend::encode_headers(const EncodeItem& item) {
  return arena_.execute([&] { return encode_segment_headers(item, loops_); });
}

Status ArenaBackend::mean_key(const KvShape& shape, const OpenTokens& source,
                              std::span<const uint32_t> rows, float* mean) {
  return arena_.execute([&] { return mean_of_keys(shape, source, rows, mean, loops_); });
}

Status ArenaBackend::saliency(const SaliencyItem& item) {
  return arena_.execute([&] { return token_saliency(item); });
}

}  // namespace vkv
