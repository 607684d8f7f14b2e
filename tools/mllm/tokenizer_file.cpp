// tokenizer_file.cpp: the parts of a tokenizer's file, checked.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/tokenizer_file.h"

#include <fmt/format.h>

#include <set>

#include "tools/mllm/bpe.h"
#include "tools/mllm/json_file.h"

namespace vkv {
namespace {

constexpr char kWhere[] = "tokenizer.json";
constexpr uint64_t kIdMax = (1 << 24) - 1;  // models have up to a few 100,000 tokens

Status broken(const std::string& what) {
  return {Code::kDataLoss, fmt::format("{}: {}", kWhere, what)};
}

Status unsupported(const char* part, const std::string& type, const char* known) {
  return {Code::kUnsupported,
          fmt::format("{}: {} \"{}\" is not known; known: {}", kWhere, part, type, known)};
}

// The member, or nullptr if it is missing or null.
const Json* find(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

bool flag(const Json& object, const char* key, bool fallback) {
  const Json* const value = find(object, key);
  return value != nullptr && value->is_boolean() ? value->get<bool>() : fallback;
}

// "type" of a component; empty if it has none.
std::string type_of(const Json& component) {
  if (!component.is_object()) return {};
  const Json* const type = find(component, "type");
  return type != nullptr && type->is_string() ? type->get<std::string>() : std::string();
}

Result<int32_t> read_id(const Json& value, const std::string& token) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > kIdMax)
    return broken(fmt::format("the id of \"{}\" is not a token id", token));
  return value.get<int32_t>();
}

Status read_added(const Json& root, TokenizerFile& file) {
  const Json* const list = find(root, "added_tokens");
  if (list == nullptr) return {};
  if (!list->is_array()) return broken("added_tokens is not a list");
  std::set<std::string> contents;
  std::set<int32_t> ids;
  for (const Json& entry : *list) {
    if (!entry.is_object()) return broken("an added token is not an object");
    const Json* const content = find(entry, "content");
    const Json* const id_value = find(entry, "id");
    if (content == nullptr || !content->is_string() || id_value == nullptr)
      return broken("an added token has no content or id");
    AddedToken token;
    token.content = content->get<std::string>();
    if (token.content.empty()) return broken("an added token is empty");
    VKV_TRY_ASSIGN(id, read_id(*id_value, token.content));
    token.id = id;
    token.special = flag(entry, "special", false);
    token.normalised = flag(entry, "normalized", !token.special);
    for (const char* option : {"single_word", "lstrip", "rstrip"})
      if (flag(entry, option, false))
        return {Code::kUnsupported, fmt::format("{}: added token \"{}\" has {}, which is not there",
                                                kWhere, token.content, option)};
    if (!contents.insert(token.content).second || !ids.insert(token.id).second)
      return broken(fmt::format("added token \"{}\" or its id stands twice", token.content));
    file.added.push_back(std::move(token));
  }
  return {};
}

Status read_normalizer(const Json& component, TokenizerFile& file) {
  const std::string type = type_of(component);
  if (type == "Sequence") {
    const Json* const list = find(component, "normalizers");
    if (list == nullptr || !list->is_array()) return broken("normalizer has no list");
    if (list->size() > 1)
      return unsupported("normalizer", "Sequence of several", "one of NFC NFD NFKC NFKD");
    return list->empty() ? Status() : read_normalizer((*list)[0], file);
  }
  if (type == "NFC")
    file.normal_form = NormalForm::kNfc;
  else if (type == "NFD")
    file.normal_form = NormalForm::kNfd;
  else if (type == "NFKC")
    file.normal_form = NormalForm::kNfkc;
  else if (type == "NFKD")
    file.normal_form = NormalForm::kNfkd;
  else
    return unsupported("normalizer", type, "NFC NFD NFKC NFKD Sequence");
  return {};
}

Status add_split(const std::string& pattern, bool literal, bool add_prefix_space,
                 TokenizerFile& file) {
  auto splitter = TextSplitter::make(pattern, literal);
  if (!splitter.ok())
    return {splitter.status().code(),
            fmt::format("{}: pre_tokenizer: {}", kWhere, splitter.status().message())};
  file.split_steps.push_back({std::move(splitter.value()), add_prefix_space});
  return {};
}

// Sets `is_byte_level` at the ByteLevel step; nothing may follow it.
Status read_pre_tokenizer(const Json& component, TokenizerFile& file, bool& is_byte_level) {
  const std::string type = type_of(component);
  if (is_byte_level) return unsupported("pre_tokenizer after ByteLevel", type, "none");
  if (type == "Sequence") {
    const Json* const list = find(component, "pretokenizers");
    if (list == nullptr || !list->is_array()) return broken("pre_tokenizer has no list");
    for (const Json& step : *list) VKV_TRY(read_pre_tokenizer(step, file, is_byte_level));
    return {};
  }
  if (type == "ByteLevel") {
    is_byte_level = true;
    const bool add_prefix_space = flag(component, "add_prefix_space", true);
    if (flag(component, "use_regex", true))
      return add_split(kGpt2Pattern, false, add_prefix_space, file);
    if (add_prefix_space) file.split_steps.push_back({std::nullopt, true});
    return {};
  }
  if (type != "Split") return unsupported("pre_tokenizer", type, "Split ByteLevel Sequence");

  const Json* const behavior = find(component, "behavior");
  if (behavior == nullptr || *behavior != "Isolated" || flag(component, "invert", false))
    return unsupported("behavior of pre_tokenizer Split",
                       component.value("behavior", Json()).dump(), "Isolated, not inverted");
  const Json* const pattern = find(component, "pattern");
  if (pattern != nullptr && pattern->is_object())
    for (const char* key : {"Regex", "String"}) {
      const Json* const text = find(*pattern, key);
      if (text != nullptr && text->is_string())
        return add_split(text->get<std::string>(), key == std::string_view("String"), false, file);
    }
  return broken("pre_tokenizer Split has no pattern");
}

// Prepend and Replace, which older files of Llama have.
Status read_space_normalizer(const Json& component, SpaceMarks& marks) {
  const std::string type = type_of(component);
  const char* const known = "a Sequence of Prepend and Replace, of spaces";
  if (type == "Sequence") {
    const Json* const list = find(component, "normalizers");
    if (list == nullptr || !list->is_array()) return broken("normalizer has no list");
    for (const Json& step : *list) VKV_TRY(read_space_normalizer(step, marks));
    return {};
  }
  if (type == "Prepend" && component.value("prepend", Json()) == kSpaceMark) {
    marks.before = SpaceMarks::Before::kEachText;
    marks.even_behind_space = true;
    return {};
  }
  const bool is_space = component.value("pattern", Json()) == Json{{"String", " "}} &&
                        component.value("content", Json()) == kSpaceMark;
  if (type == "Replace" && is_space) return {};
  return unsupported("normalizer", type, known);
}

// Metaspace, which newer files have.
Status read_metaspace(const Json& component, SpaceMarks& marks) {
  if (type_of(component) != "Metaspace" || component.value("replacement", Json()) != kSpaceMark)
    return unsupported("pre_tokenizer", type_of(component), "none, Metaspace");
  const Json* const scheme = find(component, "prepend_scheme");
  if (scheme == nullptr || *scheme == "always")
    marks.before = SpaceMarks::Before::kEachText;
  else if (*scheme == "first")
    marks.before = SpaceMarks::Before::kInput;
  else if (*scheme != "never")
    return unsupported("prepend_scheme", scheme->dump(), "always first never");
  marks.split = flag(component, "split", true);
  return {};
}

Status read_space_decoder(const Json* component, SpaceMarks& marks) {
  const std::string type = component == nullptr ? "none" : type_of(*component);
  const Json* const steps = type == "Sequence" ? find(*component, "decoders") : nullptr;
  if (steps == nullptr || !steps->is_array())
    return unsupported("decoder", type, "a Sequence of Replace, ByteFallback, Fuse and Strip");
  for (const Json& step : *steps) {
    const std::string name = type_of(step);
    if (name == "Strip")
      marks.strip_first = step.value("start", Json()) == 1;
    else if (name != "Replace" && name != "ByteFallback" && name != "Fuse")
      return unsupported("step of the decoder", name, "Replace ByteFallback Fuse Strip");
  }
  return {};
}

// The tokens that TemplateProcessing puts before a text.
Status read_begin(const Json& post, TokenizerFile& file) {
  const Json* const single = find(post, "single");
  if (type_of(post) != "TemplateProcessing" || single == nullptr || !single->is_array())
    return unsupported("post_processor", type_of(post), "none, TemplateProcessing");
  bool behind_text = false;
  for (const Json& part : *single) {
    if (!part.is_object()) return broken("a part of the post_processor is not an object");
    if (part.contains("Sequence")) {
      behind_text = true;
      continue;
    }
    const Json* const token = find(part, "SpecialToken");
    const Json* const id = token == nullptr ? nullptr : find(*token, "id");
    if (id == nullptr || !id->is_string()) return broken("a part of the post_processor has no id");
    if (behind_text)
      return unsupported("post_processor with a token behind the text", id->get<std::string>(),
                         "tokens before it");
    file.begin_tokens.push_back(id->get<std::string>());
  }
  return {};
}

// The parts of a tokenizer whose tokens are characters.
Status read_space_parts(const Json& root, TokenizerFile& file) {
  SpaceMarks marks;
  if (const Json* const normalizer = find(root, "normalizer"); normalizer != nullptr)
    VKV_TRY(read_space_normalizer(*normalizer, marks));
  if (const Json* const pre_tokenizer = find(root, "pre_tokenizer"); pre_tokenizer != nullptr)
    VKV_TRY(read_metaspace(*pre_tokenizer, marks));
  VKV_TRY(read_space_decoder(find(root, "decoder"), marks));
  if (const Json* const post = find(root, "post_processor"); post != nullptr)
    VKV_TRY(read_begin(*post, file));
  for (const AddedToken& token : file.added)
    if (token.normalised)
      return unsupported("added token that is looked for after normalisation", token.content,
                         "others");
  file.space_marks = marks;
  return {};
}

// What would add tokens to every prompt, or change decoded text, must not be passed over.
Status check_rest(const Json& root) {
  if (const Json* const post = find(root, "post_processor"); post != nullptr)
    if (type_of(*post) != "ByteLevel")
      return unsupported("post_processor", type_of(*post), "none, ByteLevel");
  const Json* const decoder = find(root, "decoder");
  const std::string type = decoder == nullptr ? "none" : type_of(*decoder);
  if (type != "ByteLevel") return unsupported("decoder", type, "ByteLevel");
  return {};
}

Status read_merges(const Json& list, TokenizerFile& file) {
  for (const Json& merge : list) {
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      file.merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
      continue;
    }
    // Before tokenizers 0.20: "a b", tokens without spaces.
    const std::string text = merge.is_string() ? merge.get<std::string>() : std::string();
    const size_t space = text.find(' ');
    if (space == std::string::npos || space != text.rfind(' '))
      return broken("a merge is not a pair of tokens");
    file.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
  }
  return {};
}

