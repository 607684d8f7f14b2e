// `vkv inspect` says what is in a store, and finds what is damaged in it.
// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/program_run.h"
#include "tests/store_driver.h"
#include "tests/temporary_directory.h"

namespace vkv {
namespace {

using Json = nlohmann::json;

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

class InspectTest : public testing::Test {
 protected:
  InspectTest() {
    auto store = open_kept(path_);
    for (uint64_t number = 1; number <= 3; ++number) {
      const Status status = save(*store.value(), number);
      EXPECT_TRUE(status.ok()) << status.message();
    }
    const CommittedSequence held = store.value()->hold(key_of(2)).value();
    offset_ = held.extents.front().extent.file_offset;
    committed_bytes_ = store.value()->stats().bytes_committed;
    release_all(*store.value(), held.extents);
  }

  ProgramResult inspect(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"inspect", path_});
    return Program(VKV_PROGRAM, arguments).wait();
  }

  void damage(uint64_t offset) {
    const int file = open(path_.c_str(), O_RDWR);
    char byte = 0;
    ASSERT_EQ(pread(file, &byte, 1, static_cast<off_t>(offset)), 1);
    byte ^= 1;
    ASSERT_EQ(pwrite(file, &byte, 1, static_cast<off_t>(offset)), 1);
    close(file);
  }

  TemporaryDirectory directory_;
  const std::string path_ = directory_ / "kv.store";
  uint64_t offset_ = 0;
  uint64_t committed_bytes_ = 0;
};

TEST_F(InspectTest, a_whole_store_is_listed_in_words_and_as_json) {
  const ProgramResult words = inspect({"--sequences", "--segments", "--verify"});
  EXPECT_EQ(words.exit_status, 0) << words.err;
  EXPECT_TRUE(contains(words.out, "version 1, closed by its owner")) << words.out;
  EXPECT_TRUE(contains(words.out, to_hex(key_of(2)) + "  2 tokens")) << words.out;
  EXPECT_TRUE(contains(words.out, "0 damaged extents")) << words.out;

  const ProgramResult all = inspect({"--sequences", "--segments", "--verify", "--json"});
  EXPECT_EQ(all.exit_status, 0) << all.err;
  const Json json = Json::parse(all.out);
  EXPECT_EQ(json.at("version"), 1);
  EXPECT_EQ(json.at("whole"), true);
  EXPECT_EQ(json.at("sequences").size(), 3u);
  EXPECT_EQ(json.at("verified_bytes"), committed_bytes_);
  EXPECT_EQ(json.at("committed_bytes"), committed_bytes_);
  EXPECT_EQ(json.at("segments").at(0).at("live_bytes"), committed_bytes_);
  uint64_t bytes = 0;
  for (const Json& sequence : json.at("sequences")) {
    bytes += sequence.at("bytes").get<uint64_t>();
    EXPECT_EQ(sequence.at("extents").at("low i4/i2").at("bytes"), sequence.at("bytes"));
  }
  EXPECT_EQ(bytes, committed_bytes_);
}

TEST_F(InspectTest, verify_names_what_is_damaged) {
  damage(offset_ + 100);
  EXPECT_EQ(inspect({}).exit_status, 0);  // it has not looked
  const ProgramResult found = inspect({"--verify"});
  EXPECT_EQ(found.exit_status, 1);
  EXPECT_TRUE(contains(found.out, "1 damaged extents")) << found.out;
  EXPECT_TRUE(contains(found.out, "damaged    " + to_hex(key_of(2)))) << found.out;
  EXPECT_TRUE(contains(found.out, "at offset " + std::to_string(offset_))) << found.out;
}

TEST_F(InspectTest, a_damaged_index_shows_what_is_left) {
  const auto reader = BlockStore::open({.path = path_, .use = StoreUse::kReadOnly});
  damage(reader.value()->superblock().index_offset + kPageBytes + 70);  // the second commit
  const ProgramResult found = inspect({"--json", "--sequences"});
  EXPECT_EQ(found.exit_status, 1);
  const Json json = Json::parse(found.out);
  EXPECT_EQ(json.at("whole"), false);
  EXPECT_EQ(json.at("sequences").size(), 1u);
  EXPECT_TRUE(contains(json.at("index"), "index of the store is damaged"));
}

TEST_F(InspectTest, a_store_in_use_and_what_is_no_store_are_refused) {
  {
    const auto owner = open_kept(path_);
    const ProgramResult refused = inspect({});
    EXPECT_EQ(refused.exit_status, 2);
    EXPECT_TRUE(contains(refused.err, "is in use by process " + std::to_string(getpid())))
        << refused.err;
  }
  const ProgramResult none = Program(VKV_PROGRAM, {"inspect", directory_ / "none"}).wait();
  EXPECT_EQ(none.exit_status, 2);
  EXPECT_TRUE(contains(none.err, "there is no store")) << none.err;
}

}  // namespace
}  // namespace vkv
