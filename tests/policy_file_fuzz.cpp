// policy_file_fuzz.cpp: whatever a policy file holds, reading it ends in a valid policy that can be
// written and read back, or in one line of words. VKV_SEED repeats a run, VKV_STEPS makes it
// longer. SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdio>
#include <random>
#include <string>

#include "tests/environment_number.h"
#include "tests/mutated_text.h"
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

TEST(policy_file_fuzz, any_text_is_a_valid_policy_or_an_error_in_one_line) {
  const uint64_t seed = number_from_environment("VKV_SEED", 20250311);
  const uint64_t steps = number_from_environment("VKV_STEPS", 20000);
  std::printf("VKV_SEED=%llu VKV_STEPS=%llu\n", static_cast<unsigned long long>(seed),
              static_cast<unsigned long long>(steps));
  std::mt19937_64 random(seed);
  uint64_t read = 0;
  for (uint64_t step = 0; step < steps; ++step) {
    const std::string text = mutated(kWhole, kPieces, random);
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
