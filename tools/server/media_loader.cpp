// media_loader.cpp: URLs to pictures.
// SPDX-License-Identifier: Apache-2.0
#include "tools/server/media_loader.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <utility>

#include "tools/mllm/media.h"

namespace vkv {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kData = "data:";
constexpr std::string_view kBase64 = ";base64";
constexpr std::string_view kFile = "file://";

constexpr std::array<int8_t, 256> make_digits() {
  std::array<int8_t, 256> digits{};
  digits.fill(-1);
  constexpr std::string_view kAlphabet =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (size_t i = 0; i < kAlphabet.size(); ++i)
    digits[static_cast<unsigned char>(kAlphabet[i])] = static_cast<int8_t>(i);
  return digits;
}
constexpr std::array<int8_t, 256> kDigits = make_digits();

// A file without a name, for readers that want a path.
class MemoryFile {
 public:
  static Result<MemoryFile> make(std::string_view bytes) {
    MemoryFile file(memfd_create("vkv-medium", MFD_CLOEXEC));
    while (file.file_ >= 0 && !bytes.empty()) {
      const ssize_t count = write(file.file_, bytes.data(), bytes.size());
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) break;
      bytes.remove_prefix(static_cast<size_t>(count));
    }
    if (file.file_ < 0 || !bytes.empty())
      return Status(Code::kIo, fmt::format("no memory for its bytes: {}", std::strerror(errno)));
    return file;
  }
  MemoryFile(MemoryFile&& other) noexcept : file_(std::exchange(other.file_, -1)) {}
  MemoryFile& operator=(MemoryFile&&) = delete;
  ~MemoryFile() {
    if (file_ >= 0) close(file_);
  }

  fs::path path() const { return fmt::format("/proc/self/fd/{}", file_); }

 private:
  explicit MemoryFile(int file) : file_(file) {}
  int file_;
};

// %41 is A. Errors: kInvalidArgument.
Result<std::string> decode_percent(std::string_view text) {
  const auto digit = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    const char lower = static_cast<char>(c | 0x20);
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
  };
  std::string result;
  for (size_t at = 0; at < text.size(); ++at) {
    if (text[at] != '%') {
      result.push_back(text[at]);
      continue;
    }
    const int high = at + 2 < text.size() ? digit(text[at + 1]) : -1;
    const int low = at + 2 < text.size() ? digit(text[at + 2]) : -1;
    if (high < 0 || low < 0)
      return Status(Code::kInvalidArgument, "has a % without two digits behind it");
    result.push_back(static_cast<char>(high * 16 + low));
    at += 2;
  }
  return result;
}

// The bytes of a data: URL, which its type does not matter for: files tell by content.
Result<std::string> data_of(std::string_view url, uint64_t bytes_max) {
  const size_t comma = url.find(',');
  const std::string_view head = url.substr(0, std::min(comma, url.size()));
  if (comma == url.npos || !head.ends_with(kBase64))
    return Status(Code::kInvalidArgument, "must be data:TYPE;base64,... in base64");
  const std::string_view text = url.substr(comma + 1);
  if (text.size() / 4 * 3 > bytes_max)
    return Status(Code::kOutOfMemory, fmt::format("has {} bytes; a medium may have {}",
                                                  text.size() / 4 * 3, bytes_max));
  return decode_base64(text);
}

// A message without the path that a medium had inside.
Status named(const Status& status, const fs::path& path, std::string_view name) {
  std::string words = status.message();
  const std::string prefix = path.string() + ": ";
  if (words.starts_with(prefix)) words.erase(0, prefix.size());
  return {status.code(), fmt::format("{}: {}", name, words)};
}

}  // namespace

Result<std::string> decode_base64(std::string_view text) {
  std::string bytes;
  bytes.reserve(text.size() / 4 * 3);
  uint32_t bits = 0;
  int digits = 0, padding = 0;
  for (const char c : text) {
    if (c == '\n' || c == '\r') continue;
    if (c == '=') {
      ++padding;
      continue;
    }
    const int digit = kDigits[static_cast<unsigned char>(c)];
    if (digit < 0 || padding > 0) return Status(Code::kInvalidArgument, "is not base64");
    bits = bits << 6 | static_cast<uint32_t>(digit);
    if (++digits % 4 != 0) continue;
    for (const int shift : {16, 8, 0}) bytes.push_back(static_cast<char>(bits >> shift & 0xff));
  }
  const int rest = digits % 4;
  if (rest == 1 || padding > 2 || (padding > 0 && rest + padding != 4))
    return Status(Code::kInvalidArgument, "is not base64: its end is missing");
  if (rest > 1) bytes.push_back(static_cast<char>(bits >> (rest == 2 ? 4 : 10) & 0xff));
  if (rest > 2) bytes.push_back(static_cast<char>(bits >> 2 & 0xff));
  return bytes;
}

