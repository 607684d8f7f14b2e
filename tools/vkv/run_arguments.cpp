// run_arguments.cpp: flags, their help and their checks.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/run_arguments.h"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <filesystem>

#include "tools/vkv/byte_size.h"
#include "tools/vkv/policy_file.h"

namespace vkv {
namespace {

constexpr const char* kExamples = R"(
Examples:
  vkv run --model tiny --image cat.png --prompt "What is in the picture?"
  vkv run --model tiny --video clip.mp4 --frames 16 --prompt "What moves?" --prompt "How many?"
  vkv run --model tiny --video clip.mp4 --fps 2 --prompt "What happens?" \
      --preset visual2 --dram-budget 64M --nvme-budget 2G
  vkv run --model SmolLM2-135M-Instruct.Q4_1.gguf --prompt "What is gravity?"
  vkv run --model tiny --jobs jobs.jsonl --out answers.jsonl
  vkv run --model tiny --video clip.mp4 --prompt "What moves?" --device cuda --hbm-budget 2G

A line of jobs.jsonl is one JSON object; paths are relative to the file:
  {"id": "a", "image": "cat.png", "prompt": "What is it?", "answer": "a cat", "group": "image"}
  {"id": "b", "video": "clip.mp4", "frames": 16, "questions": [{"prompt": "What happens?"}, ...],
   "sampling": {"temperature": 0.7, "top_p": 0.9, "seed": 1, "max_tokens": 32}}
With "answer" the summary reports accuracy, also by "group" (or else by media) and by "kind" of
question. An interrupted batch goes on where it stopped when the same command is run again.

Sizes take K, M, G, T (powers of 1024): 512M. Presets, with bits of K/V once a block is sealed:
  exact     16/16
  safe      8/4
  balanced  4/4
  visual2   text and the visual tokens looked at most 8/8, the rest 4/2
  visual1   the same 8/8, the rest 2/1
  extreme   the same 8/8, the rest 1/1
  onebit    at most 3 % of the visual tokens 8/8, the rest 1/1 with shared headers

A policy file is one JSON object; what it leaves out is that of its "base", a preset (else exact):
  {"base": "visual2", "high": "i8/i8", "low": {"k": "i4", "v": "i2"},   codecs of K/V
   "high_fraction": 0.1,             of all tokens, at most this share is high
   "visual_high_fraction_max": 1,    of the visual tokens
   "sink_tokens": 4, "sink_sigmas": 6,    first tokens and far keys that stay at 16 bit
   "segment_headers": false,         one header for the low tokens of a prefill window
   "layers": [{"layer": 0, "high": "i8", "low": "i8"}]}    overrides of single layers
Codecs: f16, bf16, i8, i4, i2, i1; K never fewer bits than V. Beside "k" and "v" may stand
"k_rotated": true (K i2 or i1), "v_per_token": true (without segment_headers), and "k_spread" and
"v_spread" (i4, i2, i1; 0.5 to 4): how far levels are moved apart, found by `vkv quality`.

Exit status: 0 all answered, 1 some failed, 2 wrong flags, model or budgets, 130 interrupted.)";

bool is_blank(const std::string& text) {
  return std::all_of(text.begin(), text.end(),
                     [](unsigned char c) { return std::isspace(c) != 0; });
}

Status wrong(std::string message) { return {Code::kInvalidArgument, std::move(message)}; }

void add_job_flags(CLI::App& command, RunArguments& a) {
  command.add_option("--image", a.images, "Picture to ask about; may be repeated")
      ->type_name("FILE")
      ->allow_extra_args(false);
  command.add_option("--video", a.video, "Video to ask about (or a .npy frame stack)")
      ->type_name("FILE");
  command.add_option("--fps", a.fps, "Frames of a video to take a second (default: every frame)")
      ->type_name("RATE");
  command.add_option("--frames", a.frames, "Number of frames of a video to take, evenly spaced")
      ->type_name("N");
  command.add_option("--prompt", a.prompts, "Question; may be repeated, over the same media")
      ->type_name("TEXT")
      ->allow_extra_args(false);
  command.add_option("--jobs", a.jobs, "Batch: file of jobs, one JSON object a line")
      ->type_name("FILE");
  command.add_option("--out", a.out, "Batch: file that answers are appended to, as JSON lines")
      ->type_name("FILE");
  command.add_flag("--restart", a.restart, "Batch: forget the answers that --out holds already");
}

void add_cache_flags(CLI::App& command, RunArguments& a) {
  const std::string group = "KV cache";
  CLI::Option* preset =
      command.add_option("--preset", a.preset, "Precision of the KV cache, see below")
          ->type_name("NAME")
          ->capture_default_str()
          ->group(group);
  command
      .add_option("--policy", a.policy,
                  "Precision by codecs (i4/i2 for K/V of all tokens) or from a file, see below")
      ->type_name("FILE")
      ->excludes(preset)
      ->group(group);
  command
      .add_option("--keep-original", a.keep_original,
                  "Keep 16-bit K and V beside the codes, in dram or nvme, so that each later "
                  "question promotes what it looks at (none: do not)")
      ->type_name("TIER")
      ->capture_default_str()
      ->group(group);
  add_hbm_flags(command, a.hbm, group);
  command
      .add_option("--dram-budget", a.dram_budget,
                  "Memory that the KV cache may take; with --device cuda what HBM has no room for")
      ->type_name("SIZE")
      ->capture_default_str()
      ->group(group);
  command
      .add_option("--dram-blocks", a.dram_blocks,
                  "Of it, what encoded blocks may take; the rest goes to NVMe (default: all)")
      ->type_name("SIZE")
      ->group(group);
  command
      .add_option("--nvme-budget", a.nvme_budget,
                  "Disk space for KV that does not fit in memory (default: none)")
      ->type_name("SIZE")
      ->group(group);
  command
      .add_option(
          "--store", a.store,
          "File for it, removed at the end unless kept (default: in $TMPDIR or the user's cache)")
      ->type_name("PATH")
      ->group(group);
  command
      .add_flag("--keep-store", a.keep_store,
                "Keep the file, and in it the KV of media that several questions ask about: the "
                "next run with them reads it instead of computing it anew")
      ->group(group);
  command
      .add_option("--nvme-writes", a.nvme_writes,
                  "What may be written to it in a day; when that is short, what was asked for "
                  "twice is kept and other media are not (default: no limit)")
      ->type_name("SIZE")
      ->group(group);
  command.add_option("--io", a.io, "How the disk is read: auto, uring or threads")
      ->type_name("NAME")
      ->capture_default_str()
      ->group(group);
  command.add_option("--recent-tokens", a.recent_tokens, "Newest tokens kept at 16 bit, 16..4096")
      ->type_name("N")
      ->capture_default_str()
      ->group(group);
}

void add_meter_flags(CLI::App& command, RunArguments& a) {
  const std::string group = "Quality meter";
  command
      .add_option("--quality-samples", a.quality_samples,
                  "Share of layers and steps whose attention is computed again at 16 bit, 0..1")
      ->type_name("SHARE")
      ->capture_default_str()
      ->group(group);
  command
      .add_option("--quality-bound", a.quality_bound,
                  "Relative error of a head's output that is too much (0: none is)")
      ->type_name("ERROR")
      ->capture_default_str()
      ->group(group);
  command
      .add_option("--quality-action", a.quality_action,
                  "What happens above the bound: warn, or promote (with --keep-original)")
      ->type_name("NAME")
      ->capture_default_str()
      ->group(group);
}

void add_answer_flags(CLI::App& command, RunArguments& a) {
  const std::string group = "Answers";
  command.add_option("--temperature", a.sampling.temperature, "0: always the likeliest token")
      ->capture_default_str()
      ->group(group);
  command.add_option("--top-p", a.sampling.top_p, "Likeliest tokens to draw from, by probability")
      ->capture_default_str()
      ->group(group);
  command.add_option("--seed", a.sampling.seed, "Same seed, same answer")
      ->capture_default_str()
      ->group(group);
  command.add_option("--max-tokens", a.sampling.max_new_tokens, "Longest answer")
      ->capture_default_str()
      ->group(group);
}

Result<IoBackend> io_backend(const std::string& name) {
  if (name == "auto") return IoBackend::kAuto;
  if (name == "uring") return IoBackend::kUring;
  if (name == "threads") return IoBackend::kThreads;
  return wrong(fmt::format("--io is \"{}\"; there are auto, uring and threads", name));
}

Status read_quality(const RunArguments& a, CacheOptions& cache) {
  const KeepOriginal tiers[] = {KeepOriginal::kNone, KeepOriginal::kDram, KeepOriginal::kNvme};
  const auto* const keep = std::find_if(std::begin(tiers), std::end(tiers), [&](KeepOriginal tier) {
    return name(tier) == a.keep_original;
  });
  if (keep == std::end(tiers))
    return wrong(
        fmt::format("--keep-original is \"{}\"; there are none, dram and nvme", a.keep_original));
  cache.keep_original = *keep;
  if (a.quality_action != "warn" && a.quality_action != "promote")
    return wrong(
        fmt::format("--quality-action is \"{}\"; there are warn and promote", a.quality_action));
  cache.quality = {
      .sample_fraction = a.quality_samples,
      .error_bound = a.quality_bound,
      .action = a.quality_action == "promote" ? QualityAction::kPromote : QualityAction::kCount};
  return {};
}

Status check_single(const RunArguments& a) {
  if (a.prompts.empty()) {
    return wrong("nothing to answer: give a question with --prompt, or a batch with --jobs");
  }
  for (const std::string& prompt : a.prompts) {
    if (is_blank(prompt)) return wrong("--prompt is empty; ask something");
  }
  if (!a.out.empty() || a.restart) return wrong("--out and --restart belong to a batch: --jobs");
  return {};
}

Status check_batch(const RunArguments& a) {
  if (!a.prompts.empty() || !a.images.empty() || !a.video.empty()) {
    return wrong("--jobs replaces --prompt, --image and --video: write them into the file");
  }
  if (a.out.empty()) return wrong("--jobs needs --out, the file for the answers");
  std::error_code error;
  if (std::filesystem::equivalent(a.jobs, a.out, error)) {
    return wrong("--jobs and --out are the same file; answers need a file of their own");
  }
  return {};
}

}  // namespace

