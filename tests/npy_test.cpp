// npy_test.cpp: .npy frame stacks are read exactly, and everything else is refused with a reason.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/npy.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "tests/temporary_directory.h"

namespace vkv {
namespace {

class Npy : public testing::Test {
 protected:
  // A file with this header dictionary and so many bytes 0, 1, 2, ...
  std::filesystem::path write(const std::string& dictionary, size_t data_bytes, int version = 1) {
    std::string text = dictionary;
    const size_t prefix_bytes = version == 1 ? 10 : 12;
    while ((prefix_bytes + text.size() + 1) % 64 != 0) text += ' ';
    text += '\n';
    std::string file = "\x93NUMPY";
    file += static_cast<char>(version);
    file += '\0';
    for (size_t i = 0; i < prefix_bytes - 8; ++i) {
      file += static_cast<char>(text.size() >> (8 * i));
    }
    file += text;
    for (size_t i = 0; i < data_bytes; ++i) file += static_cast<char>(i);
    return write_raw(file);
  }

  std::filesystem::path write_raw(const std::string& bytes) {
    const std::filesystem::path path = folder_ / "stack.npy";
    std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
    return path;
  }

  static void expect_error(const std::filesystem::path& path, Code code, const std::string& words) {
    const Result<NpyStack> stack = NpyStack::open(path);
    ASSERT_FALSE(stack.ok()) << words;
    EXPECT_EQ(stack.status().code(), code) << stack.status().message();
    EXPECT_NE(stack.status().message().find(words), std::string::npos) << stack.status().message();
    EXPECT_EQ(stack.status().message().find('\n'), std::string::npos);
  }

  TemporaryDirectory folder_;
};

constexpr const char* kStack = "{'descr': '|u1', 'fortran_order': False, 'shape': (3, 2, 4, 3), }";

TEST_F(Npy, frames_of_a_stack_are_read_one_by_one) {
  for (const int version : {1, 2}) {
    Result<NpyStack> stack = NpyStack::open(write(kStack, 72, version));
    ASSERT_TRUE(stack.ok()) << stack.status().message();
    EXPECT_EQ(stack.value().frame_count(), 3);
    EXPECT_EQ(stack.value().height(), 2);
    EXPECT_EQ(stack.value().width(), 4);
    for (int64_t index = 0; index < 3; ++index) {
      Result<Image> frame = stack.value().frame(index);
      ASSERT_TRUE(frame.ok());
      ASSERT_EQ(frame.value().rgb.size(), 24u);
      EXPECT_EQ(frame.value().rgb.front(), 24 * index);
      EXPECT_EQ(frame.value().rgb.back(), 24 * index + 23);
    }
  }
}

TEST_F(Npy, three_dimensions_are_one_frame) {
  Result<NpyStack> stack =
      NpyStack::open(write("{'descr': '|u1', 'fortran_order': False, 'shape': (2, 4, 3), }", 24));
  ASSERT_TRUE(stack.ok()) << stack.status().message();
  EXPECT_EQ(stack.value().frame_count(), 1);
}

TEST_F(Npy, keys_may_stand_in_any_order_but_each_once) {
  EXPECT_TRUE(
      NpyStack::open(write("{'shape':(1,2,4,3),'fortran_order':False,'descr':'|u1'}", 24)).ok());
  expect_error(write("{'descr': '|u1', 'descr': '|u1', 'shape': (1, 2, 4, 3)}", 24),
               Code::kInvalidArgument, "cannot be understood");
  expect_error(write("{'descr': '|u1', 'shape': (1, 2, 4, 3)}", 24), Code::kInvalidArgument,
               "cannot be understood");
}

TEST_F(Npy, zero_frames_are_a_stack_without_frames) {
  Result<NpyStack> stack =
      NpyStack::open(write("{'descr': '|u1', 'fortran_order': False, 'shape': (0, 2, 4, 3), }", 0));
  ASSERT_TRUE(stack.ok()) << stack.status().message();
  EXPECT_EQ(stack.value().frame_count(), 0);
}

TEST_F(Npy, a_file_cut_at_any_byte_is_refused) {
  std::string bytes;
  {
    std::ifstream file(write(kStack, 72), std::ios::binary);
    bytes.assign(std::istreambuf_iterator<char>(file), {});
  }
  for (size_t length = 0; length < bytes.size(); ++length) {
    const Result<NpyStack> stack = NpyStack::open(write_raw(bytes.substr(0, length)));
    ASSERT_FALSE(stack.ok()) << length;
    const Code expected = length < 10 ? Code::kInvalidArgument : Code::kDataLoss;
    EXPECT_EQ(stack.status().code(), expected) << length;
  }
  expect_error(write_raw(bytes + "x"), Code::kInvalidArgument, "left over");
}

TEST_F(Npy, a_file_that_shrinks_after_it_was_opened_is_noticed) {
  const std::filesystem::path path = write(kStack, 72);
  Result<NpyStack> stack = NpyStack::open(path);
  ASSERT_TRUE(stack.ok());
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 1);
  EXPECT_TRUE(stack.value().frame(1).ok());
  EXPECT_EQ(stack.value().frame(2).status().code(), Code::kDataLoss);
}

TEST_F(Npy, what_is_no_frame_stack_is_refused_with_the_reason) {
  const auto dictionary = [](const std::string& descr, const std::string& order,
                             const std::string& shape) {
    return "{'descr': '" + descr + "', 'fortran_order': " + order + ", 'shape': " + shape + ", }";
  };
  expect_error(write(dictionary("<f4", "False", "(1, 2, 4, 3)"), 96), Code::kInvalidArgument,
               "'<f4'");
  expect_error(write(dictionary("|u1", "True", "(1, 2, 4, 3)"), 24), Code::kInvalidArgument,
               "Fortran");
  expect_error(write(dictionary("|u1", "False", "(2, 4)"), 8), Code::kInvalidArgument, "[2, 4]");
  expect_error(write(dictionary("|u1", "False", "(1, 2, 4, 4)"), 32), Code::kInvalidArgument,
               "[1, 2, 4, 4]");
  expect_error(write(dictionary("|u1", "False", "(1, 0, 4, 3)"), 0), Code::kInvalidArgument,
               "no pixels");
  expect_error(write(dictionary("|u1", "False", "(1, 40000, 40000, 3)"), 0), Code::kInvalidArgument,
               "40000 x 40000");
  expect_error(write(dictionary("|u1", "False", "(9223372036854775807, 2, 4, 3)"), 24),
               Code::kDataLoss, "truncated");
  expect_error(write(dictionary("|u1", "False", "(92233720368547758070, 2, 4, 3)"), 24),
               Code::kInvalidArgument, "cannot be understood");
  expect_error(write(dictionary("|u1", "False", "(-1, 2, 4, 3)"), 24), Code::kInvalidArgument,
               "cannot be understood");
  expect_error(write(dictionary("|u1", "False", "(1, 2, 4, 3)"), 24, 3), Code::kUnsupported,
               "version 3.0");
  expect_error(write_raw("PK\3\4 this is no array"), Code::kInvalidArgument, "not a .npy");
  expect_error(folder_ / "absent.npy", Code::kIo, "absent.npy");
  expect_error(folder_.path(), Code::kIo, "cannot be opened");
}

}  // namespace
}  // namespace vkv
