// npy.cpp: a strict reader of NumPy's format.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/npy.h"

#include <fmt/format.h>

#include <charconv>
#include <cstring>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tools/mllm/media_limits.h"

namespace vkv {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr size_t kHeaderBytesMax = 64 * 1024;  // NumPy writes 128; more is no frame stack

struct Header {
  std::string descr;
  bool fortran_order = false;
  std::vector<int64_t> shape;
};

// Reads the header's Python dictionary: three known keys, each exactly once, in any order.
class HeaderParser {
 public:
  explicit HeaderParser(std::string_view text) : text_(text) {}

  std::optional<Header> parse() {
    Header header;
    bool seen_descr = false, seen_order = false, seen_shape = false;
    if (!take('{')) return std::nullopt;
    while (!take('}')) {
      const std::optional<std::string> key = quoted();
      if (!key || !take(':')) return std::nullopt;
      if (*key == "descr" && !seen_descr) {
        const std::optional<std::string> value = quoted();
        if (!value) return std::nullopt;
        header.descr = *value;
        seen_descr = true;
      } else if (*key == "fortran_order" && !seen_order) {
        if (take_word("True")) {
          header.fortran_order = true;
        } else if (!take_word("False")) {
          return std::nullopt;
        }
        seen_order = true;
      } else if (*key == "shape" && !seen_shape) {
        if (!tuple(header.shape)) return std::nullopt;
        seen_shape = true;
      } else {
        return std::nullopt;
      }
      if (!take(',') && peek() != '}') return std::nullopt;
    }
    skip_space();
    if (!text_.empty() || !seen_descr || !seen_order || !seen_shape) return std::nullopt;
    return header;
  }

 private:
  void skip_space() {
    while (!text_.empty() && (text_[0] == ' ' || text_[0] == '\n')) text_.remove_prefix(1);
  }
  char peek() {
    skip_space();
    return text_.empty() ? '\0' : text_[0];
  }
  bool take(char c) {
    if (peek() != c) return false;
    text_.remove_prefix(1);
    return true;
  }
  bool take_word(std::string_view word) {
    skip_space();
    if (text_.substr(0, word.size()) != word) return false;
    text_.remove_prefix(word.size());
    return true;
  }
  std::optional<std::string> quoted() {
    if (!take('\'')) return std::nullopt;
    const size_t end = text_.find('\'');
    if (end == std::string_view::npos) return std::nullopt;
    std::string value(text_.substr(0, end));
    text_.remove_prefix(end + 1);
    return value;
  }
  bool tuple(std::vector<int64_t>& values) {
    if (!take('(')) return false;
    while (!take(')')) {
      skip_space();
      int64_t value = 0;
      const auto [end, error] = std::from_chars(text_.data(), text_.data() + text_.size(), value);
      if (error != std::errc() || value < 0) return false;
      text_.remove_prefix(static_cast<size_t>(end - text_.data()));
      values.push_back(value);
      if (!take(',') && peek() != ')') return false;
    }
    return true;
  }

  std::string_view text_;
};

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

Status io_error(const std::filesystem::path& path, std::string_view what) {
  return {Code::kIo, fmt::format("{}: {}: {}", path.string(), what, std::strerror(errno))};
}

// The dictionary's text and where the data begins.
struct RawHeader {
  std::string text;
  uint64_t data_offset = 0;
};

Result<RawHeader> read_raw_header(const std::filesystem::path& path, uint64_t file_bytes) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return io_error(path, "cannot be opened");
  const Status truncated(Code::kDataLoss,
                         fmt::format("{}: ends inside the .npy header", path.string()));

  unsigned char start[12] = {};
  if (file_bytes < 10) {
    return Status(Code::kInvalidArgument, fmt::format("{}: is not a .npy file", path.string()));
  }
  if (!file.read(reinterpret_cast<char*>(start), 10)) return io_error(path, "cannot be read");
  if (std::memcmp(start, kMagic.data(), kMagic.size()) != 0) {
    return Status(Code::kInvalidArgument, fmt::format("{}: is not a .npy file", path.string()));
  }
  const int major = start[6], minor = start[7];
  if ((major != 1 && major != 2) || minor != 0) {
    return Status(Code::kUnsupported, fmt::format("{}: is .npy version {}.{}; versions 1.0 and 2.0 "
                                                  "can be read",
                                                  path.string(), major, minor));
  }
  uint64_t prefix_bytes = 10, header_bytes = start[8] | start[9] << 8;
  if (major == 2) {
    if (!file.read(reinterpret_cast<char*>(start + 10), 2)) return truncated;
    header_bytes |= static_cast<uint64_t>(start[10]) << 16 | static_cast<uint64_t>(start[11]) << 24;
    prefix_bytes = 12;
  }
  if (header_bytes > kHeaderBytesMax || prefix_bytes + header_bytes > file_bytes) return truncated;

