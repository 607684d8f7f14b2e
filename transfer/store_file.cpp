// store_file.cpp: who may have a store's file, and its first bytes.
// SPDX-License-Identifier: Apache-2.0
#include "transfer/store_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <optional>
#include <random>
#include <span>
#include <system_error>
#include <thread>
#include <vector>

namespace vkv {
namespace {

// A file that its owner removes while we look at it is looked at again, so many times.
constexpr int kOpenAttemptsMax = 8;

// For the operations of a process that has ended.
constexpr auto kOrphanWaitMax = std::chrono::milliseconds(5000);
// Where the file names no owner, or one that lives: it may be another with the same number.
constexpr auto kOwnerWaitMax = std::chrono::milliseconds(500);

std::string in_quotes(const std::string& path) { return "'" + path + "'"; }

Status refused(const std::string& path, const std::string& reason) {
  return {Code::kInvalidArgument, "store path " + in_quotes(path) + " " + reason};
}

// Up to `byte_count` bytes from the start, fewer where the file is shorter or cannot be read.
std::vector<std::byte> first_bytes(int file, size_t byte_count) {
  std::vector<std::byte> bytes(byte_count);
  size_t done = 0;
  while (done < byte_count) {
    const ssize_t result =
        pread(file, bytes.data() + done, byte_count - done, static_cast<off_t>(done));
    if (result < 0 && errno == EINTR) continue;
    if (result <= 0) break;
    done += static_cast<size_t>(result);
  }
  bytes.resize(done);
  return bytes;
}

Status write_all(int file, std::span<const std::byte> bytes, const std::string& path) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t result =
        pwrite(file, bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
    if (result < 0 && errno == EINTR) continue;
    if (result <= 0) return file_error("write", path, result < 0 ? errno : ENOSPC, bytes.size());
    done += static_cast<size_t>(result);
  }
  return {};
}

// The directory's entry of a new file; best effort, as some file systems do not sync directories.
void sync_directory(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  const int directory = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory < 0) return;
  (void)fsync(directory);
  close(directory);
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

// -1: it has just been removed.
Result<int> open_regular(const std::string& path, int flags) {
  struct stat found {};
  if (lstat(path.c_str(), &found) != 0) {
    if (errno == ENOENT) return -1;
    return file_error("look at", path, errno);
  }
  if (S_ISDIR(found.st_mode)) return refused(path, "is a directory; name a file in it");
  if (!S_ISREG(found.st_mode)) return refused(path, "is not a regular file; name another");
  const int file = ::open(path.c_str(), flags | O_CLOEXEC | O_NOFOLLOW);
  if (file >= 0) return file;
  if (errno == ENOENT) return -1;
  return file_error("open", path, errno);
}

// Of the first copy that looks like one.
SuperblockGuess guess_of(int file) {
  const std::vector<std::byte> bytes = first_bytes(file, kExtentsBegin);
  const SuperblockGuess first = guess_superblock(bytes);
  if (first.has_magic || bytes.size() <= kPageBytes) return first;
  return guess_superblock(std::span(bytes).subspan(kPageBytes));
}

// Before locking: a file of somebody else's is left alone in every way.
Status check_first_bytes(int file, const std::string& path) {
  const SuperblockGuess guess = guess_of(file);
  if (!guess.has_magic) {
    return refused(path,
                   "exists and is not a VisualKV store, so it is not overwritten; remove it or "
                   "name another");
  }
  if (guess.version > kStoreVersion) {
    return refused(path, "is a store of version " + std::to_string(guess.version) +
                             "; this program knows versions up to " +
                             std::to_string(kStoreVersion) + "; name another");
  }
  return {};
}

// What a process left that ended while it made a new store. Others' files are left alone.
Status remove_residue(const std::string& path) {
  VKV_TRY_ASSIGN(file, open_regular(path, O_RDWR));
  if (file < 0) return {};
  struct stat found {};
  const bool is_ours = fstat(file, &found) == 0 &&
                       static_cast<uint64_t>(found.st_size) <= kExtentsBegin &&
                       (found.st_size == 0 || check_first_bytes(file, path).ok());
  const bool is_free = is_ours && flock(file, LOCK_EX | LOCK_NB) == 0;
  if (is_free) (void)unlink(path.c_str());
  close(file);
  if (is_free) return {};
  return refused(path, is_ours ? "is in use: another process makes the store just now; try again"
                               : "is in the way of a new store; remove it or name another");
}

int allocate(int file, int mode, uint64_t offset, uint64_t byte_count) {
  int result = 0;
  do {
    result = fallocate(file, mode, static_cast<off_t>(offset), static_cast<off_t>(byte_count));
  } while (result != 0 && errno == EINTR);
  return result;
}

// Of fallocate: the file system has no such thing.
bool is_unknown(int error) { return error == EOPNOTSUPP || error == ENOSYS || error == EINVAL; }

StoreId random_id() {
  std::random_device random;
  StoreId id;
  for (uint8_t& byte : id) byte = static_cast<uint8_t>(random());
  return id;
}

}  // namespace

