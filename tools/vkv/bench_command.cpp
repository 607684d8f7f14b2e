// bench_command.cpp: the flags of `vkv bench`.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/bench_command.h"

#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>

#include "cpu/cpu_backend.h"
#include "tools/mllm/forward_request.h"
#include "tools/vkv/exit_code.h"
#include "tools/vkv/model_shapes.h"

namespace vkv {
namespace {

constexpr const char* kAbout = R"(
Each benchmark measures a limit of this machine in the same run and compares with it. Speeds
depend on what else runs: look at the fraction of the limit, not at the speed alone.

Examples:
  vkv bench encode               all threads, 512 MiB of K and V
  vkv bench encode --threads 1   one thread: what the arithmetic takes
  vkv bench encode --device cuda --blocks 1024
  vkv bench encode --json        for scripts
  vkv bench attend               decoding with Qwen2.5-VL-7B's heads over 128K tokens, on a GPU
  vkv bench attend --q-heads 32 --kv-heads 32 --tokens 32768 --batch 8 --codecs i8,i4/i2
  vkv bench attend --tokens 32768 --q-len 2048 --torch python3
  vkv bench decode               a step of Qwen2.5-7B with 32K tokens in its cache, on a GPU
  vkv bench decode --model llava-1.5-7b --tokens 8192 --preset exact
  vkv bench decode --preset balanced,visual1 --tokens 8192,131072 --batch 1,4
                   --paths stream,cpu,split --report decode.html
  vkv bench prefill              a prompt of 32K tokens until its first logits, on a GPU
  vkv bench peers --python python3 --report peers.html
                                 beside transformers' caches, on a GPU
  vkv bench cpu                  attention by the CPU, from DRAM
  vkv bench store --folder /mnt/nvme
                                 the NVMe tier against a plain loop over io_uring)";

constexpr const char* kEncodeAbout = R"(
Encodes blocks of 128 tokens that lie in memory, not in a cache, and prints for each pair of codecs
  GB/s             of 16-bit K and V
  of memcpy        that speed against memcpy of 256 MiB by the same threads
  ns/value         all threads together
  ns/value cached  the same when four blocks are encoded again and again: what the arithmetic takes.
                   Where it is close to ns/value, the arithmetic is the limit, else the memory.
With --device cuda the limit is a kernel that only reads:
  MB               16-bit K and V read, and records written
  us, GB/s         of the device, for these bytes
  of read          that speed against reading
  host us          until the call returned)";

constexpr const char* kAttendAbout = R"(
Attention on the GPU (CUDA's current one) over records of random codes, and for each pair of codecs
  MB       of records that one call reads
  us       of one call, when calls follow each other on different records, as those of layers do
  of read  that speed against a kernel that only reads, from the same tier
With more than 16 queries (a chunk of a prompt, which sees itself causally)
  TFLOP/s  of the two products, counting only what queries see
With --torch, what PyTorch takes for the same lengths at bf16, by its fastest way, and
  torch    its time over ours: above 1, we are faster)";

constexpr const char* kDecodeAbout = R"(
A decoder with random weights of a model's shapes, and a cache filled with random K and V, decodes
one token a step:
  weights, K and V  bytes that a step has to read; of K and V all that is stored, tables included
  bound             these bytes at the speed of a kernel that only reads, measured in the same run;
                    what lies in DRAM comes through the link, while weights are read and then, and
                    where the CPU attends too, by what it reached
  step              median, from the call until the logits are in host memory
  attention         append and attend in all layers, by CUDA events
  products          with weights, one behind another without what stands between; the rest is that
Kernels between attentions run as CUDA graphs; the last line is without.

Lists (--preset, --tokens, --batch, --paths) give a line for each combination:
  resident   all blocks in HBM
  zero-copy  none there: the GPU reads them through the link while it attends
  stream     the same, and copies are made ahead while weights are read
  cpu        the CPU attends to all of them
  split      all three at once, as measured times say
The trace opens in chrome://tracing or ui.perfetto.dev; it needs the toolkit's CUPTI.)";

