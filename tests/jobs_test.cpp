// jobs_test.cpp: job lines and sizes are read as documented, and each mistake is named.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/jobs.h"

#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <string>

#include "tests/temporary_directory.h"
#include "tools/vkv/byte_size.h"

namespace vkv {
namespace {

Job parsed(const std::string& text, const JobDefaults& defaults = {}) {
  Result<Job> job = parse_job(text, 7, defaults);
  EXPECT_TRUE(job.ok()) << job.status().message();
  return job.ok() ? std::move(job.value()) : Job{};
}

void expect_error(const std::string& text, const std::string& words) {
  const Result<Job> job = parse_job(text, 7, {});
  ASSERT_FALSE(job.ok()) << text;
  EXPECT_EQ(job.status().code(), Code::kInvalidArgument);
  EXPECT_NE(job.status().message().find(words), std::string::npos) << job.status().message();
  EXPECT_EQ(job.status().message().find('\n'), std::string::npos);
}

TEST(jobs, a_line_with_one_prompt_is_one_question) {
  const Job job = parsed(R"({"id": "a", "image": "x.png", "prompt": "What?", "answer": "red"})");
  EXPECT_EQ(job.id, "a");
  EXPECT_EQ(job.line, 7);
  EXPECT_EQ(job.images, std::vector<std::string>{"x.png"});
  ASSERT_EQ(job.questions.size(), 1u);
  EXPECT_EQ(job.questions[0].prompt, "What?");
  EXPECT_EQ(job.questions[0].expected, "red");
}

TEST(jobs, a_line_may_hold_several_questions_and_its_own_sampling) {
  const Job job = parsed(R"({"id": 12, "images": ["a.png", "b.png"], "video": "v.mp4", "frames": 4,
      "questions": [{"prompt": "One?"}, {"prompt": "Two?", "answer": "2", "kind": "count"}],
      "group": "video-4",
      "sampling": {"temperature": 0.5, "top_p": 0.9, "seed": 3, "max_tokens": 5},
      "meta": {"anything": [1]}})",
                         {.video_sampling = {.fps = 2}});
  EXPECT_EQ(job.id, "12");
  EXPECT_EQ(job.images.size(), 2u);
  EXPECT_EQ(job.video_sampling.frame_count, 4);
  EXPECT_EQ(job.video_sampling.fps, 0) << "the line's choice replaces the default's";
  EXPECT_EQ(job.questions.size(), 2u);
  EXPECT_FALSE(job.questions[0].expected.has_value());
  EXPECT_EQ(job.questions[1].kind, "count");
  EXPECT_EQ(job.sampling.max_new_tokens, 5);
  EXPECT_EQ(job.sampling.seed, 3u);
}

TEST(jobs, what_a_line_does_not_say_comes_from_the_defaults) {
  JobDefaults defaults;
  defaults.sampling.max_new_tokens = 9;
  defaults.video_sampling.fps = 2;
  const Job job = parsed(R"({"video": "v.mp4", "prompt": "What?"})", defaults);
  EXPECT_EQ(job.id, "7") << "the number of the line";
  EXPECT_EQ(job.sampling.max_new_tokens, 9);
  EXPECT_EQ(job.video_sampling.fps, 2);
}

TEST(jobs, mistakes_are_named) {
  expect_error("{", "not valid JSON");
  expect_error("[1]", "not an object");
  expect_error("{}", "\"prompt\" or \"questions\" is missing");
  expect_error(R"({"prompt": "a", "vidoe": "v.mp4"})", "\"vidoe\" is no field");
  expect_error(R"({"prompt": ""})", "\"prompt\" is empty");
  expect_error(R"({"prompt": " \n"})", "\"prompt\" is empty");
  expect_error(R"({"prompt": 3})", "\"prompt\" must be a string");
  expect_error(R"({"prompt": "a", "questions": []})", "must not both stand");
  expect_error(R"({"questions": []})", "\"questions\" must be a list");
  expect_error(R"({"questions": ["a"]})", "\"questions\" must be a list");
  expect_error(R"({"questions": [{"answer": "a"}]})", "\"prompt\" is missing");
  expect_error(R"({"prompt": "a", "images": "x.png"})", "\"images\" must be a list");
  expect_error(R"({"prompt": "a", "images": [""]})", "empty path");
  expect_error(R"({"prompt": "a", "image": "x", "images": []})", "must not both stand");
  expect_error(R"({"prompt": "a", "frames": 3})", "need a \"video\"");
  expect_error(R"({"prompt": "a", "video": "v", "frames": 0})", "\"frames\" must be a whole");
  expect_error(R"({"prompt": "a", "video": "v", "frames": 1.5})", "\"frames\" must be a whole");
  expect_error(R"({"prompt": "a", "video": "v", "frames": 3000000000})", "\"frames\" must be");
  expect_error(R"({"prompt": "a", "video": "v", "fps": 0})", "\"fps\" must be above 0");
  expect_error(R"({"prompt": "a", "video": "v", "fps": 1, "frames": 1})", "must not both stand");
  expect_error(R"({"prompt": "a", "sampling": {"top_k": 1}})", "\"top_k\" is no field");
  expect_error(R"({"prompt": "a", "sampling": {"top_p": 0}})", "top_p");
  expect_error(R"({"prompt": "a", "sampling": {"max_tokens": 0}})", "max_tokens");
  expect_error(R"({"prompt": "a", "sampling": {"seed": 18446744073709551615}})", "seed");
  expect_error(R"({"prompt": "a", "id": ""})", "\"id\" is empty");
  expect_error(R"({"prompt": "a", "id": [1]})", "\"id\" must be a string");
  expect_error("{\"prompt\": \"\xff\"}", "not valid JSON");
}

