// page_toucher.h: memory that is new to the process, made real ahead of whoever needs it.
// SPDX-License-Identifier: Apache-2.0
//
// The first touch of a page takes the kernel about as long as a disk takes to read it (400 us a MiB
// on a virtual machine), and a read by O_DIRECT makes it in the thread that submits. So a few
// threads touch the pages of what comes next.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <span>
#include <thread>
#include <vector>

namespace vkv {

class PageToucher {
 public:
  // Begins to touch the buffers in their order. They stay where they are until the toucher is gone;
  // their bytes change. thread_count 0, or where no thread can be had: wait() touches them itself.
  PageToucher(std::vector<std::span<std::byte>> buffers, int thread_count);
  ~PageToucher();  // leaves buffers untouched that nobody waited for
  PageToucher(const PageToucher&) = delete;
  PageToucher& operator=(const PageToucher&) = delete;

  // Returns when the buffer's pages are there; in their order, each once.
  void wait(size_t index);

 private:
  void touch_next();

  const std::vector<std::span<std::byte>> buffers_;
  const std::unique_ptr<std::atomic<bool>[]> is_touched_;  // one a buffer
  std::atomic<size_t> next_ = 0;
  std::vector<std::thread> threads_;
};

}  // namespace vkv
