// io_engine.h: what moves bytes between memory and one file: io_uring, or a pool of threads.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "vkv/status.h"

namespace vkv {

// One read, write or sync. The first four fields are the caller's, the rest belongs to the engine
// from submit() until done() or wait() has said that it is over.
struct IoRequest {
  // kSync, without data: every write that was over before it was submitted has reached the disk,
  // and so has what the file system needs to find it again (fdatasync).
  enum class Kind : uint8_t { kRead, kWrite, kSync };

  Kind kind = Kind::kRead;
  uint64_t file_offset = 0;   // a multiple of kExtentAlignment
  std::byte* data = nullptr;  // aligned to kExtentAlignment
  uint64_t byte_count = 0;    // a multiple of kExtentAlignment

  uint64_t bytes_done = 0;  // less than byte_count when over: see error
  int retry_count = 0;      // in a row, without a byte moved
  int error = 0;            // errno; 0 with too few bytes: the file ends there
  bool over = false;
  bool is_awaited = false;  // somebody sleeps until it is over
};

// How a ring of io_uring is set up. Where the choice is ours, the first that the kernel takes.
enum class UringSetup : uint8_t {
  kBest = 0,
  kDeferred = 1,     // SINGLE_ISSUER and DEFER_TASKRUN: Linux 6.1
  kCooperative = 2,  // COOP_TASKRUN: Linux 5.19
  kPlain = 3,
};

struct IoEngineOptions {
  int file = -1;                                // open for reading and writing; stays open
  uint32_t in_flight_max = 64;                  // requests, 1..4096
  uint64_t call_bytes_max = uint64_t{1} << 30;  // of one system call; the rest follows in the next
  UringSetup setup = UringSetup::kBest;
};

// Thread-safe. A request stays where it is, and so does its buffer, until it is over.
class IoEngine {
 public:
  virtual ~IoEngine() = default;  // no request may be under way

  // Starts the request; blocks while in_flight_max are under way. A request that fails to start is
  // over at once, with its error.
  virtual void submit(IoRequest& request) = 0;

  // Returns when the request is over: the kernel then has no hold of its buffer.
  virtual void wait(IoRequest& request) = 0;

  // Whether the request is over. Does not block.
  virtual bool done(IoRequest& request) = 0;

  // Memory that many requests will lie in, so that the kernel need not look it up each time. Stays
  // where it is until the engine is gone. At most once, while no request is under way. False where
  // it makes no difference: the engine knows no such thing, or the system refuses to lock so much.
  virtual bool register_memory(std::span<const std::span<std::byte>> regions) = 0;

  virtual std::string_view name() const = 0;  // "io_uring", "threads"
};

// Has a thread and a ring of its own. Errors: kUnsupported where the kernel or the container
// refuses io_uring, or this set-up of it, with errno.
Result<std::unique_ptr<IoEngine>> make_uring_engine(const IoEngineOptions& options);
// Errors: kIo where the system refuses threads.
Result<std::unique_ptr<IoEngine>> make_thread_engine(const IoEngineOptions& options);

// For engines: books what one system call gave, bytes moved or -errno. True where the request has
// to go on with the part that is still missing; otherwise it is finished, well or not.
bool must_continue(IoRequest& request, int64_t call_result);

// For engines: the bytes that the next system call should ask for.
uint64_t next_call_bytes(const IoRequest& request, const IoEngineOptions& options);

}  // namespace vkv
