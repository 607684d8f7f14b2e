// The queue begins what is urgent first, keeps room for it, and forgets what is cancelled.
// SPDX-License-Identifier: Apache-2.0
#include "transfer/io_queue.h"

#include <gtest/gtest.h>

#include <string_view>
#include <vector>

namespace vkv {
namespace {

// Finishes requests when it is told to, or when somebody waits for them.
class HeldEngine final : public IoEngine {
 public:
  void submit(IoRequest& request) override { submitted.push_back(&request); }
  void wait(IoRequest& request) override { request.over = true; }
  bool done(IoRequest& request) override { return request.over; }
  bool register_memory(std::span<const std::span<std::byte>>) override { return false; }
  std::string_view name() const override { return "held"; }

  std::vector<IoRequest*> submitted;
};

class IoQueueTest : public testing::Test {
 protected:
  QueuedRequest make(IoPriority priority) { return {.request = {}, .priority = priority}; }

  HeldEngine engine_;
  IoQueue queue_{engine_, 8};
};

TEST_F(IoQueueTest, less_urgent_kinds_leave_room_for_more_urgent_ones) {
  std::vector<QueuedRequest> writes(20, make(IoPriority::kWriteBack));
  for (QueuedRequest& write : writes) queue_.submit(write);
  EXPECT_EQ(engine_.submitted.size(), 4u);
  std::vector<QueuedRequest> ahead(20, make(IoPriority::kAhead));
  for (QueuedRequest& read : ahead) queue_.submit(read);
  EXPECT_EQ(engine_.submitted.size(), 6u);
  std::vector<QueuedRequest> now(20, make(IoPriority::kNow));
  for (QueuedRequest& read : now) queue_.submit(read);
  EXPECT_EQ(engine_.submitted.size(), 8u);
  for (auto* all : {&writes, &ahead, &now})
    for (QueuedRequest& queued : *all) queue_.wait(queued);
  EXPECT_EQ(engine_.submitted.size(), 60u);  // each once
}

TEST_F(IoQueueTest, the_most_urgent_begins_when_one_is_over) {
  std::vector<QueuedRequest> first(8, make(IoPriority::kNow));
  for (QueuedRequest& read : first) queue_.submit(read);
  QueuedRequest write = make(IoPriority::kWriteBack), ahead = make(IoPriority::kAhead),
                now = make(IoPriority::kNow);
  queue_.submit(write);
  queue_.submit(ahead);
  queue_.submit(now);
  EXPECT_EQ(engine_.submitted.size(), 8u);
  first[3].request.over = true;
  EXPECT_TRUE(queue_.done(first[3]));
  ASSERT_EQ(engine_.submitted.size(), 9u);
  EXPECT_EQ(engine_.submitted.back(), &now.request);
  for (size_t i = 4; i < 7; ++i) first[i].request.over = true;
  EXPECT_FALSE(queue_.done(ahead));
  ASSERT_EQ(engine_.submitted.size(), 10u);  // 5 under way, of 6 for reading ahead
  EXPECT_EQ(engine_.submitted.back(), &ahead.request);
  queue_.wait(write);  // begins at once
  EXPECT_EQ(engine_.submitted.back(), &write.request);
}

TEST_F(IoQueueTest, what_is_cancelled_in_time_never_begins) {
  std::vector<QueuedRequest> first(8, make(IoPriority::kNow));
  for (QueuedRequest& read : first) queue_.submit(read);
  QueuedRequest queued = make(IoPriority::kAhead);
  queue_.submit(queued);
  EXPECT_TRUE(queue_.cancel(queued));
  EXPECT_FALSE(queue_.cancel(first[0]));
  for (QueuedRequest& read : first) queue_.wait(read);
  EXPECT_EQ(engine_.submitted.size(), 8u);
}

TEST_F(IoQueueTest, of_one_kind_the_earliest_deadline_begins_first) {
  using std::chrono::hours;
  const IoDeadline now = std::chrono::steady_clock::now();
  std::vector<QueuedRequest> first(8, make(IoPriority::kNow));
  for (QueuedRequest& read : first) queue_.submit(read);
  QueuedRequest none = make(IoPriority::kAhead), same = make(IoPriority::kAhead),
                late = make(IoPriority::kAhead), early = make(IoPriority::kAhead);
  late.deadline = same.deadline = now + hours(2);
  early.deadline = now + hours(1);
  for (QueuedRequest* read : {&none, &late, &same, &early}) queue_.submit(*read);
  for (QueuedRequest& read : first) queue_.wait(read);
  ASSERT_EQ(engine_.submitted.size(), 12u);
  EXPECT_EQ(engine_.submitted[8], &early.request);
  EXPECT_EQ(engine_.submitted[9], &late.request);  // before `same`: it was there first
  EXPECT_EQ(engine_.submitted[10], &same.request);
  EXPECT_EQ(engine_.submitted[11], &none.request);
  EXPECT_EQ(queue_.late_count(), 0u);
}

TEST_F(IoQueueTest, what_is_due_needs_no_room_left_for_others) {
  const IoDeadline past = std::chrono::steady_clock::now() - std::chrono::seconds(1);
  std::vector<QueuedRequest> ahead(7, make(IoPriority::kAhead));
  for (QueuedRequest& read : ahead) queue_.submit(read);
  EXPECT_EQ(engine_.submitted.size(), 6u);
  QueuedRequest due = make(IoPriority::kAhead);
  due.deadline = past;
  queue_.submit(due);
  ASSERT_EQ(engine_.submitted.size(), 7u);
  EXPECT_EQ(engine_.submitted.back(), &due.request);
  EXPECT_EQ(queue_.late_count(), 1u);
  for (QueuedRequest& read : ahead) queue_.wait(read);
  EXPECT_EQ(queue_.late_count(), 1u);
}

TEST(io_queue, one_of_each_kind_may_always_be_under_way) {
  HeldEngine engine;
  IoQueue queue(engine, 1);
  QueuedRequest write{.request = {}, .priority = IoPriority::kWriteBack};
  queue.submit(write);
  EXPECT_EQ(engine.submitted.size(), 1u);
}

}  // namespace
}  // namespace vkv
