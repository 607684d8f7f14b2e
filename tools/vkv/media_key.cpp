// media_key.cpp: everything that K and V depend on, into one hash.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/media_key.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <vector>

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

Result<std::string> stamp_of(const fs::path& file) {
  std::error_code size_error, time_error;
  const uint64_t byte_count = fs::file_size(file, size_error);
  const auto time = fs::last_write_time(file, time_error).time_since_epoch().count();
  const std::error_code error = size_error ? size_error : time_error;
  if (error)
    return Status(Code::kIo, fmt::format("cannot look at {}: {}", file.string(), error.message()));
  return fmt::format("{} {}", byte_count, time);
}

Status add_content(Sha256& hash, const fs::path& file) {
  std::ifstream content(file, std::ios::binary);
  std::vector<char> part(kContentBytesMax);
  uint64_t byte_count = 0;
  while (content) {
    content.read(part.data(), static_cast<std::streamsize>(part.size()));
    const auto read = static_cast<size_t>(content.gcount());
    hash.add(std::as_bytes(std::span(part).first(read)));
    byte_count += read;
  }
  if (!content.eof()) return {Code::kIo, fmt::format("cannot read {}", file.string())};
  hash.add(std::as_bytes(std::span(&byte_count, 1)));
  return {};
}

Status add_model(Sha256& hash, const std::string& model) {
  VKV_TRY_ASSIGN(files, files_of(model));
  for (const fs::path& file : files) {
    VKV_TRY_ASSIGN(stamp, stamp_of(file));
    add_text(hash, file.filename().string() + " " + stamp);
    std::error_code error;
    if (fs::file_size(file, error) <= kContentBytesMax && !error) VKV_TRY(add_content(hash, file));
  }
  return {};
}

void add_shape(Sha256& hash, const VisualShape& shape) {
  add_text(hash, fmt::format("{} {} x {} x {}, {} s", shape.is_video ? "video" : "picture",
                             shape.steps, shape.height, shape.width, shape.step_seconds));
}

std::vector<fs::path> all_of(const MediaFiles& files) {
  std::vector<fs::path> all = files.pictures;
  if (!files.video.empty()) all.push_back(files.video);
  return all;
}

}  // namespace

Result<SequenceKey> media_key(const std::string& model, const std::string& settings,
                              const MediaFiles& files, std::span<const VisualShape> shapes) {
  Sha256 hash;
  add_text(hash, "vkv media 3");
  VKV_TRY(add_model(hash, model));
  add_text(hash, settings);
  add_text(hash,
           fmt::format("{}; {} pictures, {} fps, {} frames", media_decoder_name(),
                       files.pictures.size(), files.sampling.fps, files.sampling.frame_count));
  for (const fs::path& file : all_of(files)) VKV_TRY(add_content(hash, file));
  for (const VisualShape& shape : shapes) add_shape(hash, shape);
  return SequenceKey{hash.finish()};
}

Result<SequenceKey> media_key(const std::string& model, const std::string& settings,
                              std::span<const VisualInput> inputs) {
  Sha256 hash;
  add_text(hash, "vkv media of pixels 3");
  VKV_TRY(add_model(hash, model));
  add_text(hash, settings);
  for (const VisualInput& input : inputs) {
    add_shape(hash, input.shape);
    add_text(hash, fmt::format("{} values", input.values.size()));
    hash.add(std::as_bytes(std::span(input.values)));
  }
  return SequenceKey{hash.finish()};
}

Result<std::string> media_stamps(const MediaFiles& files) {
  std::string all;
  for (const fs::path& file : all_of(files)) {
    VKV_TRY_ASSIGN(stamp, stamp_of(file));
    all += stamp + "; ";
  }
  return all;
}

}  // namespace vkv
