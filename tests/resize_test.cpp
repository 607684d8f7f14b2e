// resize_test.cpp: resizing equals torchvision's bit for bit, and Pillow's to one grey level.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/resize.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "tools/mllm/media.h"

namespace vkv {
namespace {

Image golden(const std::string& name) {
  Result<Image> image = load_image(VKV_SOURCE_DIR "/tests/golden/media/" + name + ".npy");
  EXPECT_TRUE(image.ok()) << image.status().message();
  return image.ok() ? std::move(image.value()) : Image{};
}

struct Case {
  std::string source;
  int width, height;
};
const Case kCases[] = {{"small", 31, 40}, {"small", 9, 5},  {"small", 23, 8}, {"small", 40, 17},
                       {"small", 1, 1},   {"wide", 16, 16}, {"wide", 7, 33}};

TEST(resize, results_equal_torchvision_and_differ_from_pillow_by_at_most_one_level) {
  for (const Case& c : kCases) {
    for (const Resample resample : {Resample::kBicubic, Resample::kBilinear}) {
      const std::string name = c.source + "_" + std::to_string(c.width) + "x" +
                               std::to_string(c.height) +
                               (resample == Resample::kBicubic ? "_bicubic" : "_bilinear");
      const Image out = resize(golden(c.source), c.width, c.height, resample);
      ASSERT_EQ(out.width, c.width);
      ASSERT_EQ(out.height, c.height);
      EXPECT_EQ(out.rgb, golden(name).rgb) << name;

      const Image pillow = golden(name + "_pil");
      ASSERT_EQ(out.rgb.size(), pillow.rgb.size());
      for (size_t i = 0; i < out.rgb.size(); ++i) {
        ASSERT_LE(std::abs(out.rgb[i] - pillow.rgb[i]), 1) << name << " at " << i;
      }
    }
  }
}

TEST(resize, the_same_size_changes_nothing) {
  const Image image = golden("small");
  EXPECT_EQ(resize(image, image.width, image.height, Resample::kBicubic).rgb, image.rgb);
}

TEST(resize, a_flat_picture_stays_flat_at_any_size) {
  for (const uint8_t level : {0, 1, 127, 254, 255}) {
    const Image flat{5, 3, std::vector<uint8_t>(45, level)};
    for (const int edge : {1, 2, 3, 7, 64}) {
      const Image out = resize(flat, edge, edge + 1, Resample::kBicubic);
      for (const uint8_t value : out.rgb) ASSERT_EQ(value, level) << edge;
    }
  }
}

}  // namespace
}  // namespace vkv
