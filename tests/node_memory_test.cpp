// Memory takes turns on the nodes, evenly whatever the stride, and knows where each piece lies.
// SPDX-License-Identifier: Apache-2.0
#include "transfer/node_memory.h"

#include <gtest/gtest.h>
#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <map>
#include <random>
#include <vector>

#include "transfer/memory_pool.h"

namespace vkv {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr int kNoSuchNode = 1000;

struct Policy {
  int mode = -1;
  unsigned long nodes = 0;  // the first 64
};

// Of the thread, or of an address. mode -1: the system does not say.
Policy policy_of(const void* address) {
  Policy policy;
  std::array<unsigned long, 16> nodes{};
  const unsigned flags = address == nullptr ? 0 : MPOL_F_ADDR;
  if (syscall(SYS_get_mempolicy, &policy.mode, nodes.data(), 1024, address, flags) != 0) return {};
  policy.nodes = nodes[0];
  return policy;
}

bool system_has_policies() { return policy_of(nullptr).mode >= 0; }

// Of so many pieces, every stride-th, how many more or fewer than its share a node gets at most.
double unevenness(size_t nodes, uint64_t first, uint64_t stride, uint64_t pieces) {
  std::vector<double> counts(nodes);
  for (uint64_t i = 0; i < pieces; ++i) ++counts.at(node_of_turn(first + i * stride, nodes));
  const double share = static_cast<double>(pieces) / static_cast<double>(nodes);
  double most = 0;
  for (const double count : counts) most = std::max(most, std::abs(count - share));
  return most;
}

TEST(node_memory, turns_are_even_over_neighbours) {
  for (const size_t nodes : {1, 2, 3, 4, 8})
    for (uint64_t first = 0; first < 1000; ++first)
      for (const uint64_t pieces : {8, 24, 60})
        ASSERT_LE(unevenness(nodes, first, 1, pieces), 2.0) << nodes << " nodes, from " << first;
}

// A layer of a sequence that grows by a block in each layer gets every 28th piece, say.
TEST(node_memory, turns_are_nearly_even_over_every_stride_that_layers_may_have) {
  for (const size_t nodes : {2, 3, 4})
    for (uint64_t stride = 2; stride <= 64; ++stride)
      for (uint64_t first = 0; first < stride; ++first)
        ASSERT_LE(unevenness(nodes, first, stride, 256), 0.3 * 256 / static_cast<double>(nodes))
            << nodes << " nodes, every " << stride << "th from " << first;
}

TEST(node_memory, pieces_are_writable_zero_and_never_overlap) {
  constexpr int kNodes[] = {0, 0, 0};
  auto made = NodeMemory::make(kNodes, 64 * kMiB);
  ASSERT_TRUE(made.ok()) << made.status().message();
  MemoryPool pool(64 * kMiB, std::move(made.value()));
  std::mt19937 random(1);
  std::vector<std::pair<MemoryBuffer, uint8_t>> held;
  for (int step = 0; step < 2000; ++step) {
    if (held.size() > 20) {
      const size_t victim = random() % held.size();
      const auto [buffer, mark] = std::move(held[victim]);
      held.erase(held.begin() + static_cast<std::ptrdiff_t>(victim));
      const auto count = std::count(buffer.bytes().begin(), buffer.bytes().end(), std::byte{mark});
      ASSERT_EQ(static_cast<size_t>(count), buffer.bytes().size());
    }
    auto buffer = pool.allocate(4096 * (1 + random() % 300), "a piece");
    ASSERT_TRUE(buffer.ok()) << buffer.status().message();
    const auto mark = static_cast<uint8_t>(random());
    std::memset(buffer.value().data(), mark, buffer.value().bytes().size());
    held.emplace_back(std::move(buffer.value()), mark);
  }
}

TEST(node_memory, an_address_tells_the_node_that_its_policy_prefers) {
  if (!system_has_policies()) GTEST_SKIP() << "the system has no memory policies";
  constexpr int kNodes[] = {0, kNoSuchNode};
  auto made = NodeMemory::make(kNodes, 64 * kMiB);
  ASSERT_TRUE(made.ok()) << made.status().message();
  MemoryPool pool(64 * kMiB, std::move(made.value()));
  std::vector<MemoryBuffer> buffers;
  std::map<int, int> counts;
  for (int i = 0; i < 32; ++i) {
    auto buffer = pool.allocate(kMiB, "a piece");
    ASSERT_TRUE(buffer.ok()) << buffer.status().message();
    std::byte* const data = buffer.value().data();
    const int node = pool.node_of(data);
    EXPECT_EQ(pool.node_of(data + kMiB - 1), node);
    ++counts[node];
    *data = std::byte{1};
    const Policy policy = policy_of(data);
    EXPECT_EQ(policy.mode, node == 0 ? MPOL_PREFERRED : MPOL_DEFAULT);
    if (node == 0) {
      EXPECT_EQ(policy.nodes, 1u);
    }
    buffers.push_back(std::move(buffer.value()));
  }
  // What the system refused is of no known node, and memory all the same.
  EXPECT_EQ(counts.size(), 2u);
  EXPECT_NEAR(counts[0], 16, 3);
  EXPECT_NEAR(counts[kUnknownNode], 16, 3);
  const std::byte elsewhere{};
  EXPECT_EQ(pool.node_of(&elsewhere), kUnknownNode);
  EXPECT_EQ(MemoryPool(kMiB).node_of(&elsewhere), kUnknownNode);
}

TEST(node_memory, what_is_given_back_is_gone_and_comes_back_as_zero) {
  constexpr int kNodes[] = {0};
  auto made = NodeMemory::make(kNodes, kMiB);
  ASSERT_TRUE(made.ok()) << made.status().message();
  NodeMemory& memory = *made.value();
  const auto first = memory.map(kMiB);
  ASSERT_TRUE(first.ok());
  std::memset(first.value(), 0x5a, kMiB);
  memory.unmap(first.value(), kMiB);
  const auto again = memory.map(kMiB);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again.value(), first.value());
  EXPECT_EQ(std::count(again.value(), again.value() + kMiB, std::byte{}),
            static_cast<std::ptrdiff_t>(kMiB));
  memory.unmap(again.value(), kMiB);
}

