// gguf.cpp: metadata and tensors of a GGUF file, by name.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <system_error>

namespace vkv {
namespace {

constexpr uint32_t kDimensionsMax = 4;  // GGML_MAX_DIMS
constexpr int64_t kAlignmentMax = 1 << 20;
constexpr uint64_t kMetadataBytesMin = 8 + 4 + 1;    // an empty key, a type, a byte
constexpr uint64_t kTensorBytesMin = 8 + 4 + 4 + 8;  // an empty name, no dimensions

enum class ValueType : uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64,
};

// The fewest bytes that a value takes; 0 for a type that there is not.
uint64_t bytes_min(ValueType type) {
  switch (type) {
    case ValueType::kU8:
    case ValueType::kI8:
    case ValueType::kBool:
      return 1;
    case ValueType::kU16:
    case ValueType::kI16:
      return 2;
    case ValueType::kU32:
    case ValueType::kI32:
    case ValueType::kF32:
      return 4;
    case ValueType::kString:
    case ValueType::kU64:
    case ValueType::kI64:
    case ValueType::kF64:
      return 8;
    case ValueType::kArray:
      return 12;
  }
  return 0;
}

// Walks over the bytes. The first mistake is kept, and everything read after it is empty, so that
// a reader is a list of fields and one check behind it.
class Cursor {
 public:
  explicit Cursor(std::span<const std::byte> bytes) : bytes_(bytes) {}

  template <class T>
  T take() {
    T value{};
    if (left() < sizeof value) {
      fail(Code::kDataLoss, "the file ends early: is the download complete?");
      return value;
    }
    std::memcpy(&value, bytes_.data() + at_, sizeof value);
    at_ += sizeof value;
    return value;
  }

  // A number of things of which each takes at least `least` bytes of the file.
  uint64_t count(uint64_t least, const char* what) {
    const auto number = take<uint64_t>();
    if (number <= left() / least) return number;
    fail(Code::kDataLoss,
         fmt::format("{} {} do not fit the file's {} bytes", number, what, bytes_.size()));
    return 0;
  }

  std::string_view string() {
    const uint64_t byte_count = count(1, "bytes of text");
    const std::string_view text(reinterpret_cast<const char*>(bytes_.data()) + at_, byte_count);
    at_ += byte_count;
    return text;
  }

  // Of metadata and tensors: names go into messages and are looked up, so they are plain.
  std::string_view name() {
    const std::string_view text = string();
    const auto is_plain = [](char c) { return c > ' ' && c < '\x7f'; };
    if (std::all_of(text.begin(), text.end(), is_plain)) return text;
    fail(Code::kDataLoss, "a name that is not printable ASCII");
    return {};
  }

  void fail(Code code, const std::string& what) {
    if (status_.ok()) status_ = {code, fmt::format("{} (at byte {})", what, at_)};
    at_ = bytes_.size();
  }
  uint64_t at() const { return at_; }
  const Status& status() const { return status_; }

 private:
  uint64_t left() const { return bytes_.size() - at_; }

