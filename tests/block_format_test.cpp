// block_format_test: every code has a place of its own in a record, and the bytes add up.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/base/block_format.h"

#include <gtest/gtest.h>

#include <vector>

namespace vkv {
namespace {

TEST(block_format, packing_is_a_bijection_for_every_width_and_shape) {
  for (const int bits : {8, 4, 2, 1}) {
    for (int columns = 32; columns <= 256;
         columns += 32) {  // every padded head_dim and token count
      for (int rows = 32; rows <= 256; rows += 32) {
        const size_t word_count = static_cast<size_t>(rows) * columns * bits / 32;
        std::vector<uint32_t> used(word_count, 0);
        for (int row = 0; row < rows; ++row) {
          for (int column = 0; column < columns; ++column) {
            const CodePosition at = code_position(bits, columns, row, column);
            ASSERT_LT(at.word, word_count);
            ASSERT_EQ(at.bit % bits, 0u);
            const uint32_t mask = ((1u << bits) - 1) << at.bit;
            ASSERT_EQ(used[at.word] & mask, 0u) << "row " << row << " column " << column;
            used[at.word] |= mask;
          }
        }
        for (const uint32_t word : used) ASSERT_EQ(word, 0xffffffffu);
      }
    }
  }
}

TEST(block_format, one_shift_of_a_word_gives_four_columns_of_a_row) {
  for (const int bits : {8, 4, 2, 1}) {
    for (int row = 0; row < 64; ++row) {
      for (int column = 0; column < 128; column += 4) {
        const CodePosition first = code_position(bits, 128, row, column);
        EXPECT_LT(first.bit, 8u);
        for (int i = 1; i < 4; ++i) {
          const CodePosition at = code_position(bits, 128, row, column + i);
          EXPECT_EQ(at.word, first.word);
          EXPECT_EQ(at.bit, first.bit + 8 * i);
        }
      }
    }
  }
}

TEST(block_format, eight_words_are_eight_rows_of_the_same_columns) {
  for (const int bits : {8, 4, 2, 1}) {
    for (int row = 0; row < 64; row += 8) {
      const CodePosition first = code_position(bits, 96, row, 36);
      EXPECT_EQ(first.word % 8, 0u);
      for (int g = 1; g < 8; ++g) {
        EXPECT_EQ(code_position(bits, 96, row + g, 36).word, first.word + g);
        EXPECT_EQ(code_position(bits, 96, row + g, 36).bit, first.bit);
      }
    }
  }
}

TEST(block_format, full_blocks_have_the_sizes_of_the_design) {
  const struct {
    Codec codec;
    size_t payload;
    double bits;  // a value, headers counted
  } cases[] = {{Codec::kI8, 16384, 8.25}, {Codec::kI4, 8192, 4.25}, {Codec::kI2, 4096, 2.25},
               {Codec::kI1, 2048, 1.25},  {Codec::kF16, 32768, 16}, {Codec::kBf16, 32768, 16}};
  for (const auto& expected : cases) {
    const BlockLayout layout = block_layout(4, 128, expected.codec, expected.codec, 128);
    EXPECT_EQ(layout.k_payload, expected.payload);
    EXPECT_EQ(layout.v_payload, expected.payload);
    EXPECT_EQ(static_cast<double>(layout.record_bytes()) * 8 / (2 * 4 * 128 * 128), expected.bits);
  }
  EXPECT_EQ(block_layout(1, 64, Codec::kI4, Codec::kI4, tokens_per_block(64)).k_payload, 8192u);
  EXPECT_EQ(block_layout(1, 256, Codec::kI4, Codec::kI4, tokens_per_block(256)).k_payload, 16384u);
}

TEST(block_format, parts_of_a_record_follow_each_other_and_end_on_its_alignment) {
  for (const int head_dim : {8, 64, 80, 96, 128, 256}) {
    for (const int tokens : {1, 31, 32, 33, tokens_per_block(head_dim)}) {
      const BlockLayout layout = block_layout(3, head_dim, Codec::kI4, Codec::kI2, tokens);
      EXPECT_EQ(layout.channels % 32, 0);
      EXPECT_EQ(layout.tokens % 32, 0);
      EXPECT_EQ(layout.headers_bytes(), size_t{3} * 8 * layout.channels);
      EXPECT_EQ(layout.payload_offset() % kRecordAlignment, 0u);
      EXPECT_EQ(layout.v_of(1), layout.k_of(1) + layout.k_payload);
      EXPECT_EQ(layout.k_of(2), layout.v_of(1) + layout.v_payload);
      EXPECT_EQ(layout.record_bytes() % kRecordAlignment, 0u);
      EXPECT_GE(layout.record_bytes(), layout.payload_offset() + layout.payload_bytes());
    }
  }
}

TEST(block_format, a_record_with_shared_headers_is_its_payload) {
  const BlockLayout layout = block_layout(2, 128, Codec::kI1, Codec::kI1, 128, true);
  EXPECT_EQ(layout.payload_offset(), 0u);
  EXPECT_EQ(layout.record_bytes(), layout.payload_bytes());
}

TEST(block_format, v_per_token_has_four_bytes_of_header_a_token) {
  const BlockLayout layout = block_layout(2, 128, Codec::kI8, Codec::kI4, 70, false, true);
  EXPECT_EQ(layout.head_header, 4u * 128 + 4u * 96);
  EXPECT_EQ(layout.v_scales_of(1), layout.header_of(1) + 4u * 128);
  EXPECT_EQ(layout.payload_offset(), 2 * layout.head_header);
}

TEST(block_format, only_16_bit_pairs_have_no_header) {
  EXPECT_EQ(block_layout(2, 128, Codec::kF16, Codec::kBf16, 5).head_header, 0u);
  EXPECT_EQ(block_layout(2, 128, Codec::kF16, Codec::kI8, 5).head_header, 1024u);
  EXPECT_EQ(block_layout(2, 80, Codec::kI8, Codec::kF16, 5).head_header, 768u);
}

}  // namespace
}  // namespace vkv