Status read_model(const Json& root, TokenizerFile& file) {
  const Json* const model = find(root, "model");
  if (model == nullptr || !model->is_object()) return broken("no model");
  const std::string type = type_of(*model);
  if (type != "BPE") return unsupported("model", type, "BPE");
  // With a token for every byte nothing is unknown.
  const bool has_bytes = file.space_marks.has_value();
  for (const char* option :
       {"dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"}) {
    const Json* const value = find(*model, option);
    if (has_bytes && option == std::string_view("unk_token")) continue;
    if (value != nullptr && *value != "" && *value != 0)
      return unsupported("option of the BPE model", option, "ignore_merges");
  }
  if (flag(*model, "fuse_unk", false) && !has_bytes)
    return unsupported("option of the BPE model", "fuse_unk", "ignore_merges");
  file.ignore_merges = flag(*model, "ignore_merges", false);

  const Json* const vocabulary = find(*model, "vocab");
  if (vocabulary == nullptr || !vocabulary->is_object() || vocabulary->empty())
    return broken("the model has no vocab");
  std::set<int32_t> ids;
  for (const auto& [token, value] : vocabulary->items()) {
    VKV_TRY_ASSIGN(id, read_id(value, token));
    if (!ids.insert(id).second) return broken(fmt::format("id {} stands twice in vocab", id));
    file.vocabulary[token] = id;
  }
  const Json* const merges = find(*model, "merges");
  // Bytes alone need none; more tokens than these come from merging them.
  constexpr size_t kByteTokens = 256;
  if (merges == nullptr || !merges->is_array() ||
      (merges->empty() && file.vocabulary.size() > kByteTokens))
    return broken("the model has no merges");
  return read_merges(*merges, file);
}

}  // namespace

