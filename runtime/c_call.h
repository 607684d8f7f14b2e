// c_call.h: how a call of the C ABI ends: its number, its words, and no exception.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <exception>
#include <new>

#include "vkv/status.h"
#include "vkv/vkv.h"

namespace vkv {

// Keeps the words for vkv_last_error() of this thread and returns the code. Allocates nothing.
vkv_status end_call(Code code, const char* words) noexcept;

// Runs body, a function that returns Status, as a call of the C ABI.
template <class Body>
vkv_status c_call(Body&& body) noexcept {
  try {
    const Status status = body();
    return end_call(status.code(), status.message().c_str());
  } catch (const std::bad_alloc&) {
    return end_call(Code::kOutOfMemory, "the process has no memory left for the call itself");
  } catch (const std::exception& error) {
    return end_call(Code::kInternal, error.what());
  } catch (...) {
    return end_call(Code::kInternal, "an exception that is no std::exception");
  }
}

}  // namespace vkv