  RawHeader raw{std::string(header_bytes, '\0'), prefix_bytes + header_bytes};
  if (!file.read(raw.text.data(), static_cast<std::streamsize>(header_bytes))) return truncated;
  return raw;
}

}  // namespace

Result<NpyStack> NpyStack::open(const std::filesystem::path& path) {
  std::error_code error;
  const uint64_t file_bytes = std::filesystem::file_size(path, error);
  if (error) {
    return Status(Code::kIo,
                  fmt::format("{}: cannot be opened: {}", path.string(), error.message()));
  }
  VKV_TRY_ASSIGN(raw, read_raw_header(path, file_bytes));
  const std::optional<Header> header = HeaderParser(raw.text).parse();
  const auto refuse = [&](Code code, std::string_view what) {
    return Status(code, fmt::format("{}: {}", path.string(), what));
  };
  if (!header) return refuse(Code::kInvalidArgument, "has a .npy header that cannot be understood");
  if (header->descr != "|u1") {
    return refuse(
        Code::kInvalidArgument,
        fmt::format("holds values of type '{}'; frames are uint8 ('|u1')", header->descr));
  }
  if (header->fortran_order) {
    return refuse(Code::kInvalidArgument, "is in Fortran order; save np.ascontiguousarray(frames)");
  }
  std::vector<int64_t> shape = header->shape;
  if (shape.size() == 3) shape.insert(shape.begin(), 1);
  if (shape.size() != 4 || shape[3] != 3) {
    return refuse(Code::kInvalidArgument,
                  fmt::format("has shape {}; frames are [frames, height, width, 3] or [height, "
                              "width, 3]",
                              shape_text(header->shape)));
  }
  if (Status size = check_image_size(path.string(), shape[2], shape[1]); !size.ok()) return size;

  // The largest frame has fewer than 2^28 bytes, so only the count of frames can overflow.
  const uint64_t frame_bytes = static_cast<uint64_t>(shape[1] * shape[2] * 3);
  const uint64_t data_bytes = file_bytes - raw.data_offset;
  if (static_cast<uint64_t>(shape[0]) > data_bytes / frame_bytes) {
    return refuse(Code::kDataLoss,
                  fmt::format("is truncated: shape {} needs {} bytes a frame, and {} bytes follow "
                              "the header",
                              shape_text(header->shape), frame_bytes, data_bytes));
  }
  if (static_cast<uint64_t>(shape[0]) * frame_bytes != data_bytes) {
    return refuse(Code::kInvalidArgument,
                  fmt::format("has bytes left over after shape {}", shape_text(header->shape)));
  }

  NpyStack stack;
  stack.path_ = path;
  stack.data_offset_ = raw.data_offset;
  stack.frame_count_ = shape[0];
  stack.height_ = static_cast<int>(shape[1]);
  stack.width_ = static_cast<int>(shape[2]);
  return stack;
}

Result<Image> NpyStack::frame(int64_t index) const {
  VKV_CHECK(index >= 0 && index < frame_count_);
  Image image{width_, height_, {}};
  image.rgb.resize(static_cast<size_t>(width_) * static_cast<size_t>(height_) * 3);

  std::ifstream file(path_, std::ios::binary);
  if (!file) return io_error(path_, "cannot be opened");
  file.seekg(
      static_cast<std::streamoff>(data_offset_ + static_cast<uint64_t>(index) * image.rgb.size()));
  if (!file.read(reinterpret_cast<char*>(image.rgb.data()),
                 static_cast<std::streamsize>(image.rgb.size()))) {
    return Status(Code::kDataLoss, fmt::format("{}: ends inside frame {}", path_.string(), index));
  }
  return image;
}

}  // namespace vkv
