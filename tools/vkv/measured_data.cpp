// measured_data.cpp: flags, loading, and which items choose and which test.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/measured_data.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <fstream>
#include <iterator>
#include <utility>

#include "tools/vkv/interrupt.h"

namespace vkv {
namespace {

Status wrong(std::string message) { return {Code::kInvalidArgument, std::move(message)}; }

Result<std::string> read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return Status(Code::kIo, path + ": cannot be opened");
  return std::string(std::istreambuf_iterator<char>(file), {});
}

Result<std::vector<QualityItem>> load_passages(const MeasuredDataArguments& a,
                                               const Tokenizer& tokenizer) {
  VKV_TRY_ASSIGN(text, read_text(a.text));
  Result<std::vector<QualityItem>> passages =
      passages_of_text(text, tokenizer,
                       {.token_count = a.passage_tokens,
                        .tail_count = a.passage_tail,
                        .passages_max = a.limit,
                        .new_tokens_max = a.new_tokens_max,
                        .role = a.passage_role == "text" ? Role::kText : Role::kVisual});
  if (passages.ok()) return passages;
  return Status(passages.status().code(), a.text + ": " + passages.status().message());
}

}  // namespace

void add_source_flags(CLI::App& command, MeasuredDataArguments& a) {
  command.add_option("--model", a.model, "Folder of a checkpoint")->required()->type_name("DIR");
  command.add_option("--jobs", a.jobs, "Questions: a file as for `vkv run --jobs`")
      ->type_name("FILE");
  command.add_option("--text", a.text, "Instead: a text, for a language model")->type_name("FILE");
}

void add_reading_flags(CLI::App& command, MeasuredDataArguments& a) {
  command.add_option("--limit", a.limit, "First so many jobs or passages; 0: all")
      ->capture_default_str();
  command.add_option("--recent-tokens", a.recent_tokens, "Newest tokens kept at 16 bit, 16..4096")
      ->capture_default_str();
  command.add_option("--max-tokens", a.new_tokens_max, "Longest answer or continuation")
      ->capture_default_str();
  command.add_option("--view", a.view, "How questions see their media: auto, shared, window")
      ->type_name("NAME")
      ->capture_default_str();
  command.add_option("--prompt-style", a.prompt_style, "As of vkv run")
      ->type_name("NAME")
      ->capture_default_str();
  const std::string text = "Text";
  command.add_option("--tokens", a.passage_tokens, "Tokens of a passage")
      ->capture_default_str()
      ->group(text);
  command.add_option("--tail", a.passage_tail, "Of them, teacher-forced at the end")
      ->capture_default_str()
      ->group(text);
}

void add_program_flags(CLI::App& command, MeasuredDataArguments& a) {
  const std::string group = "Program";
  command.add_option("--threads", a.threads, "Worker threads; 0: all that the process may use")
      ->capture_default_str()
      ->group(group);
  command.add_flag("--progress", a.progress, "Show progress even if this is no terminal")
      ->group(group);
  command.add_flag("-q,--quiet", a.quiet, "No progress and no tables")->group(group);
}

Status check(const MeasuredDataArguments& a) {
  if (a.jobs.empty() == a.text.empty())
    return wrong("give questions with --jobs, or a text with --text, one of them");
  if (a.limit < 0) return wrong("--limit must be 0 (all) or more");
  if (a.calibration_items < 1) return wrong("--calibration-items must be at least 1");
  if (a.threads < 0) return wrong("--threads must be 0 (all) or more");
  return {};
}

Result<std::unique_ptr<Evaluation>> open_evaluation(const MeasuredDataArguments& a) {
  VKV_TRY_ASSIGN(view, question_view(a.view));
  VKV_TRY_ASSIGN(style, prompt_style(a.prompt_style));
  return Evaluation::open({.model_folder = a.model,
                           .recent_tokens = a.recent_tokens,
                           .threads = a.threads,
                           .items = {.style = style, .view = view}});
}

Result<MeasuredData> load_measured_data(const MeasuredDataArguments& a,
                                        const Tokenizer& tokenizer) {
  MeasuredData data;
  if (!a.text.empty()) {
    VKV_TRY_ASSIGN(passages, load_passages(a, tokenizer));
    data.passages = std::move(passages);
    for (const QualityItem& passage : data.passages) data.sources.push_back({.passage = &passage});
    return data;
  }
  JobDefaults defaults;
  defaults.sampling.max_new_tokens = a.new_tokens_max;
  VKV_TRY_ASSIGN(lines, read_jobs(a.jobs, defaults));
  data.lines = std::move(lines);
  for (const JobLine& line : data.lines) {
    if (a.limit > 0 && data.sources.size() == static_cast<size_t>(a.limit)) break;
    if (line.job.ok())
      data.sources.push_back({.job = &line.job.value()});
    else
      data.failures.push_back(
          fmt::format("{}:{}: {}", a.jobs, line.line, line.job.status().message()));
  }
  return data;
}

std::vector<ItemSource> take_calibration(std::vector<ItemSource>& sources, size_t count) {
  const size_t even = (sources.size() + 1) / 2;
  count = std::min(count, even);
  std::vector<ItemSource> taken, left;
  size_t next = 0;  // of the `count` to take
  for (size_t i = 0; i < sources.size(); ++i) {
    const bool take = i % 2 == 0 && next < count && i / 2 == next * even / count;
    next += take ? 1 : 0;
    (take ? taken : left).push_back(sources[i]);
  }
  sources = std::move(left);
  return taken;
}

Watch watch_items(Progress& progress, const MeasuredDataArguments& arguments, const char* phase) {
  progress.clear();
  progress = Progress(progress_mode(arguments.quiet, arguments.progress));
  progress.begin_phase(phase, "items");
  return {.progress =
              [&progress](uint64_t done, uint64_t total) {
                progress.begin_job(std::min(done, total - 1), total);
                progress.update(0, 0);
              },
          .cancel = &catch_interrupts()};
}

}  // namespace vkv
