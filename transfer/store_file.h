// store_file.h: the store's file: who may have it, its superblock, and its length.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "transfer/store_format.h"
#include "vkv/status.h"

namespace vkv {

// What a store is opened for.
enum class StoreUse : uint8_t {
  kTemporary = 0,  // a new file, or one that a temporary store left behind; removed at the end
  kKeep = 1,       // a new file or one that was kept; stays
  kReadOnly = 2,   // a file that was kept; nothing is written, and others may read it too
};

// An operating error on a file: "cannot WHAT PATH: reason (errno N)"; for a full disk also the need
// and what is free there. Code kIo.
Status file_error(std::string_view what, const std::string& path, int error,
                  uint64_t needed_bytes = 0);

// Not thread-safe, but for file().
class StoreFile {
 public:
  // Opens and locks the file: for this process alone, or shared among readers. A new one gets a
  // superblock. Errors: kInvalidArgument for a file that is not a store's, is of another version or
  // use, or is in use; kNotFound where there is nothing to read; kDataLoss where no copy of the
  // superblock is whole; kIo for the rest.
  static Result<std::unique_ptr<StoreFile>> open(const std::string& path, StoreUse use);
  ~StoreFile();  // removes a temporary file
  StoreFile(const StoreFile&) = delete;
  StoreFile& operator=(const StoreFile&) = delete;

  // Makes the file longer, with disk space behind it where the file system can promise that.
  // Errors: kIo, for a full disk with the need and what is free.
  Status grow(uint64_t byte_count);

  // Gives a range back to the disk; it reads as zeros. False where the file system cannot.
  bool punch(uint64_t file_offset, uint64_t byte_count);
  // Has disk space put behind a range again. Errors: kIo as grow().
  Status back(uint64_t file_offset, uint64_t byte_count);

  // A few bytes that the file carries beside its contents. Best effort: not every file system can,
  // and a copy of the file may be without.
  std::vector<std::byte> read_note(std::string_view name) const;
  void write_note(std::string_view name, std::span<const std::byte> bytes);

  // Gives what is behind `bytes` back to the disk. Errors: kIo.
  Status shrink(uint64_t bytes);

  // Bypasses the page cache from now on. False where the file system refuses.
  bool set_direct(bool direct);

  int file() const { return file_; }
  const std::string& path() const { return path_; }
  uint64_t bytes() const { return bytes_; }
  uint64_t disk_bytes() const;                                  // that the disk keeps for it
  const Superblock& superblock() const { return superblock_; }  // as found, or as made

 private:
  StoreFile(std::string path, StoreUse use, int file)
      : path_(std::move(path)), use_(use), file_(file) {}
  static Result<std::unique_ptr<StoreFile>> create(const std::string& path, StoreUse use);
  static Result<std::unique_ptr<StoreFile>> open_existing(const std::string& path, StoreUse use);
  Result<bool> lock();
  Result<bool> read_superblock();
  Status write_new();

  std::string path_;
  const StoreUse use_;
  const int file_;
  bool is_ours_ = false;  // locked, a store's, and what the path names
  uint64_t bytes_ = 0;
  Superblock superblock_;
};

}  // namespace vkv
