// safetensors_test.cpp: tensors come out as they were written, and a broken file is an error that
// names the file and the tensor.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/safetensors.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>

#include "tests/temporary_directory.h"

namespace vkv {
namespace {

// Header length, header, data.
std::string file_of(const std::string& header, const std::string& data) {
  const uint64_t header_bytes = header.size();
  std::string file(8, '\0');
  std::memcpy(file.data(), &header_bytes, 8);
  return file + header + data;
}

template <class T>
std::string bytes_of_values(std::initializer_list<T> values) {
  std::string bytes;
  for (const T value : values) {
    char raw[sizeof(T)];
    std::memcpy(raw, &value, sizeof(T));
    bytes.append(raw, sizeof(T));
  }
  return bytes;
}

class safetensors : public testing::Test {
 protected:
  void write(const std::string& name, const std::string& bytes) const {
    std::ofstream(scratch_ / name, std::ios::binary) << bytes;
  }

  void expect_refused(const std::string& bytes, Code code, const std::string& words) const {
    write("model.safetensors", bytes);
    const auto weights = SafetensorsWeights::open(scratch_.path());
    ASSERT_FALSE(weights.ok()) << words;
    EXPECT_EQ(weights.status().code(), code) << weights.status().message();
    const std::string message = weights.status().message();
    EXPECT_NE(message.find(words), std::string::npos) << message;
    EXPECT_NE(message.find("model.safetensors"), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos);
  }

  TemporaryDirectory scratch_;
};

TEST_F(safetensors, values_of_three_types_are_read_as_floats) {
  const std::string f32 = bytes_of_values({1.5f, -0.0f, 3e38f});
  const std::string f16 =
      bytes_of_values<uint16_t>({0x3c00, 0xc000, 0x0001, 0x7bff, 0x7c00, 0x8000});
  const std::string bf16 = bytes_of_values<uint16_t>({0x3f80, 0xbf00});
  write("model.safetensors",
        file_of(R"({"__metadata__":{"format":"pt"},)"
                R"("b":{"dtype":"F16","shape":[2,3],"data_offsets":[12,24]},)"
                R"("a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]},)"
                R"("c":{"dtype":"BF16","shape":[1,2],"data_offsets":[24,28]},)"
                R"("none":{"dtype":"F32","shape":[0,4],"data_offsets":[28,28]}}   )",
                f32 + f16 + bf16));
  const auto weights = SafetensorsWeights::open(scratch_.path());
  ASSERT_TRUE(weights.ok()) << weights.status().message();
  EXPECT_EQ(weights.value().floats("a", {3}).value(), (std::vector<float>{1.5f, -0.0f, 3e38f}));
  EXPECT_EQ(weights.value().floats("b", {2, 3}).value(),
            (std::vector<float>{1, -2, 0x1p-24f, 65504, INFINITY, -0.0f}));
  EXPECT_EQ(weights.value().floats("c", {1, 2}).value(), (std::vector<float>{1, -0.5f}));
  EXPECT_EQ(weights.value().floats("none", {0, 4}).value().size(), 0u);

  const Status missing = weights.value().floats("d", {1}).status();
  EXPECT_EQ(missing.code(), Code::kNotFound);
  EXPECT_NE(missing.message().find("no tensor d"), std::string::npos);
  const Status shape = weights.value().floats("b", {3, 2}).status();
  EXPECT_EQ(shape.code(), Code::kInvalidArgument);
  EXPECT_NE(
      shape.message().find("tensor b has shape [2, 3], the model's configuration asks for [3, 2]"),
      std::string::npos);
}

TEST_F(safetensors, a_type_that_is_no_float_is_refused_by_name) {
  write("model.safetensors", file_of(R"({"ids":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}})",
                                     std::string(8, 'x')));
  const auto weights = SafetensorsWeights::open(scratch_.path());
  ASSERT_TRUE(weights.ok());
  const Status status = weights.value().floats("ids", {1}).status();
  EXPECT_EQ(status.code(), Code::kUnsupported);
  EXPECT_NE(status.message().find("tensor ids is I64"), std::string::npos);
}