void add_host_flags(CLI::App& command, RunArguments& a) {
  command
      .add_option("--model", a.model,
                  "Folder of a Hugging Face checkpoint (LLaVA, LLaVA-OneVision, Qwen2-VL, "
                  "Qwen2.5-VL; Llama or Qwen2 for text), or a GGUF file")
      ->required()
      ->type_name("PATH");
  command
      .add_option("--visual-tokens", a.visual_tokens,
                  "Most tokens of a picture, or of two frames, of a model with pictures of any "
                  "size (default: the checkpoint's)")
      ->type_name("N");
  command
      .add_option("--prompt-style", a.prompt_style,
                  "auto, question, llava-qwen, chatml, qwen-vl, vicuna or plain")
      ->type_name("NAME")
      ->capture_default_str();
  add_cache_flags(command, a);
  add_meter_flags(command, a);
  const std::string group = "Program";
  command
      .add_option("--device", a.device,
                  "Where model and KV cache are: cpu, or cuda (bf16; no originals or "
                  "quality meter there yet)")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str()
      ->group(group);
  command.add_option("--device-index", a.device_index, "Which GPU, as `vkv topo` counts them")
      ->check(CLI::Range(0, 1023))
      ->capture_default_str()
      ->group(group);
  command.add_option("--threads", a.threads, "Worker threads; 0: all that the process may use")
      ->capture_default_str()
      ->group(group);
}