  std::span<const std::byte> bytes_;
  uint64_t at_ = 0;
  Status status_;
};

GgufValue take_scalar(Cursor& cursor, ValueType type) {
  switch (type) {
    case ValueType::kU8:
      return int64_t{cursor.take<uint8_t>()};
    case ValueType::kI8:
      return int64_t{cursor.take<int8_t>()};
    case ValueType::kU16:
      return int64_t{cursor.take<uint16_t>()};
    case ValueType::kI16:
      return int64_t{cursor.take<int16_t>()};
    case ValueType::kU32:
      return int64_t{cursor.take<uint32_t>()};
    case ValueType::kI32:
      return int64_t{cursor.take<int32_t>()};
    case ValueType::kI64:
      return cursor.take<int64_t>();
    case ValueType::kU64: {
      const auto number = cursor.take<uint64_t>();
      if (number > INT64_MAX) return static_cast<double>(number);
      return static_cast<int64_t>(number);
    }
    case ValueType::kF32:
      return static_cast<double>(cursor.take<float>());
    case ValueType::kF64:
      return cursor.take<double>();
    case ValueType::kBool:
      return cursor.take<uint8_t>() != 0;
    case ValueType::kString:
      return cursor.string();
    case ValueType::kArray:
      break;
  }
  cursor.fail(Code::kUnsupported, fmt::format("a metadata value of type {}; known are 0 to 12",
                                              static_cast<uint32_t>(type)));
  return int64_t{0};
}

// `type` is one that take_scalar makes a T of; only a u64 may fail to be an int64_t.
template <class T>
GgufValue take_list(Cursor& cursor, ValueType type, uint64_t count) {
  std::vector<T> values;
  values.reserve(count);
  for (uint64_t i = 0; i < count && cursor.status().ok(); ++i) {
    const GgufValue value = take_scalar(cursor, type);
    const T* const element = std::get_if<T>(&value);
    if (element == nullptr)
      cursor.fail(Code::kUnsupported, "an array with a number past 2^63");
    else
      values.push_back(*element);
  }
  return values;
}

GgufValue take_value(Cursor& cursor) {
  const auto type = static_cast<ValueType>(cursor.take<uint32_t>());
  if (type != ValueType::kArray) return take_scalar(cursor, type);
  const auto element = static_cast<ValueType>(cursor.take<uint32_t>());
  if (bytes_min(element) == 0 || element == ValueType::kArray) {
    cursor.fail(Code::kUnsupported, fmt::format("an array of values of type {}; known are 0 to 8 "
                                                "and 10 to 12",
                                                static_cast<uint32_t>(element)));
    return int64_t{0};
  }
  const uint64_t count = cursor.count(bytes_min(element), "values of an array");
  switch (element) {
    case ValueType::kString:
      return take_list<std::string_view>(cursor, element, count);
    case ValueType::kF32:
    case ValueType::kF64:
      return take_list<double>(cursor, element, count);
    case ValueType::kBool:
      return take_list<bool>(cursor, element, count);
    default:
      return take_list<int64_t>(cursor, element, count);
  }
}

// What the file says of one tensor.
struct Entry {
  std::string_view name;
  std::vector<uint64_t> extents;  // fastest first
  uint32_t type = 0;
  uint64_t offset = 0;
};

Entry take_entry(Cursor& cursor) {
  Entry entry;
  entry.name = cursor.name();
  const auto dimension_count = cursor.take<uint32_t>();
  if (dimension_count > kDimensionsMax)
    cursor.fail(Code::kDataLoss, fmt::format("tensor {} has {} dimensions; {} at most", entry.name,
                                             dimension_count, kDimensionsMax));
  for (uint32_t i = 0; i < dimension_count && cursor.status().ok(); ++i)
    entry.extents.push_back(cursor.take<uint64_t>());
  entry.type = cursor.take<uint32_t>();
  entry.offset = cursor.take<uint64_t>();
  return entry;
}

// `data`: what follows the padding.
Result<GgufTensor> place(const Entry& entry, std::span<const std::byte> data) {
  const GgufBlock* const block = find_gguf_block(entry.type);
  if (block == nullptr)
    return Status(Code::kUnsupported,
                  fmt::format("tensor {} is of type {}; there are {}", entry.name,
                              gguf_type_name(entry.type), gguf_types_read()));
  const uint64_t row = entry.extents.empty() ? 1 : entry.extents[0];
  if (row % block->values != 0)
    return Status(Code::kDataLoss, fmt::format("tensor {}: rows of {} values are not whole blocks "
                                               "of {} ({})",
                                               entry.name, row, block->values, block->name));
  GgufTensor tensor{.block = *block, .shape = {}, .data = {}};
  uint64_t bytes = block->bytes;
  bool fits = !__builtin_mul_overflow(bytes, row / block->values, &bytes);
  for (size_t i = 1; i < entry.extents.size(); ++i)
    fits = fits && !__builtin_mul_overflow(bytes, entry.extents[i], &bytes);
  if (!fits || bytes > data.size() || entry.offset > data.size() - bytes)
    return Status(Code::kDataLoss,
                  fmt::format("tensor {} lies outside the file's {} bytes of data: is the download "
                              "complete?",
                              entry.name, data.size()));
  for (const uint64_t extent : entry.extents) {
    // A tensor without values may claim any extent beside a zero.
    if (extent > INT32_MAX)
      return Status(Code::kDataLoss,
                    fmt::format("tensor {} has an extent of {}", entry.name, extent));
    tensor.shape.insert(tensor.shape.begin(), static_cast<int64_t>(extent));
  }
  tensor.data = data.subspan(entry.offset, bytes);
  return tensor;
}

}  // namespace

