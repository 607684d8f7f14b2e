// attend_tiles.h: the engines that attend tile by tile, and differ in what multiplies.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>
#include <vector>

#include "cpu/thread_plan.h"
#include "runtime/base/backend.h"
#include "vkv/status.h"

namespace vkv {

// For encoded K and V all give the same bits: products of bytes are exact, and the rest is one
// code. At 16 bit they add in different orders.
enum class TileEngine : uint8_t {
  kOnednn,       // oneDNN's micro-kernels over panels; ONEDNN_MAX_CPU_ISA lowers what they use
  kAmx,          // own kernels in AMX tiles
  kVnni,         // own kernels in registers, by AVX-512 VNNI
  kAmxEmulated,  // the same with tiles by plain loops: slow, to be tested where there is no AMX
};

// Blocks of a task of few rows: some 2,048 tokens, so that no thread is left with a long one at the
// end. A constant, since what is merged decides the last bits.
inline constexpr size_t kTaskBlocks = 16;

// The best first.
inline constexpr TileEngine kTileEngines[] = {TileEngine::kAmx, TileEngine::kVnni,
                                              TileEngine::kOnednn, TileEngine::kAmxEmulated};

std::string_view name(TileEngine engine);  // "onednn", "amx", "vnni", "amx-emulated"

// Errors: kUnsupported, naming what the CPU lacks.
Status can_run(TileEngine engine);

// The engines that an engine which nobody named is made of: the best that can run, and the next
// where both multiply bytes exactly; none where no CPU's instructions suffice. Which of two
// multiplies codes is measured, by codec and number of rows (cpu/contest.h); the answers' bits do
// not depend on it.
std::vector<TileEngine> contenders();

// Who wins on this machine: measures what was not yet measured, some milliseconds in all.
struct ContestResult {
  int bits = 0;  // of a code
  int rows = 0;  // queries x query heads of a KV head
  TileEngine winner = TileEngine::kOnednn;
};
std::vector<ContestResult> contest_results();  // empty without a second contender

// plan, awake_us: as in CpuBackendOptions. Errors: as can_run().
Result<std::unique_ptr<Backend>> make_tile_backend(TileEngine engine, const ThreadPlan& plan,
                                                   int awake_us);

// Of the contenders, of which there must be one; named after the first.
std::unique_ptr<Backend> make_contested_backend(const ThreadPlan& plan, int awake_us);

}  // namespace vkv
