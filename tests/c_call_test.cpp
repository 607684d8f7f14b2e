// No exception comes out of a call of the C ABI: each is a code with words.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/c_call.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>

namespace vkv {
namespace {

TEST(c_call, lack_of_memory_is_a_code) {
  EXPECT_EQ(c_call([]() -> Status { throw std::bad_alloc(); }), VKV_OUT_OF_MEMORY);
  EXPECT_STREQ(vkv_last_error(), "the process has no memory left for the call itself");
}

TEST(c_call, exceptions_of_libraries_keep_their_words) {
  EXPECT_EQ(c_call([]() -> Status { throw std::runtime_error("of a library"); }), VKV_INTERNAL);
  EXPECT_STREQ(vkv_last_error(), "of a library");
}

TEST(c_call, anything_can_be_thrown) {
  EXPECT_EQ(c_call([]() -> Status { throw 1; }), VKV_INTERNAL);
  EXPECT_STREQ(vkv_last_error(), "an exception that is no std::exception");
}

TEST(c_call, words_are_of_the_last_call) {
  EXPECT_EQ(c_call([] { return Status(Code::kDataLoss, "torn"); }), VKV_DATA_LOSS);
  EXPECT_STREQ(vkv_last_error(), "torn");
  EXPECT_EQ(c_call([] { return Status(); }), VKV_OK);
  EXPECT_STREQ(vkv_last_error(), "");
}

TEST(c_call, words_that_are_too_long_are_cut) {
  EXPECT_EQ(c_call([] { return Status(Code::kIo, std::string(5000, 'x')); }), VKV_IO);
  EXPECT_EQ(vkv_last_error(), std::string(1023, 'x'));
}

}  // namespace
}  // namespace vkv