void add_decode(CLI::App& command, BenchDecodeArguments& a) {
  CLI::App* decode = command.add_subcommand("decode", "A decode step of a whole model");
  decode->footer(kDecodeAbout);
  decode->add_option("--model", a.model, "Shapes of: " + model_shape_names())
      ->capture_default_str();
  decode->add_option("--device", a.device, "What decodes")
      ->check(CLI::IsMember({"cuda"}))
      ->capture_default_str();
  const auto number = [&](const char* flag, int& value, int least, int most, const char* what) {
    decode->add_option(flag, value, what)->check(CLI::Range(least, most))->capture_default_str();
  };
  const auto numbers = [&](const char* flag, std::vector<int>& values, int least, int most,
                           const char* what) {
    decode->add_option(flag, values, what)
        ->delimiter(',')
        ->check(CLI::Range(least, most))
        ->capture_default_str();
  };
  numbers("--tokens", a.tokens, 256, 1 << 24, "Tokens in the cache, of each sequence");
  numbers("--batch", a.batches, 1, kBatchTokensMax, "Sequences that step together");
  decode
      ->add_option("--paths", a.paths,
                   "How blocks may be read: resident, zero-copy, stream, cpu, split (default: "
                   "by the flags for HBM)")
      ->delimiter(',');
  number("--text-tokens", a.text_tokens, 0, 1 << 24, "Of them, text; the rest is visual");
  number("--steps", a.steps, 1, 1 << 20, "Steps; the median counts");
  number("--recent-tokens", a.recent_tokens, 16, 4096, "Newest tokens kept at 16 bit");
  add_hbm_flags(*decode, a.hbm, "");
  decode
      ->add_option("--preset,--policy", a.precisions, "Precision: presets, codecs (i4/i2) or files")
      ->type_name("NAME")
      ->delimiter(',')
      ->capture_default_str();
  decode->add_option("--trace", a.trace, "Write a Chrome trace of some steps (one combination)")
      ->type_name("FILE");
  number("--trace-steps", a.trace_steps, 1, 1000, "So many steps");
  decode->add_option("--report", a.report, "Write tables and plots as HTML")->type_name("FILE");
  decode->add_flag("--json", a.json, "Print as JSON");
}

constexpr const char* kPrefillAbout = R"(
A decoder with random weights of a model's shapes takes a prompt, with all blocks in HBM and with
none there (they leave for DRAM while the prompt is computed), and a question behind a fork of it:
  first     the process's first prompt, which takes memory and loads kernels
  prompt    median of the following ones, each a new sequence, until the logits are in host memory
  of HBM    that time against that with all blocks in HBM
  question  until the logits behind it are there; it reads all blocks once, wherever they lie)";

void add_prefill(CLI::App& command, BenchPrefillArguments& a) {
  CLI::App* prefill = command.add_subcommand("prefill", "A prompt, and a question behind it");
  prefill->footer(kPrefillAbout);
  prefill->add_option("--model", a.model, "Shapes of: " + model_shape_names())
      ->capture_default_str();
  prefill
      ->add_option("--preset,--policy", a.precisions, "Precision: presets, codecs (i4/i2) or files")
      ->type_name("NAME")
      ->delimiter(',')
      ->capture_default_str();
  const auto number = [&](const char* flag, int& value, int least, int most, const char* what) {
    prefill->add_option(flag, value, what)->check(CLI::Range(least, most))->capture_default_str();
  };
  number("--tokens", a.tokens, 256, 1 << 20, "Tokens of the prompt");
  number("--text-tokens", a.text_tokens, 0, 1 << 20, "Of them, text; the rest is visual");
  number("--question-tokens", a.question_tokens, 1, 4096, "Tokens of the question");
  number("--rounds", a.rounds, 1, 100, "Prompts; the median counts");
  add_hbm_flags(*prefill, a.hbm, "");
  prefill->add_flag("--json", a.json, "Print as JSON");
}

constexpr const char* kPeersAbout = R"(
Decodes with random weights of bf16 on one GPU and prints, for each way to keep K and V,
  step ms    until the logits of one more token are on the host (TPOT)
  prompt ms  of a prompt until its first logits (TTFT)
  quest. ms  of a question to that prompt
  KV, GPU    GiB of K and V, and of the whole GPU in use, weights included
  host       GiB of the process at its peak
first transformers' DynamicCache in HBM and offloaded, and its QuantizedCache where a backend is
installed, in a Python that has PyTorch and transformers; then vkv with all of exact in HBM, with
exact streamed from DRAM, and presets with so much of their blocks in HBM as --hbm-blocks says, the
rest read by the link and the CPU. Then sequences grow in number: transformers' until the GPU is
full, ours until --batch-budget of HBM is.
A minute or ten; rows are printed as they come.)";

