// main_test.cpp: a test program exits with 77 if all its tests were skipped, and only then.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <string>

// Run by the tests below, in a process of their own.
TEST(DISABLED_sample, passes) {}
TEST(DISABLED_sample, fails) { FAIL() << "as it should here"; }
TEST(DISABLED_sample, skips) { GTEST_SKIP() << "as it should here"; }
TEST(DISABLED_sample, skips_too) { GTEST_SKIP() << "as it should here"; }

namespace {

// Runs this very program over the samples that `filter` names; returns its exit code.
int exit_code_of(const std::string& filter) {
  const std::string self = std::filesystem::read_symlink("/proc/self/exe");
  const std::string command =
      "'" + self + "' --gtest_also_run_disabled_tests --gtest_filter='" + filter + "' > /dev/null";
  const int status = std::system(command.c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace

TEST(main, all_skipped_is_skipped) { EXPECT_EQ(exit_code_of("DISABLED_sample.skips*"), 77); }

TEST(main, some_skipped_is_passed) { EXPECT_EQ(exit_code_of("*sample.skips:*sample.passes"), 0); }

TEST(main, some_skipped_and_one_failed_is_failed) {
  EXPECT_EQ(exit_code_of("*sample.skips:*sample.fails"), 1);
}

TEST(main, nothing_skipped_is_passed) { EXPECT_EQ(exit_code_of("*sample.passes"), 0); }
