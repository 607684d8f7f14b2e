// safetensors.h: tensors of a checkpoint, by name.
// SPDX-License-Identifier: Apache-2.0
//
// Format (huggingface/safetensors): u64 little-endian header length, a JSON header
//   {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, "__metadata__": {}}
// with offsets from the end of the header, then the data: little-endian, row by row.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tools/mllm/mapped_file.h"
#include "tools/mllm/weights.h"
#include "vkv/status.h"

namespace vkv {

struct TensorView {
  std::string dtype;  // "F32", "BF16", ...
  std::vector<int64_t> shape;
  std::span<const std::byte> data;  // inside the mapped file
};

// One file. Immutable; any thread may read.
class SafetensorsFile {
 public:
  // Checks everything that the header says before any of it is used: offsets lie in the file, do
  // not overlap and leave no gap, byte counts agree with dtype and shape, names are unique.
  // Errors: kNotFound, kIo; kDataLoss for a truncated or broken file; kUnsupported for a dtype
  // that the format does not know.
  static Result<SafetensorsFile> open(const std::string& path);

  const std::string& path() const { return path_; }
  const std::map<std::string, TensorView, std::less<>>& tensors() const { return tensors_; }

 private:
  SafetensorsFile(std::string path, MappedFile file)
      : path_(std::move(path)), file_(std::move(file)) {}
  Status read_header();

  std::string path_;
  MappedFile file_;
  std::map<std::string, TensorView, std::less<>> tensors_;
};

// All tensors of a checkpoint: model.safetensors, or the shards that
// model.safetensors.index.json names. F32, F16 and BF16 are read.
class SafetensorsWeights : public Weights {
 public:
  // Errors: as SafetensorsFile::open, and kDataLoss if a tensor stands in two shards or the index
  // names one that its shard lacks.
  static Result<SafetensorsWeights> open(const std::string& folder);

  const std::string& path() const override { return folder_; }
  bool contains(std::string_view name) const override;
  using Weights::floats;
  Result<std::vector<float>> floats(std::string_view name,
                                    std::span<const int64_t> shape) const override;

 private:
  std::string folder_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, const TensorView*, std::less<>> tensors_;
};

}  // namespace vkv
