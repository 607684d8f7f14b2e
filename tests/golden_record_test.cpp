// golden_record_test: the bytes of a small record in each codec, for good while the format version
// is 0.
// SPDX-License-Identifier: Apache-2.0
//
// A record of 3 tokens of one KV head of 8 channels: K is (7 t + 3 c) % 11 - 4 + c / 4, V is
// (5 t + 7 c) % 13 / 4 - 1, for token t and channel c. Lines are "offset: 16 bytes" in hex; lines
// that are not listed are zero. The header (s_k z_k s_v z_v, 64 bytes each) is at 0 and K from
// 0x100 on; 16-bit records have no header. A program written from the format's text alone agrees.
#include <gtest/gtest.h>

#include <cstdio>
#include <string>

#include "tests/random_tokens.h"

namespace vkv {
namespace {

Tokens golden_tokens() {
  Tokens tokens = {.shape = {.layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = 8}, .count = 3};
  for (int t = 0; t < 3; ++t) {
    for (int c = 0; c < 8; ++c) {
      tokens.k.push_back(half_from_float(static_cast<float>((7 * t + 3 * c) % 11 - 4) +
                                         0.25f * static_cast<float>(c)));
      tokens.v.push_back(half_from_float(static_cast<float>((5 * t + 7 * c) % 13) / 4 - 1));
    }
  }
  return tokens;
}

std::string dump(const Record& record) {
  std::string text;
  const auto* bytes = reinterpret_cast<const unsigned char*>(record.bytes.data());
  for (size_t line = 0; line < record.bytes.byte_count(); line += 16) {
    std::string hex;
    bool zero = true;
    for (size_t i = line; i < line + 16; ++i) {
      char digits[4];
      std::snprintf(digits, sizeof(digits), "%02x", bytes[i]);
      hex += digits;
      zero = zero && bytes[i] == 0;
    }
    char offset[32];
    std::snprintf(offset, sizeof(offset), "%04zx: ", line);
    if (!zero) text += offset + hex + "\n";
  }
  return text;
}

std::string golden_dump(Codec k_codec, Codec v_codec) {
  const auto backend = make_engine("reference");
  const Tokens tokens = golden_tokens();
  return dump(
      encode_rows(*backend, tokens, row_range(0, 3), {.k_codec = k_codec, .v_codec = v_codec}));
}

TEST(golden_record, f16_has_these_bytes) {
  EXPECT_EQ(golden_dump(Codec::kF16, Codec::kF16),
            "0000: 00c400ba0041c04500c0003d8044c047\n"
            "0040: 0042404600be003f004580c100388043\n"
            "0080: 00bc8040804580c0003c4044804700b4\n"
            "0800: 00bc0034003e00000000000000000000\n"
            "0840: 003a0040000000000000000000000000\n"
            "0880: 00ba0038003f00000000000000000000\n"
            "08c0: 003c00bc003400000000000000000000\n"
            "0900: 00b8003a004000000000000000000000\n"
            "0940: 003d00ba003800000000000000000000\n"
            "0980: 00b4003c00bc00000000000000000000\n"
            "09c0: 003e00b8003a00000000000000000000\n");
}

TEST(golden_record, bf16_has_these_bytes) {
  EXPECT_EQ(golden_dump(Codec::kBf16, Codec::kBf16),
            "0000: 80c040bf2040b84000c0a03f9040f840\n"
            "0040: 4040c840c0bfe03fa04030c0003f7040\n"
            "0080: 80bf1040b04010c0803f8840f04080be\n"
            "0800: 80bf803ec03f00000000000000000000\n"
            "0840: 403f0040000000000000000000000000\n"
            "0880: 40bf003fe03f00000000000000000000\n"
            "08c0: 803f80bf803e00000000000000000000\n"
            "0900: 00bf403f004000000000000000000000\n"
            "0940: a03f40bf003f00000000000000000000\n"
            "0980: 80be803f80bf00000000000000000000\n"
            "09c0: c03f00bf403f00000000000000000000\n");
}

TEST(golden_record, i8_has_these_bytes) {
  EXPECT_EQ(golden_dump(Codec::kI8, Codec::kI8),
            "0000: 07270727072704280727072707270428\n"
            "0040: 00c400ba00be80c000c080c1003800b4\n"
            "0080: 05210420052104200521042004200420\n"
            "00c0: 00bc000000ba00bc00b800ba00bc00b8\n"
            "0100: 000092ffffff00806d6dff0000000000\n"
            "0120: 009292ffff0000806dffff0000000000\n"
            "0500: 0080ff0060ff00000080ff00ff009f00\n"
            "0510: 0080ff00ff009f0060ff0000ff009f00\n");
}

TEST(golden_record, i4_has_these_bytes) {
  EXPECT_EQ(golden_dump(Codec::kI4, Codec::kI4),
            "0000: 77377737773744387737773777374438\n"
            "0040: 00c400ba00be80c000c080c1003800b4\n"
            "0080: 55314430553144305531443044304430\n"
            "00c0: 00bc000000ba00bc00b800ba00bc00b8\n"
            "0100: 0000090f0f0f000806060f0000000000\n"
            "0120: 0009090f0f000008060f0f0000000000\n"
            "0300: 00080f00060f000000080f000f000900\n"
            "0310: 00080f000f000900060f00000f000900\n");
}

TEST(golden_record, i2_has_these_bytes) {
  EXPECT_EQ(golden_dump(Codec::kI2, Codec::kI2),
            "0000: 6f406f406f4011416f406f406f401141\n"
            "0040: a6c39ab84dbd1ac04dbf26c1663966aa\n"
            "0080: 553a5539553a5539553a553955395539\n"
            "00c0: 80bb000080b900bc00b700ba00bc00b8\n"
            "0100: 00000203030300020101030000000000\n"
            "0120: 00020203030000020103030000000000\n"
            "0200: 00020300010300000002030003000200\n"
            "0210: 00020300030002000103000003000200\n");
}

TEST(golden_record, i1_has_these_bytes) {
  EXPECT_EQ(golden_dump(Codec::kI1, Codec::kI1),
            "0000: e444e444e4445545e444e444e4445545\n"
            "0040: 39c2723072b455bb72bc1cbee43e553c\n"
            "0080: ab3ec73dab3ec73dab3ec73dc73dc73d\n"
            "00c0: abb8393255b51cb955ad39b672ba72b0\n"
            "0100: 00000101010100010000010000000000\n"
            "0120: 00010101010000010001010000000000\n"
            "0180: 00010100000100000000010001000100\n"
            "0190: 00000100010001000001000001000100\n");
}

}  // namespace
}  // namespace vkv
