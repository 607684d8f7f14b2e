// policy_file_fuzz.cpp: whatever a policy file holds, reading it ends in a valid policy that can be
// written and read back, or in one line of words. VKV_SEED repeats a run, VKV_STEPS makes it
// longer. SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <random>
#include <string>

#include "tools/vkv/policy_file.h"

namespace vkv {
namespace {

const std::string kWhole =
    R"({"name": "mine", "base": "visual2", "high": "i8/i8", "low": {"k": "i2", "v": "i2",
 "k_rotated": true, "v_per_token": false},
 "high_fraction": 0.1, "visual_high_fraction_max": 1, "sink_tokens": 4, "sink_sigmas": 6,
 "segment_headers": false, "layers": [{"layer": 0, "high": "i8", "low": "i8"}, {"layer": 3}]})";

const std::string kPieces[] = {"{",       "}",     "[",    "]",         "\"",
                               "-1",      "1e999", "null", "true",      "18446744073709551615",
                               "\\ud800", ",",     ":",    "0",         "\\n",
                               "i1",      "f16",   "bf16", "\"layer\"", "\"low\": ",
                               "\xff",    "/",     ".5",   "exact",     "\"name\": \"\\u0007\""};

uint64_t number_from_environment(const char* name, uint64_t otherwise) {
  const char* const text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

// Flips, overwrites, inserts, cuts and doubles pieces.
std::string mutated(std::string text, std::mt19937_64& random) {
  for (uint64_t edits = 1 + random() % 3; edits > 0 && !text.empty(); --edits) {
    const size_t at = random() % text.size();
    switch (random() % 6) {
      case 0:
        text[at] = static_cast<char>(text[at] ^ (1 << random() % 8));
        break;
      case 1:
        text[at] = static_cast<char>(random());
        break;
      case 2:
        text.erase(at, random() % 12);
        break;
      case 3:
        text.insert(at, text.substr(random() % text.size(), random() % 40));
        break;
      default: {
        const std::string& piece = kPieces[random() % std::size(kPieces)];
        text.replace(at, random() % 2 == 0 ? 0 : piece.size(), piece);
        break;
      }
    }
  }
  return text;
}

TEST(policy_file_fuzz, any_text_is_a_valid_policy_or_an_error_in_one_line) {
  const uint64_t seed = number_from_environment("VKV_SEED", 20250311);
  const uint64_t steps = number_from_environment("VKV_STEPS", 20000);
  std::printf("VKV_SEED=%llu VKV_STEPS=%llu\n", static_cast<unsigned long long>(seed),
              static_cast<unsigned long long>(steps));
  std::mt19937_64 random(seed);
  uint64_t read = 0;
  for (uint64_t step = 0; step < steps; ++step) {
    const std::string text = mutated(kWhole, random);
    const Result<PrecisionPolicy> policy = parse_policy(text, "fuzz", "fuzz");
    if (!policy.ok()) {
      ASSERT_EQ(policy.status().message().find("fuzz: "), 0u) << text;
      ASSERT_EQ(policy.status().message().find('\n'), std::string::npos) << text;
      continue;
    }
    ++read;
    ASSERT_TRUE(validate(policy.value()).ok()) << text;
    const Result<PrecisionPolicy> again = parse_policy(policy_text(policy.value()), "again", "x");
    ASSERT_TRUE(again.ok()) << text << "\n" << again.status().message();
    ASSERT_EQ(again.value(), policy.value()) << text;
  }
  EXPECT_GT(read, steps / 500);
  EXPECT_LT(read, steps);
}

}  // namespace
}  // namespace vkv