void add_run_flags(CLI::App& command, RunArguments& a) {
  add_host_flags(command, a);
  add_job_flags(command, a);
  add_answer_flags(command, a);
  const std::string group = "Program";
  command.add_flag("--json", a.json, "Print answers and summary as JSON on standard output")
      ->group(group);
  command.add_flag("--progress", a.progress, "Show progress even if this is no terminal")
      ->group(group);
  command.add_flag("-q,--quiet", a.quiet, "No progress and no summary")->group(group);
  command.add_flag("-v,--verbose", a.verbose, "Say more on standard error")->group(group);
  command.footer(kExamples);
}

Status check_arguments(const RunArguments& a) {
  VKV_TRY(a.jobs.empty() ? check_single(a) : check_batch(a));
  if (a.fps != 0 && a.frames != 0) return wrong("--fps and --frames both choose frames; give one");
  if (a.fps < 0 || a.frames < 0) return wrong("--fps and --frames must be above 0");
  if (a.jobs.empty() && a.video.empty() && (a.fps != 0 || a.frames != 0)) {
    return wrong("--fps and --frames choose frames of a --video, and there is none");
  }
  VKV_TRY(check_host_arguments(a));
  return validate(a.sampling);
}

Status check_host_arguments(const RunArguments& a) {
  if (!a.store.empty() && a.nvme_budget.empty()) {
    return wrong("--store needs --nvme-budget, the disk space that it may take, like 2G");
  }
  if (!a.nvme_writes.empty() && a.nvme_budget.empty()) {
    return wrong("--nvme-writes needs --nvme-budget, the disk space that is written to, like 2G");
  }
  if (a.keep_store && a.store.empty()) {
    return wrong("--keep-store needs --store, the file to keep");
  }
  return {};
}

