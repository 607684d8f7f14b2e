// main.cpp: GoogleTest's main, but a program whose tests were all skipped says so.
// SPDX-License-Identifier: Apache-2.0
//
// Exit code 77 makes ctest report "skipped". GoogleTest itself exits with 0 then, and a machine
// without a GPU would claim to have passed the GPU's tests.
#include <gtest/gtest.h>

int main(int argc, char** argv) {
  constexpr int kSkipped = 77;  // SKIP_RETURN_CODE in CMakeLists.txt

  testing::InitGoogleTest(&argc, argv);
  const int exit_code = RUN_ALL_TESTS();
  const testing::UnitTest& run = *testing::UnitTest::GetInstance();
  const bool all_skipped =
      run.skipped_test_count() > 0 && run.skipped_test_count() == run.test_to_run_count();
  return exit_code == 0 && all_skipped ? kSkipped : exit_code;
}
