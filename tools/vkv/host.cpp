// host.cpp: opens a checkpoint and a cache for it.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/host.h"

#include <utility>

#include "runtime/base/stopwatch.h"
#include "tools/vkv/job_media.h"

namespace vkv {

Result<Host> open_host(const SessionOptions& options) {
  Host host;
  const Stopwatch since_start;
  VKV_TRY_ASSIGN(tokenizer, Tokenizer::load(options.model));
  host.tokenizer = std::make_unique<Tokenizer>(std::move(tokenizer));
  VKV_TRY_ASSIGN(model, Model::load(options.model, {.device = options.cache.device,
                                                    .device_index = options.cache.device_index,
                                                    .threads = options.cache.threads}));
  host.model = std::move(model);
  host.load_seconds = since_start.seconds();
  if (host.model->config().has_vision()) {
    VKV_TRY_ASSIGN(processor, load_media_processor(options.model, host.model->config()));
    if (options.visual_tokens_max > 0) VKV_TRY(processor.limit_tokens(options.visual_tokens_max));
    host.processor.emplace(std::move(processor));
  }
  CacheOptions cache_options = options.cache;
  cache_options.shape = host.model->kv_shape();
  cache_options.element = host.model->element();
  cache_options.stream = host.model->cuda_stream();
  if (host.model->element() == ElementType::kBf16) cache_options.open_codec = Codec::kBf16;
  VKV_TRY_ASSIGN(cache, Cache::open(cache_options));
  host.cache = std::move(cache);
  VKV_TRY_ASSIGN(generator, Generator::make(host.model.get(), host.tokenizer.get(),
                                            host.cache.get(), options.generator));
  host.generator = std::make_unique<Generator>(std::move(generator));
  return host;
}

}  // namespace vkv
