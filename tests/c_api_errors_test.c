/* Bad input to the C ABI is an error that names it: handles, structs, numbers; nothing is written.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "tests/c_tests.h"

void wrong_handles_are_told(void) {
  const vkv_options options = small_options();
  vkv_cache* closed = must_open(&options);
  const vkv_sequence sequence = must_create(closed);
  CHECK_OK(vkv_close(closed));
  CHECK_OK(vkv_close(NULL));
  CHECK_FAILS(vkv_close(closed), VKV_INVALID_ARGUMENT, "is closed: vkv_close was called");

  int no_cache = 0;
  vkv_cache* const wrong[] = {NULL, closed, (vkv_cache*)(void*)&no_cache, (vkv_cache*)UINTPTR_MAX};
  const char* const words[] = {"cache is NULL", "is closed", "no handle", "no handle"};
  const uint8_t key[VKV_KEY_BYTES] = {0};
  for (int i = 0; i < 4; ++i) {
    vkv_cache* cache = wrong[i];
    const vkv_append_request append = append_of(sequence, 1);
    const vkv_attend_request attend = attend_of(sequence, 1);
    vkv_options told = {.struct_size = sizeof told};
    vkv_stats stats = {.struct_size = sizeof stats};
    vkv_sequence_stats sequence_stats = {.struct_size = sizeof sequence_stats};
    vkv_saved_sequence saved = {.struct_size = sizeof saved};
    vkv_form_stats forms = {.struct_size = sizeof forms};
    vkv_sequence made = 0;
    const char* name = NULL;
    int64_t count = 0;
    if (i > 0) CHECK_FAILS(vkv_close(cache), VKV_INVALID_ARGUMENT, words[i]);
    CHECK_FAILS(vkv_get_options(cache, &told), VKV_INVALID_ARGUMENT, words[i]);
    CHECK_FAILS(vkv_get_engine(cache, &name), VKV_INVALID_ARGUMENT, words[i]);
    CHECK_FAILS(vkv_get_io_engine(cache, &name), VKV_INVALID_ARGUMENT, words[i]);
    CHECK_FAILS(vkv_create_sequence(cache, &made), VKV_INVALID_ARGUMENT, words[i]);
    CHECK_FAILS(vkv_fork(cache, sequence, &made), VKV_INVALID_ARGUMENT, words[i]);
    CHECK_FAILS(vkv_erase(cache, sequence), VKV_INVALID_ARGUMENT, words[i]);
    CHECK_FAILS(vkv_truncate(cache, sequence, 0), VKV_INVALID_ARGUMENT, words[i]);
    CHECK_FAILS(vkv_append(cache, 0, &append), VKV_INVALID_ARGUMENT, words[i]);
    CHECK_FAILS(vkv_attend(cache, 0, &attend, 1), VKV_INVALID_ARGUMENT, words[i]);
    CHECK_FAILS(vkv_settle(cache), VKV_INVALID_ARGUMENT, words[i]);
    CHECK_FAILS(vkv_save(cache, sequence, key), VKV_INVALID_ARGUMENT, words[i]);
    CHECK_FAILS(vkv_restore(cache, key, &made), VKV_INVALID_ARGUMENT, words[i]);
    CHECK_FAILS(vkv_erase_saved(cache, key), VKV_INVALID_ARGUMENT, words[i]);
    CHECK_FAILS(vkv_saved(cache, &saved, 1, &count), VKV_INVALID_ARGUMENT, words[i]);
    CHECK_FAILS(vkv_get_stats(cache, &stats), VKV_INVALID_ARGUMENT, words[i]);
    CHECK_FAILS(vkv_get_sequence_stats(cache, sequence, &sequence_stats), VKV_INVALID_ARGUMENT,
                words[i]);
    CHECK_FAILS(vkv_sequence_forms(cache, sequence, &forms, 1, &count), VKV_INVALID_ARGUMENT,
                words[i]);
    CHECK(made == 0 && name == NULL && count == 0);
  }

  /* A new cache gets a new handle, so the old one stays wrong. */
  vkv_cache* next = must_open(&options);
  CHECK(next != closed);
  CHECK_FAILS(vkv_settle(closed), VKV_INVALID_ARGUMENT, "is closed");
  CHECK_OK(vkv_close(next));
}