TEST_F(safetensors, broken_headers_are_refused) {
  const auto one = [](const std::string& entry) {
    return file_of(R"({"a":)" + entry + "}", std::string(8, 'x'));
  };
  const Code broken = Code::kDataLoss;
  expect_refused("", broken, "0 bytes are no safetensors file");
  expect_refused(file_of("{}", "").substr(0, 9), broken, "truncated");
  expect_refused(std::string(8, '\xff') + "{}", broken, "truncated");
  expect_refused(file_of("[]", ""), broken, "not a JSON object");
  expect_refused(file_of(R"({"a": )", ""), broken, "not valid JSON");
  expect_refused(file_of(std::string(100, '['), ""), broken, "header");
  expect_refused(one("3"), broken, "tensor a");
  expect_refused(one(R"({"shape":[2],"data_offsets":[0,8]})"), broken, "no dtype");
  expect_refused(one(R"({"dtype":"F32","data_offsets":[0,8]})"), broken, "no shape");
  expect_refused(one(R"({"dtype":"F32","shape":[2]})"), broken, "data_offsets");
  expect_refused(one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,-8]})"), broken,
                 "data_offsets");
  expect_refused(one(R"({"dtype":"F32","shape":[2.5],"data_offsets":[0,8]})"), broken, "dimension");
  expect_refused(one(R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})"), broken, "dimension");
  expect_refused(one(R"({"dtype":"F99","shape":[2],"data_offsets":[0,8]})"), Code::kUnsupported,
                 "dtype F99");
  expect_refused(one(R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})"), broken, "backwards");
  expect_refused(one(R"({"dtype":"F32","shape":[3],"data_offsets":[0,12]})"), broken,
                 "end at byte 12 of 8: the file is truncated");
  expect_refused(one(R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})"), broken,
                 "8 bytes do not hold F32 of shape [3]");
  expect_refused(one(R"({"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]})"),
                 broken, "do not hold");
  expect_refused(one(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})"), broken,
                 "4 bytes after the last tensor");
  expect_refused(one(R"({"dtype":"F32","shape":[1],"data_offsets":[4,8]})"), broken, "a gap");
}

TEST_F(safetensors, names_and_bytes_belong_to_one_tensor) {
  const std::string a = R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
  const std::string b = R"("b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]})";
  const std::string data(8, 'x');
  expect_refused(file_of("{" + a + "," + a + "}", data), Code::kDataLoss, "\"a\" stands twice");
  expect_refused(file_of("{" + a + "," + b + "}", data), Code::kDataLoss, "tensor b overlaps");
}

TEST_F(safetensors, shards_make_one_set_of_weights) {
  const auto shard = [](const std::string& name, float value) {
    return file_of("{\"" + name + R"(":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
                   bytes_of_values({value}));
  };
  write("one.safetensors", shard("a", 1));
  write("two.safetensors", shard("b", 2));
  write("model.safetensors.index.json",
        R"({"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})");
  const auto weights = SafetensorsWeights::open(scratch_.path());
  ASSERT_TRUE(weights.ok()) << weights.status().message();
  EXPECT_EQ(weights.value().floats("a", {1}).value()[0], 1);
  EXPECT_EQ(weights.value().floats("b", {1}).value()[0], 2);

  const auto expect_index = [&](const std::string& index, Code code, const std::string& words) {
    write("model.safetensors.index.json", index);
    const Status status = SafetensorsWeights::open(scratch_.path()).status();
    EXPECT_EQ(status.code(), code) << status.message();
    EXPECT_NE(status.message().find(words), std::string::npos) << status.message();
  };
  expect_index(R"({"weight_map":{"c":"one.safetensors"}})", Code::kDataLoss,
               "tensor c is not in one.safetensors");
  expect_index(R"({"weight_map":{"a":"gone.safetensors"}})", Code::kNotFound, "gone.safetensors");
  expect_index(R"({"weight_map":{"a":"../one.safetensors"}})", Code::kDataLoss, "is not a name");
  expect_index(R"({"weight_map":{}})", Code::kDataLoss, "no weight_map");
  expect_index(R"([1])", Code::kDataLoss, "no weight_map");
  write("two.safetensors", shard("a", 2));
  expect_index(R"({"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})", Code::kDataLoss,
               "tensor a stands in two shards");
}

TEST_F(safetensors, a_folder_without_weights_says_what_it_lacks) {
  const Status status = SafetensorsWeights::open(scratch_.path()).status();
  EXPECT_EQ(status.code(), Code::kNotFound);
  EXPECT_NE(status.message().find("neither model.safetensors nor"), std::string::npos);
}

}  // namespace
}  // namespace vkv
