// merge_test: partials of any number and of any emptiness, against sums in double.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "cpu/cpu_backend.h"
#include "tests/merge_cases.h"

namespace vkv {
namespace {

std::unique_ptr<Backend> backend_of(int threads) {
  return std::move(make_cpu_backend({.threads = threads, .engine = "reference"}).value());
}

std::vector<PartialView> views_of(const RandomPartials& partials) {
  std::vector<PartialView> views;
  for (size_t i = 0; i < partials.out.size(); ++i)
    views.push_back({partials.out[i].data(), partials.lse[i].data()});
  return views;
}

MergeItem item_over(const RandomPartials& partials, const std::vector<PartialView>& views,
                    std::vector<float>& out, std::vector<float>& lse) {
  return {.head_dim = partials.shape.head_dim,
          .row_count = partials.shape.row_count,
          .partials = views,
          .out = out.data(),
          .lse = lse.data()};
}

TEST(merge, partials_become_what_their_sums_are_in_double) {
  const auto backend = backend_of(0);
  for (const MergeCase& merge : kMergeCases) {
    SCOPED_TRACE(testing::Message() << merge.partial_count << " partials of " << merge.row_count
                                    << " rows of " << merge.head_dim);
    const RandomPartials partials(merge);
    const auto views = views_of(partials);
    std::vector<float> out(merge.row_count * static_cast<size_t>(merge.head_dim), NAN);
    std::vector<float> lse(merge.row_count, NAN);
    const MergeItem item = item_over(partials, views, out, lse);
    ASSERT_TRUE(backend->merge({&item, 1}).ok());
    const RandomPartials::Errors errors = partials.errors(out, lse);
    EXPECT_LT(errors.out, kMergeTolerance);
    EXPECT_LT(errors.lse, 2e-6);
  }
}

TEST(merge, the_target_may_be_the_first_partial) {
  RandomPartials partials({.head_dim = 128, .row_count = 28, .partial_count = 9});
  const RandomPartials before = partials;
  const auto views = views_of(partials);
  const MergeItem item = item_over(partials, views, partials.out[0], partials.lse[0]);
  ASSERT_TRUE(backend_of(0)->merge({&item, 1}).ok());
  EXPECT_LT(before.errors(partials.out[0], partials.lse[0]).out, kMergeTolerance);
}

TEST(merge, bits_do_not_depend_on_the_number_of_threads_or_on_other_items) {
  const RandomPartials partials({.head_dim = 128, .row_count = 196, .partial_count = 60});
  const auto views = views_of(partials);
  std::vector<std::vector<float>> outs;
  for (const int threads : {1, 0}) {
    std::vector<float> out(size_t{196} * 128), other(out.size()), lse(196);
    const MergeItem item = item_over(partials, views, out, lse);
    MergeItem second = item;
    second.out = other.data();
    const std::vector<MergeItem> items = {item, second};
    ASSERT_TRUE(backend_of(threads)->merge(items).ok());
    EXPECT_EQ(out, other);
    outs.push_back(out);
  }
  EXPECT_EQ(outs[0], outs[1]);
}

}  // namespace
}  // namespace vkv