Result<MediaLoader> MediaLoader::make(const MediaLoaderOptions& options) {
  MediaLoaderOptions resolved = options;
  if (!options.root.empty()) {
    std::error_code error;
    resolved.root = fs::canonical(options.root, error);
    if (error || !fs::is_directory(resolved.root, error))
      return Status(Code::kNotFound,
                    fmt::format("{}: is no folder for media", options.root.string()));
  }
  return MediaLoader(resolved);
}

// Links are followed before it is asked where a file lies.
Result<fs::path> MediaLoader::allowed_file(std::string_view url) const {
  if (options_.root.empty())
    return Status(Code::kInvalidArgument,
                  "file: URLs are not allowed; the server's --media-root allows a folder");
  VKV_TRY_ASSIGN(name, decode_percent(url.substr(kFile.size())));
  const auto outside = [&] {
    return Status(Code::kInvalidArgument,
                  "there is no such file in the folder that the server allows (--media-root)");
  };
  if (name.find('\0') != name.npos || !name.starts_with('/')) return outside();
  std::error_code error;
  const fs::path path = fs::canonical(name, error);
  if (error) return outside();
  const auto [end, unused] =
      std::mismatch(options_.root.begin(), options_.root.end(), path.begin(), path.end());
  if (end != options_.root.end() || !fs::is_regular_file(path, error)) return outside();
  const uint64_t byte_count = fs::file_size(path, error);
  if (error) return outside();
  if (byte_count > options_.bytes_max)
    return Status(Code::kOutOfMemory, fmt::format("has {} bytes; a medium may have {}", byte_count,
                                                  options_.bytes_max));
  return path;
}

Status MediaLoader::add(const MediaPart& part, size_t picture_count,
                        const MediaProcessor& processor, std::vector<VisualInput>& inputs) const {
  std::optional<MemoryFile> memory;
  fs::path path;
  if (part.url.starts_with(kData)) {
    VKV_TRY_ASSIGN(bytes, data_of(part.url, options_.bytes_max));
    VKV_TRY_ASSIGN(file, MemoryFile::make(bytes));
    memory.emplace(std::move(file));
    path = memory->path();
  } else if (part.url.starts_with(kFile)) {
    VKV_TRY_ASSIGN(file, allowed_file(part.url));
    path = file;
  } else {
    return {Code::kInvalidArgument,
            "must be a data: URL, or file:///... where the server allows it"};
  }
  if (!part.is_video) {
    const Result<Image> image = load_image(path);
    if (!image.ok()) return named(image.status(), path, "it");
    VKV_TRY_ASSIGN(input, processor.picture(image.value(), picture_count));
    inputs.push_back(std::move(input));
    return {};
  }
  const Result<Video> video = load_video(path, part.sampling);
  if (!video.ok()) return named(video.status(), path, "it");
  VKV_TRY_ASSIGN(frames, processor.video(video.value()));
  std::move(frames.begin(), frames.end(), std::back_inserter(inputs));
  return {};
}

Result<std::vector<VisualInput>> MediaLoader::load(const std::vector<MediaPart>& media,
                                                   const MediaProcessor& processor) const {
  const auto picture_count = static_cast<size_t>(
      std::ranges::count_if(media, [](const MediaPart& part) { return !part.is_video; }));
  std::vector<VisualInput> inputs;
  for (size_t i = 0; i < media.size(); ++i) {
    const Status status = add(media[i], picture_count, processor, inputs);
    if (!status.ok())
      return Status(status.code(), fmt::format("{} {}: {}", media[i].is_video ? "video" : "picture",
                                               i + 1, status.message()));
  }
  return inputs;
}

}  // namespace vkv
