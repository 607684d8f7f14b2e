// quality_item.h: what is compared: questions about media, or passages of text, as tokens.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tools/mllm/media_processor.h"
#include "tools/mllm/model.h"
#include "tools/mllm/prompt.h"
#include "tools/mllm/tokenizer.h"
#include "tools/vkv/jobs.h"

namespace vkv {

// What comes behind the encoded part.
struct QualityCase {
  PromptTokens tail;  // at least one token; attends to the encoded prefix
  std::optional<std::string> expected;
  std::string kind;   // of question; may be empty
  std::string group;  // of media; may be empty
};

// A prefix that is stored, and encoded where it is old enough, and cases that share it.
struct QualityItem {
  std::string id;
  PromptTokens prefix;                               // at least one token, one prefill window
  std::shared_ptr<const std::vector<float>> visual;  // rows of its image tokens, as in Model
  std::vector<QualityCase> cases;
  int new_tokens_max = 64;     // of the answer
  bool compares_tail = false;  // logits behind every tail token, not only the last
  bool kl_only = false;  // no answers of the tested cache's own, no error by layer: a third quicker
  // The tail is a prefill window of its own, which a cache with originals reads them for. Else it
  // goes on with the prefix's window and reads what decode steps read.
  bool tail_is_window = true;
};

// Which tokens are encoded when a question is read.
enum class QuestionView : uint8_t {
  kAuto,    // as `vkv run`: kShared for several questions over media, else kWindow
  kShared,  // the media are a window of their own: the question reads encoded media, and had no
            // say in what is salient
  kWindow,  // the question stands in the window of its media, all but its last token, so that it
            // decides what is salient; the last token reads the encoded rest
};

// "auto", "shared", "window". Errors: kInvalidArgument, listing them.
Result<QuestionView> question_view(std::string_view name);

struct ItemOptions {
  PromptStyle style = PromptStyle::kAuto;
  QuestionView view = QuestionView::kAuto;
};

// Pictures are decoded and go through the vision tower once; items of one job share what comes
// out. processor may be null for jobs without media. Errors: those of media, vision tower and
// prompt; kCancelled.
Result<std::vector<QualityItem>> items_of_job(const Job& job, Model& model,
                                              const Tokenizer& tokenizer,
                                              const MediaProcessor* processor,
                                              const ItemOptions& options, const Watch& watch);

struct PassageOptions {
  int token_count = 1024;     // of a passage
  int tail_count = 256;       // of them, its last tokens are teacher-forced
  int passages_max = 0;       // 0: as many as there are
  int new_tokens_max = 32;    // greedy continuation
  Role role = Role::kVisual;  // of the prefix: kVisual lets it be low, as in PrecisionPolicy
};

// Cuts a text into passages, which do not overlap. Errors: kInvalidArgument for counts that make no
// sense, a text that is not UTF-8, or one too short for a passage.
Result<std::vector<QualityItem>> passages_of_text(std::string_view text, const Tokenizer& tokenizer,
                                                  const PassageOptions& options);

}  // namespace vkv
