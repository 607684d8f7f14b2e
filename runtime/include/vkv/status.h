// status.h: how an operation says that it failed, and why.
// SPDX-License-Identifier: Apache-2.0
//
// Operating errors are values: a full tier, a bad file, a wrong argument. Broken invariants stop
// the process through VKV_CHECK, in release builds too.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <variant>

// Stops the process when `condition` does not hold: a bug of ours, never a bad input.
#define VKV_CHECK(condition)                                                             \
  do {                                                                                   \
    if (!(condition)) {                                                                  \
      std::fprintf(stderr, "%s:%d: check failed: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                      \
    }                                                                                    \
  } while (0)

namespace vkv {

enum class Code : int {  // the C ABI returns these numbers: append only
  kOk = 0,
  kInvalidArgument = 1,  // the caller broke a documented requirement
  kUnsupported = 2,      // legal, but this build, device or version cannot do it
  kOutOfMemory = 3,      // a tier's budget is spent; the message names the tier and the need
  kIo = 4,               // a file could not be read or written; the message has errno
  kCuda = 5,             // a CUDA call failed; the message has its name
  kNotFound = 6,         // no such sequence, file or model part
  kDataLoss = 7,         // stored bytes do not match their checksum, or a file is truncated
  kCancelled = 8,        // stopped on the caller's request
  kInternal = 9,         // a fault of vkv or of a library below it; the message has its words
};

class [[nodiscard]] Status {
 public:
  Status() = default;  // ok
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == Code::kOk; }
  Code code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  Code code_ = Code::kOk;
  std::string message_;
};

// A value, or the reason why there is none.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}
  Result(Status error) : state_(std::move(error)) { VKV_CHECK(!status().ok()); }

  bool ok() const { return state_.index() == 0; }
  T& value() {
    VKV_CHECK(ok());
    return std::get<0>(state_);
  }
  const T& value() const {
    VKV_CHECK(ok());
    return std::get<0>(state_);
  }
  Status status() const { return ok() ? Status() : std::get<1>(state_); }

 private:
  std::variant<T, Status> state_;
};

}  // namespace vkv

// With VKV_CHECK, all the macros that the project has for control flow.
#define VKV_TRY(expr)                                                  \
  do {                                                                 \
    if (::vkv::Status vkv_try = (expr); !vkv_try.ok()) return vkv_try; \
  } while (0)

#define VKV_TRY_ASSIGN(name, expr)                        \
  auto name##_result = (expr);                            \
  if (!name##_result.ok()) return name##_result.status(); \
  auto& name = name##_result.value()