TEST(node_memory, more_than_a_window_holds_is_an_error) {
  constexpr int kNodes[] = {0};
  auto made = NodeMemory::make(kNodes, kMiB);
  ASSERT_TRUE(made.ok()) << made.status().message();
  const Status status = made.value()->map(64 * kMiB).status();
  EXPECT_EQ(status.code(), Code::kOutOfMemory);
  EXPECT_NE(status.message().find("67108864 bytes"), std::string::npos) << status.message();
}

// Notes the policy of the thread that takes memory.
class PolicyProbe final : public MemorySource {
 public:
  explicit PolicyProbe(std::vector<Policy>& seen) : seen_(seen) {}
  Result<std::byte*> map(uint64_t) override {
    seen_.push_back(policy_of(nullptr));
    return reinterpret_cast<std::byte*>(4096);
  }
  void unmap(std::byte*, uint64_t) override {}

 private:
  std::vector<Policy>& seen_;
};

TEST(node_memory, a_source_is_asked_under_the_nodes_policy_and_the_threads_own_comes_back) {
  if (!system_has_policies()) GTEST_SKIP() << "the system has no memory policies";
  std::vector<Policy> seen;
  NodePolicySource source(std::make_unique<PolicyProbe>(seen), {0, kNoSuchNode});
  for (int i = 0; i < 8; ++i) {
    EXPECT_TRUE(source.map(4096).ok());
    EXPECT_EQ(policy_of(nullptr).mode, MPOL_DEFAULT);
  }
  const auto preferred = std::count_if(seen.begin(), seen.end(), [](const Policy& policy) {
    return policy.mode == MPOL_PREFERRED && policy.nodes == 1;
  });
  EXPECT_NEAR(static_cast<double>(preferred), 4, 1);  // the other node is refused, the memory not
}

}  // namespace
}  // namespace vkv
