// gguf_test.cpp: tensors and metadata of a GGUF file are found by name, packed values follow their
// formulas, and a file that is broken or of another kind is one clear error.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/gguf.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

#include "tests/temporary_directory.h"
#include "tools/mllm/gguf_checkpoint.h"

namespace vkv {
namespace {

const std::string kRandom = VKV_SOURCE_DIR "/tools/smollm/golden/random.gguf";

// Builds a file field by field.
class Bytes {
 public:
  template <class T>
  Bytes& add(T value) {
    text_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  Bytes& add_string(std::string_view text) {
    add(uint64_t{text.size()});
    text_ += text;
    return *this;
  }
  Bytes& add_metadata(std::string_view key, uint32_t type) { return add_string(key).add(type); }
  Bytes& add_tensor(std::string_view name, std::vector<uint64_t> extents, uint32_t type,
                    uint64_t offset) {
    add_string(name).add(static_cast<uint32_t>(extents.size()));
    for (const uint64_t extent : extents) add(extent);
    return add(type).add(offset);
  }
  Bytes& pad(size_t alignment) {
    text_.resize((text_.size() + alignment - 1) / alignment * alignment);
    return *this;
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

Bytes head(uint64_t tensor_count, uint64_t metadata_count, uint32_t version = 3) {
  Bytes bytes;
  bytes.add(uint32_t{0x46554747}).add(version).add(tensor_count).add(metadata_count);
  return bytes;
}

constexpr uint32_t kU32 = 4, kString = 8, kArray = 9, kU64 = 10, kF64 = 12;

class gguf : public testing::Test {
 protected:
  Result<GgufFile> open(const std::string& text) const {
    std::ofstream(scratch_ / "model.gguf", std::ios::binary) << text;
    return GgufFile::open(scratch_ / "model.gguf");
  }

  void expect_refused(const std::string& text, Code code, const std::string& words) const {
    const Status status = open(text).status();
    EXPECT_EQ(status.code(), code) << words;
    EXPECT_NE(status.message().find(words), std::string::npos) << status.message();
    EXPECT_NE(status.message().find("model.gguf: "), std::string::npos) << status.message();
    EXPECT_EQ(status.message().find('\n'), std::string::npos) << status.message();
  }

  TemporaryDirectory scratch_;
};

TEST_F(gguf, metadata_and_tensors_are_found_by_name) {
  Bytes bytes = head(2, 5);
  bytes.add_metadata("general.alignment", kU32).add(uint32_t{64});
  bytes.add_metadata("a.text", kString).add_string("two\nlines");
  bytes.add_metadata("a.list", kArray).add(kString).add(uint64_t{2});
  bytes.add_string("x").add_string("");
  bytes.add_metadata("a.great", kU64).add(UINT64_MAX);
  bytes.add_metadata("a.real", kF64).add(0.5);
  bytes.add_tensor("second", {3, 2}, 0, 64).add_tensor("first", {1}, 1, 0).pad(64);
  bytes.add(uint16_t{0x3c00}).pad(64);
  for (int i = 0; i < 6; ++i) bytes.add(static_cast<float>(i));

  const auto file = open(bytes.text());
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_EQ(*file.value().get<std::string_view>("a.text"), "two\nlines");
  const std::vector<std::string_view> list = {"x", ""};
  EXPECT_EQ(*file.value().get<std::vector<std::string_view>>("a.list"), list);
  EXPECT_EQ(*file.value().get<double>("a.great"), 0x1p64);
  EXPECT_EQ(*file.value().get<double>("a.real"), 0.5);
  EXPECT_EQ(file.value().get<int64_t>("a.real"), nullptr);
  EXPECT_EQ(file.value().find("b"), nullptr);
  const GgufTensor& second = file.value().tensors().find("second")->second;
  EXPECT_EQ(second.shape, (std::vector<int64_t>{2, 3}));
  std::vector<float> values(6);
  decode_gguf_blocks(second.block, second.data, values);
  EXPECT_EQ(values, (std::vector<float>{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(file.value().tensors().find("first")->second.data.size(), 2u);
}

TEST_F(gguf, a_file_cut_anywhere_is_refused) {
  std::string whole;
  {
    std::ifstream file(kRandom, std::ios::binary);
    whole.assign(std::istreambuf_iterator<char>(file), {});
  }
  ASSERT_TRUE(open(whole).ok());
  // The last tensor ends the file, so no byte may be missing.
  for (size_t bytes = 0; bytes < whole.size(); bytes += 1 + bytes / 5)
    EXPECT_EQ(open(whole.substr(0, bytes)).status().code(), Code::kDataLoss) << bytes;
  EXPECT_EQ(open(whole.substr(0, whole.size() - 1)).status().code(), Code::kDataLoss);
}

TEST_F(gguf, absurd_counts_and_lengths_are_refused_before_they_are_used) {
  const Code broken = Code::kDataLoss;
  expect_refused("", broken, "not a GGUF file");
  expect_refused("version https://git-lfs", broken, "not a GGUF file");
  expect_refused(head(0, 0, 1).text(), Code::kUnsupported, "GGUF version 1; 2 and 3 are read");
  expect_refused(head(UINT64_MAX, 0).text(), broken, "18446744073709551615 tensors do not fit");
  expect_refused(head(0, uint64_t{1} << 60).text(), broken, "metadata values do not fit");
  expect_refused(head(0, 1).add(UINT64_MAX).add(kU32).add(kU32).text(), broken,
                 "bytes of text do not fit");
  expect_refused(head(0, 1).add_metadata("a", kArray).add(kU32).add(UINT64_MAX).text(), broken,
                 "values of an array do not fit");
  expect_refused(head(0, 1).add_metadata("a", 13).add(uint64_t{0}).text(), Code::kUnsupported,
                 "value of type 13");
  expect_refused(head(0, 1).add_metadata("a", kArray).add(kArray).add(uint64_t{0}).text(),
                 Code::kUnsupported, "array of values of type 9");
  expect_refused(head(0, 1).add_metadata("a\n", kU32).add(1).text(), broken, "printable ASCII");
  Bytes twice = head(0, 2);
  twice.add_metadata("a", kU32).add(1).add_metadata("a", kU32).add(1);
  expect_refused(twice.text(), broken, "metadata a stands twice");
  expect_refused(head(0, 1).add_metadata("general.alignment", kU32).add(33).text(), broken,
                 "general.alignment is not a power of two");
  expect_refused(head(0, 1).add_metadata("split.count", kU32).add(2).text(), Code::kUnsupported,
                 "one of 2 files of a split model");
}

TEST_F(gguf, tensors_that_do_not_lie_in_the_file_are_refused) {
  const Code broken = Code::kDataLoss;
  const auto with = [](std::vector<uint64_t> extents, uint32_t type, uint64_t offset) {
    Bytes bytes = head(1, 0);
    return bytes.add_tensor("t", std::move(extents), type, offset).pad(32).add(uint64_t{0}).text();
  };
  EXPECT_TRUE(open(with({2}, 0, 0)).ok());
  expect_refused(with({3}, 0, 0), broken, "tensor t lies outside the file's 8 bytes of data");
  expect_refused(with({2}, 0, 1), broken, "lies outside");
  expect_refused(with({2}, 0, UINT64_MAX), broken, "lies outside");
  expect_refused(with({uint64_t{1} << 62, 4}, 0, 0), broken, "lies outside");
  expect_refused(with({0, UINT64_MAX}, 0, 0), broken, "extent of 18446744073709551615");
  expect_refused(with({1, 1, 1, 1, 1}, 0, 0), broken, "5 dimensions; 4 at most");
  expect_refused(with({33}, 8, 0), broken, "rows of 33 values are not whole blocks of 32 (Q8_0)");
  expect_refused(with({256}, 14, 0), Code::kUnsupported,
                 "tensor t is of type Q6_K; there are F32 F16 Q4_1 Q8_0 BF16");
  expect_refused(with({1}, 99, 0), Code::kUnsupported, "tensor t is of type 99");
  Bytes twice = head(2, 0);
  twice.add_tensor("t", {1}, 0, 0).add_tensor("t", {1}, 0, 0).pad(32).add(0.0f);
  expect_refused(twice.text(), broken, "tensor t stands twice");
}

TEST(gguf_blocks, packed_values_follow_their_formulas) {
  // Q8_0: d = 0.5, q = i - 16.
  Bytes q8;
  q8.add(uint16_t{0x3800});
  for (int i = 0; i < 32; ++i) q8.add(static_cast<int8_t>(i - 16));
  // Q4_1: d = 2, m = -1; low nibbles 0..15, high ones 15..0.
  Bytes q4;
  q4.add(uint16_t{0x4000}).add(uint16_t{0xbc00});
  for (int i = 0; i < 16; ++i) q4.add(static_cast<uint8_t>(i | (15 - i) << 4));
  const auto decode = [](uint32_t type, const Bytes& bytes) {
    const GgufBlock& block = *find_gguf_block(type);
    std::vector<float> values(block.values);
    decode_gguf_blocks(block, std::as_bytes(std::span(bytes.text())), values);
    return values;
  };
  const std::vector<float> from_q8 = decode(8, q8), from_q4 = decode(3, q4);
  for (size_t i = 0; i < 32; ++i) {
    EXPECT_EQ(from_q8[i], 0.5f * (static_cast<float>(i) - 16)) << i;
    EXPECT_EQ(from_q4[i], 2.0f * static_cast<float>(i < 16 ? i : 31 - i) - 1) << i;
  }
  EXPECT_EQ(decode(1, Bytes().add(uint16_t{0xc100})), std::vector<float>{-2.5f});
  EXPECT_EQ(decode(30, Bytes().add(uint16_t{0xc020})), std::vector<float>{-2.5f});
}

// A copy of the random checkpoint in which `from` (found once) is `to`, of the same length.
class gguf_checkpoint : public gguf {
 protected:
  gguf_checkpoint() {
    std::ifstream file(kRandom, std::ios::binary);
    whole_.assign(std::istreambuf_iterator<char>(file), {});
  }

  void expect_model_refused(const std::string& from, const std::string& to, Code code,
                            const std::string& words) const {
    ASSERT_EQ(from.size(), to.size());
    std::string text = whole_;
    ASSERT_NE(text.find(from), text.npos) << words;
    text.replace(text.find(from), from.size(), to);
    const auto file = open(text);
    ASSERT_TRUE(file.ok()) << file.status().message();
    Status status = gguf_model_config(file.value()).status();
    if (status.ok()) status = gguf_tokenizer(file.value()).status();
    EXPECT_EQ(status.code(), code) << words;
    EXPECT_NE(status.message().find(words), std::string::npos) << status.message();
  }

  // The bytes of a u32 in metadata.
  static std::string u32(const std::string& key, uint32_t value) {
    return Bytes().add_metadata(key, kU32).add(value).text();
  }

  std::string whole_;
};

TEST_F(gguf_checkpoint, configuration_and_tokenizer_are_read_as_they_are) {
  const auto file = GgufFile::open(kRandom);
  ASSERT_TRUE(file.ok()) << file.status().message();
  const auto config = gguf_model_config(file.value());
  ASSERT_TRUE(config.ok()) << config.status().message();
  const KvShape expected = {.layers = 2, .q_heads = 6, .kv_heads = 2, .head_dim = 64};
  EXPECT_EQ(config.value().kv_shape(), expected);
  EXPECT_EQ(config.value().text.rope_theta, 1e5);
  EXPECT_EQ(config.value().text.positions_max, 1024);
  EXPECT_TRUE(config.value().text.tied_embeddings);
  EXPECT_EQ(config.value().eos_tokens, std::vector<int32_t>{2});
  const auto tokenizer = gguf_tokenizer(file.value());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  EXPECT_EQ(tokenizer.value().added.size(), 3u);
  EXPECT_EQ(tokenizer.value().split_steps.size(), 2u);
}

TEST_F(gguf_checkpoint, weights_carry_their_names_in_transformers) {
  auto file = GgufFile::open(kRandom);
  ASSERT_TRUE(file.ok()) << file.status().message();
  auto config = gguf_model_config(file.value());
  ASSERT_TRUE(config.ok()) << config.status().message();
  const GgufTensor q = file.value().tensors().find("blk.1.attn_q.weight")->second;
  std::vector<float> rows(384 * 96);
  decode_gguf_blocks(q.block, q.data, rows);
  const auto weights = gguf_weights(std::move(file.value()), config.value());
  const auto actual = weights->floats("model.layers.1.self_attn.q_proj.weight", {384, 96});
  ASSERT_TRUE(actual.ok()) << actual.status().message();
  // Of head 2, channels 10 and 42 turn together: rows 20 and 21 in the file.
  for (size_t column = 0; column < 96; ++column) {
    EXPECT_EQ(actual.value()[(128 + 10) * 96 + column], rows[(128 + 20) * 96 + column]);
    EXPECT_EQ(actual.value()[(128 + 42) * 96 + column], rows[(128 + 21) * 96 + column]);
  }
  EXPECT_TRUE(weights->contains("model.norm.weight"));
  EXPECT_FALSE(weights->contains("lm_head.weight"));
  EXPECT_FALSE(weights->contains("model.layers.2.self_attn.q_proj.weight"));
  const auto message = [&](const char* name, std::initializer_list<int64_t> shape) {
    return weights->floats(name, shape).status().message();
  };
  EXPECT_NE(message("model.norm.weight", {95}).find("output_norm.weight has shape [96]"),
            std::string::npos);
  EXPECT_NE(message("model.layers.2.mlp.up_proj.weight", {1}).find("no tensor blk.2.ffn_up.weight"),
            std::string::npos);
}

TEST_F(gguf_checkpoint, rows_that_are_not_whole_heads_are_refused) {
  auto file = GgufFile::open(kRandom);
  ASSERT_TRUE(file.ok()) << file.status().message();
  auto config = gguf_model_config(file.value());
  ASSERT_TRUE(config.ok()) << config.status().message();
  config.value().text.head_dim = 40;
  const auto weights = gguf_weights(std::move(file.value()), config.value());
  const Status status =
      weights->floats("model.layers.0.self_attn.k_proj.weight", {128, 96}).status();
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_NE(status.message().find("128 rows, not whole heads of 40"), std::string::npos);
}

TEST_F(gguf_checkpoint, another_model_is_refused_with_what_there_is) {
  const Code code = Code::kUnsupported, invalid = Code::kInvalidArgument;
  const auto text = [](const char* value) { return Bytes().add_string(value).text(); };
  expect_model_refused("general.architecture", "general.architectur_", code,
                       "no general.architecture; there are llama and qwen2");
  expect_model_refused(text("gpt2"), text("bert"), code, "model is \"bert\"");
  expect_model_refused(text("smollm"), text("falcon"), code,
                       "the pre-tokenizer is \"falcon\"; there are gpt-2 smollm qwen2");
  expect_model_refused(u32("llama.attention.head_count", 6), u32("llama.attention.head_count", 5),
                       invalid, "5 heads are not a multiple of 2 KV heads");
  expect_model_refused(u32("llama.attention.key_length", 64), u32("llama.attention.key_length", 32),
                       code, "differ in their number");
  expect_model_refused(u32("llama.rope.dimension_count", 64), u32("llama.rope.dimension_count", 32),
                       code, "a part of each head");
  expect_model_refused(u32("llama.block_count", 2), u32("llama.block_count", 0), invalid,
                       "llama.block_count is 0; it may be 1 to 4096");
  expect_model_refused("llama.embedding_length", "llama.embedding_lengt_", invalid,
                       "no integer llama.embedding_length");
  expect_model_refused("tokenizer.ggml.merges", "tokenizer.ggml.merge_", Code::kDataLoss,
                       "no tokenizer.ggml.merges");
  expect_model_refused("ggml.token_type", "ggml.token_typ_", Code::kDataLoss, "missing or differ");
}

}  // namespace
}  // namespace vkv