/* Every struct of every call, with each of its wrong sizes. */
void wrong_structs_are_told(void) {
  vkv_options options = small_options();
  vkv_cache* cache = must_open(&options);
  const vkv_sequence sequence = must_create(cache);
  vkv_cache* opened = NULL;

  /* Smaller: invalid. Larger: of a newer library, or garbage. */
  const size_t sizes[] = {0, 1, 8, sizeof(vkv_options) - 8, sizeof(vkv_options) + 8, SIZE_MAX};
  for (int i = 0; i < 6; ++i) {
    const int32_t expected = i < 4 ? VKV_INVALID_ARGUMENT : VKV_UNSUPPORTED;
    options.struct_size = sizes[i];
    CHECK_FAILS(vkv_open(&options, &opened), expected, "options.struct_size is ");
    CHECK_FAILS(vkv_get_options(cache, &options), expected, "options.struct_size is ");
    CHECK_FAILS(vkv_options_init(&options, sizes[i]), expected, "options.struct_size is ");
  }
  CHECK_FAILS(vkv_open(NULL, &opened), VKV_INVALID_ARGUMENT, "options is NULL");
  CHECK_FAILS(vkv_options_init(NULL, sizeof options), VKV_INVALID_ARGUMENT, "options is NULL");
  options = small_options();
  CHECK_FAILS(vkv_open(&options, NULL), VKV_INVALID_ARGUMENT, "cache is NULL");
  CHECK_FAILS(vkv_open((const vkv_options*)(const void*)((const char*)&options + 1), &opened),
              VKV_INVALID_ARGUMENT, "options is not aligned to 8 bytes");

  vkv_policy policy;
  CHECK_FAILS(vkv_policy_init(&policy, 3, "exact"), VKV_INVALID_ARGUMENT,
              "policy.struct_size is 3");
  CHECK_FAILS(vkv_policy_init(&policy, sizeof policy, NULL), VKV_INVALID_ARGUMENT,
              "preset is NULL");
  CHECK_FAILS(vkv_policy_init(&policy, sizeof policy, "visual9"), VKV_INVALID_ARGUMENT,
              "'visual9'; there are exact safe");
  CHECK_OK(vkv_policy_init(&policy, sizeof policy, "visual2"));
  policy.low.struct_size = 31;
  CHECK_FAILS(vkv_policy_validate(&policy), VKV_INVALID_ARGUMENT, "policy.low.struct_size is 31");
  policy.low.struct_size = sizeof policy.low;
  vkv_layer_precision layer = {.struct_size = 5};
  CHECK_FAILS(vkv_policy_layer(&policy, 0, &layer), VKV_INVALID_ARGUMENT, "layer.struct_size is 5");
  policy.layers = &layer;
  policy.layer_count = 1;
  CHECK_FAILS(vkv_policy_validate(&policy), VKV_INVALID_ARGUMENT,
              "policy.layers[0].struct_size is 5");
  CHECK_FAILS(vkv_policy_validate(NULL), VKV_INVALID_ARGUMENT, "policy is NULL");

  vkv_append_request append = append_of(sequence, 1);
  append.struct_size = 40;
  CHECK_FAILS(vkv_append(cache, 0, &append), VKV_INVALID_ARGUMENT, "request.struct_size is 40");
  CHECK_FAILS(vkv_append(cache, 0, NULL), VKV_INVALID_ARGUMENT, "request is NULL");
  vkv_attend_request attend[2] = {attend_of(sequence, 1), attend_of(sequence, 1)};
  attend[1].struct_size = 0;
  CHECK_FAILS(vkv_attend(cache, 0, attend, 2), VKV_INVALID_ARGUMENT,
              "requests[1].struct_size is 0");
  CHECK_FAILS(vkv_attend(cache, 0, NULL, 2), VKV_INVALID_ARGUMENT, "requests is NULL");

  vkv_stats stats = {.struct_size = sizeof stats + 1};
  CHECK_FAILS(vkv_get_stats(cache, &stats), VKV_UNSUPPORTED, "stats.struct_size is 385");
  CHECK_FAILS(vkv_get_stats(cache, NULL), VKV_INVALID_ARGUMENT, "stats is NULL");
  vkv_sequence_stats sequence_stats = {0};
  CHECK_FAILS(vkv_get_sequence_stats(cache, sequence, &sequence_stats), VKV_INVALID_ARGUMENT,
              "stats.struct_size is 0");
  vkv_form_stats form = {0};
  int64_t count = 0;
  CHECK_FAILS(vkv_sequence_forms(cache, sequence, &form, 1, &count), VKV_INVALID_ARGUMENT,
              "list[0].struct_size is 0");
  CHECK_FAILS(vkv_sequence_forms(cache, sequence, NULL, 1, &count), VKV_INVALID_ARGUMENT,
              "list[0] is NULL");
  CHECK_FAILS(vkv_sequence_forms(cache, sequence, NULL, 0, NULL), VKV_INVALID_ARGUMENT,
              "count is NULL");
  CHECK(opened == NULL && count == 0);
  CHECK_OK(vkv_close(cache));
}

