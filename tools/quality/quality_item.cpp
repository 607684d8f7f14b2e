// quality_item.cpp: jobs and texts -> items.
// SPDX-License-Identifier: Apache-2.0
#include "tools/quality/quality_item.h"

#include <fmt/format.h>

#include <algorithm>

#include "tools/mllm/encoded_rows.h"
#include "tools/vkv/job_media.h"

namespace vkv {
namespace {

void append(const PromptTokens& from, size_t first, size_t count, PromptTokens& target) {
  const auto begin = static_cast<ptrdiff_t>(first), end = static_cast<ptrdiff_t>(first + count);
  target.tokens.insert(target.tokens.end(), from.tokens.begin() + begin, from.tokens.begin() + end);
  target.roles.insert(target.roles.end(), from.roles.begin() + begin, from.roles.begin() + end);
}

// Positions of text behind media, where there are positions.
void continue_rope(PromptTokens& prompt) {
  if (prompt.rope.empty()) return;
  while (prompt.rope.size() < prompt.tokens.size()) {
    const auto next =
        static_cast<int32_t>(static_cast<int64_t>(prompt.rope.size()) + prompt.rope_delta);
    prompt.rope.push_back({next, next, next});
  }
}

}  // namespace

Result<QuestionView> question_view(std::string_view name) {
  if (name == "auto") return QuestionView::kAuto;
  if (name == "shared") return QuestionView::kShared;
  if (name == "window") return QuestionView::kWindow;
  return Status(Code::kInvalidArgument,
                fmt::format("\"{}\" is no view; there are auto, shared and window", name));
}

Result<std::vector<QualityItem>> items_of_job(const Job& job, Model& model,
                                              const Tokenizer& tokenizer,
                                              const MediaProcessor* processor,
                                              const ItemOptions& options, const Watch& watch) {
  const ModelConfig& config = model.config();
  VKV_TRY_ASSIGN(prompt, Prompt::make(&tokenizer, options.style, config));
  PromptTokens media;
  auto visual = std::make_shared<std::vector<float>>();
  int64_t frame_count = 0;
  if (!job.images.empty() || !job.video.empty()) {
    if (processor == nullptr)
      return Status(Code::kUnsupported, "the model has no image processor: it takes text alone");
    const Watch quiet = {.cancel = watch.cancel};
    VKV_TRY_ASSIGN(source, open_job_media(job, *processor, model, quiet));
    frame_count = source->frame_count();
    EncodedRows rows(&model, source.get());
    VKV_TRY_ASSIGN(embeddings, rows.take(rows.row_count(), quiet));
    visual->assign(embeddings.begin(), embeddings.end());
    VKV_TRY_ASSIGN(tokens, prompt.media(source->shapes()));
    media = std::move(tokens);
  }
  const std::string group = media_group(job, frame_count);
  const bool shared =
      frame_count > 0 && (options.view == QuestionView::kShared ||
                          (options.view == QuestionView::kAuto && job.questions.size() > 1));

  const QualityItem empty = {
      .id = job.id, .visual = visual, .new_tokens_max = job.sampling.max_new_tokens};
  std::vector<QualityItem> items;
  for (const JobQuestion& question : job.questions) {
    VKV_TRY_ASSIGN(tokens, prompt.question(question.prompt, frame_count > 0));
    QualityCase one = {.expected = question.expected, .kind = question.kind, .group = group};
    if (!shared || items.empty()) {
      items.push_back(empty);
      items.back().prefix = media;
      items.back().tail_is_window = shared;
    }
    const size_t in_prefix = shared ? 0 : tokens.tokens.size() - 1;
    append(tokens, 0, in_prefix, items.back().prefix);
    append(tokens, in_prefix, tokens.tokens.size() - in_prefix, one.tail);
    continue_rope(items.back().prefix);
    if (items.back().prefix.tokens.empty())
      return Status(Code::kInvalidArgument, "the prompt is a single token: nothing to store");
    items.back().cases.push_back(std::move(one));
  }
  return items;
}

Result<std::vector<QualityItem>> passages_of_text(std::string_view text, const Tokenizer& tokenizer,
                                                  const PassageOptions& options) {
  if (options.tail_count < 1 || options.token_count <= options.tail_count)
    return Status(Code::kInvalidArgument,
                  fmt::format("a passage of {} tokens, {} of them at its end teacher-forced: the "
                              "second must be at least 1 and less than the first",
                              options.token_count, options.tail_count));
  VKV_TRY_ASSIGN(tokens, tokenizer.encode(text, Tokenizer::AddedTokens::kPlain));
  const auto length = static_cast<size_t>(options.token_count);
  const auto prefix_length = length - static_cast<size_t>(options.tail_count);
  size_t count = tokens.size() / length;
  if (count == 0)
    return Status(Code::kInvalidArgument,
                  fmt::format("the text has {} tokens; a passage needs {}", tokens.size(), length));
  if (options.passages_max > 0) count = std::min(count, static_cast<size_t>(options.passages_max));

  std::vector<QualityItem> items;
  for (size_t i = 0; i < count; ++i) {
    PromptTokens passage;
    passage.tokens.assign(tokens.begin() + static_cast<ptrdiff_t>(i * length),
                          tokens.begin() + static_cast<ptrdiff_t>((i + 1) * length));
    passage.roles.assign(length, Role::kText);
    std::fill_n(passage.roles.begin(), prefix_length, options.role);
    QualityItem item = {.id = fmt::format("passage {}", i + 1),
                        .visual = std::make_shared<std::vector<float>>(),
                        .new_tokens_max = options.new_tokens_max,
                        .compares_tail = true};
    append(passage, 0, prefix_length, item.prefix);
    QualityCase one = {.group = "text"};
    append(passage, prefix_length, length - prefix_length, one.tail);
    item.cases.push_back(std::move(one));
    items.push_back(std::move(item));
  }
  return items;
}

}  // namespace vkv
