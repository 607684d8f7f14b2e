// jobs.cpp: reads and checks job lines.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/jobs.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

namespace vkv {
namespace {

using Json = nlohmann::json;

bool is_blank(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](unsigned char c) { return std::isspace(c) != 0; });
}

Status wrong(std::string_view field, std::string_view what) {
  return {Code::kInvalidArgument, fmt::format("\"{}\" {}", field, what)};
}

// Errors for a field that is none of the known ones.
Status check_fields(const Json& object, std::initializer_list<std::string_view> known) {
  for (const auto& [field, value] : object.items()) {
    if (std::find(known.begin(), known.end(), field) != known.end()) continue;
    return {Code::kInvalidArgument,
            fmt::format("\"{}\" is no field here; there are {}", field, fmt::join(known, ", "))};
  }
  return {};
}

Status read_string(const Json& object, const char* field, std::string& target) {
  const auto it = object.find(field);
  if (it == object.end()) return {};
  if (!it->is_string()) return wrong(field, "must be a string");
  target = it->get<std::string>();
  return {};
}

Status read_number(const Json& object, const char* field, double& target) {
  const auto it = object.find(field);
  if (it == object.end()) return {};
  if (!it->is_number()) return wrong(field, "must be a number");
  target = it->get<double>();
  return {};
}

template <class Integer>
Status read_integer(const Json& object, const char* field, int64_t least, Integer& target) {
  const auto it = object.find(field);
  if (it == object.end()) return {};
  constexpr int64_t kMost = sizeof(Integer) == 4 ? INT32_MAX : INT64_MAX;
  const int64_t value = it->is_number_integer() ? it->get<int64_t>() : least - 1;
  const bool wrapped = it->is_number_unsigned() && it->get<uint64_t>() > INT64_MAX;
  if (value < least || value > kMost || wrapped) {
    return wrong(field, fmt::format("must be a whole number, {} or more", least));
  }
  target = static_cast<Integer>(value);
  return {};
}

Status read_sampling(const Json& object, Sampling& sampling) {
  const auto it = object.find("sampling");
  if (it == object.end()) return {};
  if (!it->is_object()) return wrong("sampling", "must be an object");
  VKV_TRY(check_fields(*it, {"temperature", "top_p", "seed", "max_tokens"}));
  VKV_TRY(read_number(*it, "temperature", sampling.temperature));
  VKV_TRY(read_number(*it, "top_p", sampling.top_p));
  VKV_TRY(read_integer(*it, "seed", 0, sampling.seed));
  VKV_TRY(read_integer(*it, "max_tokens", 1, sampling.max_new_tokens));
  return validate(sampling);
}

Status read_media(const Json& object, Job& job) {
  if (object.contains("image") && object.contains("images")) {
    return wrong("image", "and \"images\" must not both stand");
  }
  std::string image;
  VKV_TRY(read_string(object, "image", image));
  if (object.contains("image")) job.images.push_back(image);
  if (const auto it = object.find("images"); it != object.end()) {
    if (!it->is_array()) return wrong("images", "must be a list of paths");
    for (const Json& path : *it) {
      if (!path.is_string()) return wrong("images", "must be a list of paths");
      job.images.push_back(path.get<std::string>());
    }
  }
  for (const std::string& path : job.images) {
    if (path.empty()) return wrong("images", "has an empty path");
  }
  VKV_TRY(read_string(object, "video", job.video));
  if (object.contains("video") && job.video.empty()) return wrong("video", "is an empty path");

  if (!object.contains("fps") && !object.contains("frames")) return {};
  if (job.video.empty()) return wrong("frames", "and \"fps\" need a \"video\"");
  if (object.contains("fps") && object.contains("frames")) {
    return wrong("fps", "and \"frames\" must not both stand");
  }
  job.video_sampling = {};  // the line's own choice replaces the default's
  VKV_TRY(read_number(object, "fps", job.video_sampling.fps));
  VKV_TRY(read_integer(object, "frames", 1, job.video_sampling.frame_count));
  if (object.contains("fps") && !(job.video_sampling.fps > 0))
    return wrong("fps", "must be above 0");
  return {};
}

Status add_question(const Json& object, Job& job) {
  JobQuestion question;
  if (!object.contains("prompt")) return wrong("prompt", "is missing");
  VKV_TRY(read_string(object, "prompt", question.prompt));
  if (is_blank(question.prompt)) return wrong("prompt", "is empty; ask something");
  if (object.contains("answer")) {
    question.expected.emplace();
    VKV_TRY(read_string(object, "answer", *question.expected));
  }
  VKV_TRY(read_string(object, "kind", question.kind));
  job.questions.push_back(std::move(question));
  return {};
}

