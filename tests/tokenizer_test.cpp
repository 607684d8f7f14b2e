// tokenizer_test.cpp: ids and text equal those of Hugging Face's tokenizers library, special tokens
// in a question are plain text if asked for, and what is not known is refused by name.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/tokenizer.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>

#include "tools/mllm/prompt.h"
#include "tools/mllm/utf8.h"

namespace vkv {
namespace {

using Json = nlohmann::json;

const std::string kGolden = VKV_SOURCE_DIR "/tests/golden/tokenizer/";
const std::string kTinyVlm = VKV_SOURCE_DIR "/tools/tinyvlm/golden/random";

std::string file_text(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

Tokenizer tokenizer_of(const std::string& name) {
  auto tokenizer = name == "tinyvlm" ? Tokenizer::load(kTinyVlm)
                                     : Tokenizer::parse(file_text(kGolden + name + ".json"));
  VKV_CHECK(tokenizer.ok());
  return std::move(tokenizer.value());
}

void expect_refused(const Json& file, Code code, const std::string& words) {
  const auto tokenizer = Tokenizer::parse(file.dump());
  ASSERT_FALSE(tokenizer.ok()) << words;
  EXPECT_EQ(tokenizer.status().code(), code) << tokenizer.status().message();
  EXPECT_NE(tokenizer.status().message().find(words), std::string::npos)
      << tokenizer.status().message();
}

Json tinyvlm_file() { return Json::parse(file_text(kTinyVlm + "/tokenizer.json")); }

TEST(tokenizer, ids_and_decoded_text_equal_those_of_hugging_face) {
  const Json goldens = Json::parse(file_text(kGolden + "cases.json"));
  ASSERT_EQ(goldens.size(), 4u);
  for (const auto& [name, golden] : goldens.items()) {
    const Tokenizer tokenizer = tokenizer_of(name);
    for (const Json& item : golden["encoded"]) {
      const auto text = item["text"].get<std::string>();
      const auto ids = tokenizer.encode(text, Tokenizer::AddedTokens::kParse);
      ASSERT_TRUE(ids.ok()) << ids.status().message();
      EXPECT_EQ(ids.value(), item["ids"].get<std::vector<int32_t>>()) << name << ": " << text;
      EXPECT_EQ(tokenizer.decode(ids.value()), item["decoded"].get<std::string>())
          << name << ": " << text;
    }
    for (const Json& item : golden["broken"])
      EXPECT_EQ(tokenizer.decode(item["ids"].get<std::vector<int32_t>>()),
                item["decoded"].get<std::string>())
          << name << ": " << item["ids"];
  }
}

// Through the style that the tokenizer's kind gives a model with vision.
TEST(tokenizer, prompts_of_llava_1_5_are_those_of_its_template) {
  ModelConfig config;
  config.vision = {.kind = VisionKind::kClip, .layers = 1, .image_edge = 28, .patch_edge = 14};
  config.feature_select = FeatureSelect::kDropFirst;
  ASSERT_EQ(config.tokens_per_image(), 4);
  const Json goldens = Json::parse(file_text(kGolden + "cases.json"));
  for (const char* name : {"prepend_style", "metaspace_style"}) {
    const Tokenizer tokenizer = tokenizer_of(name);
    config.image_token = *tokenizer.find("<image>");
    const auto prompt = Prompt::make(&tokenizer, PromptStyle::kAuto, config);
    ASSERT_TRUE(prompt.ok()) << prompt.status().message();
    for (const Json& item : goldens[name]["chat"]) {
      const auto images = item["images"].get<size_t>();
      std::vector<int32_t> ids;
      if (images > 0) ids = prompt.value().media(std::vector<VisualShape>(images)).value().tokens;
      // One <image> a picture, as the template has it.
      const auto same = [&](int32_t a, int32_t b) { return a == b && a == config.image_token; };
      ids.erase(std::unique(ids.begin(), ids.end(), same), ids.end());
      const auto question =
          prompt.value().question(item["question"].get<std::string>(), images > 0).value().tokens;
      ids.insert(ids.end(), question.begin(), question.end());
      EXPECT_EQ(ids, item["ids"].get<std::vector<int32_t>>()) << name << ": " << item.dump();
    }
  }
}

// In the words of LLaVA-1.5's template; what a caller gives stands for nothing else.
TEST(tokenizer, prompts_of_conversations_have_all_that_was_said) {
  const Tokenizer tokenizer = tokenizer_of("prepend_style");
  ModelConfig config;
  const Exchange earlier[] = {{"a?", "{question}"}, {"b?", " so."}};
  const auto text = [&](PromptStyle style, std::string_view system) {
    const auto prompt = Prompt::make(&tokenizer, style, config, system);
    if (!prompt.ok()) return prompt.status().message();
    return tokenizer.decode(prompt.value().question("c?", false, earlier).value().tokens);
  };
  EXPECT_EQ(text(PromptStyle::kVicuna, ""),
            "USER: a? ASSISTANT: {question} USER: b? ASSISTANT: so. USER: c? ASSISTANT:");
  EXPECT_EQ(
      text(PromptStyle::kVicuna, "{question}."),
      "{question}. USER: a? ASSISTANT: {question} USER: b? ASSISTANT: so. USER: c? ASSISTANT:");
  EXPECT_EQ(text(PromptStyle::kPlain, ""), "a?{question}\nb? so.\nc?");
  EXPECT_NE(text(PromptStyle::kPlain, "Be brief.").find("no place for a system"),
            std::string::npos);
}

TEST(tokenizer, what_is_no_sentencepiece_of_ours_is_refused) {
  const Json good = Json::parse(file_text(kGolden + "prepend_style.json"));
  const auto with = [&](const char* part, Json value) {
    Json file = good;
    file[Json::json_pointer(part)] = std::move(value);
    return file;
  };
  const Code unsupported = Code::kUnsupported;
  expect_refused(with("/normalizer", {{"type", "NFKC"}}), unsupported, "\"NFKC\"");
  expect_refused(with("/pre_tokenizer", {{"type", "ByteLevel"}}), unsupported, "Metaspace");
  expect_refused(with("/decoder", {{"type", "Metaspace"}}), unsupported, "ByteFallback");
  expect_refused(with("/decoder/decoders/1/type", "WordPiece"), unsupported, "\"WordPiece\"");
  expect_refused(with("/post_processor/type", "Roberta"), unsupported, "\"Roberta\"");
  expect_refused(with("/added_tokens/0/normalized", true), unsupported, "\"<unk>\"");
  expect_refused(with("/model/dropout", 0.5), unsupported, "dropout");
  expect_refused(with("/model/merges", Json::array()), Code::kDataLoss, "no merges");
  Json file = good;
  file["model"]["vocab"].erase("<0x41>");
  expect_refused(file, unsupported, "no token <0x41>");
}

TEST(tokenizer, a_stream_gives_whole_characters_and_the_same_text) {
  const Tokenizer tokenizer = tokenizer_of("tinyvlm");
  std::mt19937 random(20);
  for (int round = 0; round < 200; ++round) {
    std::vector<int32_t> tokens;
    for (int i = 0; i < 30; ++i) tokens.push_back(static_cast<int32_t>(random() % 512));
    TextStream stream(&tokenizer);
    std::string text;
    for (const int32_t token : tokens) {
      const std::string piece = stream.push(token);
      EXPECT_TRUE(check_utf8(piece).ok());
      text += piece;
    }
    text += stream.finish();
    EXPECT_EQ(text, tokenizer.decode(tokens));
  }
}

TEST(tokenizer, special_tokens_in_plain_text_are_characters) {
  const Tokenizer tokenizer = tokenizer_of("tinyvlm");
  const std::string text = "<s>an <image> and </s>";
  const auto plain = tokenizer.encode(text, Tokenizer::AddedTokens::kPlain);
  ASSERT_TRUE(plain.ok());
  for (const int32_t token : plain.value()) EXPECT_FALSE(tokenizer.is_special(token)) << token;
  EXPECT_EQ(tokenizer.decode(plain.value()), text);
  EXPECT_EQ(tokenizer.find("<image>"), 3);
  EXPECT_EQ(tokenizer.find("<nothing>"), std::nullopt);
  EXPECT_EQ(tokenizer.id_max(), 503);
}

TEST(tokenizer, bytes_without_a_token_are_left_out) {
  Json file = tinyvlm_file();
  file["model"]["vocab"].erase("ā");  // byte 0x01
  const auto tokenizer = Tokenizer::parse(file.dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  const auto encode = [&](std::string_view text) {
    return tokenizer.value().encode(text, Tokenizer::AddedTokens::kPlain).value();
  };
  EXPECT_EQ(encode("\x01!\x01\x01!\x01"), encode("!!"));
  EXPECT_TRUE(encode("\x01").empty());
}

TEST(tokenizer, text_that_is_not_utf8_is_refused_with_its_byte) {
  const Tokenizer tokenizer = tokenizer_of("tinyvlm");
  for (const char* text : {"ab\xff", "ab\xc3", "ab\xe0\x80\x80", "ab\xed\xa0\x80"}) {
    const auto ids = tokenizer.encode(text, Tokenizer::AddedTokens::kPlain);
    ASSERT_FALSE(ids.ok());
    EXPECT_EQ(ids.status().message(), "byte 2 of the text is not UTF-8");
  }
}

TEST(tokenizer, long_words_take_little_time) {
  const Tokenizer tokenizer = tokenizer_of("tinyvlm");
  std::string text;
  while (text.size() < 500'000) text += "questionanswer";
  const auto ids = tokenizer.encode(text, Tokenizer::AddedTokens::kPlain);
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(tokenizer.decode(ids.value()), text);
}

TEST(tokenizer, unknown_components_are_refused_by_name) {
  const auto with = [](const char* part, Json value) {
    Json file = tinyvlm_file();
    file[Json::json_pointer(part)] = std::move(value);
    return file;
  };
  const Code unsupported = Code::kUnsupported;
  expect_refused(with("/model/type", "Unigram"), unsupported, "model \"Unigram\"");
  expect_refused(with("/model/byte_fallback", true), unsupported, "normalizer \"NFC\"");
  expect_refused(with("/model/unk_token", "<unk>"), unsupported, "unk_token");
  expect_refused(with("/normalizer", {{"type", "Lowercase"}}), unsupported, "\"Lowercase\"");
  expect_refused(with("/pre_tokenizer", {{"type", "Metaspace"}}), unsupported, "\"Metaspace\"");
  expect_refused(with("/pre_tokenizer", nullptr), unsupported, "ByteLevel");
  expect_refused(with("/pre_tokenizer/pretokenizers/0/behavior", "Removed"), unsupported,
                 "Removed");
  expect_refused(with("/pre_tokenizer/pretokenizers/0/pattern/Regex", "(a"), unsupported,
                 "missing closing parenthesis");
  expect_refused(with("/post_processor", {{"type", "TemplateProcessing"}}), unsupported,
                 "\"TemplateProcessing\"");
  expect_refused(with("/decoder", {{"type", "WordPiece"}}), unsupported, "\"WordPiece\"");
  expect_refused(with("/added_tokens/3/lstrip", true), unsupported, "\"<image>\" has lstrip");
}

TEST(tokenizer, files_that_contradict_themselves_are_refused) {
  const Code broken = Code::kDataLoss;
  Json file = tinyvlm_file();
  file["model"]["merges"][0] = {"Ġ", "nothing"};
  expect_refused(file, broken, "merge \"Ġ nothing\"");
  file = tinyvlm_file();
  file["model"]["vocab"]["!"] = 5;
  expect_refused(file, broken, "id 5 stands twice");
  file = tinyvlm_file();
  file["model"]["vocab"]["!"] = -1;
  expect_refused(file, broken, "the id of \"!\"");
  file = tinyvlm_file();
  file["model"]["vocab"].erase("~");
  expect_refused(file, Code::kUnsupported, "no token for byte 0x7e");
  file = tinyvlm_file();
  file["added_tokens"][1]["id"] = 0;
  expect_refused(file, broken, "stands twice");
  expect_refused(Json::array(), broken, "not a JSON object");

  const auto torn = Tokenizer::parse(R"({"version": "1.0", )");
  ASSERT_FALSE(torn.ok());
  EXPECT_EQ(torn.status().code(), broken);
}

TEST(tokenizer, a_missing_file_is_named) {
  const auto tokenizer = Tokenizer::load("/nowhere");
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_EQ(tokenizer.status().code(), Code::kNotFound);
  EXPECT_NE(tokenizer.status().message().find("/nowhere: no tokenizer.json"), std::string::npos);
}

}  // namespace
}  // namespace vkv
