/* A C program can do all that a C++ one can: the C ABI's calls, from options to saved sequences.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/c_tests.h"

int failure_count = 0;
struct tensors tensors;

static uint32_t random_state = 1;

/* -1..1 */
static float next_value(void) {
  random_state = random_state * 1664525u + 1013904223u;
  return (float)(random_state >> 8) / 8388608.0f - 1.0f;
}

static void fill_tensors(void) {
  for (int i = 0; i < TOKENS_MAX * KV_ROW; ++i) {
    tensors.k[i] = next_value();
    tensors.v[i] = next_value();
  }
  for (int i = 0; i < TOKENS_MAX * Q_ROW; ++i) tensors.q[i] = next_value();
  memset(tensors.roles, VKV_ROLE_VISUAL, TOKENS_MAX);
  memset(tensors.roles, VKV_ROLE_TEXT, 8);
  memset(tensors.roles + TOKENS_MAX - 8, VKV_ROLE_TEXT, 8);
}

vkv_options small_options(void) {
  vkv_options options;
  CHECK_OK(vkv_options_init(&options, sizeof options));
  options.layers = LAYERS;
  options.q_heads = Q_HEADS;
  options.kv_heads = KV_HEADS;
  options.head_dim = HEAD_DIM;
  options.preset = "visual2";
  options.dram_bytes_max = 16 << 20;
  options.extent_bytes_max = 1 << 16;
  options.recent_tokens = 16;
  options.threads = 2;
  return options;
}

vkv_cache* must_open(const vkv_options* options) {
  vkv_cache* cache = NULL;
  CHECK_OK(vkv_open(options, &cache));
  CHECK(cache != NULL);
  return cache;
}

vkv_sequence must_create(vkv_cache* cache) {
  vkv_sequence sequence = 0;
  CHECK_OK(vkv_create_sequence(cache, &sequence));
  CHECK(sequence != 0);
  return sequence;
}

vkv_append_request append_of(vkv_sequence sequence, int64_t token_count) {
  return (vkv_append_request){.struct_size = sizeof(vkv_append_request),
                              .sequence = sequence,
                              .token_count = token_count,
                              .k = tensors.k,
                              .v = tensors.v,
                              .roles = tensors.roles};
}

vkv_attend_request attend_of(vkv_sequence sequence, int64_t q_len) {
  return (vkv_attend_request){.struct_size = sizeof(vkv_attend_request),
                              .sequence = sequence,
                              .q_len = q_len,
                              .q = tensors.q,
                              .out = tensors.out};
}

void feed(vkv_cache* cache, vkv_sequence sequence, int64_t token_count, int32_t ends_window) {
  for (int32_t layer = 0; layer < LAYERS; ++layer) {
    const vkv_append_request append = append_of(sequence, token_count);
    vkv_attend_request attend = attend_of(sequence, token_count);
    attend.ends_window = ends_window;
    CHECK_OK(vkv_append_batch(cache, layer, &append, 1));
    CHECK_OK(vkv_attend(cache, layer, &attend, 1));
  }
}

void store_path(char* path) {
  const char* folder = getenv("TMPDIR");
  snprintf(path, 64, "%.40s/vkv_c_api_XXXXXX", folder != NULL ? folder : "/tmp");
  const int file = mkstemp(path);
  CHECK(file >= 0);
  close(file);
  unlink(path);
}

/* Against attention in double precision, over 16-bit K and V. */
static void outputs_are_those_of_attention(void) {
  enum { TOKENS = 100 };
  vkv_options options = small_options();
  options.preset = "exact";
  vkv_cache* cache = must_open(&options);
  const vkv_sequence sequence = must_create(cache);
  feed(cache, sequence, TOKENS, 1);

  double error_max = 0;
  for (int head = 0; head < Q_HEADS; ++head) {
    const int kv_head = head / (Q_HEADS / KV_HEADS);
    const float* q = tensors.q + (TOKENS - 1) * Q_ROW + head * HEAD_DIM;
    double sum = 0, expected[HEAD_DIM] = {0};
    for (int t = 0; t < TOKENS; ++t) {
      const float* k = tensors.k + t * KV_ROW + kv_head * HEAD_DIM;
      const float* v = tensors.v + t * KV_ROW + kv_head * HEAD_DIM;
      double score = 0;
      for (int i = 0; i < HEAD_DIM; ++i) score += (double)q[i] * k[i];
      const double weight = exp(score / sqrt(HEAD_DIM));
      sum += weight;
      for (int i = 0; i < HEAD_DIM; ++i) expected[i] += weight * v[i];
    }
    const float* out = tensors.out + (TOKENS - 1) * Q_ROW + head * HEAD_DIM;
    for (int i = 0; i < HEAD_DIM; ++i) {
      const double error = fabs(out[i] - expected[i] / sum);
      if (error > error_max) error_max = error;
    }
  }
  CHECK(error_max < 1e-3);
  CHECK_OK(vkv_close(cache));
}

