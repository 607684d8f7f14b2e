// Hashes are those of FIPS 180-4, and keys differ where anything differs that K and V depend on.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/media_key.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "tests/temporary_directory.h"
#include "tools/vkv/sha256.h"

namespace vkv {
namespace {

namespace fs = std::filesystem;

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
  const TemporaryDirectory model, media;
  const auto write_model = [&](const std::string& name, const std::string& text) {
    std::ofstream(model / name, std::ios::binary | std::ios::trunc) << text;
  };
  const auto write = [&](const std::string& name, const std::string& text) {
    std::ofstream(media / name, std::ios::binary | std::ios::trunc) << text;
  };
  write_model("config.json", "{}");
  write("a.npy", "123");
  write("b.npy", "45");
  write("ab.npy", "12345");
  const auto files = [&](const std::vector<std::string>& pictures, const std::string& video = "") {
    MediaFiles of;
    for (const std::string& name : pictures) of.pictures.push_back(media / name);
    if (!video.empty()) of.video = media / video;
    return of;
  };
  const VisualShape shape = {.steps = 2, .height = 4, .width = 6};
  const auto key = [&](const std::string& settings, const MediaFiles& of,
                       const VisualShape& becomes = {}) {
    return media_key(model.path(), settings, of, {&becomes, 1}).value();
  };
  MediaFiles sampled = files({}, "a.npy");
  sampled.sampling.frame_count = 3;
  const MediaFiles both = files({"a.npy", "b.npy"});
  std::set<SequenceKey> keys = {
      key("a", both),
      key("b", both),
      key("a", both, shape),
      key("a", files({"b.npy", "a.npy"})),
      key("a", files({"ab.npy"})),
      key("a", files({"a.npy"})),
      key("a", files({}, "a.npy")),
      key("a", files({"a.npy"}, "b.npy")),
      key("a", sampled),
  };
  EXPECT_EQ(keys.size(), 9u);
  EXPECT_EQ(key("a", both), key("a", both));
  const std::string stamps = media_stamps(both).value();
  fs::copy_file(media / "a.npy", media / "c.npy");
  EXPECT_EQ(key("a", files({"c.npy", "b.npy"})), key("a", both));
  EXPECT_EQ(media_stamps(both).value(), stamps);
  write("b.npy", "456");
  EXPECT_NE(media_stamps(both).value(), stamps);
  EXPECT_TRUE(keys.insert(key("a", both)).second);

  write_model("config.json", "{ }");
  EXPECT_TRUE(keys.insert(key("a", both)).second);
  write_model("weights", std::string(2 << 20, 'w'));
  EXPECT_TRUE(keys.insert(key("a", both)).second);
  EXPECT_EQ(media_key(model / "none", "a", both, {}).status().code(), Code::kIo);
  EXPECT_EQ(media_key(model.path(), "a", files({"none.npy"}), {}).status().code(), Code::kIo);
}

}  // namespace
}  // namespace vkv
