// answers.cpp: the file of answers.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/answers.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

namespace vkv {
namespace {

Status io_error(const std::filesystem::path& path, std::string_view what, int error) {
  return {Code::kIo, fmt::format("{}: {}: {}", path.string(), what, std::strerror(error))};
}

Status write_all(const std::filesystem::path& path, int file, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(file, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return io_error(path, "cannot be written", errno);
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return {};
}

Result<std::string> read_all(const std::filesystem::path& path, int file) {
  std::string bytes;
  char chunk[1 << 16];
  while (true) {
    const ssize_t count = pread(file, chunk, sizeof(chunk), static_cast<off_t>(bytes.size()));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return io_error(path, "cannot be read", errno);
    if (count == 0) return bytes;
    bytes.append(chunk, static_cast<size_t>(count));
  }
}

// Opens and locks. Errors: kIo, kInvalidArgument when another process holds the lock.
Result<int> open_locked(const std::filesystem::path& path, int flags) {
  const int file = ::open(path.c_str(), flags | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (file < 0) return io_error(path, "cannot be opened for writing", errno);
  struct stat status = {};
  if (fstat(file, &status) != 0 || !S_ISREG(status.st_mode)) {
    close(file);
    return Status(Code::kInvalidArgument, fmt::format("{}: is not a regular file", path.string()));
  }
  if (flock(file, LOCK_EX | LOCK_NB) != 0) {
    close(file);
    return Status(Code::kInvalidArgument,
                  fmt::format("{}: another batch is writing it; wait for it or choose another file",
                              path.string()));
  }
  return file;
}

}  // namespace

Result<AnswerFile> AnswerFile::open(const std::filesystem::path& path, bool restart) {
  AnswerFile answers;
  answers.path_ = path;
  VKV_TRY_ASSIGN(file, open_locked(path, O_RDWR));
  answers.file_ = file;
  VKV_TRY(answers.take_up(restart));
  return answers;
}

AnswerFile::AnswerFile(AnswerFile&& other) noexcept { *this = std::move(other); }

AnswerFile& AnswerFile::operator=(AnswerFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(file_, other.file_);
  std::swap(earlier_, other.earlier_);
  std::swap(index_, other.index_);
  return *this;
}

AnswerFile::~AnswerFile() {
  if (file_ >= 0) close(file_);
}

Status AnswerFile::take_up(bool restart) {
  if (restart) {
    if (ftruncate(file_, 0) != 0) return io_error(path_, "cannot be emptied", errno);
    return {};
  }
  VKV_TRY_ASSIGN(bytes, read_all(path_, file_));
  const size_t whole_bytes = bytes.rfind('\n') == std::string::npos ? 0 : bytes.rfind('\n') + 1;
  // The first byte guards a file of another kind that has no line end at all.
  const Status foreign(Code::kInvalidArgument,
                       fmt::format("{}: holds something else than answers; choose another file, or "
                                   "--restart to overwrite it",
                                   path_.string()));
  if (!bytes.empty() && bytes[0] != '{') return foreign;

  std::string kept;
  for (size_t begin = 0; begin < whole_bytes;) {
    const size_t end = bytes.find('\n', begin);
    const std::string_view line = std::string_view(bytes).substr(begin, end - begin);
    begin = end + 1;
    const nlohmann::json json = nlohmann::json::parse(line, nullptr, false);
    if (!json.is_object() || !json.contains("id")) return foreign;
    if (json.contains("error")) continue;
    Result<AnswerRecord> record = answer_from_json(json);
    if (!record.ok()) return foreign;
    const auto key = std::make_pair(record.value().id, record.value().question);
    if (!index_.emplace(key, earlier_.size()).second) continue;
    earlier_.push_back(std::move(record.value()));
    kept.append(line).append("\n");
  }
  return kept.size() == bytes.size() ? Status() : rewrite(kept);
}

// Replaces the file as a whole, so that a stop in the middle loses no answer.
Status AnswerFile::rewrite(std::string_view content) {
  std::filesystem::path temporary = path_;
  temporary += ".new";
  VKV_TRY_ASSIGN(file, open_locked(temporary, O_RDWR | O_TRUNC));
  Status status = write_all(temporary, file, content);
  if (status.ok() && rename(temporary.c_str(), path_.c_str()) != 0) {
    status = io_error(path_, "cannot be replaced", errno);
  }
  if (!status.ok()) {
    unlink(temporary.c_str());
    close(file);
    return status;
  }
  close(file_);
  file_ = file;
  return {};
}

const AnswerRecord* AnswerFile::find(std::string_view id, int64_t question) const {
  const auto it = index_.find({std::string(id), question});
  return it == index_.end() ? nullptr : &earlier_[it->second];
}

Status AnswerFile::append(const nlohmann::json& record) {
  const auto replace = nlohmann::json::error_handler_t::replace;  // of bytes that are no UTF-8
  return write_all(path_, file_, record.dump(-1, ' ', false, replace) + "\n");
}

}  // namespace vkv
