// batch_test.cpp: the file of answers survives a stop at any byte, and sums come out right.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/temporary_directory.h"
#include "tools/vkv/answers.h"
#include "tools/vkv/summary.h"

namespace vkv {
namespace {

std::string content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

void write(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

AnswerRecord record(const std::string& id, int64_t question) {
  AnswerRecord answer;
  answer.id = id;
  answer.question = question;
  answer.hash = "00ff";
  answer.group = "video-16";
  answer.kind = "which";
  answer.prompt = "Wh\xc3\xa4t?";
  answer.text = "line one\nline two";
  answer.expected = "x";
  answer.finish = FinishReason::kLength;
  answer.prompt_tokens = {3, 64, 2, 0};
  answer.answer_tokens = 5;
  answer.media_seconds = 0.25;
  answer.ttft_seconds = 0.5;
  answer.kv[static_cast<size_t>(Role::kVisual)] = {64, 1000, 4000, 900, 3600, 500, 100};
  answer.dram = {10, 20};
  answer.nvme = {30, 40};
  answer.io = {9, 8, 7, 6, 5};
  return answer;
}

AnswerFile opened(const std::string& path, bool restart = false) {
  Result<AnswerFile> file = AnswerFile::open(path, restart);
  VKV_CHECK(file.ok());
  return std::move(file.value());
}

TEST(answers, a_record_survives_json) {
  const AnswerRecord before = record("a", 1);
  Result<AnswerRecord> after = answer_from_json(nlohmann::json::parse(to_json(before).dump()));
  ASSERT_TRUE(after.ok()) << after.status().message();
  EXPECT_EQ(to_json(after.value()), to_json(before));
  EXPECT_EQ(after.value().tpot_seconds, 0) << "none, as there are fewer than two tokens";
}

TEST(answers, what_was_appended_is_found_again) {
  const TemporaryDirectory folder;
  const std::string path = folder / "out.jsonl";
  {
    AnswerFile file = opened(path);
    ASSERT_TRUE(file.append(to_json(record("a", 0))).ok());
    ASSERT_TRUE(file.append(to_json(record("a", 1))).ok());
    EXPECT_EQ(file.find("a", 0), nullptr) << "only what was there at open";
  }
  const AnswerFile file = opened(path);
  EXPECT_EQ(file.earlier().size(), 2u);
  ASSERT_NE(file.find("a", 1), nullptr);
  EXPECT_EQ(file.find("a", 1)->hash, "00ff");
  EXPECT_EQ(file.find("a", 2), nullptr);
}

TEST(answers, a_torn_last_line_is_cut_off_and_the_file_keeps_its_whole_lines) {
  const TemporaryDirectory folder;
  const std::string path = folder / "out.jsonl";
  const std::string first = to_json(record("a", 0)).dump() + "\n";
  const std::string second = to_json(record("b", 0)).dump() + "\n";
  for (size_t cut = 0; cut < second.size(); cut += cut < 5 ? 1 : 41) {
    write(path, first + second.substr(0, cut));
    {
      AnswerFile file = opened(path);
      ASSERT_EQ(file.earlier().size(), 1u) << cut;
      ASSERT_TRUE(file.append(to_json(record("c", 0))).ok());
    }
    ASSERT_EQ(content(path), first + to_json(record("c", 0)).dump() + "\n") << cut;
  }
}

TEST(answers, failures_are_dropped_so_that_they_are_tried_again) {
  const TemporaryDirectory folder;
  const std::string path = folder / "out.jsonl";
  const std::string answer = to_json(record("a", 0)).dump() + "\n";
  write(path, to_json(FailureRecord{"x", 3, -1, "no file"}).dump() + "\n" + answer +
                  to_json(FailureRecord{"y", 4, 2, "too long"}).dump() + "\n");
  EXPECT_EQ(opened(path).earlier().size(), 1u);
  EXPECT_EQ(content(path), answer);
  EXPECT_FALSE(std::filesystem::exists(path + ".new"));
}

TEST(answers, a_file_of_another_kind_is_left_alone) {
  const TemporaryDirectory folder;
  const std::string path = folder / "notes.txt";
  for (const std::string text : {"hello", "hello\n", "{\"id\": \"a\", \"prompt\": \"b\"}\n", "{}\n",
                                 "{\n}\n", "[1]\n", "\n"}) {
    write(path, text);
    const Result<AnswerFile> file = AnswerFile::open(path, false);
    ASSERT_FALSE(file.ok()) << text;
    EXPECT_EQ(file.status().code(), Code::kInvalidArgument);
    EXPECT_NE(file.status().message().find("--restart"), std::string::npos);
    EXPECT_EQ(content(path), text);
  }
}

TEST(answers, restart_forgets_everything) {
  const TemporaryDirectory folder;
  const std::string path = folder / "out.jsonl";
  write(path, to_json(record("a", 0)).dump() + "\n");
  EXPECT_TRUE(opened(path, true).earlier().empty());
  EXPECT_EQ(content(path), "");
}

TEST(answers, two_batches_cannot_write_one_file) {
  const TemporaryDirectory folder;
  const std::string path = folder / "out.jsonl";
  write(path, "{\"torn");  // replaced at open: the lock must hold for the new file, too
  const AnswerFile file = opened(path);
  const Result<AnswerFile> second = AnswerFile::open(path, false);
  ASSERT_FALSE(second.ok());
  EXPECT_NE(second.status().message().find("another batch"), std::string::npos);
}

TEST(answers, paths_that_cannot_be_written_are_errors) {
  const TemporaryDirectory folder;
  EXPECT_EQ(AnswerFile::open(folder / "no/such/out.jsonl", false).status().code(), Code::kIo);
  EXPECT_FALSE(AnswerFile::open(folder.path(), false).ok());
  EXPECT_EQ(AnswerFile::open("/dev/null", false).status().code(), Code::kInvalidArgument);
}

TEST(answers, bytes_that_are_no_utf8_are_replaced) {
  const TemporaryDirectory folder;
  AnswerRecord answer = record("a", 0);
  answer.text = "\xff";
  AnswerFile file = opened(folder / "out.jsonl");
  ASSERT_TRUE(file.append(to_json(answer)).ok());
  EXPECT_NE(content(folder / "out.jsonl").find("\xef\xbf\xbd"), std::string::npos);
}

TEST(summary, sums_ratios_and_accuracy_come_out_right) {
  Totals totals;
  AnswerRecord right = record("a", 0);
  right.correct = true;
  right.tpot_seconds = 0.002;
  right.group = "image";
  right.kind.clear();
  right.nvme.peak = 50;
  totals.add(right);
  totals.add(record("b", 0));
  totals.add(record("c", 0));
  const nlohmann::json json = totals.json({.preset = "balanced", .nvme_bytes_max = 99});

  EXPECT_EQ(json["answers"], 3);
  EXPECT_EQ(json["accuracy"]["correct"], 1);
  EXPECT_EQ(json["accuracy"]["groups"]["video-16"]["total"], 2);
  EXPECT_EQ(json["accuracy"]["groups"]["image"]["percent"], 100.0);
  EXPECT_EQ(json["accuracy"]["kinds"]["which"]["total"], 2);
  EXPECT_EQ(json["prompt_tokens"]["visual"], 192);
  EXPECT_EQ(json["answer_tokens"], 15);
  EXPECT_DOUBLE_EQ(json["kv"]["visual"]["bits_per_value"].get<double>(), 4.0);
  EXPECT_DOUBLE_EQ(json["visual_kv_reduction_percent"].get<double>(), 75.0);
  EXPECT_DOUBLE_EQ(json["visual_nvme_percent"].get<double>(), 50.0);
  EXPECT_DOUBLE_EQ(json["compression"].get<double>(), 4.0);
  EXPECT_EQ(json["tiers"]["nvme"]["peak"], 50);
  EXPECT_EQ(json["tiers"]["nvme"]["budget"], 99);
  EXPECT_EQ(json["io"]["extents_needed"], 27);
  EXPECT_EQ(json["tpot_ms"]["count"], 1);
  EXPECT_DOUBLE_EQ(json["ttft_ms"]["median"].get<double>(), 500.0);

  const std::string table = totals.table({.preset = "balanced", .nvme_bytes_max = 99});
  for (const char* words : {"33.3 % (1 of 3)", "image", "100.0 %", "visual KV reduction", "75.0 %",
                            "27: 18 prefetched, 15 of them in time"}) {
    EXPECT_NE(table.find(words), std::string::npos) << words << "\n" << table;
  }
}

TEST(summary, nothing_answered_divides_by_nothing) {
  const Totals totals;
  const nlohmann::json json = totals.json({});
  EXPECT_EQ(json["compression"], 0);
  EXPECT_EQ(json["ttft_ms"]["mean"], 0);
  EXPECT_NE(totals.table({.failure_count = 2}).find("2 failed"), std::string::npos);
}

}  // namespace
}  // namespace vkv
