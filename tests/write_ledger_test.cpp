// A write budget is spent and comes back evenly, through restarts too; what a file says of its
// writes is read whole or not at all. SPDX-License-Identifier: Apache-2.0
#include "transfer/write_ledger.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "runtime/write_admission.h"

namespace vkv {
namespace {

constexpr uint64_t kHourUs = uint64_t{3600} * 1000 * 1000;
constexpr uint64_t kNow = 1000 * kHourUs;

TEST(write_ledger, what_is_spent_comes_back_in_a_day) {
  WriteLedger ledger(2400);
  EXPECT_EQ(ledger.left(kNow), 2400u);
  EXPECT_TRUE(ledger.spend(2400, kNow));
  EXPECT_FALSE(ledger.spend(1, kNow));
  EXPECT_EQ(ledger.left(kNow + kHourUs), 100u);
  EXPECT_FALSE(ledger.spend(101, kNow + kHourUs));  // and takes nothing
  EXPECT_TRUE(ledger.spend(100, kNow + kHourUs));
  EXPECT_TRUE(ledger.is_short(kNow + 12 * kHourUs));
  EXPECT_FALSE(ledger.is_short(kNow + 13 * kHourUs));
  EXPECT_EQ(ledger.left(kNow + 100 * kHourUs), 2400u);  // no more than a day's
}

TEST(write_ledger, many_small_looks_lose_nothing) {
  WriteLedger ledger(2400);
  EXPECT_TRUE(ledger.spend(2400, kNow));
  for (uint64_t us = 0; us <= kHourUs; us += kHourUs / 100000) (void)ledger.left(kNow + us);
  EXPECT_NEAR(static_cast<double>(ledger.left(kNow + kHourUs)), 100, 1);
}

TEST(write_ledger, what_must_be_written_may_overdraw_and_is_paid_back) {
  WriteLedger ledger(2400);
  ledger.spend_anyway(4800, kNow);
  EXPECT_EQ(ledger.left(kNow + 23 * kHourUs), 0u);
  EXPECT_EQ(ledger.left(kNow + 36 * kHourUs), 1200u);
}

TEST(write_ledger, a_clock_that_is_set_back_blocks_nothing_for_long) {
  WriteLedger ledger(2400);
  EXPECT_TRUE(ledger.spend(2400, kNow));
  EXPECT_EQ(ledger.left(kNow / 2), 0u);
  EXPECT_EQ(ledger.left(kNow / 2 + kHourUs), 100u);
}

TEST(write_ledger, without_a_limit_nothing_is_refused) {
  WriteLedger ledger(kNoWriteLimit);
  EXPECT_TRUE(ledger.spend(uint64_t{1} << 60, kNow));
  EXPECT_EQ(ledger.left(kNow), kNoWriteLimit);
  EXPECT_FALSE(ledger.is_short(kNow));
}

TEST(write_ledger, a_new_process_goes_on_where_the_last_one_ended) {
  WriteLedger first(2400);
  EXPECT_TRUE(first.spend(2400, kNow));
  const WriteNote note{.spent_bytes = first.spent(kNow), .at_us = kNow};
  WriteLedger second(2400);
  second.begin_with(note);
  EXPECT_EQ(second.left(kNow + 2 * kHourUs), 200u);
}

TEST(write_note, any_bytes_are_the_note_that_they_say_or_none) {
  std::mt19937_64 random(7);
  for (int i = 0; i < 2000; ++i) {
    const WriteNote note{.payload_bytes = random(),
                         .written_bytes = random(),
                         .spent_bytes = random(),
                         .at_us = random()};
    std::vector<std::byte> bytes = encode(note);
    EXPECT_EQ(decode_write_note(bytes), note);
    std::vector<std::byte> longer = bytes;
    longer.push_back(std::byte{0});
    EXPECT_FALSE(decode_write_note(longer));
    EXPECT_FALSE(decode_write_note(std::span(bytes).first(random() % bytes.size())));
    bytes[random() % bytes.size()] ^= std::byte{1} << random() % 8;
    EXPECT_FALSE(decode_write_note(bytes));
  }
}

SequenceKey key_of(uint8_t number) {
  SequenceKey key;
  key.bytes.fill(number);
  return key;
}

TEST(write_admission, with_room_to_spare_everything_is_worth_it) {
  WriteAdmission admission;
  EXPECT_TRUE(admission.admit({.byte_count = 50, .bytes_left = 100, .bytes_per_day = 100}).ok());
  EXPECT_TRUE(admission.admit({.byte_count = 1 << 30, .bytes_left = UINT64_MAX}).ok());
  EXPECT_EQ(admission.refused_count(), 0u);
}

TEST(write_admission, when_writes_are_short_use_has_to_be_proven) {
  WriteAdmission admission;
  WriteRequest request{.key = key_of(1), .byte_count = 10, .bytes_left = 55, .bytes_per_day = 100};
  const Status refused = admission.admit(request);
  EXPECT_EQ(refused.code(), Code::kOutOfMemory);
  EXPECT_NE(refused.message().find("asked for twice"), std::string::npos) << refused.message();
  admission.asked_for(key_of(1));  // as everybody does before the first save
  EXPECT_FALSE(admission.admit(request).ok());
  admission.asked_for(key_of(1));
  EXPECT_TRUE(admission.admit(request).ok());
  request.key = key_of(2);
  EXPECT_FALSE(admission.admit(request).ok());
  request.goes_on = true;
  EXPECT_TRUE(admission.admit(request).ok());
  request.byte_count = 56;  // more than there is
  EXPECT_FALSE(admission.admit(request).ok());
  EXPECT_EQ(admission.refused_count(), 4u);
}

TEST(write_admission, what_was_asked_for_long_ago_is_forgotten) {
  WriteAdmission admission;
  for (int i = 0; i < 2; ++i) admission.asked_for(key_of(1));
  SequenceKey other;
  for (uint32_t i = 0; i < 5000; ++i) {
    other.bytes[0] = static_cast<uint8_t>(i);
    other.bytes[1] = static_cast<uint8_t>(i >> 8);
    admission.asked_for(other);
  }
  EXPECT_FALSE(
      admission.admit({.key = key_of(1), .byte_count = 1, .bytes_left = 2, .bytes_per_day = 100})
          .ok());
}

}  // namespace
}  // namespace vkv
