// run_arguments.h: the flags of `vkv run`.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tools/mllm/sampler.h"
#include "tools/vkv/hbm_arguments.h"
#include "tools/vkv/jobs.h"
#include "tools/vkv/progress.h"
#include "tools/vkv/session.h"
#include "vkv/status.h"

namespace CLI {
class App;
}

namespace vkv {

struct RunArguments {
  std::string model;
  // One job by flags ...
  std::vector<std::string> images;
  std::string video;
  double fps = 0;
  int frames = 0;
  int visual_tokens = 0;  // of a picture or pair of frames; 0: what the checkpoint says
  std::vector<std::string> prompts;
  // ... or many from a file.
  std::string jobs;
  std::string out;
  bool restart = false;

  std::string preset = "balanced";
  std::string policy;  // name, codec pair or file; empty: the preset
  std::string keep_original = "none";
  double quality_samples = 0;
  double quality_bound = 0;
  std::string quality_action = "warn";
  std::string device = "cpu";
  int device_index = 0;
  HbmArguments hbm = {.budget = "4G"};
  std::string dram_budget = "4G";
  std::string dram_blocks;  // empty: all of the DRAM budget
  std::string nvme_budget;  // empty: no NVMe tier
  std::string store;        // empty: default_store_path()
  bool keep_store = false;
  std::string nvme_writes;  // a day; empty: no limit
  std::string io = "auto";
  int threads = 0;
  int recent_tokens = 128;
  std::string prompt_style = "auto";
  Sampling sampling;

  bool json = false;
  bool quiet = false;
  bool verbose = false;
  bool progress = false;
};

// Adds the flags with their help to the subcommand; parsing fills `arguments`, which must stay.
void add_run_flags(CLI::App& command, RunArguments& arguments);
// Of them, those of model, cache and device, for other subcommands.
void add_host_flags(CLI::App& command, RunArguments& arguments);

// Checks the flags against each other. Errors: kInvalidArgument, naming the flag.
Status check_arguments(const RunArguments& arguments);
Status check_host_arguments(const RunArguments& arguments);

// Errors: kInvalidArgument for a size, preset, io engine or prompt style that makes no sense.
Result<SessionOptions> session_options(const RunArguments& arguments);

JobDefaults job_defaults(const RunArguments& arguments);

// The one job that the flags describe.
Job job_of(const RunArguments& arguments);

// Whatever changes answers besides the job itself.
std::string answer_settings(const RunArguments& arguments);

// A file of this process in $TMPDIR, or else in vkv/ of the user's cache folder, which is made.
// Errors: kIo, saying to give --store.
Result<std::string> default_store_path();

}  // namespace vkv
