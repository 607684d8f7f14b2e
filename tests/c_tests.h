/* Tests in C: checks that count what fails, the cases there are, a small model to play with.
 * SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "vkv/vkv.h"

extern int failure_count;

#define CHECK(condition)                                             \
  do {                                                               \
    if (!(condition)) {                                              \
      printf("%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      ++failure_count;                                               \
    }                                                                \
  } while (0)

#define CHECK_TEXT(text, expected)                                                 \
  do {                                                                             \
    if (strcmp(text, expected) != 0) {                                             \
      printf("%s:%d: \"%s\" is not \"%s\"\n", __FILE__, __LINE__, text, expected); \
      ++failure_count;                                                             \
    }                                                                              \
  } while (0)

/* The call succeeds and says nothing. */
#define CHECK_OK(call)                                                                    \
  do {                                                                                    \
    const int32_t got_code = (call);                                                      \
    if (got_code != VKV_OK || vkv_last_error()[0] != '\0') {                              \
      printf("%s:%d: %s: %s: %s\n", __FILE__, __LINE__, #call, vkv_status_name(got_code), \
             vkv_last_error());                                                           \
      ++failure_count;                                                                    \
    }                                                                                     \
  } while (0)

/* The call fails with that code and with words that contain these. */
#define CHECK_FAILS(call, wanted, words)                                                   \
  do {                                                                                     \
    const int32_t got_code = (call);                                                       \
    if (got_code != (wanted) || strstr(vkv_last_error(), words) == NULL) {                 \
      printf("%s:%d: %s: %s: \"%s\", not %s: \"...%s...\"\n", __FILE__, __LINE__, #call,   \
             vkv_status_name(got_code), vkv_last_error(), vkv_status_name(wanted), words); \
      ++failure_count;                                                                     \
    }                                                                                      \
  } while (0)

enum { LAYERS = 2, Q_HEADS = 4, KV_HEADS = 2, HEAD_DIM = 64, TOKENS_MAX = 512 };
enum { KV_ROW = KV_HEADS * HEAD_DIM, Q_ROW = Q_HEADS * HEAD_DIM };

/* Values of TOKENS_MAX tokens and their roles, an image between some text. */
struct tensors {
  float k[TOKENS_MAX * KV_ROW], v[TOKENS_MAX * KV_ROW];
  float q[TOKENS_MAX * Q_ROW], out[TOKENS_MAX * Q_ROW];
  uint8_t roles[TOKENS_MAX];
};
extern struct tensors tensors;

/* Options of a small model with preset visual2 and 16 MiB of DRAM. */
vkv_options small_options(void);
vkv_cache* must_open(const vkv_options* options);
vkv_sequence must_create(vkv_cache* cache);

vkv_append_request append_of(vkv_sequence sequence, int64_t token_count);
vkv_attend_request attend_of(vkv_sequence sequence, int64_t q_len);

/* One window of tokens through all layers. */
void feed(vkv_cache* cache, vkv_sequence sequence, int64_t token_count, int32_t ends_window);

/* A file of its own for a store; [64]. */
void store_path(char* path);

void numbers_have_the_words_of_the_library(void);
void headers_and_library_are_of_one_version(void);
void wrong_handles_are_told(void);
void wrong_structs_are_told(void);
void wrong_numbers_are_told(void);
void failed_calls_write_nothing(void);