static void sequences_live_and_die(void) {
  const vkv_options options = small_options();
  vkv_cache* cache = must_open(&options);
  const vkv_sequence parent = must_create(cache);
  feed(cache, parent, TOKENS_MAX, 1);

  vkv_sequence child = 0;
  CHECK_OK(vkv_fork(cache, parent, &child));
  CHECK(child != 0 && child != parent);
  feed(cache, child, 1, 0);
  CHECK_OK(vkv_truncate(cache, child, 1));
  CHECK_OK(vkv_settle(cache));
  CHECK_FAILS(vkv_truncate(cache, child, TOKENS_MAX), VKV_UNSUPPORTED, "can go");

  vkv_sequence_stats stats = {.struct_size = sizeof stats};
  CHECK_OK(vkv_get_sequence_stats(cache, child, &stats));
  CHECK(stats.struct_size == sizeof stats);
  CHECK(stats.token_count == TOKENS_MAX);
  const vkv_role_stats* visual = &stats.role[VKV_ROLE_VISUAL];
  CHECK(visual->struct_size == sizeof *visual && visual->token_count == TOKENS_MAX - 16);
  CHECK(visual->value_count == visual->token_count * 2 * LAYERS * KV_ROW);
  CHECK(visual->stored_bits < 8 * visual->value_count); /* encoded, most of it in 4 and 2 bits */

  CHECK_OK(vkv_erase(cache, parent));
  CHECK_FAILS(vkv_erase(cache, parent), VKV_NOT_FOUND, "there is no sequence");
  vkv_stats all = {.struct_size = sizeof all};
  CHECK_OK(vkv_get_stats(cache, &all));
  CHECK(all.sequence_count == 1 && all.sealed_token_count > 0);
  CHECK(all.tier[VKV_TIER_DRAM].struct_size == sizeof(vkv_tier_stats));
  CHECK(all.tier[VKV_TIER_DRAM].bytes_max == options.dram_bytes_max);
  CHECK(all.tier[VKV_TIER_DRAM].bytes_used > 0);
  CHECK_OK(vkv_close(cache));
}

static void several_sequences_attend_in_one_call(void) {
  const vkv_options options = small_options();
  vkv_cache* cache = must_open(&options);
  vkv_attend_request requests[3];
  for (int i = 0; i < 3; ++i) {
    const vkv_sequence sequence = must_create(cache);
    const vkv_append_request append = append_of(sequence, 4 + i);
    CHECK_OK(vkv_append(cache, 0, &append));
    requests[i] = attend_of(sequence, 4 + i);
    requests[i].out = tensors.out + i * 16 * Q_ROW;
  }
  CHECK_OK(vkv_attend(cache, 0, requests, 3));
  /* The first tokens are the same in all three, and see no others. */
  CHECK(memcmp(tensors.out, tensors.out + 16 * Q_ROW, sizeof(float) * Q_ROW) == 0);
  requests[2].sequence = requests[0].sequence;
  CHECK_FAILS(vkv_attend(cache, 0, requests, 3), VKV_INVALID_ARGUMENT, "stands twice");
  CHECK_OK(vkv_close(cache));
}