/* One wrong member of options that are right but for it. */
#define REFUSED(member, value, words)                                    \
  do {                                                                   \
    vkv_options wrong = small_options();                                 \
    wrong.member = (value);                                              \
    CHECK_FAILS(vkv_open(&wrong, &opened), VKV_INVALID_ARGUMENT, words); \
  } while (0)

void wrong_numbers_are_told(void) {
  vkv_cache* opened = NULL;
  vkv_policy policy;
  CHECK_OK(vkv_policy_init(&policy, sizeof policy, "exact"));
  REFUSED(layers, -1, "layers is -1");
  REFUSED(layers, INT32_MAX, "layers is 2147483647; it must be 1 to 65536");
  REFUSED(q_heads, 3, "q_heads is 3");
  REFUSED(q_heads, INT32_MAX - 1, "q_heads is 2147483646; it must be at most 65536");
  REFUSED(kv_heads, 0, "kv_heads is 0");
  REFUSED(head_dim, INT32_MIN, "head_dim is -2147483648");
  REFUSED(element, 3, "options.element is 3; it may be 0 to 2");
  REFUSED(open_codec, VKV_CODEC_I8, "open_codec is i8");
  REFUSED(open_codec, -1, "options.open_codec is -1");
  REFUSED(score_scale, NAN, "score_scale");
  REFUSED(device, 2, "options.device is 2");
  REFUSED(reserved, 1, "options.reserved is 1; it may be 0");
  REFUSED(reserved_2, -1, "options.reserved_2 is -1");
  REFUSED(preset, "none", "'none'; there are");
  REFUSED(policy, &policy, "are both set");
  REFUSED(keep_original, 9, "options.keep_original is 9");
  REFUSED(recent_tokens, -1, "recent_tokens is -1; it may be 16 to 4096");
  REFUSED(quality_sample_fraction, NAN, "quality.sample_fraction is");
  REFUSED(quality_error_bound, -1, "quality.error_bound is");
  REFUSED(quality_action, 2, "options.quality_action is 2");
  REFUSED(keep_store, 2, "options.keep_store is 2; it may be 0 to 1");
  REFUSED(keep_store, 1, "keep_store is set, which needs an nvme budget");
  REFUSED(hbm_bytes_max, 1, "needs device cuda");
  REFUSED(hbm_block_bytes_max, 1, "needs device cuda");
  REFUSED(hbm_ahead_bytes, 1, "needs device cuda");
  REFUSED(extent_bytes_max, 1, "extent_bytes_max is 1");
  REFUSED(prefetch_extents, -5, "prefetch_extents is -5");
  REFUSED(io_backend, 3, "options.io_backend is 3");
  REFUSED(host_share, 2, "host_share is 2");
  REFUSED(threads, -2, "threads is -2");

  policy.low.k_codec = 6;
  CHECK_FAILS(vkv_policy_validate(&policy), VKV_INVALID_ARGUMENT,
              "policy.low.k_codec is 6; it may be 0 to 5");
  policy.low.k_codec = VKV_CODEC_F16;
  policy.high.v_per_token = -1;
  CHECK_FAILS(vkv_policy_validate(&policy), VKV_INVALID_ARGUMENT, "policy.high.v_per_token is -1");
  policy.high.v_per_token = 0;
  policy.layer_count = -1;
  CHECK_FAILS(vkv_policy_validate(&policy), VKV_INVALID_ARGUMENT, "policy.layer_count is -1");
  policy.layer_count = 2;
  CHECK_FAILS(vkv_policy_validate(&policy), VKV_INVALID_ARGUMENT, "policy.layers is NULL");

  vkv_options options = small_options();
  options.dram_bytes_max = 100;
  CHECK_FAILS(vkv_open(&options, &opened), VKV_OUT_OF_MEMORY, "dram budget of 100 bytes");
  CHECK(opened == NULL);
  options = small_options();
  vkv_cache* cache = must_open(&options);
  const vkv_sequence sequence = must_create(cache);

  vkv_append_request append = append_of(sequence, -7);
  CHECK_FAILS(vkv_append(cache, 0, &append), VKV_INVALID_ARGUMENT, "request.token_count is -7");
  append.token_count = INT64_MAX;
  CHECK_FAILS(vkv_append(cache, 0, &append), VKV_INVALID_ARGUMENT, "request.token_count is 92");
  append = append_of(sequence, 1);
  CHECK_FAILS(vkv_append(cache, -1, &append), VKV_INVALID_ARGUMENT, "layer is -1");
  CHECK_FAILS(vkv_append(cache, LAYERS, &append), VKV_INVALID_ARGUMENT, "layer is 2");
  CHECK_FAILS(vkv_append(cache, 1, &append), VKV_INVALID_ARGUMENT, "append to the layers in order");
  append.k = NULL;
  CHECK_FAILS(vkv_append(cache, 0, &append), VKV_INVALID_ARGUMENT, "request.k is NULL");
  append.k = (const char*)tensors.k + 2;
  CHECK_FAILS(vkv_append(cache, 0, &append), VKV_INVALID_ARGUMENT,
              "request.k is not aligned to 4 bytes");
  append = append_of(sequence, 1);
  append.roles = NULL;
  CHECK_FAILS(vkv_append(cache, 0, &append), VKV_INVALID_ARGUMENT, "request.roles is NULL");
  const uint8_t no_role = 4;
  append.roles = &no_role;
  CHECK_FAILS(vkv_append(cache, 0, &append), VKV_INVALID_ARGUMENT, "a role is none of");
  append = append_of(sequence + 100, 1);
  CHECK_FAILS(vkv_append(cache, 0, &append), VKV_NOT_FOUND, "there is no sequence");
  static float infinite[KV_ROW];
  infinite[5] = INFINITY;
  append = append_of(sequence, 1);
  append.v = infinite;
  CHECK_FAILS(vkv_append(cache, 0, &append), VKV_INVALID_ARGUMENT, "finite");

  vkv_append_request two[2] = {append_of(sequence, 1), append_of(sequence, 1)};
  CHECK_FAILS(vkv_append_batch(cache, 0, two, 2), VKV_INVALID_ARGUMENT, "stands twice");
  CHECK_FAILS(vkv_append_batch(cache, 0, two, 0), VKV_INVALID_ARGUMENT, "request_count is 0");
  CHECK_FAILS(vkv_append_batch(cache, 0, NULL, 1), VKV_INVALID_ARGUMENT, "requests is NULL");
  two[1].v = NULL;
  CHECK_FAILS(vkv_append_batch(cache, 0, two, 2), VKV_INVALID_ARGUMENT, "requests[1].v is NULL");

  vkv_attend_request attend = attend_of(sequence, 1);
  CHECK_FAILS(vkv_attend(cache, 0, &attend, 1), VKV_INVALID_ARGUMENT, "append before attend");
  CHECK_FAILS(vkv_attend(cache, 0, &attend, 0), VKV_INVALID_ARGUMENT, "request_count is 0");
  CHECK_FAILS(vkv_attend(cache, 0, &attend, -1), VKV_INVALID_ARGUMENT, "request_count is -1");
  attend.q_len = -1;
  CHECK_FAILS(vkv_attend(cache, 0, &attend, 1), VKV_INVALID_ARGUMENT, "requests[0].q_len is -1");
  attend = attend_of(sequence, 1);
  attend.ends_window = 2;
  CHECK_FAILS(vkv_attend(cache, 0, &attend, 1), VKV_INVALID_ARGUMENT, "ends_window is 2");
  attend = attend_of(sequence, 1);
  attend.reserved = 3;
  CHECK_FAILS(vkv_attend(cache, 0, &attend, 1), VKV_INVALID_ARGUMENT, "requests[0].reserved is 3");
  attend = attend_of(sequence, 1);
  attend.out = NULL;
  CHECK_FAILS(vkv_attend(cache, 0, &attend, 1), VKV_INVALID_ARGUMENT, "requests[0].out is NULL");
  CHECK_FAILS(vkv_truncate(cache, sequence, -1), VKV_INVALID_ARGUMENT, "token_count is -1");
  CHECK_FAILS(vkv_truncate(cache, sequence, 1), VKV_INVALID_ARGUMENT, "cannot drop 1");
  CHECK_OK(vkv_close(cache));
}

