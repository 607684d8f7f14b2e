// inspect_command.cpp: a store opened for reading, listed and checked.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/inspect_command.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tools/vkv/byte_size.h"
#include "tools/vkv/exit_code.h"
#include "transfer/block_store.h"
#include "transfer/memory_pool.h"

namespace vkv {
namespace {

using Json = nlohmann::json;

constexpr const char* kAbout = R"(
Reads a store that `vkv run --keep-store` or another program keeps, and changes nothing. Several may
look at one at the same time, but not while a process writes it.

Examples:
  vkv inspect /mnt/nvme/vkv.store
  vkv inspect /mnt/nvme/vkv.store --sequences
  vkv inspect /mnt/nvme/vkv.store --verify     reads everything and compares all checksums
  vkv inspect /mnt/nvme/vkv.store --segments --json

Exit status: 0 whole as far as was looked, 1 damaged, 2 no store.)";

constexpr uint64_t kSegmentBytes = uint64_t{64} << 20;  // the file grows by as much
constexpr uint64_t kReadBytesInFlight = uint64_t{32} << 20;

// Of the file's bytes [index * kSegmentBytes, ...).
struct Segment {
  uint64_t live_bytes = 0;
  uint64_t extent_count = 0;  // that begin there
};

struct Damage {
  SequenceKey key;
  std::string what;
};

struct Contents {
  Superblock superblock;
  BlockStoreStats stats;
  Status health;
  std::vector<StoredSequence> sequences;
  std::vector<Segment> segments;
  // With --verify.
  uint64_t verified_bytes = 0;
  std::vector<Damage> damage;

  bool is_whole() const { return health.ok() && damage.empty(); }
};

std::string hex(const StoreId& id) {
  std::string text;
  for (const uint8_t byte : id) text += fmt::format("{:02x}", byte);
  return text;
}

std::string time_text(uint64_t seconds) {
  return fmt::format("{:%Y-%m-%d %H:%M:%S}Z", fmt::gmtime(static_cast<time_t>(seconds)));
}

uint64_t bytes_of(const StoredSequence& sequence) {
  uint64_t bytes = 0;
  for (const ExtentDescriptor& extent : sequence.extents) bytes += extent.byte_count;
  return bytes;
}

std::vector<Segment> segments_of(const std::vector<StoredSequence>& sequences,
                                 uint64_t file_bytes) {
  std::vector<Segment> segments((file_bytes + kSegmentBytes - 1) / kSegmentBytes);
  std::set<uint64_t> seen;
  for (const StoredSequence& sequence : sequences) {
    for (const ExtentDescriptor& extent : sequence.extents) {
      if (!seen.insert(extent.file_offset).second) continue;
      uint64_t begin = extent.file_offset;
      const uint64_t end = begin + extent.byte_count;
      ++segments[begin / kSegmentBytes].extent_count;
      while (begin < end) {
        const uint64_t next = std::min(end, (begin / kSegmentBytes + 1) * kSegmentBytes);
        segments[begin / kSegmentBytes].live_bytes += next - begin;
        begin = next;
      }
    }
  }
  return segments;
}

// Reads every extent once, several at a time.
class Verifier {
 public:
  Verifier(BlockStore& store, Contents& contents) : store_(store), contents_(contents) {}

  Status run() {
    for (const StoredSequence& stored : contents_.sequences) {
      VKV_TRY_ASSIGN(held, store_.hold(stored.key));
      for (const LabelledExtent& labelled : held.extents) {
        if (seen_.insert(labelled.extent.file_offset).second) {
          VKV_TRY(start(stored.key, labelled.extent));
        }
      }
      while (!reads_.empty()) finish_one();
      for (const LabelledExtent& labelled : held.extents) store_.release(labelled.extent);
    }
    return {};
  }

 private:
  struct Read {
    SequenceKey key;
    IoTicket ticket;
    MemoryBuffer bytes;
  };

