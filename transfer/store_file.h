// store_file.h: the store's file: taken for this process alone, grown, and removed at the end.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "runtime/base/block_format.h"
#include "vkv/status.h"

namespace vkv {

// The first bytes of a store file, little-endian. The rest of the first kSuperblockBytes is zero.
struct Superblock {
  char magic[8];     // "VKVSTORE"
  uint32_t version;  // 0: temporary, means nothing once its process has ended
  uint32_t process;  // pid of the owner, to name it in messages; the lock is what counts
};
static_assert(sizeof(Superblock) == 16);

inline constexpr std::string_view kStoreMagic = "VKVSTORE";
inline constexpr uint32_t kStoreVersion = 0;
inline constexpr uint64_t kSuperblockBytes = kExtentAlignment;

// An operating error on a file: "cannot WHAT PATH: reason (errno N)"; for a full disk also the need
// and what is free there. Code kIo.
Status file_error(std::string_view what, const std::string& path, int error,
                  uint64_t needed_bytes = 0);

// Not thread-safe, but for file().
class StoreFile {
 public:
  // Creates the file, or takes over one that a store left behind when its process ended. Locks it
  // and writes the superblock. Errors: kInvalidArgument for a file that is not a store's, has
  // another version, or is in use; kIo for the rest.
  static Result<std::unique_ptr<StoreFile>> open(const std::string& path);
  ~StoreFile();  // removes the file
  StoreFile(const StoreFile&) = delete;
  StoreFile& operator=(const StoreFile&) = delete;

  // Makes the file longer, with disk space behind it where the file system can promise that.
  // Errors: kIo, for a full disk with the need and what is free.
  Status grow(uint64_t byte_count);

  // Bypasses the page cache from now on. False where the file system refuses.
  bool set_direct(bool direct);

  int file() const { return file_; }
  const std::string& path() const { return path_; }
  uint64_t bytes() const { return bytes_; }

 private:
  StoreFile(std::string path, int file, bool is_new)
      : path_(std::move(path)), file_(file), is_ours_(is_new) {}
  Result<bool> lock();
  Status write_superblock();

  const std::string path_;
  const int file_;
  uint64_t bytes_ = 0;
  bool is_ours_;  // created or locked by us: to be removed at the end
};

}  // namespace vkv