Status read_questions(const Json& object, Job& job) {
  const auto it = object.find("questions");
  if (it == object.end()) {
    if (!object.contains("prompt")) return wrong("prompt", "or \"questions\" is missing");
    return add_question(object, job);
  }
  for (const char* field : {"prompt", "answer", "kind"}) {
    if (object.contains(field)) return wrong(field, "and \"questions\" must not both stand");
  }
  if (!it->is_array() || it->empty()) return wrong("questions", "must be a list of objects");
  for (const Json& question : *it) {
    if (!question.is_object()) return wrong("questions", "must be a list of objects");
    VKV_TRY(check_fields(question, {"prompt", "answer", "kind", "meta"}));
    VKV_TRY(add_question(question, job));
  }
  return {};
}

// The id that a line has, whatever else is wrong with it.
std::string id_of(const Json& json, int64_t line) {
  if (json.is_object()) {
    const auto it = json.find("id");
    if (it != json.end() && it->is_string() && !it->get<std::string>().empty()) {
      return it->get<std::string>();
    }
    if (it != json.end() && it->is_number_integer()) return it->dump();
  }
  return std::to_string(line);
}

Result<Job> make_job(const Json& json, int64_t line, const JobDefaults& defaults) {
  if (json.is_discarded()) {
    return Status(Code::kInvalidArgument, "is not valid JSON; each line must be one JSON object");
  }
  if (!json.is_object()) return Status(Code::kInvalidArgument, "is JSON, but not an object");
  VKV_TRY(check_fields(json, {"id", "image", "images", "video", "fps", "frames", "prompt", "answer",
                              "kind", "questions", "sampling", "group", "meta"}));
  Job job;
  job.line = line;
  job.sampling = defaults.sampling;
  job.video_sampling = defaults.video_sampling;
  if (json.contains("id") && !json["id"].is_number_integer()) {
    VKV_TRY(read_string(json, "id", job.id));
    if (job.id.empty()) return wrong("id", "is empty");
  }
  job.id = id_of(json, line);
  VKV_TRY(read_string(json, "group", job.group));
  VKV_TRY(read_media(json, job));
  VKV_TRY(read_questions(json, job));
  VKV_TRY(read_sampling(json, job.sampling));
  return job;
}

}  // namespace

Result<Job> parse_job(std::string_view text, int64_t line, const JobDefaults& defaults) {
  return make_job(Json::parse(text, nullptr, false), line, defaults);
}

Result<std::vector<JobLine>> read_jobs(const std::filesystem::path& path,
                                       const JobDefaults& defaults) {
  std::error_code error;
  std::ifstream file(path);
  if (!file || std::filesystem::is_directory(path, error)) {
    return Status(Code::kIo, fmt::format("{}: cannot be read: {}", path.string(),
                                         file ? "is a folder" : std::strerror(errno)));
  }
  std::vector<JobLine> lines;
  std::set<std::string> ids;
  std::string text;
  for (int64_t line = 1; std::getline(file, text); ++line) {
    if (is_blank(text)) continue;
    const Json json = Json::parse(text, nullptr, false);
    JobLine entry{line, id_of(json, line), make_job(json, line, defaults)};
    if (entry.job.ok() && !ids.insert(entry.id).second) {
      entry.job = Status(Code::kInvalidArgument,
                         fmt::format("\"id\" is \"{}\" again; each job needs its own", entry.id));
    }
    if (entry.job.ok()) entry.job.value().folder = path.parent_path();
    lines.push_back(std::move(entry));
  }
  if (file.bad()) return Status(Code::kIo, fmt::format("{}: cannot be read", path.string()));
  if (lines.empty()) {
    return Status(Code::kInvalidArgument,
                  fmt::format("{}: has no jobs in it; write one JSON object "
                              "a line, like {{\"image\": \"a.png\", "
                              "\"prompt\": \"What is it?\"}}",
                              path.string()));
  }
  return lines;
}

std::string question_hash(const Job& job, size_t question, std::string_view settings) {
  const Sampling& sampling = job.sampling;
  const Json all = {job.images,
                    job.video,
                    job.video_sampling.fps,
                    job.video_sampling.frame_count,
                    job.questions.size() > 1,  // media first, or with the question
                    job.questions[question].prompt,
                    sampling.temperature,
                    sampling.top_p,
                    sampling.seed,
                    sampling.max_new_tokens,
                    settings};
  // FNV-1a: guards against mistakes, not against malice.
  uint64_t hash = 0xcbf29ce484222325;
  for (const unsigned char c : all.dump(-1, ' ', true, Json::error_handler_t::replace)) {
    hash = (hash ^ c) * 0x100000001b3;
  }
  return fmt::format("{:016x}", hash);
}

bool is_expected(std::string_view text, std::string_view expected) {
  const auto trimmed = [](std::string_view s) {
    while (!s.empty() && std::isspace(static_cast<unsigned char>(s.front()))) s.remove_prefix(1);
    while (!s.empty() && std::isspace(static_cast<unsigned char>(s.back()))) s.remove_suffix(1);
    return s;
  };
  text = trimmed(text);
  expected = trimmed(expected);
  return std::equal(text.begin(), text.end(), expected.begin(), expected.end(), [](char a, char b) {
    return std::tolower(static_cast<unsigned char>(a)) ==
           std::tolower(static_cast<unsigned char>(b));
  });
}

}  // namespace vkv
