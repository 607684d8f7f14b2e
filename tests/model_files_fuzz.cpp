// model_files_fuzz.cpp: whatever bytes a checkpoint's files have, loading ends in a value or an
// error. Takes a seed and a number of rounds as arguments.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>
#include <sstream>

#include "tests/temporary_directory.h"
#include "tools/mllm/checkpoint.h"
#include "tools/mllm/model_config.h"
#include "tools/mllm/safetensors.h"
#include "tools/mllm/tokenizer.h"

namespace vkv {
namespace {

uint64_t seed = 20;
int rounds = 300;

const std::string kRandom = VKV_SOURCE_DIR "/tools/tinyvlm/golden/random/";

std::string file_text(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

// Flips, overwrites, cuts or doubles a few bytes of text[0, byte_count).
std::string mutated(std::string text, size_t byte_count, std::mt19937_64& random) {
  static const std::string kPieces[] = {"{",       "}",     "[",    "]",    "\"",
                                        "-1",      "1e999", "null", "true", "18446744073709551615",
                                        "\\ud800", ",",     ":",    "0"};
  for (uint64_t edits = 1 + random() % 4; edits > 0; --edits) {
    const size_t at = random() % byte_count;
    switch (random() % 4) {
      case 0:
        text[at] = static_cast<char>(text[at] ^ (1 << random() % 8));
        break;
      case 1:
        text[at] = static_cast<char>(random());
        break;
      case 2: {
        const std::string& piece = kPieces[random() % std::size(kPieces)];
        text.replace(at, std::min(piece.size(), text.size() - at), piece);
        break;
      }
      default:
        text.erase(at, random() % 8);
        break;
    }
    byte_count = std::max<size_t>(1, std::min(byte_count, text.size()));
  }
  if (random() % 16 == 0) text.resize(random() % (text.size() + 1));
  return text;
}

// Changes a few bytes of text[0, byte_count) in place: what is behind them is still read.
std::string overwritten(std::string text, size_t byte_count, std::mt19937_64& random) {
  for (uint64_t edits = 1 + random() % 3; edits > 0; --edits) {
    char& byte = text[random() % byte_count];
    byte = static_cast<char>(random() % 2 == 0 ? byte ^ (1 << random() % 8) : random());
  }
  return text;
}

// An outcome has a code and one line of words.
void expect_outcome(const Status& status) {
  if (status.ok()) return;
  EXPECT_FALSE(status.message().empty());
  EXPECT_NE(status.code(), Code::kIo) << status.message();
}

TEST(model_files_fuzz, safetensors) {
  std::mt19937_64 random(seed);
  const TemporaryDirectory scratch;
  const std::string whole = file_text(kRandom + "model.safetensors");
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, whole.data(), 8);
  int refused = 0;
  for (int round = 0; round < rounds; ++round) {
    // Mostly the header: bytes of data are all valid.
    const std::string text = mutated(whole, 8 + header_bytes, random);
    std::ofstream(scratch / "model.safetensors", std::ios::binary) << text;
    const auto weights = SafetensorsWeights::open(scratch.path());
    expect_outcome(weights.status());
    refused += weights.ok() ? 0 : 1;
    if (!weights.ok()) continue;
    const auto values = weights.value().floats("multi_modal_projector.linear_1.weight", {128, 64});
    expect_outcome(values.status());
  }
  EXPECT_GT(refused, rounds / 2);
}

TEST(model_files_fuzz, config) {
  std::mt19937_64 random(seed + 1);
  const TemporaryDirectory scratch;
  for (int round = 0; round < rounds * 2; ++round) {
    for (const char* name : {"config.json", "generation_config.json"}) {
      const std::string whole = file_text(kRandom + name);
      std::ofstream(scratch / name) << mutated(whole, whole.size(), random);
    }
    expect_outcome(load_model_config(scratch.path()).status());
  }
}

TEST(model_files_fuzz, tokenizer) {
  std::mt19937_64 random(seed + 2);
  const std::string whole = file_text(kRandom + "tokenizer.json");
  // Half of the edits in the first kilobytes: added tokens, pattern and options.
  for (int round = 0; round < rounds; ++round) {
    const auto tokenizer =
        Tokenizer::parse(mutated(whole, round % 2 == 0 ? 3000 : whole.size(), random));
    expect_outcome(tokenizer.status());
    if (!tokenizer.ok()) continue;
    const auto ids = tokenizer.value().encode("<s><image>\nWhat's 12 in Köln 😀?   \n  x",
                                              Tokenizer::AddedTokens::kParse);
    expect_outcome(ids.status());
    if (ids.ok()) (void)tokenizer.value().decode(ids.value());
  }
}

TEST(model_files_fuzz, gguf) {
  std::mt19937_64 random(seed + 3);
  const TemporaryDirectory scratch;
  const std::string path = scratch / "model.gguf";
  const std::string whole = file_text(VKV_SOURCE_DIR "/tools/smollm/golden/random.gguf");
  // Names of tensors stand behind all metadata; values of tensors are all valid.
  const size_t head_bytes = whole.rfind("output_norm.weight") + 64;
  ASSERT_LT(head_bytes, whole.size() / 4);
  int refused = 0;
  for (int round = 0; round < rounds; ++round) {
    // The first kilobyte has counts and the configuration.
    const size_t byte_count = round % 2 == 0 ? 1000 : head_bytes;
    std::ofstream(path, std::ios::binary)
        << (round % 3 == 0 ? mutated(whole, byte_count, random)
                           : overwritten(whole, byte_count, random));
    const auto tokenizer = Tokenizer::load(path);
    expect_outcome(tokenizer.status());
    const auto checkpoint = open_checkpoint(path);
    expect_outcome(checkpoint.status());
    refused += checkpoint.ok() ? 0 : 1;
    if (!checkpoint.ok()) continue;
    for (const char* name : {"model.embed_tokens.weight", "model.layers.1.self_attn.q_proj.weight"})
      expect_outcome(checkpoint.value().weights->floats(name, {384, 96}).status());
  }
  EXPECT_GT(refused, rounds / 4);
  EXPECT_LT(refused, rounds);
}

}  // namespace
}  // namespace vkv

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (argc > 1) vkv::seed = std::strtoull(argv[1], nullptr, 10);
  if (argc > 2) vkv::rounds = std::atoi(argv[2]);
  std::printf("seed %llu, %d rounds\n", static_cast<unsigned long long>(vkv::seed), vkv::rounds);
  return RUN_ALL_TESTS();
}
