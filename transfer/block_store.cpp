// block_store.cpp: opening a store: its options, its file, and the best engine that works on it.
// SPDX-License-Identifier: Apache-2.0
#include "transfer/block_store.h"

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "runtime/base/block_format.h"
#include "transfer/file_store.h"
#include "transfer/io_engine.h"
#include "transfer/memory_pool.h"
#include "transfer/store_file.h"

namespace vkv {
namespace {

constexpr uint64_t kStoreBytesMin = uint64_t{1} << 20;
constexpr uint64_t kInFlightMax = 4096;

// VKV_IO decides where the options leave it open, so that CI can run everything on each engine.
Result<IoBackend> resolve(IoBackend asked) {
  const char* const forced = std::getenv("VKV_IO");
  if (asked != IoBackend::kAuto || forced == nullptr || *forced == '\0') return asked;
  const std::string_view name = forced;
  if (name == "uring") return IoBackend::kUring;
  if (name == "threads") return IoBackend::kThreads;
  return Status(Code::kInvalidArgument,
                "VKV_IO is '" + std::string(name) + "'; there are: uring threads");
}

// Whether the engine really moves bytes here: reads a superblock, and where nothing can be lost
// writes it back and reads it again. A container may allow io_uring_setup and refuse the rest; a
// file system may take O_DIRECT and then fail, or ask for a wider alignment.
Status probe(IoEngine& engine, const std::string& path, StoreUse use) {
  MemoryPool pool(2 * kPageBytes);
  VKV_TRY_ASSIGN(first, pool.allocate(kPageBytes, "probing the store"));
  VKV_TRY_ASSIGN(second, pool.allocate(kPageBytes, "probing the store"));
  const auto move = [&](IoRequest::Kind kind, const MemoryBuffer& buffer) -> Status {
    IoRequest request{.kind = kind, .data = buffer.data(), .byte_count = kPageBytes};
    engine.submit(request);
    engine.wait(request);
    if (request.error != 0) return file_error("probe", path, request.error);
    if (request.bytes_done == kPageBytes) return {};
    return {Code::kDataLoss, "the store '" + path + "' is truncated"};
  };
  VKV_TRY(move(IoRequest::Kind::kRead, first));
  if (use != StoreUse::kTemporary) return {};  // a file that has a meaning is not written for this
  VKV_TRY(move(IoRequest::Kind::kWrite, first));
  VKV_TRY(move(IoRequest::Kind::kRead, second));
  if (std::memcmp(first.data(), second.data(), kPageBytes) == 0) return {};
  return {Code::kIo, "cannot probe '" + path + "': what was written does not come back"};
}

Result<std::unique_ptr<IoEngine>> make_engine(IoBackend backend, const IoEngineOptions& options,
                                              const StoreFile& file, StoreUse use) {
  auto engine =
      backend == IoBackend::kUring ? make_uring_engine(options) : make_thread_engine(options);
  if (!engine.ok()) return engine.status();
  VKV_TRY(probe(*engine.value(), file.path(), use));
  return engine;
}

Status check(const BlockStoreOptions& options) {
  if (options.path.empty()) {
    return {Code::kInvalidArgument, "the NVMe tier needs a store path; it is empty"};
  }
  const bool is_written = options.use != StoreUse::kReadOnly;
  if (is_written && (options.bytes_max < kStoreBytesMin || options.bytes_max > kStoreBytesMax)) {
    return {Code::kInvalidArgument, "the NVMe budget is " + std::to_string(options.bytes_max) +
                                        " bytes; it must be " + std::to_string(kStoreBytesMin) +
                                        " or more, and at most 2^44"};
  }
  if (options.in_flight_max < 1 || options.in_flight_max > kInFlightMax) {
    return {Code::kInvalidArgument, "in_flight_max is " + std::to_string(options.in_flight_max) +
                                        "; it may be 1 to " + std::to_string(kInFlightMax)};
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<BlockStore>> BlockStore::open(const BlockStoreOptions& options) {
  VKV_TRY(check(options));
  VKV_TRY_ASSIGN(backend, resolve(options.io));
  // So that a change of the working directory does not keep it from being removed.
  std::error_code unused;
  const std::string path = std::filesystem::absolute(options.path, unused).string();
  VKV_TRY_ASSIGN(file, StoreFile::open(path, options.use));

  // The best first: direct before buffered, and io_uring before threads where the choice is ours.
  const IoEngineOptions engine_options{.file = file->file(),
                                       .in_flight_max = options.in_flight_max};
  std::vector<IoBackend> backends = {backend};
  if (backend == IoBackend::kAuto) backends = {IoBackend::kUring, IoBackend::kThreads};
  Status status;
  for (const bool is_direct : {true, false}) {
    if (!file->set_direct(is_direct)) continue;
    for (const IoBackend candidate : backends) {
      auto engine = make_engine(candidate, engine_options, *file, options.use);
      status = engine.status();
      if (!status.ok()) continue;
      if (options.around_engine) {
        engine = options.around_engine(std::move(engine.value()));
      }
      auto store = std::make_unique<FileStore>(options, std::move(file), std::move(engine.value()),
                                               is_direct);
      if (options.use != StoreUse::kTemporary) VKV_TRY(store->recover());
      return std::unique_ptr<BlockStore>(std::move(store));
    }
  }
  return status;
}

}  // namespace vkv
