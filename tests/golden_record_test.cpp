// golden_record_test: the bytes of a small record in each codec, for good while the format version
// is 0.
// SPDX-License-Identifier: Apache-2.0
//
// A record of 3 tokens of one KV head of 8 channels: K is (7 t + 3 c) % 11 - 4 + c / 4, V is
// (5 t + 7 c) % 13 / 4 - 1, for token t and channel c, both doubled where t % 16 is 5. Lines are
// "offset: 16 bytes" in hex; lines that are not listed are zero. The header (s_k z_k s_v z_v, 64
// bytes each) is at 0 and K from 0x100 on; 16-bit records have no header. Written by
// tests/golden/record/make_golden.py from the format's text alone.
#include <gtest/gtest.h>

#include <cstdio>
#include <string>

#include "tests/random_tokens.h"

namespace vkv {
namespace {

Tokens golden_tokens(int count, int head_dim) {
  Tokens tokens = {.shape = {.layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = head_dim},
                   .count = count};
  for (int t = 0; t < count; ++t) {
    const float scale = t % 16 == 5 ? 2 : 1;
    for (int c = 0; c < head_dim; ++c) {
      tokens.k.push_back(half_from_float(
          scale * (static_cast<float>((7 * t + 3 * c) % 11 - 4) + 0.25f * static_cast<float>(c))));
      tokens.v.push_back(
          half_from_float(scale * (static_cast<float>((5 * t + 7 * c) % 13) / 4 - 1)));
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

BlockOptions options_of(Codec k_codec, Codec v_codec) {
  return {.k_codec = k_codec, .v_codec = v_codec};
}

BlockOptions per_token(Codec codec) {
  return {.k_codec = codec, .v_codec = codec, .v_per_token = true};
}

// Relative to a mean of c / 4.
BlockOptions rotated(Codec codec) {
  static const std::vector<float> mean = [] {
    std::vector<float> quarters;
    for (int c = 0; c < kHeadDimMax; ++c) quarters.push_back(0.25f * static_cast<float>(c));
    return quarters;
  }();
  return {.k_codec = codec, .v_codec = codec, .k_mean = mean.data(), .k_rotated = true};
}

// The same from all loops of the encoder.
Record golden_record(const BlockOptions& options, int token_count, int head_dim) {
  const Tokens tokens = golden_tokens(token_count, head_dim);
  const std::vector<uint32_t> rows = row_range(0, token_count);
  Record record = encode_rows(*make_engine("reference"), tokens, rows, options);
  EXPECT_EQ(dump(encode_rows(*make_engine("onednn"), tokens, rows, options)), dump(record));
  return record;
}

std::string golden_dump(const BlockOptions& options) { return dump(golden_record(options, 3, 8)); }

// FNV-1a of a record of 70 tokens of 64 channels.
uint64_t golden_hash(const BlockOptions& options) {
  const Record record = golden_record(options, 70, 64);
  uint64_t hash = 0xcbf29ce484222325;
  for (size_t i = 0; i < record.bytes.byte_count(); ++i)
    hash = (hash ^ static_cast<uint64_t>(record.bytes.data()[i])) * 0x100000001b3;
  return hash;
}

TEST(golden_record, f16_has_these_bytes) {
  EXPECT_EQ(golden_dump(options_of(Codec::kF16, Codec::kF16)),
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
  EXPECT_EQ(golden_dump(options_of(Codec::kBf16, Codec::kBf16)),
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
  EXPECT_EQ(golden_dump(options_of(Codec::kI8, Codec::kI8)),
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
  EXPECT_EQ(golden_dump(options_of(Codec::kI4, Codec::kI4)),
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
  EXPECT_EQ(golden_dump(options_of(Codec::kI2, Codec::kI2)),
            "0000: ab40ab40ab40cd40ab40ab40ab40cd40\n"
            "0040: 00c400ba00be66bf00c080c10038cd30\n"
            "0080: 003a5539003a5539003a553955395539\n"
            "00c0: 00bb000000b900bc00b600ba00bc00b8\n"
            "0100: 00000203030300010101030000000000\n"
            "0120: 00020203030000010103030000000000\n"
            "0200: 00020300010300000002030003000200\n"
            "0210: 00020300030002000103000003000200\n");
}

TEST(golden_record, i1_has_these_bytes) {
  EXPECT_EQ(golden_dump(options_of(Codec::kI1, Codec::kI1)),
            "0000: 80458045804500468045804580450046\n"
            "0040: 00c1003a00be80c000b880c1003800b4\n"
            "0080: 803f803e803f803e803f803e803e803e\n"
            "00c0: 00bc003600ba00bc00b800ba00b900b8\n"
            "0100: 00000101010100010000010000000000\n"
            "0120: 00010101010000010001010000000000\n"
            "0180: 00010100000100000001010001000100\n"
            "0190: 00010100010001000001000001000100\n");
}

TEST(golden_record, i8_with_v_per_token_has_these_bytes) {
  EXPECT_EQ(golden_dump(per_token(Codec::kI8)),
            "0000: 07270727072704280727072707270428\n"
            "0040: 00c400ba00be80c000c080c1003800b4\n"
            "0080: 05210622062200000000000000000000\n"
            "00c0: 00bc00bc00bc00000000000000000000\n"
            "0100: 000092ffffff00806d6dff0000000000\n"
            "0120: 009292ffff0000806dffff0000000000\n"
            "0500: 006ad500b3ff55001a80ea00cc006a00\n"
            "0510: 3395ff00e61580004daa0000ff2b9500\n");
}

TEST(golden_record, i4_with_v_per_token_has_these_bytes) {
  EXPECT_EQ(golden_dump(per_token(Codec::kI4)),
            "0000: 77377737773744387737773777374438\n"
            "0040: 00c400ba00be80c000c080c1003800b4\n"
            "0080: 11311432143200000000000000000000\n"
            "00c0: 80bb66bb66bb00000000000000000000\n"
            "0100: 0000090f0f0f000806060f0000000000\n"
            "0120: 0009090f0f000008060f0f0000000000\n"
            "0300: 00060d000b0f050001080e000c000600\n"
            "0310: 03090f000e010800040a00000f020900\n");
}

TEST(golden_record, i2_with_v_per_token_has_these_bytes) {
  EXPECT_EQ(golden_dump(per_token(Codec::kI2)),
            "0000: ab40ab40ab40cd40ab40ab40ab40cd40\n"
            "0040: 00c400ba00be66bf00c080c10038cd30\n"
            "0080: 5539663a663a00000000000000000000\n"
            "00c0: 00ba9ab99ab900000000000000000000\n"
            "0100: 00000203030300010101030000000000\n"
            "0120: 00020203030000010103030000000000\n"
            "0200: 00010300020301000002030003000100\n"
            "0210: 00020300030002000102000003000200\n");
}

TEST(golden_record, i1_with_v_per_token_has_these_bytes) {
  EXPECT_EQ(golden_dump(per_token(Codec::kI1)),
            "0000: 80458045804500468045804580450046\n"
            "0040: 00c1003a00be80c000b880c1003800b4\n"
            "0080: 003f403e403e00000000000000000000\n"
            "00c0: 00b900b800ac00000000000000000000\n"
            "0100: 00000101010100010000010000000000\n"
            "0120: 00010101010000010001010000000000\n"
            "0180: 00000100010100000001010001000000\n"
            "0190: 00010100010000000001000001000100\n");
}

TEST(golden_record, i2_with_rotated_k_has_these_bytes) {
  EXPECT_EQ(golden_dump(rotated(Codec::kI2)),
            "0000: ca32ab40c743c7432f3d2f3d2f3d2f3d\n"
            "0040: ba41b5c33ec8c7c7a8bdc7c30000c7c3\n"
            "0080: 003a5539003a5539003a553955395539\n"
            "00c0: 00bb000000b900bc00b600ba00bc00b8\n"
            "0100: 00000002020103030303020000000000\n"
            "0120: 00030003030003000003000300000000\n"
            "0200: 00020300010300000002030003000200\n"
            "0210: 00020300030002000103000003000200\n");
}

TEST(golden_record, i1_with_rotated_k_has_these_bytes) {
  EXPECT_EQ(golden_dump(rotated(Codec::kI1)),
            "0000: 3e38d545dd48dd48c743c743c743c743\n"
            "0040: a84199c03ec8c7c7a8bdc7c30000c7c3\n"
            "0080: 803f803e803f803e803f803e803e803e\n"
            "00c0: 00bc003600ba00bc00b800ba00b900b8\n"
            "0100: 00000001010001010101010000000000\n"
            "0120: 00010001010001000001000100000000\n"
            "0180: 00010100000100000001010001000100\n"
            "0190: 00010100010001000001000001000100\n");
}

TEST(golden_record, larger_records_hash_to_these_numbers) {
  EXPECT_EQ(golden_hash(options_of(Codec::kI8, Codec::kI8)), 0xfa0dbe84dd7a4ba1u);
  EXPECT_EQ(golden_hash(options_of(Codec::kI4, Codec::kI4)), 0xac4f5c77c9c0911du);
  EXPECT_EQ(golden_hash(options_of(Codec::kI2, Codec::kI2)), 0x873825ab031a4bb0u);
  EXPECT_EQ(golden_hash(options_of(Codec::kI1, Codec::kI1)), 0x65255c103bd7fb72u);
  EXPECT_EQ(golden_hash(per_token(Codec::kI8)), 0x5122e1dc7ea3cf90u);
  EXPECT_EQ(golden_hash(per_token(Codec::kI4)), 0x614e8f6e2260670fu);
  EXPECT_EQ(golden_hash(per_token(Codec::kI2)), 0xc55f80f6d6644d28u);
  EXPECT_EQ(golden_hash(per_token(Codec::kI1)), 0x1f85e495aa63f3a6u);
  EXPECT_EQ(golden_hash(rotated(Codec::kI2)), 0xa33d14a37f4b251au);
  EXPECT_EQ(golden_hash(rotated(Codec::kI1)), 0xe392eed63a05c927u);
}

}  // namespace
}  // namespace vkv