void failed_calls_write_nothing(void) {
  const vkv_options options = small_options();
  vkv_cache* cache = must_open(&options);
  vkv_sequence made = 42;
  int64_t count = 43;
  const uint8_t key[VKV_KEY_BYTES] = {0};
  CHECK_FAILS(vkv_fork(cache, 99, &made), VKV_NOT_FOUND, "there is no sequence 99");
  CHECK_FAILS(vkv_restore(cache, key, &made), VKV_UNSUPPORTED, "keep_store");
  CHECK_FAILS(vkv_saved(cache, NULL, 0, &count), VKV_UNSUPPORTED, "keep_store");
  CHECK_FAILS(vkv_save(cache, must_create(cache), key), VKV_UNSUPPORTED, "keep_store");
  CHECK_FAILS(vkv_restore(cache, NULL, &made), VKV_INVALID_ARGUMENT, "key is NULL");
  CHECK_FAILS(vkv_create_sequence(cache, NULL), VKV_INVALID_ARGUMENT, "sequence is NULL");
  CHECK_FAILS(vkv_saved(cache, NULL, -1, &count), VKV_INVALID_ARGUMENT, "capacity is -1");
  CHECK(made == 42 && count == 43);

  vkv_stats before = {.struct_size = sizeof before};
  CHECK_OK(vkv_get_stats(cache, &before));
  CHECK_FAILS(vkv_create_sequence(cache, NULL), VKV_INVALID_ARGUMENT, "NULL");
  vkv_stats after = {.struct_size = sizeof after};
  CHECK_OK(vkv_get_stats(cache, &after));
  CHECK(before.sequence_count == after.sequence_count);
  CHECK(before.tier[VKV_TIER_DRAM].bytes_used == after.tier[VKV_TIER_DRAM].bytes_used);
  CHECK_OK(vkv_close(cache));
}