TEST(jobs, a_file_gives_every_line_that_is_not_blank) {
  const TemporaryDirectory folder;
  std::ofstream(folder / "jobs.jsonl") << "{\"id\": \"a\", \"prompt\": \"One?\"}\n"
                                       << "\n  \n"
                                       << "{\"id\": \"b\", \"prompt\": 1}\n"
                                       << "oops\n"
                                       << "{\"id\": \"a\", \"prompt\": \"Again?\"}";
  Result<std::vector<JobLine>> lines = read_jobs(folder / "jobs.jsonl", {});
  ASSERT_TRUE(lines.ok());
  ASSERT_EQ(lines.value().size(), 4u);
  EXPECT_TRUE(lines.value()[0].job.ok());
  EXPECT_EQ(lines.value()[0].job.value().folder, folder.path());
  EXPECT_EQ(lines.value()[1].line, 4);
  EXPECT_EQ(lines.value()[1].id, "b");
  EXPECT_FALSE(lines.value()[1].job.ok());
  EXPECT_EQ(lines.value()[2].id, "5");
  EXPECT_NE(lines.value()[3].job.status().message().find("\"a\" again"), std::string::npos);
}

TEST(jobs, a_file_without_jobs_is_an_error) {
  const TemporaryDirectory folder;
  std::ofstream(folder / "empty.jsonl") << "\n";
  EXPECT_EQ(read_jobs(folder / "empty.jsonl", {}).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(read_jobs(folder / "absent.jsonl", {}).status().code(), Code::kIo);
  EXPECT_EQ(read_jobs(folder.path(), {}).status().code(), Code::kIo);
}

TEST(jobs, the_hash_changes_with_whatever_changes_the_answer) {
  const std::string line = R"({"id": "a", "image": "x.png", "prompt": "What?"})";
  const Job job = parsed(line);
  std::set<std::string> hashes = {question_hash(job, 0, "s")};
  EXPECT_EQ(question_hash(parsed(line), 0, "s"), *hashes.begin());
  Job other = job;
  other.id = "b";
  other.group = "g";
  other.line = 9;
  EXPECT_EQ(question_hash(other, 0, "s"), *hashes.begin()) << "these change no answer";

  EXPECT_TRUE(hashes.insert(question_hash(job, 0, "t")).second);
  const auto changed = [&](auto change) {
    Job copy = job;
    change(copy);
    EXPECT_TRUE(hashes.insert(question_hash(copy, 0, "s")).second);
  };
  changed([](Job& j) { j.images = {"y.png"}; });
  changed([](Job& j) { j.images = {"x.png", "x.png"}; });
  changed([](Job& j) { j.images = {}, j.video = "x.png"; });
  changed([](Job& j) { j.video_sampling.fps = 1; });
  changed([](Job& j) { j.video_sampling.frame_count = 1; });
  changed([](Job& j) { j.questions[0].prompt = "What"; });
  changed([](Job& j) { j.questions.push_back({"More?", {}}); });
  changed([](Job& j) { j.sampling.seed = 1; });
  changed([](Job& j) { j.sampling.temperature = 1; });
  changed([](Job& j) { j.sampling.top_p = 0.5; });
  changed([](Job& j) { j.sampling.max_new_tokens = 1; });
}

TEST(jobs, answers_are_compared_without_case_and_outer_space) {
  EXPECT_TRUE(is_expected(" Red\n", "red"));
  EXPECT_FALSE(is_expected("red.", "red"));
  EXPECT_FALSE(is_expected("", "red"));
  EXPECT_TRUE(is_expected(" ", ""));
}

TEST(byte_size, sizes_are_powers_of_1024) {
  EXPECT_EQ(parse_byte_size("0").value(), 0u);
  EXPECT_EQ(parse_byte_size("4096").value(), 4096u);
  EXPECT_EQ(parse_byte_size("17B").value(), 17u);
  EXPECT_EQ(parse_byte_size("3k").value(), 3072u);
  EXPECT_EQ(parse_byte_size("512M").value(), 512u << 20);
  EXPECT_EQ(parse_byte_size("512MB").value(), 512u << 20);
  EXPECT_EQ(parse_byte_size("512MiB").value(), 512u << 20);
  EXPECT_EQ(parse_byte_size("1.5G").value(), uint64_t{3} << 29);
  EXPECT_EQ(parse_byte_size("2T").value(), uint64_t{2} << 40);
  for (const char* text : {"", "G", "-1G", "1 G", "1X", "1Gx", "1iB", "1e3", "inf", "nan", "0x10",
                           "9999999999T", "1GB2"}) {
    const Result<uint64_t> size = parse_byte_size(text);
    ASSERT_FALSE(size.ok()) << text;
    EXPECT_NE(size.status().message().find("like 512M"), std::string::npos);
  }
}

TEST(byte_size, sizes_are_written_with_one_decimal) {
  EXPECT_EQ(byte_size_text(0), "0 B");
  EXPECT_EQ(byte_size_text(1023), "1023 B");
  EXPECT_EQ(byte_size_text(1536), "1.5 KiB");
  EXPECT_EQ(byte_size_text(uint64_t{5} << 40), "5.0 TiB");
}

}  // namespace
}  // namespace vkv
