// huge_pages.cpp: addresses at a huge page's border, and threads that touch them.
// SPDX-License-Identifier: Apache-2.0
#include "transfer/huge_pages.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "runtime/base/block_format.h"
#include "runtime/base/check.h"
#include "transfer/page_toucher.h"

namespace vkv {
namespace {

constexpr uint64_t kHugePageBytes = uint64_t{2} << 20;
constexpr int kTouchThreads = 4;

}  // namespace

Result<std::byte*> HugePages::map(uint64_t byte_count) {
  const uint64_t with_border = byte_count + kHugePageBytes;
  void* const mapped =
      mmap(nullptr, with_border, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED)
    return Status(Code::kOutOfMemory, "the system refuses " + std::to_string(byte_count) +
                                          " bytes (mmap: " + std::system_category().message(errno) +
                                          "); lower the DRAM budget");
  std::byte* const begin = static_cast<std::byte*>(mapped);
  const uint64_t address = reinterpret_cast<uintptr_t>(begin);
  const uint64_t before = round_up_bytes(address, kHugePageBytes) - address;
  std::byte* const data = begin + before;
  if (before > 0) VKV_CHECK(munmap(begin, before) == 0);
  VKV_CHECK(munmap(data + byte_count, kHugePageBytes - before) == 0);
  (void)madvise(data, byte_count, MADV_HUGEPAGE);  // only advice: small ones do

  // The threads have the memory policy of this one.
  std::vector<std::span<std::byte>> pieces;
  for (uint64_t at = 0; at < byte_count; at += kHugePageBytes)
    pieces.emplace_back(data + at, std::min(kHugePageBytes, byte_count - at));
  const size_t count = pieces.size();
  PageToucher toucher(std::move(pieces), kTouchThreads);
  for (size_t i = 0; i < count; ++i) toucher.wait(i);
  return data;
}

void HugePages::unmap(std::byte* data, uint64_t byte_count) {
  VKV_CHECK(munmap(data, byte_count) == 0);
}

}  // namespace vkv
