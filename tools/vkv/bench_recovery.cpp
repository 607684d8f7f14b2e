// bench_recovery.cpp: a store that is filled, closed or killed, and opened again.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/bench_recovery.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "runtime/base/stopwatch.h"
#include "tools/vkv/bench_parts.h"
#include "transfer/block_store.h"

namespace vkv {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kExtents = 64;  // of a sequence

BlockStoreOptions options_for(const std::string& path, uint64_t byte_count) {
  return {.path = path, .use = StoreUse::kKeep, .bytes_max = byte_count + 512 * kMiB};
}

Status save_sequence(BlockStore& store, uint64_t number, std::span<const std::byte> bytes) {
  CommittedSequence sequence;
  std::memcpy(sequence.key.bytes.data(), &number, sizeof(number));
  std::vector<IoTicket> tickets;
  for (uint64_t i = 0; i < kExtents; ++i) {
    VKV_TRY_ASSIGN(extent, store.reserve(bytes.size()));
    sequence.extents.push_back({extent, {.kind = StoredKind::kLow}});
    VKV_TRY_ASSIGN(ticket, store.submit_write(sequence.extents.back().extent, bytes));
    tickets.push_back(ticket);
  }
  for (const IoTicket ticket : tickets) VKV_TRY(store.wait(ticket));
  VKV_TRY(store.commit(sequence));
  for (const LabelledExtent& extent : sequence.extents) store.release(extent.extent);
  return {};
}

// A process that opens the store, saves one sequence more and dies in the middle of the next.
Status write_and_die(const BlockStoreOptions& options, uint64_t number,
                     std::span<const std::byte> bytes) {
  const pid_t child = fork();
  if (child < 0) return {Code::kIo, "no process to kill"};
  if (child == 0) {
    auto store = BlockStore::open(options);
    if (!store.ok() || !save_sequence(*store.value(), number, bytes).ok()) _exit(1);
    auto extent = store.value()->reserve(bytes.size());
    if (!extent.ok() || !store.value()->submit_write(extent.value(), bytes).ok()) _exit(1);
    (void)kill(getpid(), SIGKILL);
  }
  int status = 0;
  if (waitpid(child, &status, 0) != child || !WIFSIGNALED(status))
    return {Code::kIo, "the process that was to be killed could not use the store"};
  return {};
}

}  // namespace

Result<Recovery> time_recovery(const std::string& path, uint64_t byte_count) {
  const BlockStoreOptions options = options_for(path, byte_count);
  const BenchMemory memory = allocate_for_bench(kMiB);
  std::memset(memory.get(), 7, kMiB);
  const std::span<const std::byte> bytes(memory.get(), kMiB);
  const uint64_t count = byte_count / (kExtents * kMiB);
  {
    VKV_TRY_ASSIGN(store, BlockStore::open(options));
    for (uint64_t number = 0; number < count; ++number)
      VKV_TRY(save_sequence(*store, number, bytes));
  }
  Recovery recovery;
  {
    const Stopwatch opening;
    VKV_TRY_ASSIGN(store, BlockStore::open(options));
    recovery.seconds = opening.seconds();
    const BlockStoreStats stats = store->stats();
    recovery.committed_bytes = stats.bytes_committed;
    recovery.index_bytes = stats.index_bytes;
    recovery.sequence_count = store->committed().size();
  }
  VKV_TRY(write_and_die(options, count, bytes));
  const Stopwatch opening;
  VKV_TRY_ASSIGN(store, BlockStore::open(options));
  recovery.seconds_after_kill = opening.seconds();
  if (store->committed().size() != recovery.sequence_count + 1)
    return Status(Code::kDataLoss, "the store has lost what a killed process had committed");
  return recovery;
}

}  // namespace vkv
