// jobs.h: questions about pictures and video, from a file of JSON lines.
// SPDX-License-Identifier: Apache-2.0
//
// One object a line:
//
//   {"id": "a", "images": ["cat.png"], "prompt": "What is it?", "answer": "a cat"}
//   {"id": "b", "video": "v.mp4", "frames": 16, "questions": [{"prompt": "..."}, ...],
//    "group": "video-16", "sampling": {"temperature": 0.7, "top_p": 0.9, "seed": 1,
//    "max_tokens": 32}}
//
// "prompt" or "questions"; "images" (or "image") and "video" may both stand, pictures come first.
// "frames" or "fps" choose frames of the video. "answer" is what is expected, "kind" (beside it)
// and "group" sort answers for the accuracy table. "meta" may hold anything. Paths are relative to
// the file. Other fields are refused, so that a slip of the pen never asks about a missing picture.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tools/mllm/media.h"
#include "tools/mllm/sampler.h"
#include "vkv/status.h"

namespace vkv {

struct JobQuestion {
  std::string prompt;
  std::optional<std::string> expected;
  std::string kind;  // of question; may be empty
};

// One set of media and the questions about it.
struct Job {
  std::string id;  // as given, or the number of the line
  int64_t line = 0;
  std::vector<std::string> images;  // paths as written
  std::string video;                // empty: none
  VideoSampling video_sampling;
  std::vector<JobQuestion> questions;  // at least one
  Sampling sampling;
  std::string group;             // empty: by media, "image" or "video-16"
  std::filesystem::path folder;  // that paths are relative to
};

// What a job does not say.
struct JobDefaults {
  Sampling sampling;
  VideoSampling video_sampling;
};

// A line of the file: a job, or why there is none. `id` is known in most cases.
struct JobLine {
  int64_t line = 0;
  std::string id;
  Result<Job> job;
};

// Errors: kInvalidArgument, naming the field.
Result<Job> parse_job(std::string_view text, int64_t line, const JobDefaults& defaults);

// Blank lines are left out. An id that stands twice is an error of the later line.
// Errors: kIo for the file itself, kInvalidArgument for one without any job.
Result<std::vector<JobLine>> read_jobs(const std::filesystem::path& path,
                                       const JobDefaults& defaults);

// Tells whether an answer in a file is the answer to this question: depends on all that the
// question says and on `settings`, the text of whatever else changes answers. 16 hex digits.
std::string question_hash(const Job& job, size_t question, std::string_view settings);

// Equal but for case (ASCII) and surrounding white space.
bool is_expected(std::string_view text, std::string_view expected);

}  // namespace vkv
