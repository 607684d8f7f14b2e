// page_toucher.cpp: threads that take the next buffer each.
// SPDX-License-Identifier: Apache-2.0
#include "transfer/page_toucher.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "runtime/base/block_format.h"

namespace vkv {

PageToucher::PageToucher(std::vector<std::span<std::byte>> buffers, int thread_count)
    : buffers_(std::move(buffers)), is_touched_(new std::atomic<bool>[buffers_.size()]()) {
  try {
    for (int i = 0; i < thread_count; ++i) {
      threads_.emplace_back([this] {
        while (next_ < buffers_.size()) touch_next();
      });
    }
  } catch (const std::system_error&) {
    // Fewer threads do it more slowly.
  }
}

PageToucher::~PageToucher() {
  next_ = buffers_.size();
  for (std::thread& thread : threads_) thread.join();
}

void PageToucher::wait(size_t index) {
  while (!is_touched_[index] && next_ <= index) touch_next();
  is_touched_[index].wait(false);
}

void PageToucher::touch_next() {
  const size_t index = next_++;
  if (index >= buffers_.size()) return;
  for (size_t at = 0; at < buffers_[index].size(); at += kExtentAlignment) {
    *const_cast<volatile std::byte*>(&buffers_[index][at]) = std::byte{0};
  }
  is_touched_[index] = true;
  is_touched_[index].notify_all();
}

}  // namespace vkv