Result<SessionOptions> session_options(const RunArguments& a) {
  SessionOptions options;
  options.model = a.model;
  VKV_TRY_ASSIGN(policy, a.policy.empty() ? precision_preset(a.preset) : policy_from(a.policy));
  options.cache.precision = policy;
  if (a.device == "cuda") {
    options.cache.device = Device::kCuda;
    options.cache.device_index = a.device_index;
    VKV_TRY(apply(a.hbm, options.cache));
  }
  VKV_TRY(read_byte_size("--dram-budget", a.dram_budget, options.cache.dram_bytes_max));
  VKV_TRY(read_byte_size("--dram-blocks", a.dram_blocks, options.cache.dram_block_bytes_max));
  VKV_TRY(read_byte_size("--nvme-budget", a.nvme_budget, options.cache.nvme_bytes_max));
  VKV_TRY(read_byte_size("--nvme-writes", a.nvme_writes, options.cache.nvme_write_bytes_per_day));
  if (options.cache.nvme_bytes_max > 0) {
    options.cache.store_path = a.store;
    options.cache.keep_store = a.keep_store;
    options.media_settings = answer_settings(a);
    if (a.store.empty()) {
      VKV_TRY_ASSIGN(path, default_store_path());
      options.cache.store_path = path;
    }
  }
  VKV_TRY(read_quality(a, options.cache));
  VKV_TRY_ASSIGN(io, io_backend(a.io));
  options.cache.io_backend = io;
  if (a.threads < 0) return wrong("--threads must be 0 (all) or more");
  options.cache.threads = a.threads;
  if (a.visual_tokens < 0) return wrong("--visual-tokens must be 1 or more");
  options.visual_tokens_max = a.visual_tokens;
  options.cache.recent_tokens = a.recent_tokens;
  VKV_TRY_ASSIGN(style, prompt_style(a.prompt_style));
  options.generator.style = style;
  return options;
}

JobDefaults job_defaults(const RunArguments& a) {
  return {.sampling = a.sampling, .video_sampling = {.fps = a.fps, .frame_count = a.frames}};
}

Job job_of(const RunArguments& a) {
  Job job;
  job.id = "1";
  job.images = a.images;
  job.video = a.video;
  job.video_sampling = {.fps = a.fps, .frame_count = a.frames};
  job.sampling = a.sampling;
  for (const std::string& prompt : a.prompts) job.questions.push_back({prompt, {}});
  return job;
}

std::string answer_settings(const RunArguments& a) {
  std::error_code error;
  const std::filesystem::path model = std::filesystem::weakly_canonical(a.model, error);
  std::string precision = a.preset;
  if (!a.policy.empty()) {  // a file may change under the same name
    const Result<PrecisionPolicy> policy = policy_from(a.policy);
    precision = policy.ok() ? policy_text(policy.value()) : a.policy;
  }
  std::string settings =
      fmt::format("model {} preset {} recent {} style {}", error ? a.model : model.string(),
                  precision, a.recent_tokens, a.prompt_style);
  if (a.device != "cpu") settings += " device " + a.device;
  if (a.visual_tokens > 0) settings += fmt::format(" visual tokens {}", a.visual_tokens);
  if (a.keep_original != "none") settings += " originals";  // in which tier changes nothing
  if (a.quality_action == "promote")
    settings += fmt::format(" promote {} {}", a.quality_samples, a.quality_bound);
  return settings;
}

Result<std::string> default_store_path() {
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return std::filesystem::path(value == nullptr ? "" : value);
  };
  std::filesystem::path folder = variable("TMPDIR");
  if (folder.empty()) {
    folder = variable("XDG_CACHE_HOME");
    if (folder.empty() && !variable("HOME").empty()) folder = variable("HOME") / ".cache";
    if (folder.empty()) {
      return Status(Code::kIo,
                    "there is no TMPDIR, XDG_CACHE_HOME or HOME to keep the NVMe store in; say "
                    "where with --store");
    }
    folder /= "vkv";
  }
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) {
    return Status(Code::kIo, fmt::format("{}: cannot be made for the NVMe store: {}; say where "
                                         "with --store",
                                         folder.string(), error.message()));
  }
  return (folder / fmt::format("store-{}.vkv", getpid())).string();
}

}  // namespace vkv
