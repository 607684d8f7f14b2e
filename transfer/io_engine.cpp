// io_engine.cpp: short transfers and errors worth another try, the same for every engine.
// SPDX-License-Identifier: Apache-2.0
#include "transfer/io_engine.h"

#include <algorithm>
#include <cerrno>

#include "runtime/base/block_format.h"

namespace vkv {
namespace {

// A call that a signal or a lack of kernel memory stopped is made again, but not for ever.
constexpr int kRetryCountMax = 1000;

// ECANCELED: the kernel drops requests it had queued for a thread that has ended. Nobody else
// cancels here.
bool is_worth_retrying(int error) {
  return error == EINTR || error == EAGAIN || error == EBUSY || error == ECANCELED;
}

}  // namespace

bool must_continue(IoRequest& request, int64_t call_result) {
  if (call_result < 0) {
    const int error = static_cast<int>(-call_result);
    if (is_worth_retrying(error) && ++request.retry_count <= kRetryCountMax) return true;
    request.error = error;
    return false;
  }

  // A direct transfer resumes at a multiple of the alignment, so a part of a sector counts as none.
  uint64_t moved = static_cast<uint64_t>(call_result);
  moved -= moved % kExtentAlignment;
  request.bytes_done += moved;
  if (request.bytes_done == request.byte_count) return false;
  if (moved > 0) {
    request.retry_count = 0;
    return true;
  }
  if (request.kind == IoRequest::Kind::kRead) return false;  // the file ends here
  if (++request.retry_count <= kRetryCountMax) return true;
  request.error = EIO;  // writes that move nothing and give no reason
  return false;
}

uint64_t next_call_bytes(const IoRequest& request, const IoEngineOptions& options) {
  return std::min(request.byte_count - request.bytes_done, options.call_bytes_max);
}

}  // namespace vkv
