// media_key.cpp: everything that K and V depend on, into one hash.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/media_key.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>

#include "tools/vkv/sha256.h"

namespace vkv {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kContentBytesMax = uint64_t{1} << 20;

// With its length, so that no two lists of texts add up to the same bytes.
void add_text(Sha256& hash, const std::string& text) {
  const uint64_t byte_count = text.size();
  hash.add(std::as_bytes(std::span(&byte_count, 1)));
  hash.add(std::as_bytes(std::span(text)));
}

Result<std::vector<fs::path>> files_of(const std::string& model) {
  std::error_code error;
  if (fs::is_regular_file(model, error)) return std::vector<fs::path>{model};
  std::vector<fs::path> files;
  for (fs::directory_iterator entry(model, error), end; !error && entry != end;
       entry.increment(error))
    if (entry->is_regular_file(error)) files.push_back(entry->path());
  if (error) return Status(Code::kIo, fmt::format("cannot list {}: {}", model, error.message()));
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

Result<SequenceKey> media_key(const std::string& model, const std::string& settings,
                              std::span<const VisualInput> inputs) {
  Sha256 hash;
  add_text(hash, "vkv media 2");
  VKV_TRY_ASSIGN(files, files_of(model));
  for (const fs::path& file : files) {
    std::error_code error;
    const uint64_t byte_count = fs::file_size(file, error);
    const auto time = fs::last_write_time(file, error).time_since_epoch().count();
    if (error)
      return Status(Code::kIo,
                    fmt::format("cannot look at {}: {}", file.string(), error.message()));
    add_text(hash, fmt::format("{} {} {}", file.filename().string(), byte_count, time));
    if (byte_count > kContentBytesMax) continue;
    std::ifstream content(file, std::ios::binary);
    add_text(hash, std::string(std::istreambuf_iterator<char>(content), {}));
  }
  add_text(hash, settings);
  for (const VisualInput& input : inputs) {
    const VisualShape& shape = input.shape;
    add_text(hash, fmt::format("{} of {} values, {} x {} x {}, {} s",
                               shape.is_video ? "video" : "picture", input.values.size(),
                               shape.steps, shape.height, shape.width, shape.step_seconds));
    hash.add(std::as_bytes(std::span(input.values)));
  }
  return SequenceKey{hash.finish()};
}

}  // namespace vkv