void add_peers(CLI::App& command, BenchPeersArguments& a) {
  CLI::App* peers = command.add_subcommand("peers", "Beside transformers' caches");
  peers->footer(kPeersAbout);
  peers->add_option("--model", a.model, "Shapes of: " + model_shape_names())->capture_default_str();
  peers->add_option("--python", a.python, "Has PyTorch and transformers; none: ours alone")
      ->type_name("PROGRAM")
      ->capture_default_str();
  const auto list = [&](const char* flag, auto& values, const char* what) {
    return peers->add_option(flag, values, what)->delimiter(',')->capture_default_str();
  };
  list("--tokens", a.tokens, "Tokens of a sequence")->check(CLI::Range(256, 1 << 20));
  list("--preset,--policy", a.precisions, "Precision: presets, codecs (i4/i2) or files")
      ->type_name("NAME");
  list("--hbm-blocks", a.hbm_blocks, "Of blocks in HBM: sizes")->type_name("SIZE");
  peers->add_option("--batch-budget", a.batch_budget, "Of HBM where batches grow; 0: no batches")
      ->type_name("SIZE")
      ->capture_default_str();
  const auto number = [&](const char* flag, int& value, int least, int most, const char* what) {
    peers->add_option(flag, value, what)->check(CLI::Range(least, most))->capture_default_str();
  };
  number("--prompt-tokens", a.prompt_tokens, 0, 1 << 20, "Tokens of a prompt; 0: no prompts");
  number("--text-tokens", a.text_tokens, 0, 256, "Of the tokens, text; the rest is visual");
  number("--steps", a.steps, 1, 10000, "Steps; the median counts");
  peers->add_option("--report", a.report, "Also write an HTML page with plots")->type_name("FILE");
  peers->add_flag("--json", a.json, "Print as JSON");
}

constexpr const char* kCpuAbout = R"(
Attention on the CPU over records of random codes in DRAM, in extents as a cache has them, and for
each engine and pair of codecs
  MB             of a layer: records, and the 128 newest tokens at 16 bit
  us             of one call, layer after layer; together they are several times any L3 cache
  of read        that speed against the same number of threads that only read
  ns/token-head  of one thread, for each token and KV head
With --torch, what PyTorch takes for the same lengths at bf16 on as many threads, and
  torch          its time over ours: above 1, we are faster
With --parts, what one thread takes for the parts of a tile in a cache, and for the whole
wake is the time that a loop of nothing takes, there and back, after so long a rest)";

void add_cpu(CLI::App& command, BenchCpuArguments& a) {
  CLI::App* cpu = command.add_subcommand("cpu", "Attention on the CPU, by codec");
  cpu->footer(kCpuAbout);
  const auto number = [&](const char* flag, int& value, int least, int most, const char* what) {
    cpu->add_option(flag, value, what)->check(CLI::Range(least, most))->capture_default_str();
  };
  number("--q-heads", a.q_heads, 1, 1024, "Query heads");
  number("--kv-heads", a.kv_heads, 1, 1024, "KV heads");
  number("--head-dim", a.head_dim, 1, 256, "Channels of a head, in 8s");
  number("--tokens", a.tokens, 1, 1 << 24, "Tokens of a sequence");
  number("--batch", a.batch, 1, 1024, "Sequences");
  number("--q-len", a.q_len, 1, 128, "Queries of a sequence: 1 decodes, more verify a draft");
  number("--threads", a.threads, 0, 1024, "Threads; 0: all that the process may use");
  number("--repetitions", a.repetitions, 1, 1000, "The median of these counts");
  number("--awake-us", a.awake_us, 0, kAwakeUsMax, "So long threads wait for the next call awake");
  cpu->add_option("--codecs", a.codecs, "Codecs of K and V, or pairs")
      ->delimiter(',')
      ->capture_default_str();
  cpu->add_option("--engines", a.engines, "Engines to measure, as VKV_CPU has them")
      ->delimiter(',');
  cpu->add_flag("--parts", a.parts, "Also what the parts of a tile take, in a cache");
  cpu->add_option("--torch", a.torch, "A Python interpreter with PyTorch, to compare with");
  cpu->add_flag("--json", a.json, "Print as JSON");
}

constexpr const char* kStoreAbout = R"(
Writes and reads extents by the store, which computes and compares their checksums, and by a loop
over io_uring that does nothing else, in turns over the same bytes of the same file; with O_DIRECT.
  p50, p99   from the submission of an extent until it was waited for
  cpu s/GB   of the process, kernel included
Then, at 1 MiB, the median of pairs; restoring and decoding a sequence from NVMe; and how long it
takes to open a large store. Takes about 12 GB of disk; see --bytes, --tokens and --recovery.)";

