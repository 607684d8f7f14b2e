// measured_data.h: what `vkv quality` and `vkv calibrate` measure on: a model, and questions or
// passages of text as it reads them. SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tools/quality/evaluation.h"
#include "tools/vkv/jobs.h"
#include "tools/vkv/progress.h"

namespace CLI {
class App;
}

namespace vkv {

struct MeasuredDataArguments {
  std::string model;
  std::string jobs;  // one of the two
  std::string text;

  int limit = 0;               // 0: all
  int calibration_items = 16;  // at most, where something is to be chosen
  int recent_tokens = 128;
  int new_tokens_max = 32;
  std::string view = "auto";
  std::string prompt_style = "auto";
  int passage_tokens = 1024;
  int passage_tail = 256;
  std::string passage_role = "visual";

  int threads = 0;
  bool quiet = false;
  bool progress = false;
};

// Adds flags with their help; parsing fills `arguments`, which must stay. The first says what is
// measured, the second how it is read, the third how the program behaves: a command's own flags
// stand between them.
void add_source_flags(CLI::App& command, MeasuredDataArguments& arguments);
void add_reading_flags(CLI::App& command, MeasuredDataArguments& arguments);
void add_program_flags(CLI::App& command, MeasuredDataArguments& arguments);

// Jobs or passages, with the memory behind the sources: move it, and they stay good.
struct MeasuredData {
  std::vector<JobLine> lines;
  std::vector<QualityItem> passages;
  std::vector<ItemSource> sources;
  std::vector<std::string> failures;  // lines that are no jobs, and why
};

// Errors: kInvalidArgument, naming the flag.
Status check(const MeasuredDataArguments& arguments);

// Errors: of flags and model.
Result<std::unique_ptr<Evaluation>> open_evaluation(const MeasuredDataArguments& arguments);

// Errors: of files. That a job file has no good line is no error: there are no sources then.
Result<MeasuredData> load_measured_data(const MeasuredDataArguments& arguments,
                                        const Tokenizer& tokenizer);

// Takes up to `count` of the sources with even index, evenly spread, out of them.
std::vector<ItemSource> take_calibration(std::vector<ItemSource>& sources, size_t count);

// Begins a phase on the line and counts items on it; Ctrl-C cancels.
Watch watch_items(Progress& progress, const MeasuredDataArguments& arguments, const char* phase);

}  // namespace vkv