static void lists_tell_how_long_they_are(void) {
  const vkv_options options = small_options();
  vkv_cache* cache = must_open(&options);
  const vkv_sequence sequence = must_create(cache);
  feed(cache, sequence, TOKENS_MAX, 1);

  int64_t count = 0;
  CHECK_OK(vkv_sequence_forms(cache, sequence, NULL, 0, &count));
  CHECK(count >= 3 && count <= 16);
  vkv_form_stats forms[16] = {{.struct_size = sizeof forms[0]}};
  int64_t again = 0;
  CHECK_OK(vkv_sequence_forms(cache, sequence, forms, 16, &again));
  CHECK(again == count);
  int low_visual = 0;
  for (int64_t i = 0; i < count; ++i) {
    CHECK(forms[i].struct_size == sizeof forms[i] && forms[i].token_count > 0);
    low_visual |= forms[i].role == VKV_ROLE_VISUAL && forms[i].form == VKV_FORM_LOW &&
                  forms[i].k_codec == VKV_CODEC_I4 && forms[i].v_codec == VKV_CODEC_I2;
  }
  CHECK(low_visual);
  /* A short list is filled as far as it goes. */
  vkv_form_stats two[2] = {{.struct_size = sizeof two[0]}, {.struct_size = 77}};
  CHECK_OK(vkv_sequence_forms(cache, sequence, two, 1, &again));
  CHECK(again == count && two[0].token_count == forms[0].token_count);
  CHECK(two[1].struct_size == 77);
  CHECK_OK(vkv_close(cache));
}

static void policies_of_ones_own(void) {
  vkv_policy policy;
  CHECK_OK(vkv_policy_init(&policy, sizeof policy, "visual1"));
  CHECK_TEXT(policy.name, "visual1");
  CHECK(policy.low.k_codec == VKV_CODEC_I2 && policy.low.v_codec == VKV_CODEC_I1);
  CHECK_OK(vkv_policy_validate(&policy));

  vkv_layer_precision layer = {.struct_size = sizeof layer,
                               .layer = 1,
                               .high = policy.high,
                               .low = {.struct_size = sizeof layer.low,
                                       .k_codec = VKV_CODEC_I8,
                                       .v_codec = VKV_CODEC_I4,
                                       .k_spread = 1,
                                       .v_spread = 1}};
  policy.name = "of my own";
  policy.layers = &layer;
  policy.layer_count = 1;
  vkv_layer_precision told = {.struct_size = sizeof told};
  CHECK_OK(vkv_policy_layer(&policy, 1, &told));
  CHECK(told.layer == 1 && told.low.k_codec == VKV_CODEC_I8);
  CHECK_OK(vkv_policy_layer(&policy, 0, &told));
  CHECK(told.layer == 0 && told.low.k_codec == VKV_CODEC_I2);

  vkv_options options = small_options();
  options.preset = NULL;
  options.policy = &policy;
  vkv_cache* cache = must_open(&options);
  /* The cache has copies, and gives them back. */
  memset(&layer, 0xff, sizeof layer);
  vkv_options opened = {.struct_size = sizeof opened};
  CHECK_OK(vkv_get_options(cache, &opened));
  CHECK(opened.preset == NULL && opened.policy != NULL && opened.policy != &policy);
  CHECK_TEXT(opened.policy->name, "of my own");
  CHECK(opened.policy->layer_count == 1 && opened.policy->layers[0].layer == 1);
  CHECK(opened.policy->layers[0].low.v_codec == VKV_CODEC_I4);
  CHECK(opened.score_scale == 0.125f); /* the default, filled in */
  CHECK(opened.store_path == NULL && opened.head_dim == HEAD_DIM);
  CHECK_OK(vkv_policy_validate(opened.policy));

  int presets = 0;
  for (; vkv_preset_name(presets) != NULL; ++presets)
    CHECK_OK(vkv_policy_init(&policy, sizeof policy, vkv_preset_name(presets)));
  CHECK(presets == 7);
  CHECK(vkv_preset_name(-1) == NULL);
  CHECK_OK(vkv_close(cache));
}

static void engines_have_names(void) {
  const vkv_options options = small_options();
  vkv_cache* cache = must_open(&options);
  const char* name = NULL;
  CHECK_OK(vkv_get_engine(cache, &name));
  CHECK(name != NULL && strstr(name, "cpu") != NULL);
  CHECK_OK(vkv_get_io_engine(cache, &name));
  CHECK_TEXT(name, "none");
  CHECK_OK(vkv_close(cache));
}

