// gguf.h: metadata and tensors of a GGUF file, by name.
// SPDX-License-Identifier: Apache-2.0
//
// Format (ggml's gguf.md, versions 2 and 3), little-endian, without padding between fields:
//   "GGUF", u32 version, u64 tensor_count, u64 metadata_count
//   metadata_count x  string key, u32 value type, value
//   tensor_count x    string name, u32 dimension_count, u64 dimensions[] (fastest first),
//                     u32 type (gguf_blocks.h), u64 offset from the start of the data
//   padding to a multiple of general.alignment (32 if not given), then the data
// A string is u64 byte count and bytes; an array u32 value type, u64 count and values.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "tools/mllm/gguf_blocks.h"
#include "tools/mllm/mapped_file.h"
#include "vkv/status.h"

namespace vkv {

// Integers of all widths are int64_t, a u64 past its range and both floats double. Text points
// into the mapped file and may be no UTF-8.
using GgufValue =
    std::variant<int64_t, double, bool, std::string_view, std::vector<int64_t>, std::vector<double>,
                 std::vector<bool>, std::vector<std::string_view>>;

struct GgufTensor {
  GgufBlock block;
  std::vector<int64_t> shape;       // as in transformers: [outputs, inputs], fastest last
  std::span<const std::byte> data;  // inside the mapped file
};

// A path names a GGUF file if it ends with .gguf or is a file; checkpoints of other kinds are
// folders.
bool is_gguf_path(const std::string& path);

// Immutable; any thread may read.
class GgufFile {
 public:
  // Checks everything that the file says before any of it is used: counts and lengths against the
  // bytes that are left, types, names that stand twice, and that each tensor lies in the file.
  // Errors: kNotFound, kIo; kDataLoss for a truncated or broken file; kUnsupported for another
  // version, one part of a split file, or a tensor of a type that is not read.
  static Result<GgufFile> open(const std::string& path);

  const std::string& path() const { return path_; }
  const std::map<std::string, GgufTensor, std::less<>>& tensors() const { return tensors_; }

  // nullptr if there is none of that key.
  const GgufValue* find(std::string_view key) const;

  // The value if it has this type; nullptr if it is missing or of another.
  template <class T>
  const T* get(std::string_view key) const {
    const GgufValue* const value = find(key);
    return value == nullptr ? nullptr : std::get_if<T>(value);
  }

 private:
  GgufFile(std::string path, MappedFile file) : path_(std::move(path)), file_(std::move(file)) {}
  Status read();

  std::string path_;
  MappedFile file_;
  std::map<std::string, GgufValue, std::less<>> metadata_;
  std::map<std::string, GgufTensor, std::less<>> tensors_;
};

}  // namespace vkv
