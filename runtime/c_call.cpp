// c_call.cpp: the words of each thread's last call.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/c_call.h"

#include <algorithm>
#include <cstring>

namespace vkv {
namespace {

// Not a std::string: it must hold the words for lack of memory, and those of a call that another
// thread-local's destructor makes when its thread ends.
thread_local char last_words[1024] = "";

}  // namespace

vkv_status end_call(Code code, const char* words) noexcept {
  const size_t bytes = std::min(std::strlen(words), sizeof(last_words) - 1);
  std::memcpy(last_words, words, bytes);
  last_words[bytes] = '\0';
  return static_cast<vkv_status>(code);
}

}  // namespace vkv

const char* vkv_last_error(void) { return vkv::last_words; }
