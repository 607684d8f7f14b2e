// host.h: a checkpoint with all that answers need: model, tokenizer, media processor, cache.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "tools/mllm/generate.h"
#include "tools/mllm/media_processor.h"
#include "vkv/cache.h"

namespace vkv {

struct SessionOptions {
  std::string model;   // as of Model::load
  CacheOptions cache;  // shape, element and stream are the model's; its device is both's
  GeneratorOptions generator;
  int visual_tokens_max = 0;   // of a picture or pair of frames; 0: what the checkpoint says
  std::string media_settings;  // names what else changes K and V, where the cache keeps its store
};

// Members point to those above them.
struct Host {
  std::unique_ptr<Model> model;
  std::unique_ptr<Tokenizer> tokenizer;
  std::optional<MediaProcessor> processor;  // of a model with vision
  std::unique_ptr<Cache> cache;
  std::unique_ptr<Generator> generator;
  double load_seconds = 0;  // of model and tokenizer
};

// Errors: those of Model, Tokenizer, load_media_processor, Cache and Generator.
Result<Host> open_host(const SessionOptions& options);

}  // namespace vkv
