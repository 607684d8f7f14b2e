// mapped_file.cpp: a file's bytes, read-only, without copying them.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/mapped_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace vkv {
namespace {

Status errno_status(const std::string& path, const char* what) {
  const int number = errno;
  if (number == ENOENT || number == ENOTDIR)
    return {Code::kNotFound, fmt::format("{}: no such file", path)};
  return {Code::kIo, fmt::format("{}: {}: {}", path, what, std::strerror(number))};
}

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

}  // namespace

Result<MappedFile> MappedFile::open(const std::string& path) {
  const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) return errno_status(path, "cannot be opened");
  struct stat info {};
  if (::fstat(file.get(), &info) != 0) return errno_status(path, "cannot be examined");
  if (!S_ISREG(info.st_mode))
    return Status(Code::kInvalidArgument, fmt::format("{}: not a regular file", path));
  const auto byte_count = static_cast<size_t>(info.st_size);
  if (byte_count == 0) return MappedFile(std::span<const std::byte>());

  void* const address = ::mmap(nullptr, byte_count, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (address == MAP_FAILED) return errno_status(path, "cannot be mapped");
  return MappedFile(std::span(static_cast<const std::byte*>(address), byte_count));
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : bytes_(std::exchange(other.bytes_, std::span<const std::byte>())) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  return *this;
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

Result<std::string> read_text_file(const std::string& path, size_t bytes_max) {
  VKV_TRY_ASSIGN(file, MappedFile::open(path));
  if (file.bytes().size() > bytes_max)
    return Status(Code::kInvalidArgument, fmt::format("{}: {} bytes, at most {} are read", path,
                                                      file.bytes().size(), bytes_max));
  if (file.bytes().empty()) return std::string();
  return std::string(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
}

}  // namespace vkv
