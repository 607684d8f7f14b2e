// mapped_file.h: a file's bytes, read-only, without copying them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "vkv/status.h"

namespace vkv {

class MappedFile {
 public:
  // Errors: kNotFound if there is no such file, kIo with errno otherwise.
  static Result<MappedFile> open(const std::string& path);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return bytes_; }  // lives as long as this object

 private:
  explicit MappedFile(std::span<const std::byte> bytes) : bytes_(bytes) {}
  std::span<const std::byte> bytes_;
};

// A whole text file, at most `bytes_max` long. Errors: kNotFound, kIo, kInvalidArgument (longer).
Result<std::string> read_text_file(const std::string& path, size_t bytes_max);

}  // namespace vkv
