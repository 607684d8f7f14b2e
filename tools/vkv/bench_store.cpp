// bench_store.cpp: the store and a plain loop in turns, over the same bytes of the same file.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/bench_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <utility>

#include "runtime/base/stopwatch.h"
#include "tools/vkv/bench_parts.h"
#include "tools/vkv/bench_recovery.h"
#include "tools/vkv/byte_size.h"
#include "tools/vkv/plain_disk.h"
#include "transfer/block_store.h"
#include "transfer/crc32c.h"

namespace vkv {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr double kGiga = 1e9;
constexpr int kPairDepth = 16;

Result<IoBackend> io_of(const std::string& name) {
  if (name == "auto") return IoBackend::kAuto;
  if (name == "uring") return IoBackend::kUring;
  if (name == "threads") return IoBackend::kThreads;
  return Status(Code::kInvalidArgument, "--io is '" + name + "'; there are: auto uring threads");
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

double percentile(const std::vector<double>& sorted, double fraction) {
  if (sorted.empty()) return 0;
  return sorted[static_cast<size_t>(fraction * static_cast<double>(sorted.size() - 1))];
}

// A store whose extents are written and read, by the store or behind its back.
class Disk {
 public:
  static Result<std::unique_ptr<Disk>> open(const BenchStoreArguments& arguments,
                                            const std::string& path, uint64_t bytes) {
    VKV_TRY_ASSIGN(io, io_of(arguments.io));
    VKV_TRY_ASSIGN(store,
                   BlockStore::open({.path = path, .bytes_max = bytes + 64 * kMiB, .io = io}));
    std::unique_ptr<Disk> disk(new Disk(path, bytes, std::move(store)));
    const std::span<std::byte> memory(disk->memory_.get(), kBufferBytes);
    for (size_t i = 0; i < memory.size(); ++i)
      memory[i] = static_cast<std::byte>(i * 2654435761u >> 24);
    disk->store_->register_memory({&memory, 1});
    return disk;
  }

  std::string_view engine() const { return store_->io_engine(); }

  // The extents of a size; the first time they are also written, so that reads find what they
  // should.
  Status use(uint64_t extent_bytes) {
    for (const StoreExtent& extent : extents_) store_->release(extent);
    extents_.clear();
    offsets_.clear();
    extent_bytes_ = extent_bytes;
    for (uint64_t i = 0; i < bytes_ / extent_bytes; ++i) {
      VKV_TRY_ASSIGN(extent, store_->reserve(extent_bytes));
      extents_.push_back(extent);
      offsets_.push_back(extent.file_offset);
    }
    return by_store(true, kPairDepth).status();
  }

  uint64_t bytes() const { return extent_bytes_ * extents_.size(); }

  Result<DiskTime> plain(bool is_write, int depth) {
    return time_plain_disk(path_, {.is_write = is_write,
                                   .offsets = offsets_,
                                   .extent_bytes = extent_bytes_,
                                   .depth = depth,
                                   .buffers = buffers(depth)});
  }

  // As a cache does: submitted ahead, waited for in order, every read compared with its checksum.
  Result<DiskTime> by_store(bool is_write, int depth) {
    struct Operation {
      IoTicket ticket;
      Stopwatch since;
    };
    std::deque<Operation> operations;
    DiskTime time;
    Status status;
    const double cpu_before = cpu_seconds();
    const Stopwatch all;
    const auto finish_one = [&] {
      const Operation operation = operations.front();
      operations.pop_front();
      const Status done = store_->wait(operation.ticket);
      time.latency_seconds.push_back(operation.since.seconds());
      if (status.ok()) status = done;
    };
    for (size_t i = 0; i < extents_.size() && status.ok(); ++i) {
      if (operations.size() == static_cast<size_t>(depth)) finish_one();
      const auto slot =
          buffers(depth).subspan(i % static_cast<size_t>(depth) * extent_bytes_, extent_bytes_);
      const Stopwatch since;
      const Result<IoTicket> ticket = is_write ? store_->submit_write(extents_[i], slot)
                                               : store_->submit_read(extents_[i], slot);
      status = ticket.status();
      if (status.ok()) operations.push_back({ticket.value(), since});
    }
    while (!operations.empty()) finish_one();
    time.seconds = all.seconds();
    time.cpu_seconds = cpu_seconds() - cpu_before;
    if (!status.ok()) return status;
    std::sort(time.latency_seconds.begin(), time.latency_seconds.end());
    return time;
  }

  // Of one thread, over memory that no cache holds.
  double crc_seconds() {
    const std::span<const std::byte> memory(memory_.get(), kBufferBytes);
    uint32_t sum = 0;
    const double seconds = median_seconds(5, [&] { sum ^= crc32c(memory); });
    return sum == 1 ? seconds + 1e-12 : seconds;  // sum is used
  }
  static constexpr uint64_t kBufferBytes = 64 * kMiB;

 private:
  Disk(std::string path, uint64_t bytes, std::unique_ptr<BlockStore> store)
      : path_(std::move(path)),
        bytes_(bytes),
        memory_(allocate_for_bench(kBufferBytes)),
        store_(std::move(store)) {}

  std::span<std::byte> buffers(int depth) const {
    const uint64_t byte_count = static_cast<uint64_t>(depth) * extent_bytes_;
    VKV_CHECK(byte_count <= kBufferBytes);
    return {memory_.get(), byte_count};
  }

  const std::string path_;
  const uint64_t bytes_;
  const BenchMemory memory_;  // outlives the store that it is registered with
  const std::unique_ptr<BlockStore> store_;
  uint64_t extent_bytes_ = 0;
  std::vector<StoreExtent> extents_;
  std::vector<uint64_t> offsets_;
};

struct Row {
  bool is_write = false;
  uint64_t extent_bytes = 0;
  int depth = 0;
  uint64_t bytes = 0;
  DiskTime plain, store;

  double gbps(const DiskTime& time) const {
    return static_cast<double>(bytes) / time.seconds / kGiga;
  }
  double cpu_per_gb(const DiskTime& time) const {
    return time.cpu_seconds / static_cast<double>(bytes) * kGiga;
  }
};

Result<Row> measure(Disk& disk, bool is_write, uint64_t extent_bytes, int depth) {
  Row row{.is_write = is_write, .extent_bytes = extent_bytes, .depth = depth};
  row.bytes = disk.bytes();
  // The plain loop first: what it writes, the store writes anew before it is read.
  VKV_TRY_ASSIGN(plain, disk.plain(is_write, depth));
  VKV_TRY_ASSIGN(store, disk.by_store(is_write, depth));
  row.plain = std::move(plain);
  row.store = std::move(store);
  return row;
}

void print(const Row& row) {
  fmt::print(
      "{:<5} {:>5} KiB {:>5} {:>8.2f} {:>8.2f} {:>7.1f} % {:>8.2f} {:>8.2f} {:>8.2f} {:>9.3f} "
      "{:>9.3f}\n",
      row.is_write ? "write" : "read", row.extent_bytes >> 10, row.depth, row.gbps(row.plain),
      row.gbps(row.store), 100 * row.plain.seconds / row.store.seconds,
      1e3 * percentile(row.plain.latency_seconds, 0.99),
      1e3 * percentile(row.store.latency_seconds, 0.5),
      1e3 * percentile(row.store.latency_seconds, 0.99), row.cpu_per_gb(row.plain),
      row.cpu_per_gb(row.store));
}

Json json_of(const Row& row) {
  const auto times = [&](const DiskTime& time) {
    return Json{{"gb_per_s", row.gbps(time)},
                {"cpu_s_per_gb", row.cpu_per_gb(time)},
                {"latency_ms_50", 1e3 * percentile(time.latency_seconds, 0.5)},
                {"latency_ms_99", 1e3 * percentile(time.latency_seconds, 0.99)}};
  };
  return {{"write", row.is_write}, {"extent_bytes", row.extent_bytes}, {"depth", row.depth},
          {"bytes", row.bytes},    {"plain", times(row.plain)},        {"store", times(row.store)}};
}

Status bench_extents(Disk& disk, const BenchStoreArguments& arguments, Json& json) {
  if (!arguments.json) {
    fmt::print("{:<5} {:>9} {:>5} {:>8} {:>8} {:>9} {:>8} {:>8} {:>8} {:>9} {:>9}\n", "", "extent",
               "depth", "GB/s", "GB/s", "of plain", "p99 ms", "p50 ms", "p99 ms", "cpu s/GB",
               "cpu s/GB");
    fmt::print("{:<5} {:>9} {:>5} {:>8} {:>8} {:>9} {:>8} {:>8} {:>8} {:>9} {:>9}\n", "", "", "",
               "plain", "store", "", "plain", "store", "store", "plain", "store");
  }
  for (const int kib : arguments.kib) {
    VKV_TRY(disk.use(static_cast<uint64_t>(kib) << 10));
    for (const int depth : arguments.depths) {
      if (static_cast<uint64_t>(depth * kib) << 10 > Disk::kBufferBytes) continue;
      for (const bool is_write : {true, false}) {
        VKV_TRY_ASSIGN(row, measure(disk, is_write, static_cast<uint64_t>(kib) << 10, depth));
        json["extents"].push_back(json_of(row));
        if (!arguments.json) print(row);
      }
    }
  }
  return {};
}

// Store and plain loop in turns.
Status bench_pairs(Disk& disk, const BenchStoreArguments& arguments, Json& json) {
  VKV_TRY(disk.use(kMiB));
  const double crc_per_gb = disk.crc_seconds() / static_cast<double>(Disk::kBufferBytes) * kGiga;
  for (const bool is_write : {true, false}) {
    std::vector<double> ratios, plain, store, cpu;
    for (int pair = 0; pair < arguments.pairs; ++pair) {
      VKV_TRY_ASSIGN(row, measure(disk, is_write, kMiB, kPairDepth));
      ratios.push_back(row.plain.seconds / row.store.seconds);
      plain.push_back(row.gbps(row.plain));
      store.push_back(row.gbps(row.store));
      cpu.push_back(row.cpu_per_gb(row.store));
    }
    const double beyond = median(cpu) - crc_per_gb;
    json["pairs"].push_back({{"write", is_write},
                             {"plain_gb_per_s", median(plain)},
                             {"store_gb_per_s", median(store)},
                             {"ratio", median(ratios)},
                             {"cpu_s_per_gb", median(cpu)},
                             {"crc_s_per_gb", crc_per_gb}});
    if (!arguments.json) {
      fmt::print(
          "{} at 1 MiB, {} under way, median of {} pairs: {:.2f} of {:.2f} GB/s, {:.1f} %; "
          "{:.1f} % of a core per GB/s beyond checksums ({:.1f} %)\n",
          is_write ? "write" : "read ", kPairDepth, arguments.pairs, median(store), median(plain),
          100 * median(ratios), 100 * beyond, 100 * crc_per_gb);
    }
  }
  return {};
}

// Reads a file from end to end by the plain loop: bytes a second now.
Result<double> read_speed_now(const std::string& path) {
  std::error_code error;
  std::vector<uint64_t> offsets(std::filesystem::file_size(path, error) / kMiB);
  if (error || offsets.empty()) return Status(Code::kIo, "cannot read " + path);
  for (size_t i = 0; i < offsets.size(); ++i) offsets[i] = i * kMiB;
  const BenchMemory memory = allocate_for_bench(kPairDepth * kMiB);
  std::memset(memory.get(), 0, kPairDepth * kMiB);
  VKV_TRY_ASSIGN(time, time_plain_disk(path, {.offsets = offsets,
                                              .extent_bytes = kMiB,
                                              .depth = kPairDepth,
                                              .buffers = {memory.get(), kPairDepth * kMiB}}));
  return static_cast<double>(offsets.size() * kMiB) / time.seconds;
}

// Medians of what was measured in turns, each against its own floor.
struct Against {
  double seconds = 0, ratio = 0;  // ratio: seconds / floor
};
Against median_of(const std::vector<AgainstDisk>& all) {
  std::vector<double> seconds, ratios;
  for (const AgainstDisk& one : all) {
    seconds.push_back(one.seconds);
    ratios.push_back(one.seconds / one.floor_seconds);
  }
  return {median(seconds), median(ratios)};
}

Json json_of(const std::vector<AgainstDisk>& all) {
  Json json = Json::array();
  for (const AgainstDisk& one : all)
    json.push_back({{"seconds", one.seconds}, {"floor_s", one.floor_seconds}});
  return json;
}

Status bench_sequence(const BenchStoreArguments& arguments, const std::string& path, Json& json) {
  VKV_TRY_ASSIGN(times, time_sequence(arguments, path, [&] { return read_speed_now(path); }));
  const Against restore = median_of(times.restores), step = median_of(times.steps);
  json["sequence"] = {{"tokens", arguments.tokens},
                      {"bytes", times.byte_count},
                      {"save_s", times.save_seconds},
                      {"restore_s", restore.seconds},
                      {"restore_of_disk_speed", 1 / restore.ratio},
                      {"restores", json_of(times.restores)},
                      {"step_bytes", times.step_bytes},
                      {"step_s", step.seconds},
                      {"step_of_floor", step.ratio},
                      {"steps", json_of(times.steps)},
                      {"step_wait_s", times.step_wait_seconds},
                      {"step_in_dram_s", times.compute_seconds}};
  if (arguments.json) return {};
  fmt::print(
      "restoring {} tokens of Qwen2.5-VL-7B at {}: {} in {:.3f} s, {:.1f} % of the disk's "
      "speed, median of {} pairs (saved in {:.3f} s)\n",
      arguments.tokens, arguments.preset, byte_size_text(times.byte_count), restore.seconds,
      100 / restore.ratio, arguments.pairs, times.save_seconds);
  fmt::print(
      "decoding with all of it on NVMe: {} a step, {:.3f} s, {:.2f} x bytes / disk speed, median "
      "of {} pairs ({:.3f} s of it waiting for reads; from DRAM a step takes {:.3f} s)\n",
      byte_size_text(times.step_bytes), step.seconds, step.ratio, arguments.pairs,
      times.step_wait_seconds, times.compute_seconds);
  return {};
}

// Removed at the end, whatever happens.
struct BenchFolder {
  std::filesystem::path path;
  ~BenchFolder() {
    std::error_code unused;
    std::filesystem::remove_all(path, unused);
  }
};

}  // namespace

Status bench_store(const BenchStoreArguments& arguments) {
  VKV_TRY_ASSIGN(bytes, parse_byte_size(arguments.bytes));
  VKV_TRY_ASSIGN(recovery_bytes, parse_byte_size(arguments.recovery));
  std::error_code error;
  const std::filesystem::path parent = arguments.folder.empty()
                                           ? std::filesystem::temp_directory_path(error)
                                           : std::filesystem::path(arguments.folder);
  const BenchFolder folder{parent / fmt::format("vkv_bench_{:08x}", std::random_device{}())};
  if (!std::filesystem::create_directory(folder.path, error)) {
    return {Code::kIo, "cannot make " + folder.path.string() + ": " + error.message()};
  }

  Json json = {{"extents", Json::array()}, {"pairs", Json::array()}};
  {
    VKV_TRY_ASSIGN(disk, Disk::open(arguments, folder.path / "extents", bytes));
    json["engine"] = disk->engine();
    if (!arguments.json)
      fmt::print("engine {}, {} of extents in {}\n", disk->engine(), byte_size_text(bytes),
                 parent.string());
    VKV_TRY(bench_extents(*disk, arguments, json));
    VKV_TRY(bench_pairs(*disk, arguments, json));
  }
  if (arguments.tokens > 0) {
    VKV_TRY(bench_sequence(arguments, folder.path / "sequence", json));
    std::filesystem::remove(folder.path / "sequence", error);
  }
  if (recovery_bytes > 0) {
    VKV_TRY_ASSIGN(recovery, time_recovery(folder.path / "recovery", recovery_bytes));
    json["recovery"] = {{"committed_bytes", recovery.committed_bytes},
                        {"index_bytes", recovery.index_bytes},
                        {"seconds", recovery.seconds},
                        {"seconds_after_kill", recovery.seconds_after_kill}};
    if (!arguments.json)
      fmt::print("recovery of {} in {} sequences, index {}: {:.4f} s, after kill -9 {:.4f} s\n",
                 byte_size_text(recovery.committed_bytes), recovery.sequence_count,
                 byte_size_text(recovery.index_bytes), recovery.seconds,
                 recovery.seconds_after_kill);
  }
  if (arguments.json) fmt::print("{}\n", json.dump(1));
  return {};
}

}  // namespace vkv
