// gpu_merge_test: partials merged on the GPU are what their sums are in double, wherever they lie
// and whoever made them.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "kernels/merge.h"
#include "tests/gpu_arrays.h"
#include "tests/gpu_tokens.h"
#include "tests/merge_cases.h"

namespace vkv {
namespace {

class gpu_merge : public testing::Test {
 protected:
  void SetUp() override {
    if (!gpu_exists()) GTEST_SKIP() << "no GPU";
  }
};

Partial merge_on_gpu(const RandomPartials& partials, CudaMemory memory) {
  const MergeCase& merge = partials.shape;
  std::vector<CudaArray<float>> arrays;
  std::vector<PartialView> views;
  for (size_t i = 0; i < partials.out.size(); ++i) {
    arrays.push_back(to_gpu(partials.out[i], memory));
    arrays.push_back(to_gpu(partials.lse[i], memory));
    views.push_back({arrays[2 * i].data(), arrays[2 * i + 1].data()});
  }
  const size_t values = merge.row_count * static_cast<size_t>(merge.head_dim);
  CudaArray<float> out = to_gpu(std::vector<float>(values, NAN));
  CudaArray<float> lse = to_gpu(std::vector<float>(merge.row_count, NAN));
  const Status status = launch_merge({.head_dim = merge.head_dim,
                                      .row_count = merge.row_count,
                                      .partials = views,
                                      .out = out.data(),
                                      .lse = lse.data()},
                                     nullptr);
  EXPECT_TRUE(status.ok()) << status.message();
  return {from_gpu(out), from_gpu(lse)};
}

TEST_F(gpu_merge, partials_become_what_their_sums_are_in_double_wherever_they_lie) {
  for (const MergeCase& merge : kMergeCases) {
    SCOPED_TRACE(testing::Message() << merge.partial_count << " partials of " << merge.row_count
                                    << " rows of " << merge.head_dim);
    const RandomPartials partials(merge);
    const Partial device = merge_on_gpu(partials, CudaMemory::kDevice);
    const Partial mapped = merge_on_gpu(partials, CudaMemory::kPinned);
    const RandomPartials::Errors errors = partials.errors(device.out, device.lse);
    EXPECT_LT(errors.out, kMergeTolerance);
    EXPECT_LT(errors.lse, 2e-6);
    EXPECT_EQ(std::memcmp(device.out.data(), mapped.out.data(), device.out.size() * 4), 0);
    EXPECT_EQ(std::memcmp(device.lse.data(), mapped.lse.data(), device.lse.size() * 4), 0);
  }
}

TEST_F(gpu_merge, what_the_cpu_attended_to_joins_what_the_gpu_did) {
  const KvShape shape = {.layers = 1, .q_heads = 14, .kv_heads = 2, .head_dim = 128};
  const Tokens tokens = random_tokens(shape, 1000, 180);
  const std::vector<float> q = random_queries(shape, 2, 181);
  const std::vector<Record> records =
      encode_all(oracle(), tokens, 1000, 128, {.k_codec = Codec::kI4, .v_codec = Codec::kI2});
  const std::vector<BlockView> views = views_of(records);
  const auto all = std::span<const BlockView>(views);
  const Partial on_cpu = attend(engine(), item_over(shape, 2, q, all.first(5)));
  const AttendItem rest = item_over(shape, 2, q, all.subspan(5));
  const Partial on_gpu = attend_on_gpu({&rest, 1})[0];

  RandomPartials both({.head_dim = 128, .row_count = 28, .partial_count = 0});
  both.out = {on_cpu.out, on_gpu.out};
  both.lse = {on_cpu.lse, on_gpu.lse};
  const Partial merged = merge_on_gpu(both, CudaMemory::kPinned);
  const Difference found = difference(merged, attend(oracle(), item_over(shape, 2, q, views)));
  EXPECT_LE(found.out, 2e-4);
  EXPECT_LE(found.lse, 2e-4);
}

}  // namespace
}  // namespace vkv