Status file_error(std::string_view what, const std::string& path, int error,
                  uint64_t needed_bytes) {
  std::string message = "cannot " + std::string(what) + " " + in_quotes(path) + ": " +
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

Result<std::unique_ptr<StoreFile>> StoreFile::open(const std::string& path, StoreUse use) {
  for (int attempt = 0; attempt < kOpenAttemptsMax; ++attempt) {
    if (use != StoreUse::kReadOnly) {
      VKV_TRY_ASSIGN(made, create(path, use));
      if (made) return Result<std::unique_ptr<StoreFile>>(std::move(made));
    }
    VKV_TRY_ASSIGN(found, open_existing(path, use));
    if (found) return Result<std::unique_ptr<StoreFile>>(std::move(found));
    if (use == StoreUse::kReadOnly) {
      return Status(Code::kNotFound, "there is no store " + in_quotes(path));
    }
  }
  return refused(path, "is created and removed by others all the time; name another");
}

// nullptr where the path is taken. A file that is to be kept gets its name when it is whole:
// whatever happens before, the path is free.
Result<std::unique_ptr<StoreFile>> StoreFile::create(const std::string& path, StoreUse use) {
  const bool is_kept = use == StoreUse::kKeep;
  struct stat taken {};
  if (is_kept && lstat(path.c_str(), &taken) == 0) return std::unique_ptr<StoreFile>();
  const std::string first_name = is_kept ? path + ".new" : path;
  const int file = ::open(first_name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (file < 0 && errno == EEXIST) {
    if (is_kept) VKV_TRY(remove_residue(first_name));
    return std::unique_ptr<StoreFile>();
  }
  if (file < 0) return creation_error(first_name, errno);

  std::unique_ptr<StoreFile> store(new StoreFile(first_name, use, file));
  VKV_TRY_ASSIGN(locked, store->lock());
  if (!locked) return std::unique_ptr<StoreFile>();
  store->is_ours_ = true;
  VKV_TRY(store->write_new());
  if (!is_kept) return Result<std::unique_ptr<StoreFile>>(std::move(store));

  int synced = 0;
  do {
    synced = fdatasync(file);
  } while (synced != 0 && errno == EINTR);
  if (synced != 0) return file_error("sync", first_name, errno);
  if (renameat2(AT_FDCWD, first_name.c_str(), AT_FDCWD, path.c_str(), RENAME_NOREPLACE) != 0) {
    const int error = errno;
    (void)unlink(first_name.c_str());
    if (error == EEXIST) return std::unique_ptr<StoreFile>();
    return creation_error(path, error);
  }
  store->path_ = path;
  sync_directory(path);
  return Result<std::unique_ptr<StoreFile>>(std::move(store));
}

// nullptr where there is no such file, or its owner removes it just now.
Result<std::unique_ptr<StoreFile>> StoreFile::open_existing(const std::string& path, StoreUse use) {
  const bool is_read_only = use == StoreUse::kReadOnly;
  VKV_TRY_ASSIGN(file, open_regular(path, is_read_only ? O_RDONLY : O_RDWR));
  if (file < 0) return std::unique_ptr<StoreFile>();
  std::unique_ptr<StoreFile> store(new StoreFile(path, use, file));
  VKV_TRY(check_first_bytes(file, path));
  VKV_TRY_ASSIGN(locked, store->lock());
  if (!locked) return std::unique_ptr<StoreFile>();

  VKV_TRY_ASSIGN(is_left_behind, store->read_superblock());
  if (use == StoreUse::kTemporary && !is_left_behind) {
    return refused(path, "is a store that is kept, and this run would remove it; name another");
  }
  if (is_read_only && is_left_behind) {
    return refused(path, "is what a temporary store left behind; there is nothing in it");
  }
  store->is_ours_ = true;
  if (is_left_behind) VKV_TRY(store->write_new());
  return Result<std::unique_ptr<StoreFile>>(std::move(store));
}

// False where the file was removed before we had the lock: its last owner has just ended, and the
// path is free for a new file.
Result<bool> StoreFile::lock() {
  const int operation = (use_ == StoreUse::kReadOnly ? LOCK_SH : LOCK_EX) | LOCK_NB;
  const auto begin = std::chrono::steady_clock::now();
  while (flock(file_, operation) != 0) {
    if (errno != EWOULDBLOCK) return file_error("lock", path_, errno);
    // The kernel finishes what a process had in flight after it has ended, and gives up its lock
    // then: until that moment the file may still change.
    const uint32_t process = guess_of(file_).process;
    const bool has_ended =
        process > 0 && kill(static_cast<pid_t>(process), 0) != 0 && errno == ESRCH;
    const auto wait_max = has_ended ? kOrphanWaitMax : kOwnerWaitMax;
    if (std::chrono::steady_clock::now() - begin < wait_max) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      continue;
    }
    const std::string owner = process > 0 ? "process " + std::to_string(process) : "a process";
    return refused(path_, "is in use by " + owner + "; name another, or end that process");
  }
  struct stat locked {
  }, named{};
  if (fstat(file_, &locked) != 0) return file_error("look at", path_, errno);
  return lstat(path_.c_str(), &named) == 0 && is_same_file(locked, named);
}

// True for a file that means nothing, now that its process has ended. Errors: kDataLoss.
Result<bool> StoreFile::read_superblock() {
  struct stat found {};
  if (fstat(file_, &found) != 0) return file_error("look at", path_, errno);
  bytes_ = static_cast<uint64_t>(found.st_size) / kExtentAlignment * kExtentAlignment;
  std::vector<std::byte> bytes = first_bytes(file_, kExtentsBegin);
  const SuperblockGuess guess = guess_of(file_);
  if (guess.has_magic && guess.version == 0) return true;  // of before the format was fixed
  bytes.resize(kExtentsBegin);
  std::optional<Superblock> newest;
  for (uint64_t i = 0; i < kSuperblockCopies; ++i) {
    const auto copy = decode_superblock(
        std::span<const std::byte>(bytes).subspan(i * kPageBytes).first<kPageBytes>());
    if (copy && (!newest || copy->sequence > newest->sequence)) newest = copy;
  }
  if (!newest) {
    return Status(Code::kDataLoss,
                  "the store " + in_quotes(path_) +
                      " is damaged: no copy of its superblock is whole; remove it");
  }
  superblock_ = *newest;
  return superblock_.is_temporary;
}

Status StoreFile::write_new() {
  if (ftruncate(file_, 0) != 0) return file_error("empty", path_, errno);
  superblock_ = {.process = static_cast<uint32_t>(getpid()),
                 .store = random_id(),
                 .is_temporary = use_ == StoreUse::kTemporary};
  std::array<StorePage, kSuperblockCopies> copies;
  for (StorePage& copy : copies) encode(superblock_, copy);
  VKV_TRY(write_all(file_, std::as_bytes(std::span(copies)), path_));
  bytes_ = kExtentsBegin;
  return {};
}

StoreFile::~StoreFile() {
  struct stat opened {
  }, named{};
  // The path may name somebody else's file by now.
  if (is_ours_ && use_ == StoreUse::kTemporary && fstat(file_, &opened) == 0 &&
      lstat(path_.c_str(), &named) == 0 && is_same_file(opened, named)) {
    (void)unlink(path_.c_str());
  }
  close(file_);  // and with it the lock
}

Status StoreFile::shrink(uint64_t bytes) {
  VKV_CHECK(bytes <= bytes_);
  if (bytes == bytes_) return {};
  if (ftruncate(file_, static_cast<off_t>(bytes)) != 0) {
    return file_error("shorten the store", path_, errno);
  }
  bytes_ = bytes;
  return {};
}

Status StoreFile::grow(uint64_t byte_count) {
  const uint64_t target_bytes = bytes_ + byte_count;
  // The kernel answers a file over this limit with a signal that ends the process, so ask first.
  struct rlimit limit {};
  if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
      target_bytes > limit.rlim_cur) {
    return {Code::kIo, "cannot grow the store " + in_quotes(path_) + " to " +
                           std::to_string(target_bytes) +
                           " bytes: this process may write files of " +
                           std::to_string(limit.rlim_cur) + " bytes (ulimit -f)"};
  }
  int result = allocate(file_, 0, bytes_, byte_count);
  if (result != 0 && is_unknown(errno)) {
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

bool StoreFile::punch(uint64_t file_offset, uint64_t byte_count) {
  constexpr int kPunch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  return allocate(file_, kPunch, file_offset, byte_count) == 0;
}

Status StoreFile::back(uint64_t file_offset, uint64_t byte_count) {
  if (allocate(file_, 0, file_offset, byte_count) == 0 || is_unknown(errno)) return {};
  return file_error("ask the disk again for a part of the store", path_, errno, byte_count);
}

std::vector<std::byte> StoreFile::read_note(std::string_view name) const {
  constexpr size_t kNoteBytesMax = 256;
  std::vector<std::byte> bytes(kNoteBytesMax);
  const ssize_t found = fgetxattr(file_, std::string(name).c_str(), bytes.data(), bytes.size());
  bytes.resize(found > 0 ? static_cast<size_t>(found) : 0);
  return bytes;
}

void StoreFile::write_note(std::string_view name, std::span<const std::byte> bytes) {
  (void)fsetxattr(file_, std::string(name).c_str(), bytes.data(), bytes.size(), 0);
}

uint64_t StoreFile::disk_bytes() const {
  struct stat found {};
  constexpr uint64_t kUnitBytes = 512;  // of st_blocks, whatever the file system
  return fstat(file_, &found) == 0 ? static_cast<uint64_t>(found.st_blocks) * kUnitBytes : 0;
}

bool StoreFile::set_direct(bool direct) {
  const int flags = fcntl(file_, F_GETFL);
  if (flags < 0) return false;
  return fcntl(file_, F_SETFL, direct ? flags | O_DIRECT : flags & ~O_DIRECT) == 0;
}

}  // namespace vkv