void add_store(CLI::App& command, BenchStoreArguments& a) {
  CLI::App* store = command.add_subcommand("store", "The NVMe tier, against the disk");
  store->footer(kStoreAbout);
  const auto number = [&](const char* flag, int& value, int least, int most, const char* what) {
    store->add_option(flag, value, what)->check(CLI::Range(least, most))->capture_default_str();
  };
  store->add_option("--folder", a.folder, "Where files are made; default: the temporary folder");
  store->add_option("--bytes", a.bytes, "Of extents, written and read")->capture_default_str();
  store->add_option("--extent-kib", a.kib, "Sizes of extents, KiB, in 4s")
      ->delimiter(',')
      ->check(CLI::IsMember({4, 16, 64, 128, 256, 512, 1024, 2048, 4096}))
      ->capture_default_str();
  store->add_option("--depths", a.depths, "Operations under way")
      ->delimiter(',')
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  number("--pairs", a.pairs, 1, 99, "Store and plain loop in turns, at 1 MiB");
  store->add_option("--recovery", a.recovery, "Size of the store that is opened again; 0: none")
      ->capture_default_str();
  number("--tokens", a.tokens, 0, 1 << 20, "Of the sequence that is restored; 0: none");
  store->add_option("--preset", a.preset, "Its precision preset")->capture_default_str();
  store->add_option("--io", a.io, "The store's engine")
      ->check(CLI::IsMember({"auto", "uring", "threads"}))
      ->capture_default_str();
  store->add_flag("--json", a.json, "Print as JSON");
}

void add_attend(CLI::App& command, BenchAttendArguments& a) {
  CLI::App* attend = command.add_subcommand("attend", "Attention on the GPU, by codec");
  attend->footer(kAttendAbout);
  const auto number = [&](const char* flag, int& value, int most, const char* what) {
    attend->add_option(flag, value, what)->check(CLI::Range(1, most))->capture_default_str();
  };
  number("--q-heads", a.q_heads, 1024, "Query heads");
  number("--kv-heads", a.kv_heads, 1024, "KV heads");
  number("--head-dim", a.head_dim, 256, "Channels of a head, in 8s");
  number("--tokens", a.tokens, 1 << 24, "Tokens of a sequence");
  number("--batch", a.batch, 1024, "Sequences");
  number("--q-len", a.q_len, 1 << 16,
         "Queries of a sequence: 1 decodes, up to 16 verify a draft, more are a chunk of a prompt");
  attend->add_option("--codecs", a.codecs, "Codecs of K and V, or pairs")
      ->delimiter(',')
      ->capture_default_str();
  attend->add_option("--tier", a.tier, "Where records lie; dram is read in place, over the link")
      ->check(CLI::IsMember({"hbm", "dram"}))
      ->capture_default_str();
  attend->add_option("--torch", a.torch, "A Python interpreter with PyTorch, to compare with");
  attend->add_flag("--json", a.json, "Print as JSON");
}

}  // namespace

void add_bench_commands(CLI::App& command, BenchArguments& arguments) {
  command.require_subcommand(1);
  command.footer(kAbout);

  add_attend(command, arguments.attend);
  add_decode(command, arguments.decode);
  add_prefill(command, arguments.prefill);
  add_peers(command, arguments.peers);
  add_cpu(command, arguments.cpu);
  add_store(command, arguments.store);
  CLI::App* encode = command.add_subcommand("encode", "16-bit K and V to records, by codec");
  encode->footer(kEncodeAbout);
  BenchEncodeArguments& a = arguments.encode;
  encode->add_option("--device", a.device, "What encodes")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  encode->add_option("--threads", a.threads, "Threads; 0: all that the process may use")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  encode->add_option("--blocks", a.blocks, "Blocks of 128 tokens")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  encode->add_option("--kv-heads", a.kv_heads, "KV heads")
      ->check(CLI::Range(1, 128))
      ->capture_default_str();
  encode->add_option("--head-dim", a.head_dim, "Channels of a head, in 8s up to 256")
      ->capture_default_str();
  encode->add_option("--repetitions", a.repetitions, "The median of these counts")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  encode->add_flag("--json", a.json, "Print as JSON");
}

int bench_command(const CLI::App& command, const BenchArguments& arguments) {
  Status status;
  if (command.got_subcommand("attend")) status = bench_attend(arguments.attend);
  if (command.got_subcommand("decode")) status = bench_decode(arguments.decode);
  if (command.got_subcommand("prefill")) status = bench_prefill(arguments.prefill);
  if (command.got_subcommand("peers")) status = bench_peers(arguments.peers);
  if (command.got_subcommand("cpu")) status = bench_cpu(arguments.cpu);
  if (command.got_subcommand("store")) status = bench_store(arguments.store);
  if (command.got_subcommand("encode"))
    status = arguments.encode.device == "cuda" ? bench_encode_gpu(arguments.encode)
                                               : bench_encode(arguments.encode);
  if (status.ok()) return kExitDone;
  spdlog::error("{}", status.message());
  return status.code() == Code::kInvalidArgument ? kExitUsage : kExitSomeFailed;
}

}  // namespace vkv