  Status start(const SequenceKey& key, const StoreExtent& extent) {
    while (!reads_.empty() && pool_.bytes_used() + extent.byte_count > kReadBytesInFlight) {
      finish_one();
    }
    VKV_TRY_ASSIGN(bytes, pool_.allocate(extent.byte_count, "reading a store"));
    VKV_TRY_ASSIGN(ticket, store_.submit_read(extent, bytes.bytes()));
    reads_.push_back({key, ticket, std::move(bytes)});
    return {};
  }

  void finish_one() {
    const Read read = std::move(reads_.front());
    reads_.pop_front();
    const Status status = store_.wait(read.ticket);
    contents_.verified_bytes += read.bytes.bytes().size();
    if (!status.ok()) contents_.damage.push_back({read.key, status.message()});
  }

  BlockStore& store_;
  Contents& contents_;
  std::set<uint64_t> seen_;
  MemoryPool pool_{UINT64_MAX};
  std::deque<Read> reads_;  // destroyed before the pool
};

Result<Contents> contents_of(const InspectArguments& arguments) {
  VKV_TRY_ASSIGN(store, BlockStore::open({.path = arguments.path, .use = StoreUse::kReadOnly}));
  Contents contents{.superblock = store->superblock(),
                    .stats = store->stats(),
                    .health = store->health(),
                    .sequences = store->committed()};
  contents.segments = segments_of(contents.sequences, contents.stats.file_bytes);
  if (arguments.verify) VKV_TRY(Verifier(*store, contents).run());
  return contents;
}

// Over the life of the file; 0: not known, or nothing was written.
double write_amplification(const Contents& contents) {
  if (contents.stats.life_payload_bytes == 0) return 0;
  return static_cast<double>(contents.stats.life_written_bytes) /
         static_cast<double>(contents.stats.life_payload_bytes);
}

uint64_t free_bytes(const Contents& contents) {
  const uint64_t used = contents.stats.index_bytes + contents.stats.bytes_committed;
  return contents.stats.file_bytes - std::min(contents.stats.file_bytes, used);
}

Json json_of(const StoredSequence& sequence) {
  struct Sum {
    uint64_t extent_count = 0, byte_count = 0, block_count = 0, token_count = 0;
  };
  std::map<std::string, Sum> sums;  // by kind and codecs
  for (const ExtentDescriptor& extent : sequence.extents) {
    std::string kind(name(extent.kind));
    if (extent.kind != StoredKind::kState) {
      kind += fmt::format(" {}/{}", name(extent.k_codec), name(extent.v_codec));
    }
    Sum& sum = sums[kind];
    ++sum.extent_count;
    sum.byte_count += extent.byte_count;
    sum.block_count += extent.block_count;
    sum.token_count += extent.token_count;
  }
  Json json = {{"key", to_hex(sequence.key)},
               {"tokens", sequence.token_count},
               {"generation", fmt::format("{:08x}", sequence.generation)},
               {"saved_at", sequence.saved_at},
               {"bytes", bytes_of(sequence)},
               {"extents", Json::object()}};
  for (const auto& [kind, sum] : sums) {
    json["extents"][kind] = {{"count", sum.extent_count},
                             {"bytes", sum.byte_count},
                             {"blocks", sum.block_count},
                             {"tokens_by_layer", sum.token_count}};
  }
  return json;
}

Json json_of(const Contents& contents, const InspectArguments& arguments) {
  Json json = {{"path", arguments.path},
               {"version", kStoreVersion},
               {"store", hex(contents.superblock.store)},
               {"closed", contents.superblock.is_closed},
               {"index_epoch", contents.superblock.epoch},
               {"file_bytes", contents.stats.file_bytes},
               {"disk_bytes", contents.stats.disk_bytes},
               {"committed_bytes", contents.stats.bytes_committed},
               {"index_bytes", contents.stats.index_bytes},
               {"free_bytes", free_bytes(contents)},
               {"payload_bytes_ever", contents.stats.life_payload_bytes},
               {"written_bytes_ever", contents.stats.life_written_bytes},
               {"write_amplification", write_amplification(contents)},
               {"sequence_count", contents.sequences.size()},
               {"whole", contents.is_whole()},
               {"index", contents.health.ok() ? "whole" : contents.health.message()}};
  if (arguments.sequences) {
    json["sequences"] = Json::array();
    for (const StoredSequence& sequence : contents.sequences) {
      json["sequences"].push_back(json_of(sequence));
    }
  }
  if (arguments.segments) {
    json["segments"] = Json::array();
    for (const Segment& segment : contents.segments) {
      json["segments"].push_back(
          {{"live_bytes", segment.live_bytes}, {"extents", segment.extent_count}});
    }
  }
  if (arguments.verify) {
    json["verified_bytes"] = contents.verified_bytes;
    json["damage"] = Json::array();
    for (const Damage& damage : contents.damage) {
      json["damage"].push_back({{"key", to_hex(damage.key)}, {"what", damage.what}});
    }
  }
  return json;
}

void print(const Contents& contents, const InspectArguments& arguments) {
  const Superblock& block = contents.superblock;
  fmt::print("store      {} (version {}, {})\n", hex(block.store), kStoreVersion,
             block.is_closed ? "closed by its owner" : "its owner ended without closing it");
  fmt::print("file       {}, {} on disk: {} of {} sequences, index {}, free {}\n",
             byte_size_text(contents.stats.file_bytes), byte_size_text(contents.stats.disk_bytes),
             byte_size_text(contents.stats.bytes_committed), contents.sequences.size(),
             byte_size_text(contents.stats.index_bytes), byte_size_text(free_bytes(contents)));
  if (contents.stats.life_payload_bytes > 0)
    fmt::print("written    {} ever for {} of payload: {:.3f} times\n",
               byte_size_text(contents.stats.life_written_bytes),
               byte_size_text(contents.stats.life_payload_bytes), write_amplification(contents));
  fmt::print("index      {}\n", contents.health.ok() ? "whole" : contents.health.message());
  if (arguments.sequences) {
    for (const StoredSequence& sequence : contents.sequences) {
      fmt::print("sequence   {}  {} tokens, {} in {} extents, saved {}, generation {:08x}\n",
                 to_hex(sequence.key), sequence.token_count, byte_size_text(bytes_of(sequence)),
                 sequence.extents.size(), time_text(sequence.saved_at), sequence.generation);
    }
  }
  for (size_t i = 0; arguments.segments && i < contents.segments.size(); ++i) {
    const Segment& segment = contents.segments[i];
    fmt::print("segment    {:>5} at {:>12}: {:>10} live in {} extents\n", i, i * kSegmentBytes,
               byte_size_text(segment.live_bytes), segment.extent_count);
  }
  if (!arguments.verify) return;
  fmt::print("verified   {} read, {} damaged extents\n", byte_size_text(contents.verified_bytes),
             contents.damage.size());
  for (const Damage& damage : contents.damage) {
    fmt::print("damaged    {}  {}\n", to_hex(damage.key), damage.what);
  }
}

}  // namespace

void add_inspect_flags(CLI::App& command, InspectArguments& a) {
  command.footer(kAbout);
  command.add_option("store", a.path, "The file")->required()->type_name("FILE");
  command.add_flag("--sequences", a.sequences, "List the saved sequences");
  command.add_flag("--segments", a.segments, "List how full each 64 MiB of the file are");
  command.add_flag("--verify", a.verify, "Read everything and compare all checksums");
  command.add_flag("--json", a.json, "Print as JSON");
}

int inspect_command(const InspectArguments& arguments) {
  const Result<Contents> contents = contents_of(arguments);
  if (!contents.ok()) {
    spdlog::error("{}", contents.status().message());
    return contents.status().code() == Code::kDataLoss ? kExitSomeFailed : kExitUsage;
  }
  if (arguments.json) {
    fmt::print("{}\n", json_of(contents.value(), arguments).dump(1));
  } else {
    print(contents.value(), arguments);
  }
  return contents.value().is_whole() ? kExitDone : kExitSomeFailed;
}

}  // namespace vkv