Result<TokenizerFile> parse_tokenizer_file(std::string_view json) {
  VKV_TRY_ASSIGN(root, parse_json(json, kWhere));
  if (!root.is_object()) return broken("not a JSON object");
  TokenizerFile file;
  VKV_TRY(read_added(root, file));
  const Json* const model = find(root, "model");
  if (model != nullptr && model->is_object() && flag(*model, "byte_fallback", false)) {
    VKV_TRY(read_space_parts(root, file));
    VKV_TRY(read_model(root, file));
    if (file.ignore_merges) return unsupported("option of the BPE model", "ignore_merges", "none");
    return file;
  }
  if (const Json* const normalizer = find(root, "normalizer"); normalizer != nullptr)
    VKV_TRY(read_normalizer(*normalizer, file));
  bool is_byte_level = false;
  if (const Json* const pre_tokenizer = find(root, "pre_tokenizer"); pre_tokenizer != nullptr)
    VKV_TRY(read_pre_tokenizer(*pre_tokenizer, file, is_byte_level));
  if (!is_byte_level) return unsupported("pre_tokenizer without ByteLevel", "", "ByteLevel");
  VKV_TRY(check_rest(root));
  VKV_TRY(read_model(root, file));

  if (file.ignore_merges) {
    // An added token must not come out of plain text.
    std::set<std::string> added;
    for (const AddedToken& token : file.added) added.insert(token.content);
    for (const auto& [printable, id] : file.vocabulary)
      if (const auto bytes = bytes_of_printable(printable); bytes && !added.contains(printable))
        file.whole_tokens[*bytes] = id;
  }
  return file;
}

}  // namespace vkv
