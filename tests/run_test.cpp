// run_test.cpp: the vkv program end to end on a small checkpoint with random weights.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "tests/program_run.h"
#include "tests/temporary_directory.h"
#include "tests/write_frames.h"
#include "tools/mllm/media.h"

namespace vkv {
namespace {

using Json = nlohmann::json;
using Words = std::vector<std::string>;

const std::string kModel = VKV_SOURCE_DIR "/tools/tinyvlm/golden/random";
const std::string kImages = VKV_SOURCE_DIR "/tools/tinyvlm/golden/images/";

class Run : public testing::Test {
 protected:
  // Every run keeps its store in this test's own folder.
  ProgramResult vkv(const Words& arguments) {
    return Program(VKV_PROGRAM, arguments, env()).wait();
  }

  ProgramResult run(const Words& more) {
    Words arguments = {"run", "--model", kModel, "--threads", "2"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return vkv(arguments);
  }

  Words env() const { return {"TMPDIR=" + store_folder_.path()}; }

  std::string write_video(const std::string& name, int frames) {
    return write_frames(folder_ / name, frames);
  }

  std::string write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name, std::ios::binary | std::ios::trunc) << text;
    return folder_ / name;
  }

  void expect_no_store_left() { EXPECT_TRUE(std::filesystem::is_empty(store_folder_.path())); }

  static std::vector<Json> lines(const std::string& path) {
    std::vector<Json> json;
    std::istringstream text(file_content(path));
    for (std::string line; std::getline(text, line);) json.push_back(Json::parse(line));
    return json;
  }

  // Answers by id and question, without what differs from run to run.
  static std::vector<Json> answers(const std::string& path) {
    std::vector<Json> all;
    for (const Json& line : lines(path)) {
      if (line.contains("error")) continue;
      all.push_back({line["id"], line["question"], line["text"], line["tokens"], line["finish"],
                     line["hash"]});
    }
    std::sort(all.begin(), all.end());
    return all;
  }

