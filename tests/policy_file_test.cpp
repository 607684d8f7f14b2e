// policy_file_test.cpp: policies are read as documented, each mistake is named, and what is written
// is read back.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/policy_file.h"

#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "tests/temporary_directory.h"

namespace vkv {
namespace {

Result<PrecisionPolicy> parsed(const std::string& text) {
  return parse_policy(text, "p.json", "p");
}

void expect_error(const std::string& text, const std::string& words) {
  const Status status = parsed(text).status();
  ASSERT_FALSE(status.ok()) << text;
  EXPECT_NE(status.message().find(words), std::string::npos) << "want: " << words << "\n"
                                                             << status.message();
  EXPECT_EQ(status.message().find("p.json: "), 0u) << status.message();
  EXPECT_EQ(status.message().find('\n'), std::string::npos) << status.message();
}

TEST(policy_file, every_preset_is_found_by_its_name) {
  for (const std::string_view name : precision_preset_names())
    EXPECT_EQ(policy_from(name).value(), precision_preset(name).value());
}

TEST(policy_file, codecs_and_pairs_are_uniform_policies) {
  const PrecisionPolicy i4 = policy_from("i4").value();
  EXPECT_EQ(i4.low, (CodecPair{.k = Codec::kI4, .v = Codec::kI4}));
  EXPECT_EQ(i4.high, (CodecPair{.k = Codec::kI4, .v = Codec::kI4, .v_per_token = true}));
  const PrecisionPolicy i8 = policy_from("i8").value();
  EXPECT_EQ(i8.high, i8.low) << "8 bits need no scales per token";
  EXPECT_EQ(policy_from("i8/i1").value().low, (CodecPair{.k = Codec::kI8, .v = Codec::kI1}));
  EXPECT_EQ(policy_from("i2/i4").status().code(), Code::kInvalidArgument) << "K below V";
}

TEST(policy_file, a_field_that_is_missing_is_that_of_the_base) {
  const PrecisionPolicy policy =
      parsed(R"({"base": "visual2", "low": {"k": "i2", "v": "i1"}, "high_fraction": 0.05,
                 "layers": [{"layer": 3, "low": "i8"}]})")
          .value();
  EXPECT_EQ(policy.name, "p");
  EXPECT_EQ(policy.high, (CodecPair{.k = Codec::kI8, .v = Codec::kI8}));
  EXPECT_EQ(policy.low, (CodecPair{.k = Codec::kI2, .v = Codec::kI1}));
  EXPECT_EQ(policy.high_fraction, 0.05);
  EXPECT_EQ(policy.sink_tokens, 4);
  EXPECT_EQ(precision_of_layer(policy, 3).low, policy.high);
  EXPECT_EQ(precision_of_layer(policy, 3).high, policy.high);
  EXPECT_EQ(precision_of_layer(policy, 2).low, policy.low);
  EXPECT_EQ(parsed("{}").value().low, (CodecPair{.k = Codec::kF16, .v = Codec::kF16}));
}

TEST(policy_file, what_is_written_is_read_back) {
  for (const std::string_view name : precision_preset_names()) {
    PrecisionPolicy policy = precision_preset(name).value();
    policy.high_fraction = 1.0 / 3;
    policy.layers = {{.layer = 5, .high = policy.high, .low = policy.high},
                     {.layer = 0, .high = policy.high, .low = policy.low},
                     {.layer = 7,
                      .high = {.k = Codec::kI8, .v = Codec::kI8, .v_per_token = true},
                      .low = {.k = Codec::kI2, .v = Codec::kI1, .k_rotated = true}}};
    EXPECT_EQ(parsed(policy_text(policy)).value(), policy) << policy_text(policy);
  }
}

TEST(policy_file, mistakes_are_named_with_what_may_stand_there) {
  expect_error("{\n\"low\": i4}", "line 2");
  expect_error("[]", "must be one JSON object");
  expect_error(R"({"hihg": "i8"})", "\"hihg\" is no field here; there are name, base, high");
  expect_error(R"({"base": "best"})", "\"base\" no precision preset is called 'best'");
  expect_error(R"({"high": "i3"})", "\"high\" must be a codec (f16, bf16, i8, i4, i2, i1)");
  expect_error(R"({"high": 8})", "\"high\" must be a codec");
  expect_error(R"({"low": {"k": "i4"}})", "\"low.v\" is missing");
  expect_error(R"({"low": {"k": "i4", "v": "x"}})", "\"low.v\" must be a codec");
  expect_error(R"({"low": {"k": "i4", "v": "i2", "q": "i8"}})", "low.\"q\" is no field here");
  expect_error(R"({"low": {"k": "i4", "v": "i2", "k_rotated": true}})", "k_rotated with K i4");
  expect_error(R"({"low": {"k": "i1", "v": "i1", "k_rotated": 1}})",
               "\"low.k_rotated\" must be true or false");
  expect_error(R"({"base": "onebit", "low": {"k": "i1", "v": "i1", "v_per_token": true}})",
               "segment_headers false");
  expect_error(R"({"low": "i2/i4"})", "low gives K fewer bits (i2) than V (i4)");
  expect_error(R"({"high_fraction": 1.5})", "\"high_fraction\" must be a number, 0 to 1");
  expect_error(R"({"high_fraction": "0.1"})", "\"high_fraction\" must be a number, 0 to 1");
  expect_error(R"({"sink_tokens": 65})", "\"sink_tokens\" must be a whole number, 0 to 64");
  expect_error(R"({"sink_tokens": 3.5})", "\"sink_tokens\" must be a whole number");
  expect_error(R"({"sink_sigmas": -1})", "\"sink_sigmas\" must be a number, 0 or more");
  expect_error(R"({"segment_headers": 1})", "\"segment_headers\" must be true or false");
  expect_error(R"({"name": ""})", "\"name\" must be 1 to 64 printable characters");
  expect_error(R"({"layers": {}})", "\"layers\" must be a list");
  expect_error(R"({"layers": [7]})", "\"layers[0]\" must be an object");
  expect_error(R"({"layers": [{"low": "i4"}]})", "\"layers[0].layer\" is missing");
  expect_error(R"({"layers": [{"layer": -1}]})", "\"layers[0].layer\" must be a whole number, 0");
  expect_error(R"({"layers": [{"layer": 1}, {"layer": 1}]})", "layer 1 stands twice");
  expect_error(R"({"layers": [{"layer": 1, "high": "i1/i2"}]})", "layer 1 high gives K fewer");
  expect_error(R"({"low": "i4", "low": "i2"})", "\"low\" stands twice");
}

TEST(policy_file, a_file_is_named_in_its_errors_and_gives_the_policy_its_name) {
  const TemporaryDirectory folder;
  std::ofstream(folder / "mine.json") << R"({"low": "i4"})";
  EXPECT_EQ(policy_from(folder / "mine.json").value().name, "mine");
  std::ofstream(folder / "bad.json") << R"({"low": "i5"})";
  EXPECT_NE(policy_from(folder / "bad.json").status().message().find("bad.json"),
            std::string::npos);
  const Status missing = policy_from(folder / "none.json").status();
  EXPECT_EQ(missing.code(), Code::kNotFound);
  EXPECT_NE(missing.message().find("visual2"), std::string::npos) << missing.message();
  EXPECT_FALSE(policy_from(folder.path()).ok()) << "a folder";
}

}  // namespace
}  // namespace vkv
