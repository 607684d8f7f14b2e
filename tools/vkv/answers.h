// answers.h: the file of answers: appended line by line, so that a batch can stop anywhere.
// SPDX-License-Identifier: Apache-2.0
//
// One JSON object a line. An answer:
//
//   {"id", "question", "hash", "group", "kind", "prompt", "text", "expected", "correct", "finish",
//    "tokens": {"text", "visual", "control", "sink", "answer"}, "media_ms", "ttft_ms", "tpot_ms",
//    "tiers": {"dram": {"bytes", "peak", "originals"}, "nvme": ...}, "kv": {"visual": {...}, ...},
//    "forms": [{"role", "form", "k", "v", "tokens", "bytes"}, ...], "io": {...}}
//
// "kind", "expected" and "correct" stand only where the job has them. A job that failed:
//
//   {"id", "line", "error", "question" (where it was one question that failed)}
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tools/mllm/generate.h"
#include "vkv/stats.h"
#include "vkv/status.h"

namespace vkv {

struct TierBytes {
  uint64_t bytes = 0;      // when the answer was complete
  uint64_t peak = 0;       // since the program started
  uint64_t originals = 0;  // of bytes: 16-bit originals
};

// What one question moved.
struct IoCounts {
  uint64_t extents_needed = 0;  // that lay on NVMe
  uint64_t nvme_read_bytes = 0;
  uint64_t nvme_written_bytes = 0;
  uint64_t prefetch_hits = 0;   // of them: read issued before
  uint64_t prefetch_ready = 0;  // of the hits: read finished before
};

struct AnswerRecord {
  std::string id;
  int64_t question = 0;  // index in the job
  std::string hash;      // question_hash()
  std::string group;     // the job's, or by media: "text", "image", "images-3", "video-16"
  std::string kind;
  std::string prompt;
  std::string text;
  std::optional<std::string> expected;
  bool correct = false;  // only where `expected` is
  FinishReason finish = FinishReason::kEos;
  std::array<uint64_t, kRoleCount> prompt_tokens{};  // by role
  uint64_t answer_tokens = 0;
  double media_seconds =
      0;                    // decoding, vision tower, and for several questions the media's prefill
  double ttft_seconds = 0;  // prefill to the first token
  double tpot_seconds = 0;  // 0: fewer than two tokens
  std::array<RoleStats, kRoleCount> kv;
  std::vector<FormStats> forms;
  TierBytes dram, nvme;
  IoCounts io;
};

struct FailureRecord {
  std::string id;
  int64_t line = 0;
  int64_t question = -1;  // -1: the whole job
  std::string error;
};

nlohmann::json to_json(const AnswerRecord& record);
nlohmann::json to_json(const FailureRecord& record);

// Errors: kInvalidArgument for an object that is no answer.
Result<AnswerRecord> answer_from_json(const nlohmann::json& json);

// Open for appending, and locked against a second batch. Not thread-safe.
class AnswerFile {
 public:
  // Takes up the answers that are there, cuts off a torn last line, and drops records of failures,
  // so that their jobs are tried again. With `restart` the file starts empty.
  // Errors: kIo; kInvalidArgument for a file that is not of this kind (it is left alone) or that
  // another process writes.
  static Result<AnswerFile> open(const std::filesystem::path& path, bool restart);
  AnswerFile(AnswerFile&& other) noexcept;
  AnswerFile& operator=(AnswerFile&& other) noexcept;
  ~AnswerFile();

  const std::vector<AnswerRecord>& earlier() const { return earlier_; }

  // The answer that was there at open; null if none was.
  const AnswerRecord* find(std::string_view id, int64_t question) const;

  // Handed to the system as one line before it returns. Errors: kIo.
  Status append(const nlohmann::json& record);

 private:
  AnswerFile() = default;
  Status take_up(bool restart);
  Status rewrite(std::string_view content);

  std::filesystem::path path_;
  int file_ = -1;
  std::vector<AnswerRecord> earlier_;
  std::map<std::pair<std::string, int64_t>, size_t> index_;  // into earlier_
};

}  // namespace vkv
