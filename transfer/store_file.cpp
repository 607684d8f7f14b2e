// store_file.cpp: who may have a store's file, and its first bytes.
// SPDX-License-Identifier: Apache-2.0
#include "transfer/store_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <system_error>

namespace vkv {
namespace {

// A file that its owner removes while we look at it is looked at again, so many times.
constexpr int kOpenAttemptsMax = 8;

std::string quoted(const std::string& path) { return "'" + path + "'"; }

Status refused(const std::string& path, const std::string& reason) {
  return {Code::kInvalidArgument, "store path " + quoted(path) + " " + reason};
}

// Nothing where the file is shorter than a superblock's fields.
std::optional<Superblock> read_superblock(int file) {
  Superblock block{};
  ssize_t result = 0;
  do {
    result = pread(file, &block, sizeof(block), 0);
  } while (result < 0 && errno == EINTR);
  if (result != static_cast<ssize_t>(sizeof(block))) return std::nullopt;
  return block;
}

bool is_same_file(const struct stat& a, const struct stat& b) {
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

Status creation_error(const std::string& path, int error) {
  if (error == EISDIR) return refused(path, "is a directory; name a file in it");
  const Status status = file_error("create the store", path, error);
  if (error != ENOENT && error != ENOTDIR && error != EACCES && error != EROFS) return status;
  return {status.code(), status.message() + "; its directory must exist and be writable"};
}

// Opens a file that was there before us, if it looks like one that a store left behind. -1: it has
// just been removed.
Result<int> open_existing(const std::string& path) {
  struct stat found {};
  if (lstat(path.c_str(), &found) != 0) {
    if (errno == ENOENT) return -1;
    return file_error("look at", path, errno);
  }
  if (S_ISDIR(found.st_mode)) return refused(path, "is a directory; name a file in it");
  if (!S_ISREG(found.st_mode)) return refused(path, "is not a regular file; name another");

  const int file = ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW);
  if (file < 0) {
    if (errno == ENOENT) return -1;
    return file_error("open", path, errno);
  }
  // Before locking: a file of somebody else's is left alone in every way.
  const std::optional<Superblock> block = read_superblock(file);
  if (!block || std::memcmp(block->magic, kStoreMagic.data(), kStoreMagic.size()) != 0) {
    close(file);
    return refused(path,
                   "exists and is not a VisualKV store, so it is not overwritten; remove it or "
                   "name another");
  }
  if (block->version != kStoreVersion) {
    close(file);
    return refused(path, "is a store of version " + std::to_string(block->version) +
                             "; this program overwrites version " + std::to_string(kStoreVersion) +
                             " only; name another");
  }
  return file;
}

}  // namespace

Status file_error(std::string_view what, const std::string& path, int error,
                  uint64_t needed_bytes) {
  std::string message = "cannot " + std::string(what) + " " + quoted(path) + ": " +
                        std::system_category().message(error) + " (errno " + std::to_string(error) +
                        ")";
  if (error == ENOSPC || error == EDQUOT) {
    if (needed_bytes > 0) message += "; " + std::to_string(needed_bytes) + " more bytes are needed";
    struct statvfs disk {};
    if (statvfs(path.c_str(), &disk) == 0) {
      message += ", " + std::to_string(uint64_t{disk.f_bavail} * disk.f_frsize) +
                 " are free on that file system";
    }
    message += "; make room, lower the NVMe budget, or put the store elsewhere";
  }
  return {Code::kIo, message};
}

Result<std::unique_ptr<StoreFile>> StoreFile::open(const std::string& path) {
  for (int attempt = 0; attempt < kOpenAttemptsMax; ++attempt) {
    int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file < 0 && errno != EEXIST) return creation_error(path, errno);
    const bool is_new = file >= 0;
    if (!is_new) {
      VKV_TRY_ASSIGN(existing, open_existing(path));
      file = existing;
    }
    if (file < 0) continue;

    std::unique_ptr<StoreFile> store(new StoreFile(path, file, is_new));
    VKV_TRY_ASSIGN(locked, store->lock());
    if (!locked) continue;
    VKV_TRY(store->write_superblock());
    return store;
  }
  return refused(path, "is created and removed by others all the time; name another");
}

// False where the file was removed before we had the lock: its last owner has just ended, and the
// path is free for a new file.
Result<bool> StoreFile::lock() {
  if (flock(file_, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return file_error("lock", path_, errno);
    const std::optional<Superblock> block = read_superblock(file_);
    const std::string owner = block ? "process " + std::to_string(block->process) : "a process";
    return refused(path_, "is in use by " + owner + "; name another, or end that process");
  }
  struct stat locked {
  }, named{};
  if (fstat(file_, &locked) != 0) return file_error("look at", path_, errno);
  is_ours_ = lstat(path_.c_str(), &named) == 0 && is_same_file(locked, named);
  return is_ours_;
}

Status StoreFile::write_superblock() {
  if (ftruncate(file_, 0) != 0) return file_error("empty", path_, errno);
  VKV_TRY(grow(kSuperblockBytes));
  Superblock block{.version = kStoreVersion, .process = static_cast<uint32_t>(getpid())};
  std::memcpy(block.magic, kStoreMagic.data(), sizeof(block.magic));
  std::array<char, kSuperblockBytes> bytes{};
  std::memcpy(bytes.data(), &block, sizeof(block));
  ssize_t result = 0;
  do {
    result = pwrite(file_, bytes.data(), bytes.size(), 0);
  } while (result < 0 && errno == EINTR);
  if (result != static_cast<ssize_t>(bytes.size())) {
    return file_error("write", path_, result < 0 ? errno : ENOSPC, kSuperblockBytes);
  }
  return {};
}

StoreFile::~StoreFile() {
  struct stat opened {
  }, named{};
  // The path may name somebody else's file by now.
  if (is_ours_ && fstat(file_, &opened) == 0 && lstat(path_.c_str(), &named) == 0 &&
      is_same_file(opened, named)) {
    (void)unlink(path_.c_str());
  }
  close(file_);  // and with it the lock
}

Status StoreFile::grow(uint64_t byte_count) {
  const uint64_t target_bytes = bytes_ + byte_count;
  // The kernel answers a file over this limit with a signal that ends the process, so ask first.
  struct rlimit limit {};
  if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
      target_bytes > limit.rlim_cur) {
    return {Code::kIo, "cannot grow the store " + quoted(path_) + " to " +
                           std::to_string(target_bytes) +
                           " bytes: this process may write files of " +
                           std::to_string(limit.rlim_cur) + " bytes (ulimit -f)"};
  }
  int result = 0;
  do {
    result = fallocate(file_, 0, static_cast<off_t>(bytes_), static_cast<off_t>(byte_count));
  } while (result != 0 && errno == EINTR);
  if (result != 0 && (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL)) {
    // No promise of space there: a full disk shows at the write.
    result = ftruncate(file_, static_cast<off_t>(target_bytes));
  }
  if (result != 0) {
    const int error = errno;
    // fallocate may have done a part, and a full disk should not be held by what nobody uses.
    (void)!ftruncate(file_, static_cast<off_t>(bytes_));
    return file_error("grow the store", path_, error, byte_count);
  }
  bytes_ = target_bytes;
  return {};
}

bool StoreFile::set_direct(bool direct) {
  const int flags = fcntl(file_, F_GETFL);
  if (flags < 0) return false;
  return fcntl(file_, F_SETFL, direct ? flags | O_DIRECT : flags & ~O_DIRECT) == 0;
}

}  // namespace vkv
