// After kill -9 at any moment, and after a power failure that lost, cut and reordered what was not
// synced, a store has every sequence that was committed, none that was erased, and no wrong byte.
// VKV_CRASHES says how often (40), VKV_SEED repeats a run. SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tests/environment_number.h"
#include "tests/fault_engine.h"
#include "tests/store_driver.h"
#include "tests/temporary_directory.h"
#include "transfer/block_store.h"

namespace vkv {
namespace {

constexpr uint64_t kBytesMax = uint64_t{24} << 20;
constexpr uint64_t kExtentBytesMax = 64 << 10;
constexpr uint64_t kNumbers = 60;

// What a sequence of operations tells of itself: each is told before it begins and when it is over.
struct Note {
  enum class Kind : uint8_t { kSaves, kSaved, kErases, kErased };
  Kind kind = Kind::kSaves;
  uint64_t number = 0;
};

// What must be in the store, and what may be, by notes.
class Expectation {
 public:
  void hear(const Note& note) {
    switch (note.kind) {
      case Note::Kind::kSaves:
        // One that is there is replaced by the same: it is there at every moment.
        if (!there_.contains(note.number)) open_.insert(note.number);
        break;
      case Note::Kind::kErases:
        open_.insert(note.number);
        break;
      case Note::Kind::kSaved:
        open_.erase(note.number);
        there_.insert(note.number);
        ++commits_;
        break;
      case Note::Kind::kErased:
        open_.erase(note.number);
        there_.erase(note.number);
        ++commits_;
        break;
    }
  }

  // Compares everything. What was under way is as it is from now on.
  void check(BlockStore& store) {
    EXPECT_TRUE(store.health().ok()) << store.health().message();
    std::set<uint64_t> found;
    for (const StoredSequence& sequence : store.committed()) found.insert(number_of(sequence.key));
    for (uint64_t number = 0; number < kNumbers; ++number) {
      const bool is_found = found.contains(number);
      if (is_found) {
        const Status status = compare(store, number, kExtentBytesMax);
        EXPECT_TRUE(status.ok()) << status.message();
        ++compared_;
      }
      if (!open_.contains(number)) {
        EXPECT_EQ(is_found, there_.contains(number)) << "sequence " << number;
      }
    }
    there_ = found;
    open_.clear();
  }

  void forget() {
    there_.clear();
    open_.clear();
  }

  const std::set<uint64_t>& there() const { return there_; }
  uint64_t commits() const { return commits_; }
  uint64_t compared() const { return compared_; }

 private:
  std::set<uint64_t> there_, open_;
  uint64_t commits_ = 0, compared_ = 0;
};

// Saves, replaces and erases for ever, or until the store fails.
template <class Tell>
Status work(BlockStore& store, std::set<uint64_t> there, std::mt19937_64& random,
            const Tell& tell) {
  while (true) {
    const uint64_t number = random() % kNumbers;
    if (there.contains(number) && random() % 4 != 0) {
      tell({Note::Kind::kErases, number});
      VKV_TRY(store.erase(key_of(number)));
      tell({Note::Kind::kErased, number});
      there.erase(number);
    } else {
      tell({Note::Kind::kSaves, number});
      const Status status = save(store, number, kExtentBytesMax);
      if (status.code() == Code::kOutOfMemory) continue;  // as many as fit
      VKV_TRY(status);
      tell({Note::Kind::kSaved, number});
      there.insert(number);
    }
  }
}

BlockStoreOptions options_for(const std::string& path) {
  return {.path = path, .use = StoreUse::kKeep, .bytes_max = kBytesMax};
}

void check_read_only(const std::string& path, Expectation& expectation) {
  auto store = BlockStore::open({.path = path, .use = StoreUse::kReadOnly});
  if (store.status().code() == Code::kNotFound && expectation.there().empty()) return;
  ASSERT_TRUE(store.ok()) << store.status().message();
  expectation.check(*store.value());
}

TEST(store_crash, kill_loses_nothing_that_was_committed_and_invents_nothing) {
  const uint64_t seed = number_from_environment("VKV_SEED", 20241011);
  const uint64_t crashes = number_from_environment("VKV_CRASHES", 40);
  std::printf("VKV_SEED=%llu VKV_CRASHES=%llu\n", static_cast<unsigned long long>(seed),
              static_cast<unsigned long long>(crashes));
  std::mt19937_64 random(seed);
  const TemporaryDirectory directory;
  const std::string path = directory / "kv.store";
  Expectation expectation;
  for (uint64_t crash = 0; crash < crashes && !testing::Test::HasFailure(); ++crash) {
    if (crash % 50 == 49) {  // also while a store is being made
      std::filesystem::remove(path);
      expectation.forget();
    }
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    const uint64_t child_seed = random();
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      close(ends[0]);
      auto store = BlockStore::open(options_for(path));
      if (!store.ok()) {
        std::fprintf(stderr, "%s\n", store.status().message().c_str());
        _exit(1);
      }
      std::mt19937_64 child_random(child_seed);
      const Status status =
          work(*store.value(), expectation.there(), child_random, [&](const Note& note) {
            if (write(ends[1], &note, sizeof(note)) != sizeof(note)) _exit(3);
          });
      std::fprintf(stderr, "%s\n", status.message().c_str());
      _exit(2);  // no operation may fail here
    }
    close(ends[1]);
    // Some within the opening, most within the work.
    std::this_thread::sleep_for(
        std::chrono::microseconds(random() % (crash % 4 == 0 ? 5000 : 80000)));
    ASSERT_EQ(kill(child, SIGKILL), 0);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the child ended by itself: " << WEXITSTATUS(status);
    Note note;
    while (read(ends[0], &note, sizeof(note)) == sizeof(note)) expectation.hear(note);
    close(ends[0]);
    check_read_only(path, expectation);
  }
  std::printf("%llu commits and erasures, %llu sequences compared\n",
              static_cast<unsigned long long>(expectation.commits()),
              static_cast<unsigned long long>(expectation.compared()));
}

TEST(store_crash, a_power_failure_loses_nothing_that_was_committed_and_invents_nothing) {
  const uint64_t seed = number_from_environment("VKV_SEED", 20241012);
  const uint64_t crashes = number_from_environment("VKV_CRASHES", 40);
  std::mt19937_64 random(seed);
  const TemporaryDirectory directory;
  const std::string path = directory / "kv.store";
  Expectation expectation;
  for (uint64_t crash = 0; crash < crashes && !testing::Test::HasFailure(); ++crash) {
    auto faults = std::make_shared<Faults>(Faults{.is_volatile = true, .seed = random()});
    BlockStoreOptions options = options_for(path);
    options.around_engine = [&](std::unique_ptr<IoEngine> engine) {
      return std::make_unique<FaultEngine>(std::move(engine), faults);
    };
    faults->power_failure_at = 1 + random() % (crash % 4 == 0 ? 12 : 400);
    auto store = BlockStore::open(options);
    if (store.ok()) {
      std::mt19937_64 work_random(random());
      const Status status = work(*store.value(), expectation.there(), work_random,
                                 [&](const Note& note) { expectation.hear(note); });
      EXPECT_EQ(status.code(), Code::kIo) << status.message();
    }
    EXPECT_TRUE(faults->has_no_power);
    store = Status(Code::kIo, "gone");
    check_read_only(path, expectation);
  }
  std::printf("%llu commits and erasures, %llu sequences compared\n",
              static_cast<unsigned long long>(expectation.commits()),
              static_cast<unsigned long long>(expectation.compared()));
}

}  // namespace
}  // namespace vkv