  void expect_refused(const ProgramResult& result, int exit_status, const std::string& words) {
    EXPECT_EQ(result.exit_status, exit_status) << result.err;
    EXPECT_NE(result.err.find(words), std::string::npos) << "want: " << words << "\n" << result.err;
    EXPECT_LE(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_EQ(result.out, "");
    expect_no_store_left();
  }

  TemporaryDirectory folder_;
  TemporaryDirectory store_folder_;
};

const Words kOnDisk = {"--nvme-budget", "16M", "--dram-blocks", "4K", "--recent-tokens", "16"};

Words joined(Words a, const Words& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

TEST_F(Run, a_picture_is_answered_as_transformers_does) {
  if (!media_decoder_name().starts_with("FFmpeg")) GTEST_SKIP() << "needs FFmpeg for PNG";
  const ProgramResult result =
      run({"--image", kImages + "frame0.png", "--prompt", "what color is the shape?", "--preset",
           "exact", "--max-tokens", "9"});
  EXPECT_EQ(result.exit_status, 0) << result.err;
  const Json cases = Json::parse(std::ifstream(kModel + "/cases/cases.json"))["cases"];
  EXPECT_EQ(result.out, cases[1]["answer"].get<std::string>() + "\n");
  for (const char* words : {"answers      1 (0 failed", "64 visual", "cpu-", "TTFT", "dram"}) {
    EXPECT_NE(result.err.find(words), std::string::npos) << words << "\n" << result.err;
  }
}

TEST_F(Run, the_tier_and_the_io_engine_never_change_an_answer) {
  const std::string video = write_video("v.npy", 7);
  const Words base = {"--video",  video,       "--prompt",     "What is in frame 05?",
                      "--prompt", "How many?", "--max-tokens", "8",
                      "--json"};
  using Engines = std::vector<const char*>;
  for (const char* preset : {"exact", "balanced", "visual1", "onebit"}) {
    const Words with_preset = joined(base, {"--preset", preset});
    const ProgramResult dram = run(joined(with_preset, {"--recent-tokens", "16"}));
    ASSERT_EQ(dram.exit_status, 0) << dram.err;
    const Json expected = Json::parse(dram.out);
    ASSERT_EQ(expected["answers"].size(), 2u);
    const bool both = std::string(preset) == "balanced";
    for (const char* io : both ? Engines{"uring", "threads"} : Engines{"auto"}) {
      const ProgramResult disk = run(joined(joined(with_preset, kOnDisk), {"--io", io}));
      if (std::string(io) == "uring" && disk.err.find("io_uring") != std::string::npos) continue;
      ASSERT_EQ(disk.exit_status, 0) << disk.err;
      const Json json = Json::parse(disk.out);
      for (size_t q = 0; q < 2; ++q) {
        EXPECT_EQ(json["answers"][q]["text"], expected["answers"][q]["text"]) << preset << io;
      }
      EXPECT_GE(json["summary"]["visual_nvme_percent"], 50.0) << preset;
      EXPECT_GT(json["summary"]["io"]["nvme_read_bytes"], 0);
      EXPECT_LE(json["summary"]["tiers"]["nvme"]["peak"], 16 << 20);
      EXPECT_NEAR(json["summary"]["kv"]["visual"]["bits_per_value"].get<double>(),
                  expected["summary"]["kv"]["visual"]["bits_per_value"].get<double>(), 0.5);
      expect_no_store_left();
    }
  }
}

TEST_F(Run, originals_serve_later_questions_alike_from_either_tier_and_are_accounted_for) {
  const Words base = {"--video",
                      write_video("v.npy", 7),
                      "--prompt",
                      "What is in frame 05?",
                      "--prompt",
                      "How many?",
                      "--max-tokens",
                      "8",
                      "--json",
                      "--preset",
                      "onebit",
                      "--quality-samples",
                      "1",
                      "--quality-bound",
                      "0.0001"};
  const ProgramResult dram =
      run(joined(base, {"--recent-tokens", "16", "--keep-original", "dram"}));
  const ProgramResult disk = run(joined(joined(base, kOnDisk), {"--keep-original", "nvme"}));
  ASSERT_EQ(dram.exit_status, 0) << dram.err;
  ASSERT_EQ(disk.exit_status, 0) << disk.err;
  const Json a = Json::parse(dram.out), b = Json::parse(disk.out);
  for (size_t q = 0; q < 2; ++q) EXPECT_EQ(a["answers"][q]["text"], b["answers"][q]["text"]);
  const Json& summary = b["summary"];
  EXPECT_GT(summary["kv"]["visual"]["promoted_percent"], 0.0);
  EXPECT_GT(summary["kv"]["visual"]["original_bytes"], 0);
  EXPECT_EQ(summary["tiers"]["dram"]["originals"], 0);
  EXPECT_GT(summary["tiers"]["nvme"]["originals"], 0);
  EXPECT_GT(a["summary"]["tiers"]["dram"]["originals"], 0);
  EXPECT_GT(summary["quality"]["samples"], 0);
  EXPECT_GT(summary["quality"]["over_bound"], 0);
  EXPECT_EQ(summary["quality"]["error_mean"], a["summary"]["quality"]["error_mean"]);
  bool promoted = false;
  for (const Json& form : summary["forms"])
    promoted |= form["form"] == "promoted" && form["role"] == "visual" && form["k"] == "i8";
  EXPECT_TRUE(promoted) << summary["forms"].dump();
  expect_no_store_left();
}

TEST_F(Run, a_policy_file_decides_and_a_batch_notices_when_it_changes) {
  const std::string video = write_video("v.npy", 7);
  const std::string policy = write("mine.json", R"({"base": "visual2", "low": "i2",
                                                    "layers": [{"layer": 0, "low": "i8"}]})");
  const ProgramResult result = run({"--video", video, "--prompt", "What?", "--max-tokens", "2",
                                    "--recent-tokens", "16", "--policy", policy});
  ASSERT_EQ(result.exit_status, 0) << result.err;
  for (const char* words :
       {"preset mine", "visual    low       i2/i2", "visual    low       i8/i8"})
    EXPECT_NE(result.err.find(words), std::string::npos) << words << "\n" << result.err;

  write("jobs.jsonl", R"({"video": "v.npy", "prompt": "What?"})");
  const Words batch = {
      "--jobs", folder_ / "jobs.jsonl", "--out", folder_ / "out.jsonl", "--policy", policy,
      "-q",     "--max-tokens",         "2"};
  EXPECT_EQ(run(batch).exit_status, 0);
  EXPECT_EQ(run(batch).exit_status, 0) << "nothing to do";
  write("mine.json", R"({"low": "i4"})");
  expect_refused(run(batch), 2, "--restart");
}

TEST_F(Run, a_video_is_sampled_by_number_of_frames) {
  const std::string video = write_video("v.npy", 12);
  const ProgramResult result =
      run({"--video", video, "--frames", "3", "--prompt", "What?", "--max-tokens", "2", "--json"});
  ASSERT_EQ(result.exit_status, 0) << result.err;
  EXPECT_EQ(Json::parse(result.out)["summary"]["prompt_tokens"]["visual"], 3 * 64);
}

TEST_F(Run, text_alone_is_answered_too) {
  const ProgramResult result = run(
      {"--prompt", "Is there a triangle?", "--preset", "exact", "--max-tokens", "9", "--quiet"});
  EXPECT_EQ(result.exit_status, 0);
  EXPECT_EQ(result.err, "");
  const Json cases = Json::parse(std::ifstream(kModel + "/cases/cases.json"))["cases"];
  EXPECT_EQ(result.out, cases[0]["answer"].get<std::string>() + "\n");
}

TEST_F(Run, a_decoder_in_a_gguf_file_answers_text_and_refuses_pictures) {
  const std::string smollm = VKV_SOURCE_DIR "/tools/smollm/golden/random";
  const Json golden = Json::parse(std::ifstream(smollm + ".json"))["cases"][0];
  const Words words = {"run",      "--model", smollm + ".gguf", "--prompt",     golden["question"],
                       "--preset", "exact",   "--json",         "--max-tokens", "9"};
  const ProgramResult result = vkv(words);
  ASSERT_EQ(result.exit_status, 0) << result.err;
  EXPECT_EQ(Json::parse(result.out)["answers"][0]["text"], golden["answer"]);
  expect_refused(vkv({"run", "--model", smollm + ".gguf", "--prompt", "x", "--image", "x.png"}), 1,
                 "the model reads text alone: ask it without pictures and videos");
}

TEST_F(Run, the_same_seed_gives_the_same_answer) {
  const Words words = {"--prompt", "Who?", "--temperature", "1.5", "--max-tokens", "20", "--quiet"};
  const std::string one = run(joined(words, {"--seed", "1"})).out;
  EXPECT_EQ(run(joined(words, {"--seed", "1"})).out, one);
  EXPECT_NE(run(joined(words, {"--seed", "2"})).out, one);
}

// A batch over one video and its stills, with mistakes where asked for.
std::string jobs_text(int count, bool with_mistakes) {
  std::string text;
  for (int i = 0; i < count; ++i) {
    Json job = {{"id", "job-" + std::to_string(i)}, {"video", "v.npy"}, {"frames", 1 + i % 3}};
    if (i % 3 == 0) {
      job["questions"] = {{{"prompt", "What is in frame 00?"}, {"answer", "x"}},
                          {{"prompt", "How many?"}}};
    } else {
      job["prompt"] = "What is " + std::to_string(i) + "?";
      job["group"] = "plain";
    }
    text += job.dump() + "\n";
    if (with_mistakes && i == 1) text += "{\"id\": \"bad\", \"promt\": \"x\"}\nnot json\n";
    if (with_mistakes && i == 2)
      text += R"({"id":"lost","image":"gone.png","prompt":"?"})"
              "\n";
  }
  return text;
}

Words batch(const std::string& jobs, const std::string& out) {
  return {"--jobs", jobs, "--out", out, "--max-tokens", "4"};
}

TEST_F(Run, a_batch_reports_bad_lines_by_number_and_goes_on) {
  write_video("v.npy", 6);
  const std::string jobs = write("jobs.jsonl", jobs_text(4, true)), out = folder_ / "out.jsonl";
  const ProgramResult result = run(batch(jobs, out));
  EXPECT_EQ(result.exit_status, 1);
  const Words complaints = {":3: \"promt\" is no field", ":4: is not valid JSON",
                            ":6: " + folder_.path() + "/gone.png: there is no such file"};
  for (const std::string& words : complaints) {
    EXPECT_NE(result.err.find(jobs + words), std::string::npos) << words << "\n" << result.err;
  }
  EXPECT_NE(result.out.find("answers      6 (3 failed"), std::string::npos) << result.out;
  EXPECT_NE(result.out.find("accuracy     0.0 % (0 of 2)"), std::string::npos) << result.out;
  const std::vector<Json> all = lines(out);
  ASSERT_EQ(all.size(), 9u);
  EXPECT_EQ(all[3]["id"], "bad");
  EXPECT_EQ(all[3]["line"], 3);
  EXPECT_EQ(all[4]["id"], "4") << "a line without an id goes by its number";
  for (const Json& answer : all) {
    EXPECT_TRUE(answer.contains("error") != answer.contains("text"));
    if (!answer.contains("text")) continue;
    EXPECT_EQ(answer["tokens"]["visual"].get<int>() % 64, 0);
    EXPECT_GT(answer["ttft_ms"].get<double>(), 0);
    EXPECT_GT(answer["tiers"]["dram"]["bytes"].get<uint64_t>(), 0u);
  }

  // What failed is tried again; what was answered is not.
  write_video("gone.npy", 1);
  write("jobs.jsonl", jobs_text(4, false));
  const ProgramResult again = run(batch(jobs, out));
  EXPECT_EQ(again.exit_status, 0) << again.err;
  EXPECT_NE(again.out.find("answers      6 (0 failed, 6 from an earlier run)"), std::string::npos);
  EXPECT_EQ(lines(out).size(), 6u);
}

TEST_F(Run, a_batch_killed_in_the_middle_goes_on_where_it_stopped) {
  write_video("v.npy", 6);
  const std::string jobs = write("jobs.jsonl", jobs_text(15, false));
  const std::string whole = folder_ / "whole.jsonl", torn = folder_ / "torn.jsonl";
  ASSERT_EQ(run(joined(batch(jobs, whole), kOnDisk)).exit_status, 0);

  // SIGKILL: nothing can be tidied up. SIGINT: the store goes, and the status is 130.
  int stop_count = 0;
  for (const int signal : {SIGKILL, SIGINT, SIGKILL}) {
    const size_t bytes_before = file_content(torn).size();
    Program program(VKV_PROGRAM,
                    joined(joined({"run", "--model", kModel, "--threads", "1"}, batch(jobs, torn)),
                           joined(kOnDisk, {"--store", folder_ / "store"})),
                    env());
    while (program.running() && file_content(torn).size() < bytes_before + 2000) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    if (!program.running()) break;  // too quick to be caught once more
    program.stop(signal);
    ++stop_count;
    const ProgramResult result = program.wait();
    if (signal == SIGINT) {
      EXPECT_EQ(result.exit_status, 130);
      EXPECT_NE(result.err.find("run the same command again"), std::string::npos) << result.err;
      EXPECT_FALSE(std::filesystem::exists(folder_ / "store"));
    } else {
      EXPECT_EQ(result.exit_status, 128 + SIGKILL);
    }
  }
  EXPECT_GE(stop_count, 2);
  std::ofstream(torn, std::ios::app) << "{\"answer";  // as if killed while writing

  const ProgramResult last =
      run(joined(joined(batch(jobs, torn), kOnDisk), {"--store", folder_ / "store"}));
  EXPECT_EQ(last.exit_status, 0) << last.err;
  EXPECT_EQ(answers(torn), answers(whole));
  EXPECT_EQ(last.out.find(" 0 from an earlier run"), std::string::npos) << last.out;
  EXPECT_FALSE(std::filesystem::exists(folder_ / "store"));
}

TEST_F(Run, answers_of_other_settings_are_not_taken_for_these) {
  write_video("v.npy", 6);
  const std::string jobs = write("jobs.jsonl", jobs_text(1, false)), out = folder_ / "out.jsonl";
  ASSERT_EQ(run(batch(jobs, out)).exit_status, 0);
  expect_refused(run(joined(batch(jobs, out), {"--preset", "exact"})), 2, "--restart");
  EXPECT_EQ(run(joined(batch(jobs, out), {"--preset", "exact", "--restart"})).exit_status, 0);
}

TEST_F(Run, flags_that_make_no_sense_are_refused_with_advice) {
  const std::string video = write_video("v.npy", 2);
  const Words ask = {"--video", video, "--prompt", "What?"};
  expect_refused(run({"--video", video, "--prompt", " "}), 2, "--prompt is empty");
  expect_refused(run({"--video", video}), 2, "give a question with --prompt");
  expect_refused(run(joined(ask, {"--preset", "best"})), 2, "exact");
  expect_refused(run(joined(ask, {"--io", "dma"})), 2, "there are auto, uring and threads");
  expect_refused(run(joined(ask, {"--policy", "best"})), 2, "'best' is no preset");
  expect_refused(run(joined(ask, {"--policy", write("p.json", "{\"low\": \"i3\"}")})), 2,
                 "\"low\" must be a codec");
  expect_refused(run(joined(ask, {"--policy", write("q.json", R"({"layers": [{"layer": 99}]})")})),
                 2, "override for layer 99");
  expect_refused(run(joined(ask, {"--keep-original", "hbm"})), 2, "there are none, dram and nvme");
  expect_refused(run(joined(ask, {"--keep-original", "nvme"})), 2, "needs an nvme budget");
  expect_refused(run(joined(ask, {"--quality-samples", "2"})), 2, "sample_fraction");
  expect_refused(run(joined(ask, {"--quality-action", "stop"})), 2, "there are warn and promote");
  expect_refused(run(joined(ask, {"--quality-action", "promote"})), 2, "keep_original");
  expect_refused(run(joined(ask, {"--dram-budget", "lots"})), 2, "--dram-budget: \"lots\"");
  expect_refused(run(joined(ask, {"--fps", "1", "--frames", "2"})), 2, "--fps and --frames");
  expect_refused(run({"--prompt", "a", "--frames", "2"}), 2, "there is none");
  expect_refused(run(joined(ask, {"--store", "x"})), 2, "--store needs --nvme-budget");
  expect_refused(run(joined(ask, {"--top-p", "0"})), 2, "top_p");
  expect_refused(run(joined(ask, {"--recent-tokens", "3"})), 2, "recent_tokens is 3");
  expect_refused(run(joined(ask, {"--prompt-style", "x"})), 2, "question");
  expect_refused(run(joined(ask, {"--out", "x"})), 2, "--jobs");
  expect_refused(run({"--jobs", "x", "--prompt", "a"}), 2, "--jobs replaces");
  expect_refused(run({"--jobs", video}), 2, "needs --out");
  expect_refused(run({"--jobs", video, "--out", video}), 2, "same file");
  expect_refused(run({"--jobs", folder_ / "none", "--out", folder_ / "o"}), 2, "No such file");
  EXPECT_EQ(vkv({"run", "--prompt", "a"}).exit_status, 2) << "--model is missing";
  EXPECT_EQ(vkv({"run", "--model", "x", "--no-such-flag"}).exit_status, 2);
  EXPECT_EQ(vkv({}).exit_status, 2);
}

TEST_F(Run, media_that_cannot_be_had_fail_with_the_reason) {
  expect_refused(run({"--image", "/nowhere.png", "--prompt", "a"}), 1, "/nowhere.png: there is no");
  expect_refused(run({"--video", write_video("none.npy", 0), "--prompt", "a"}), 1, "zero frames");
  expect_refused(run({"--image", write("x.png", "no picture"), "--prompt", "a"}), 1, "x.png");
}

TEST_F(Run, budgets_too_small_are_refused_and_never_overrun) {
  const Words ask = {
      "--video", write_video("v.npy", 60), "--prompt", "What?", "--max-tokens", "2", "--preset",
      "exact"};
  expect_refused(run(joined(ask, {"--dram-budget", "64K"})), 2, "need at least");
  expect_refused(run(joined(ask, {"--nvme-budget", "1K"})), 2, "nvme budget");
  // The video needs 1.9 MiB and fills what there is while it goes in.
  expect_refused(run(joined(ask, {"--dram-budget", "2M"})), 1, "dram");
  expect_refused(run(joined(ask, {"--nvme-budget", "1M", "--dram-blocks", "4K"})), 1, "nvme");
}

TEST_F(Run, a_store_that_cannot_be_written_is_named) {
  const Words ask = {"--prompt", "What?", "--nvme-budget", "16M"};
  expect_refused(run(joined(ask, {"--store", "/no/such/folder/store"})), 2,
                 "/no/such/folder/store");
  const std::string precious = write("precious", "do not lose this");
  expect_refused(run(joined(ask, {"--store", precious})), 2, precious);
  EXPECT_EQ(file_content(precious), "do not lose this");
}

TEST_F(Run, a_model_that_is_missing_or_broken_is_named) {
  const auto ask = [&](const std::string& model) {
    return vkv({"run", "--model", model, "--prompt", "What?"});
  };
  expect_refused(ask(folder_ / "absent"), 2, "absent");
  const std::string copy = folder_ / "copy";
  std::filesystem::copy(kModel, copy);
  const std::string weights = copy + "/model.safetensors";
  std::filesystem::resize_file(weights, std::filesystem::file_size(weights) / 2);
  expect_refused(ask(copy), 2, "model.safetensors");
  std::filesystem::remove(copy + "/tokenizer.json");
  expect_refused(ask(copy), 2, "tokenizer.json");
}

TEST_F(Run, help_teaches_and_version_is_there) {
  const ProgramResult help = vkv({"--help"});
  EXPECT_EQ(help.exit_status, 0);
  EXPECT_NE(help.out.find("vkv run --model"), std::string::npos);
  const ProgramResult run_help = vkv({"run", "--help"});
  for (const char* words : {"--jobs", "balanced", "512M", "Exit status", "jobs.jsonl"}) {
    EXPECT_NE(run_help.out.find(words), std::string::npos) << words;
  }
  EXPECT_EQ(vkv({"--version"}).out.substr(0, 4), "vkv ");
}

TEST_F(Run, topo_prints_this_machine) {
  const ProgramResult text = vkv({"topo"});
  EXPECT_EQ(text.exit_status, 0) << text.err;
  for (const char* words : {"cpu ", "memory", "attention  cpu-", "io_uring", "media"}) {
    EXPECT_NE(text.out.find(words), std::string::npos) << words << "\n" << text.out;
  }
  const Json json = Json::parse(vkv({"topo", "--json"}).out);
  EXPECT_GE(json["cpu"]["usable_threads"], 1);
}

TEST_F(Run, bench_cpu_compares_every_codec_with_plain_reads) {
  const ProgramResult text = vkv({"bench", "cpu", "--tokens", "300", "--q-heads", "4", "--kv-heads",
                                  "2", "--head-dim", "64", "--repetitions", "1", "--json"});
  ASSERT_EQ(text.exit_status, 0) << text.err;
  const auto json = Json::parse(text.out);
  ASSERT_EQ(json["rows"].size(), 5u);
  for (const auto& row : json["rows"]) {
    EXPECT_GT(row["us"], 0.0) << row;
    EXPECT_GT(row["of_read"], 0.0) << row;
  }
  // 300 tokens, 2 heads of 64, K and V: 172 of them in records, the rest at 16 bit.
  EXPECT_GT(json["rows"][0]["bytes"], 300 * 2 * 64 * 2 * 2);
  EXPECT_GT(json["rows"][1]["bytes"], (172 + 2 * 128) * 2 * 64 * 2);
  EXPECT_EQ(vkv({"bench", "cpu", "--codecs", "i3"}).exit_status, 2);
}

TEST_F(Run, bench_encode_compares_every_codec_with_memcpy) {
  const ProgramResult text = vkv({"bench", "encode", "--blocks", "3", "--repetitions", "1"});
  EXPECT_EQ(text.exit_status, 0) << text.err;
  for (const char* words : {"memcpy", "F16 / F16", "I8 / I8", "I4 / I4", "I2 / I2", "I1 / I1"}) {
    EXPECT_NE(text.out.find(words), std::string::npos) << words << "\n" << text.out;
  }
  // Without a GPU an error says why there is none.
  const ProgramResult gpu =
      vkv({"bench", "encode", "--device", "cuda", "--blocks", "3", "--repetitions", "1"});
  EXPECT_EQ(gpu.exit_status == 0, gpu.out.find("of read") != std::string::npos) << gpu.err;
  EXPECT_EQ(gpu.exit_status == 0, gpu.err.empty()) << gpu.err;
  const ProgramResult refused = vkv({"bench", "encode", "--head-dim", "60"});
  EXPECT_EQ(refused.exit_status, 2);
  EXPECT_NE(refused.err.find("head_dim"), std::string::npos) << refused.err;
}

}  // namespace
}  // namespace vkv