static void saved_sequences_outlive_their_cache(void) {
  char path[64];
  store_path(path);
  vkv_options options = small_options();
  options.nvme_bytes_max = 16 << 20;
  options.store_path = path;
  options.keep_store = 1;
  uint8_t key[VKV_KEY_BYTES] = {0xab, 0xcd};
  char hex[VKV_KEY_HEX_BYTES];
  CHECK_OK(vkv_key_to_hex(key, hex));
  CHECK(strlen(hex) == 64 && strncmp(hex, "abcd00", 6) == 0);

  vkv_cache* cache = must_open(&options);
  const vkv_sequence sequence = must_create(cache);
  feed(cache, sequence, TOKENS_MAX, 1);
  CHECK_OK(vkv_save(cache, sequence, key));
  feed(cache, sequence, 1, 0);
  static float expected[Q_ROW];
  memcpy(expected, tensors.out, sizeof expected);
  CHECK_OK(vkv_close(cache));

  cache = must_open(&options);
  int64_t count = 0;
  vkv_saved_sequence saved = {.struct_size = sizeof saved};
  CHECK_OK(vkv_saved(cache, &saved, 1, &count));
  CHECK(count == 1 && memcmp(saved.key, key, sizeof key) == 0);
  CHECK(saved.token_count == TOKENS_MAX && saved.fits_options == 1 && saved.byte_count > 0);
  vkv_sequence restored = 0;
  CHECK_OK(vkv_restore(cache, key, &restored));
  feed(cache, restored, 1, 0);
  CHECK(memcmp(expected, tensors.out, sizeof expected) == 0);
  CHECK_OK(vkv_erase_saved(cache, key));
  CHECK_FAILS(vkv_erase_saved(cache, key), VKV_NOT_FOUND, "abcd00");
  CHECK_OK(vkv_close(cache));
  CHECK(access(path, F_OK) == 0);
  unlink(path);
}

static void* fail_in_a_thread(void* unused) {
  (void)unused;
  CHECK_TEXT(vkv_last_error(), "");
  CHECK_FAILS(vkv_settle(NULL), VKV_INVALID_ARGUMENT, "cache is NULL");
  return NULL;
}

static void each_thread_has_words_of_its_own(void) {
  CHECK_FAILS(vkv_shape_validate(1, 1, 1, 7), VKV_INVALID_ARGUMENT, "head_dim is 7");
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, fail_in_a_thread, NULL) == 0);
  pthread_join(thread, NULL);
  CHECK(strstr(vkv_last_error(), "head_dim is 7") != NULL);
  CHECK_OK(vkv_shape_validate(1, 1, 1, 8));
}

static void* use_until_closed(void* handle) {
  vkv_cache* cache = handle;
  int32_t code = VKV_OK;
  while (code == VKV_OK) {
    vkv_sequence sequence = 0;
    code = vkv_create_sequence(cache, &sequence);
    if (code != VKV_OK) break;
    const vkv_append_request append = append_of(sequence, 8);
    code = vkv_append(cache, 0, &append);
    if (code == VKV_OK) code = vkv_erase(cache, sequence);
  }
  CHECK(code == VKV_INVALID_ARGUMENT);
  CHECK(strstr(vkv_last_error(), "is closed") != NULL);
  return NULL;
}

static void a_cache_can_be_closed_while_others_call(void) {
  enum { THREADS = 3 };
  const vkv_options options = small_options();
  for (int round = 0; round < 10; ++round) {
    vkv_cache* cache = must_open(&options);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; ++i)
      CHECK(pthread_create(&threads[i], NULL, use_until_closed, cache) == 0);
    usleep(2000);
    CHECK_OK(vkv_close(cache));
    for (int i = 0; i < THREADS; ++i) pthread_join(threads[i], NULL);
  }
}

int main(void) {
  fill_tensors();
  numbers_have_the_words_of_the_library();
  headers_and_library_are_of_one_version();
  outputs_are_those_of_attention();
  sequences_live_and_die();
  several_sequences_attend_in_one_call();
  lists_tell_how_long_they_are();
  policies_of_ones_own();
  engines_have_names();
  saved_sequences_outlive_their_cache();
  each_thread_has_words_of_its_own();
  a_cache_can_be_closed_while_others_call();
  wrong_handles_are_told();
  wrong_structs_are_told();
  wrong_numbers_are_told();
  failed_calls_write_nothing();
  if (failure_count == 0) printf("all right\n");
  return failure_count == 0 ? 0 : 1;
}