bool is_gguf_path(const std::string& path) {
  std::error_code error;
  return path.ends_with(".gguf") || std::filesystem::is_regular_file(path, error);
}

Result<GgufFile> GgufFile::open(const std::string& path) {
  VKV_TRY_ASSIGN(mapped, MappedFile::open(path));
  GgufFile file(path, std::move(mapped));
  if (const Status status = file.read(); !status.ok())
    return Status(status.code(), fmt::format("{}: {}", path, status.message()));
  return file;
}

const GgufValue* GgufFile::find(std::string_view key) const {
  const auto found = metadata_.find(key);
  return found == metadata_.end() ? nullptr : &found->second;
}

Status GgufFile::read() {
  // 1. The head.
  const std::span<const std::byte> bytes = file_.bytes();
  constexpr std::string_view kMagic = "GGUF";
  if (bytes.size() < kMagic.size() || std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) != 0)
    return {Code::kDataLoss,
            "not a GGUF file; a checkpoint of another kind is given by its folder"};
  Cursor cursor(bytes.subspan(kMagic.size()));
  const auto version = cursor.take<uint32_t>();
  if (cursor.status().ok() && version != 2 && version != 3)
    return {Code::kUnsupported, fmt::format("GGUF version {}; 2 and 3 are read", version)};
  const uint64_t tensor_count = cursor.count(kTensorBytesMin, "tensors");
  const uint64_t metadata_count = cursor.count(kMetadataBytesMin, "metadata values");

  // 2. Metadata.
  for (uint64_t i = 0; i < metadata_count && cursor.status().ok(); ++i) {
    const std::string_view key = cursor.name();
    if (!metadata_.emplace(key, take_value(cursor)).second)
      cursor.fail(Code::kDataLoss, fmt::format("metadata {} stands twice", key));
  }

  // 3. Tensors: the entries first, since the data begins behind the last of them.
  std::vector<Entry> entries;
  for (uint64_t i = 0; i < tensor_count && cursor.status().ok(); ++i)
    entries.push_back(take_entry(cursor));
  VKV_TRY(cursor.status());

  if (const int64_t* const parts = get<int64_t>("split.count"); parts != nullptr && *parts > 1)
    return {Code::kUnsupported,
            fmt::format("one of {} files of a split model; join them first", *parts)};
  uint64_t alignment = 32;
  if (find("general.alignment") != nullptr) {
    const int64_t* const stated = get<int64_t>("general.alignment");
    if (stated == nullptr || *stated < 1 || *stated > kAlignmentMax ||
        !std::has_single_bit(static_cast<uint64_t>(*stated)))
      return {Code::kDataLoss, "general.alignment is not a power of two up to 1 MiB"};
    alignment = static_cast<uint64_t>(*stated);
  }
  const uint64_t head_bytes = kMagic.size() + cursor.at();
  const uint64_t data_at = (head_bytes + alignment - 1) / alignment * alignment;
  const auto data = bytes.subspan(std::min<uint64_t>(data_at, bytes.size()));
  for (const Entry& entry : entries) {
    VKV_TRY_ASSIGN(tensor, place(entry, data));
    if (!tensors_.emplace(entry.name, std::move(tensor)).second)
      return {Code::kDataLoss, fmt::format("tensor {} stands twice", entry.name)};
  }
  return {};
}

}  // namespace vkv
