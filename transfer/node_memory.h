// node_memory.h: memory of chosen NUMA nodes, which take turns.
// SPDX-License-Identifier: Apache-2.0
//
// A node is preferred, not demanded: where it is full, or where the system refuses (containers may
// forbid mbind), memory comes from another, and everything is as slow as it would have been.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "runtime/base/memory_source.h"
#include "transfer/file_space.h"
#include "vkv/status.h"

namespace vkv {

// Pages of `bytes`, whole pages not touched yet, are to come from the node. False: refused.
bool prefer_node(std::span<std::byte> bytes, int node);

// Which of so many nodes the turn-th piece is for. Even over neighbours, and nearly so over every
// regular part: a layer of a sequence that grows gets each 28th piece, say.
size_t node_of_turn(uint64_t turn, size_t node_count);

// Anonymous memory, pieces of which lie on the nodes by turns. Each node has a window of addresses,
// so that neighbours are one mapping to the kernel, which has not many; and an address tells its
// node.
class NodeMemory final : public MemorySource {
 public:
  // Windows of at least bytes_max each: addresses, no memory. Errors: kOutOfMemory where the system
  // has not so many addresses for this process.
  static Result<std::unique_ptr<NodeMemory>> make(std::span<const int> nodes, uint64_t bytes_max);
  ~NodeMemory() override;

  Result<std::byte*> map(uint64_t byte_count) override;
  void unmap(std::byte* data, uint64_t byte_count) override;
  int node_of(const std::byte* data) const override;

 private:
  struct Window {
    std::span<std::byte> bytes;
    int node = kUnknownNode;  // unknown: the system refused
    FileSpace space{0};       // offsets in it
  };

  NodeMemory() = default;
  const Window* window_of(const std::byte* data) const;

  std::vector<Window> windows_;
  uint64_t turn_ = 0;
};

// What `upstream` has the kernel take comes from the nodes by turns.
class NodePolicySource final : public MemorySource {
 public:
  NodePolicySource(std::unique_ptr<MemorySource> upstream, std::vector<int> nodes)
      : upstream_(std::move(upstream)), nodes_(std::move(nodes)) {}

  Result<std::byte*> map(uint64_t byte_count) override;
  void unmap(std::byte* data, uint64_t byte_count) override { upstream_->unmap(data, byte_count); }

 private:
  const std::unique_ptr<MemorySource> upstream_;
  const std::vector<int> nodes_;
  uint64_t turn_ = 0;
};

}  // namespace vkv
