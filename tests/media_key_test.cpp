// Hashes are those of FIPS 180-4, and keys differ where anything differs that K and V depend on.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/media_key.h"

#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "tests/temporary_directory.h"
#include "tools/vkv/sha256.h"

namespace vkv {
namespace {

std::string sha256(const std::string& text, size_t piece_bytes) {
  Sha256 hash;
  const std::span<const std::byte> all = std::as_bytes(std::span(text));
  for (size_t at = 0; at < all.size(); at += piece_bytes)
    hash.add(all.subspan(at, std::min(piece_bytes, all.size() - at)));
  return to_hex({hash.finish()});
}

// The examples of NIST's Cryptographic Standards and Guidelines for SHA-256.
TEST(sha256, gives_the_published_hashes_however_the_text_is_cut) {
  const std::string two_blocks = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
  const std::string million(1000000, 'a');
  for (const size_t piece : {1, 7, 64, 1000}) {
    EXPECT_EQ(sha256("", piece),
              "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    EXPECT_EQ(sha256("abc", piece),
              "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    EXPECT_EQ(sha256(two_blocks, piece),
              "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    EXPECT_EQ(sha256(million, piece),
              "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  }
}

TEST(media_key, differs_where_anything_differs) {
  const TemporaryDirectory model;
  const auto write = [&](const std::string& name, const std::string& text) {
    std::ofstream(model / name, std::ios::binary | std::ios::trunc) << text;
  };
  write("config.json", "{}");
  using Pictures = std::vector<VisualInput>;
  const Pictures pixels = {{{1, 2, 3}, {}}, {{4, 5}, {}}};
  const auto key = [&](const std::string& settings, const Pictures& of) {
    return media_key(model.path(), settings, of).value();
  };
  std::set<SequenceKey> keys = {
      key("a", pixels),
      key("b", pixels),
      key("a", {{{1, 2, 3, 4}, {}}, {{5}, {}}}),
      key("a", {{{4, 5}, {}}, {{1, 2, 3}, {}}}),
      key("a", {{{1, 2, 3}, {}}}),
      key("a", {{{1, 2, 3}, {.steps = 3}}}),
  };
  EXPECT_EQ(keys.size(), 6u);
  EXPECT_EQ(key("a", pixels), key("a", pixels));
  write("config.json", "{ }");
  EXPECT_TRUE(keys.insert(key("a", pixels)).second);
  write("weights", std::string(2 << 20, 'w'));
  EXPECT_TRUE(keys.insert(key("a", pixels)).second);
  EXPECT_EQ(media_key(model / "none", "a", pixels).status().code(), Code::kIo);
}

}  // namespace
}  // namespace vkv
