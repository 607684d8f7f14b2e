// node_memory.cpp: the kernel's memory policies, by system calls: libnuma would add no more.
// SPDX-License-Identifier: Apache-2.0
#include "transfer/node_memory.h"

#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>
#include <string>
#include <system_error>

#include "runtime/base/block_format.h"
#include "runtime/base/check.h"

namespace vkv {
namespace {

constexpr size_t kNodesMax = 1024;  // MAX_NUMNODES of any kernel
constexpr size_t kBitsOfWord = 8 * sizeof(unsigned long);

// Windows may have holes: twice the budget leaves room for any piece.
constexpr uint64_t kWindowFactor = 2;
constexpr uint64_t kHugePageBytes = uint64_t{2} << 20;

using NodeMask = std::array<unsigned long, kNodesMax / kBitsOfWord>;

NodeMask mask_of(int node) {
  NodeMask mask{};
  const size_t bit = static_cast<size_t>(node);
  if (bit < kNodesMax) mask[bit / kBitsOfWord] = 1ul << bit % kBitsOfWord;
  return mask;
}

Status refusal(const char* call, uint64_t byte_count) {
  return {Code::kOutOfMemory, "the system refuses " + std::to_string(byte_count) + " bytes (" +
                                  call + ": " + std::system_category().message(errno) +
                                  "); lower the DRAM budget"};
}

}  // namespace

bool prefer_node(std::span<std::byte> bytes, int node) {
  const NodeMask mask = mask_of(node);
  return node != kUnknownNode && syscall(SYS_mbind, bytes.data(), bytes.size(), MPOL_PREFERRED,
                                         mask.data(), kNodesMax, 0) == 0;
}

// Fractions of the golden ratio's multiples, which fill gaps evenly whatever the stride, those near
// large Fibonacci numbers excepted (Knuth, The Art of Computer Programming, volume 3, section 6.4).
size_t node_of_turn(uint64_t turn, size_t node_count) {
  constexpr uint64_t kGoldenRatio = 0x9e3779b97f4a7c15;  // its fraction, times 2^64
  return static_cast<size_t>(((turn * kGoldenRatio) >> 32) * node_count >> 32);
}

Result<std::unique_ptr<NodeMemory>> NodeMemory::make(std::span<const int> nodes,
                                                     uint64_t bytes_max) {
  VKV_CHECK(!nodes.empty());
  // No more than the machine has will ever be mapped.
  const uint64_t machine_bytes =
      static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(getpagesize());
  const uint64_t byte_count =
      round_up_bytes(kWindowFactor * std::min(bytes_max, machine_bytes), kHugePageBytes);
  std::unique_ptr<NodeMemory> memory(new NodeMemory);
  for (const int node : nodes) {
    void* const mapped =
        mmap(nullptr, byte_count, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) return refusal("mmap", byte_count);
    Window& window = memory->windows_.emplace_back();
    window.bytes = {static_cast<std::byte*>(mapped), byte_count};
    window.space.extend(byte_count);
    if (prefer_node(window.bytes, node)) window.node = node;
    // Only advice: where huge pages are switched off, small ones do.
    (void)madvise(mapped, byte_count, MADV_HUGEPAGE);
  }
  return Result<std::unique_ptr<NodeMemory>>(std::move(memory));
}

NodeMemory::~NodeMemory() {
  for (const Window& window : windows_) {
    VKV_CHECK(window.space.used_bytes() == 0);
    VKV_CHECK(munmap(window.bytes.data(), window.bytes.size()) == 0);
  }
}

Result<std::byte*> NodeMemory::map(uint64_t byte_count) {
  Window& window = windows_[node_of_turn(turn_++, windows_.size())];
  const std::optional<uint64_t> offset = window.space.allocate(byte_count);
  if (!offset)
    return Status(Code::kOutOfMemory, "no hole between the blocks of a NUMA node has " +
                                          std::to_string(byte_count) + " bytes");
  std::byte* const data = window.bytes.data() + *offset;
  if (mprotect(data, byte_count, PROT_READ | PROT_WRITE) != 0) {
    const Status status = refusal("mprotect", byte_count);
    window.space.release(*offset, byte_count);
    return status;
  }
  return data;
}

void NodeMemory::unmap(std::byte* data, uint64_t byte_count) {
  const Window* const window = window_of(data);
  VKV_CHECK(window != nullptr);
  VKV_CHECK(madvise(data, byte_count, MADV_DONTNEED) == 0);
  VKV_CHECK(mprotect(data, byte_count, PROT_NONE) == 0);
  windows_[static_cast<size_t>(window - windows_.data())].space.release(
      static_cast<uint64_t>(data - window->bytes.data()), byte_count);
}

const NodeMemory::Window* NodeMemory::window_of(const std::byte* data) const {
  for (const Window& window : windows_)
    if (data >= window.bytes.data() && data < window.bytes.data() + window.bytes.size())
      return &window;
  return nullptr;
}

int NodeMemory::node_of(const std::byte* data) const {
  const Window* const window = window_of(data);
  return window == nullptr ? kUnknownNode : window->node;
}

// The policy of the thread that asks the kernel decides: drivers take memory in no other way.
Result<std::byte*> NodePolicySource::map(uint64_t byte_count) {
  int mode = MPOL_DEFAULT;
  NodeMask before{};
  const NodeMask mask = mask_of(nodes_[node_of_turn(turn_++, nodes_.size())]);
  const bool is_set =
      syscall(SYS_get_mempolicy, &mode, before.data(), kNodesMax, nullptr, 0) == 0 &&
      syscall(SYS_set_mempolicy, MPOL_PREFERRED, mask.data(), kNodesMax) == 0;
  Result<std::byte*> mapped = upstream_->map(byte_count);
  if (is_set) (void)syscall(SYS_set_mempolicy, mode, before.data(), kNodesMax);
  return mapped;
}

}  // namespace vkv
