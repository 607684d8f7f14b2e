// byte_stream.h: numbers to bytes and back, little-endian, for what is kept on disk.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

namespace vkv {

static_assert(std::endian::native == std::endian::little, "stored numbers are copied as they are");

template <class T>
concept Storable = std::is_arithmetic_v<T> || std::is_enum_v<T>;

// Adds to a vector.
class ByteWriter {
 public:
  explicit ByteWriter(std::vector<std::byte>& bytes) : bytes_(bytes) {}

  template <Storable T>
  void put(T value) {
    put_bytes(&value, sizeof(value));
  }
  template <class T>
  requires std::is_trivially_copyable_v<T>
  void put_all(std::span<const T> values) { put_bytes(values.data(), values.size_bytes()); }
  void put_text(std::string_view text) { put_bytes(text.data(), text.size()); }
  void put_zeros(size_t byte_count) { bytes_.resize(bytes_.size() + byte_count); }

 private:
  void put_bytes(const void* from, size_t byte_count) {
    const auto* const first = static_cast<const std::byte*>(from);
    bytes_.insert(bytes_.end(), first, first + byte_count);
  }

  std::vector<std::byte>& bytes_;
};

// Takes from bytes that may be anything. What lies behind the end reads as zero, and ok() is false
// from then on: look at it before the values count.
class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  template <Storable T>
  T get() {
    T value{};
    get_bytes(&value, sizeof(value));
    return value;
  }
  // An enum of which all numbers up to `last` exist; others are not ok.
  template <class T>
  requires std::is_enum_v<T> T get_up_to(T last) {
    const auto number = get<std::underlying_type_t<T>>();
    if (number > static_cast<std::underlying_type_t<T>>(last)) ok_ = false;
    return ok_ ? static_cast<T>(number) : T{};
  }
  bool get_bool() {
    const auto number = get<uint8_t>();
    if (number > 1) ok_ = false;
    return ok_ && number == 1;
  }
  template <class T>
  requires std::is_trivially_copyable_v<T>
  void get_all(std::span<T> values) { get_bytes(values.data(), values.size_bytes()); }
  void expect_text(std::string_view text) {
    const std::span<const std::byte> found = take(text.size());
    if (!ok_ || std::memcmp(found.data(), text.data(), text.size()) != 0) ok_ = false;
  }
  void expect_zeros(size_t byte_count) {
    for (const std::byte byte : take(byte_count)) ok_ = ok_ && byte == std::byte{0};
  }
  // The next bytes where they lie; empty where there are not so many.
  std::span<const std::byte> take(size_t byte_count) {
    if (!ok_ || byte_count > bytes_.size()) {
      ok_ = false;
      return {};
    }
    const auto taken = bytes_.first(byte_count);
    bytes_ = bytes_.subspan(byte_count);
    return taken;
  }

  // True if `count` values of value_bytes each can be there: ask before making room for them.
  bool has(uint64_t count, size_t value_bytes) {
    if (count > bytes_.size() / value_bytes) ok_ = false;
    return ok_;
  }
  void fail() { ok_ = false; }

  bool ok() const { return ok_; }
  size_t bytes_left() const { return bytes_.size(); }

 private:
  void get_bytes(void* to, size_t byte_count) {
    const std::span<const std::byte> from = take(byte_count);
    if (ok_ && byte_count > 0) std::memcpy(to, from.data(), byte_count);
  }

  std::span<const std::byte> bytes_;
  bool ok_ = true;
};

}  // namespace vkv
