// tidy_test.cpp: the style is a test: who may include whom, lengths, headers, paths in READMEs.
// SPDX-License-Identifier: Apache-2.0
//
// Each rule takes a file and returns its complaints, "path:line: what is wrong"; the first tests
// run all rules over the checkout, the others show that each rule catches what it is for.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace {

namespace fs = std::filesystem;
using Complaints = std::vector<std::string>;

constexpr size_t kLinesMax = 500;
constexpr size_t kColumnsMax = 100;

// runtime/README.md's dependency graph. Public headers ("vkv/...") may be included from everywhere,
// and a file always includes its own folder's.
const std::map<std::string, std::vector<std::string>> kMayInclude = {
    {"cpu", {"cpu/", "runtime/base/"}},
    {"kernels", {"kernels/", "runtime/base/"}},
    {"transfer", {"transfer/", "runtime/base/"}},
    {"runtime", {"runtime/", "cpu/", "kernels/", "transfer/"}},
    {"tools", {"tools/", "runtime/", "cpu/", "kernels/", "transfer/"}},
    {"tests", {"tests/", "tools/", "runtime/", "cpu/", "kernels/", "transfer/"}},
};

// What runtime/base and the public headers agree on must not lean on what uses it.
const std::map<std::string, std::vector<std::string>> kMayIncludeBase = {
    {"runtime/base/", {"runtime/base/"}},
    {"runtime/include/", {}},
};

// Elsewhere CMake chooses a file instead of #if choosing lines. One of CUDA is compiled for several
// architectures.
const std::set<std::string> kMayUseIf = {"kernels/async_copy.cuh", "runtime/include/vkv/types.h",
                                         "runtime/include/vkv/vkv.h"};

// A file of the checkout.
struct Source {
  std::string path;  // from the root, with '/'
  std::vector<std::string> lines;

  std::string name() const { return path.substr(path.rfind('/') + 1); }
  std::string extension() const { return fs::path(path).extension(); }
};

bool starts_with_any(std::string_view text, const std::vector<std::string>& prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(),
                     [&](const std::string& prefix) { return text.starts_with(prefix); });
}

bool is_cpp(const Source& file) {
  static const std::set<std::string> kExtensions = {".h", ".cpp", ".cu", ".cuh", ".c"};
  return kExtensions.contains(file.extension());
}

bool is_cmake_list(const Source& file) { return file.name() == "CMakeLists.txt"; }

bool is_code(const Source& file) {
  static const std::set<std::string> kExtensions = {".py", ".sh", ".cmake"};
  return is_cpp(file) || is_cmake_list(file) || kExtensions.contains(file.extension());
}

std::string at(const Source& file, size_t line_index, const std::string& what) {
  return file.path + ":" + std::to_string(line_index + 1) + ": " + what;
}

Source source_of(const std::string& path, std::string_view text) {
  Source file{path, {}};
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    file.lines.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return file;
}

// Code points, so that a letter of two bytes counts once.
size_t columns_of(std::string_view line) {
  return static_cast<size_t>(std::count_if(line.begin(), line.end(), [](char byte) {
    return (static_cast<unsigned char>(byte) & 0xc0) != 0x80;
  }));
}

// ---- The rules.

Complaints check_includes(const Source& file) {
  static const std::regex kInclude("^\\s*#\\s*include\\s+\"([^\"]+)\".*");
  if (!is_cpp(file)) return {};
  const std::string folder = file.path.substr(0, file.path.find('/'));
  const auto rule = kMayInclude.find(folder);
  std::vector<std::string> allowed =
      rule == kMayInclude.end() ? std::vector<std::string>() : rule->second;
  for (const auto& [prefix, narrower] : kMayIncludeBase) {
    if (file.path.starts_with(prefix)) allowed = narrower;
  }

  Complaints complaints;
  std::smatch match;
  for (size_t i = 0; i < file.lines.size(); ++i) {
    if (!std::regex_match(file.lines[i], match, kInclude)) continue;
    const std::string target = match[1];
    if (target.starts_with("vkv/") || starts_with_any(target, allowed)) continue;
    complaints.push_back(at(file, i, folder + "/ may not include \"" + target + "\""));
  }
  return complaints;
}

Complaints check_lengths(const Source& file) {
  Complaints complaints;
  if (file.lines.size() > kLinesMax) {
    complaints.push_back(
        at(file, kLinesMax, std::to_string(file.lines.size()) + " lines; split files at 500"));
  }
  for (size_t i = 0; i < file.lines.size(); ++i) {
    const size_t columns = columns_of(file.lines[i]);
    if (columns > kColumnsMax)
      complaints.push_back(at(file, i, std::to_string(columns) + " columns; 100 at most"));
  }
  return complaints;
}

Complaints check_blanks(const Source& file) {
  Complaints complaints;
  for (size_t i = 0; i < file.lines.size(); ++i) {
    const std::string& line = file.lines[i];
    if (line.find('\t') != std::string::npos) complaints.push_back(at(file, i, "a tab"));
    if (line.ends_with(' ') || line.ends_with('\r'))
      complaints.push_back(at(file, i, "a blank at the end"));
  }
  return complaints;
}

// The first comment begins with the file's name and holds the licence in one of its first lines. A
// test's says what is claimed instead; a CMakeLists.txt, of which there are many, what it is about.
Complaints check_head(const Source& file) {
  constexpr size_t kHeadLines = 5;
  const size_t first = !file.lines.empty() && file.lines[0].starts_with("#!") ? 1 : 0;
  const std::string line = file.lines.size() > first ? file.lines[first] : "";
  const std::vector<std::string> markers =
      is_cpp(file) ? std::vector<std::string>{"// ", "/* "} : std::vector<std::string>{"# "};
  if (!starts_with_any(line, markers)) return {at(file, first, "does not begin with a comment")};
  if (is_cmake_list(file)) return {};

  Complaints complaints;
  const std::string said = line.substr(line.find(' ') + 1);
  if (!file.path.starts_with("tests/") && !said.starts_with(file.name() + ": "))
    complaints.push_back(at(file, first, "the first comment is not '" + file.name() + ": ...'"));
  bool licensed = false;
  for (size_t i = first; i < std::min(first + kHeadLines, file.lines.size()); ++i) {
    licensed |= file.lines[i].find("SPDX-License-Identifier: Apache-2.0") != std::string::npos;
  }
  if (!licensed) complaints.push_back(at(file, first, "no SPDX line at the top"));
  return complaints;
}

Complaints check_if(const Source& file) {
  static const std::regex kIf("^\\s*#\\s*(if|ifdef|ifndef|elif)\\b.*");
  if (!is_cpp(file) || kMayUseIf.contains(file.path)) return {};
  Complaints complaints;
  for (size_t i = 0; i < file.lines.size(); ++i) {
    if (std::regex_match(file.lines[i], kIf))
      complaints.push_back(at(file, i, "#if; let CMake choose a file instead"));
  }
  return complaints;
}

// Whether a word of a README is meant as a path of this checkout. Outside fences every word with a
// code file's ending or a closing '/' is; anywhere, one whose first folder exists. The rest are
// options, model names, a user's own files.
bool looks_like_path(const std::string& word, bool fenced, const fs::path& root,
                     const fs::path& here) {
  static const std::regex kWord("[A-Za-z0-9_.][A-Za-z0-9_.-]*(/[A-Za-z0-9_.-]+)*/?");
  static const std::regex kCode(".*[^/]\\.(h|cpp|cu|cuh|c|py|sh|cmake)");
  if (!std::regex_match(word, kWord) || word.starts_with("build/")) return false;
  const size_t slash = word.find('/');
  if (slash != std::string::npos) {
    const std::string folder = word.substr(0, slash);
    if (fs::is_directory(root / folder) || (!fenced && fs::is_directory(here / folder)))
      return true;
  }
  return !fenced && (word.ends_with('/') || std::regex_match(word, kCode));
}

// The words of a README's back-ticked spans, or of a whole line inside a fence.
std::vector<std::string> quoted_words(const std::string& line, bool fenced) {
  std::string text = fenced ? line : "";
  for (size_t open = line.find('`'); !fenced && open != std::string::npos;) {
    const size_t close = line.find('`', open + 1);
    if (close == std::string::npos) break;
    text += line.substr(open + 1, close - open - 1) + ' ';
    open = line.find('`', close + 1);
  }
  static const std::regex kBlanks("\\s+");
  std::vector<std::string> words(std::sregex_token_iterator(text.begin(), text.end(), kBlanks, -1),
                                 std::sregex_token_iterator());
  for (std::string& word : words) {
    while (!word.empty() && std::string_view(".,:;)").find(word.back()) != std::string_view::npos)
      word.pop_back();
  }
  return words;
}

// Paths are relative to the root, to the README's own folder, or, as in #include, to the public
// headers.
Complaints check_readme_paths(const Source& file, const fs::path& root) {
  const fs::path here = (root / file.path).parent_path();
  Complaints complaints;
  bool fenced = false;
  for (size_t i = 0; i < file.lines.size(); ++i) {
    if (file.lines[i].starts_with("```")) {
      fenced = !fenced;
      continue;
    }
    for (const std::string& word : quoted_words(file.lines[i], fenced)) {
      if (!looks_like_path(word, fenced, root, here)) continue;
      if (fs::exists(root / word) || fs::exists(here / word)) continue;
      if (fs::exists(root / "runtime/include" / word)) continue;
      complaints.push_back(at(file, i, "there is no " + word));
    }
  }
  return complaints;
}

// ---- The checkout.

bool is_built(const std::string& name) { return name == "build" || name.starts_with("build-"); }

// Every file below the root, except in build folders and folders that begin with a dot.
std::vector<fs::path> files_of(const fs::path& root) {
  std::vector<fs::path> files;
  for (auto it = fs::recursive_directory_iterator(root); it != fs::end(it); ++it) {
    const std::string name = it->path().filename();
    if (it->is_directory() &&
        (name.starts_with('.') || name == "__pycache__" || (it.depth() == 0 && is_built(name)))) {
      it.disable_recursion_pending();
    } else if (it->is_regular_file()) {
      files.push_back(it->path());
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

// Runs one rule over the files that `wanted` accepts; fails if there is none.
template <class Rule>
void expect_clean(bool (*wanted)(const Source&), const Rule& rule) {
  const fs::path root = VKV_SOURCE_DIR;
  size_t file_count = 0;
  std::string all;
  for (const fs::path& path : files_of(root)) {
    Source file{path.lexically_relative(root).generic_string(), {}};
    if (!wanted(file)) continue;
    std::ifstream stream(path, std::ios::binary);
    const std::string text((std::istreambuf_iterator<char>(stream)), {});
    for (const std::string& complaint : rule(source_of(file.path, text))) all += complaint + "\n";
    ++file_count;
  }
  EXPECT_TRUE(all.empty()) << all;
  EXPECT_GT(file_count, 0u) << "nothing to check below " << root;
}

TEST(tidy, folders_include_only_what_they_may) { expect_clean(is_code, check_includes); }
TEST(tidy, files_and_lines_are_short) { expect_clean(is_code, check_lengths); }
TEST(tidy, no_tabs_and_no_blanks_at_line_ends) { expect_clean(is_code, check_blanks); }
TEST(tidy, files_say_what_they_are_and_their_licence) { expect_clean(is_code, check_head); }
TEST(tidy, cmake_chooses_files_instead_of_if_choosing_lines) { expect_clean(is_code, check_if); }
TEST(tidy, paths_in_readmes_exist) {
  const auto is_readme = [](const Source& file) { return file.name() == "README.md"; };
  expect_clean(is_readme, [](const Source& f) { return check_readme_paths(f, VKV_SOURCE_DIR); });
}

// ---- The rules bite.

TEST(rule, siblings_never_include_each_other) {
  EXPECT_EQ(check_includes(source_of("cpu/x.cpp", "#include <map>\n#include \"transfer/y.h\"\n")),
            Complaints{"cpu/x.cpp:2: cpu/ may not include \"transfer/y.h\""});
  EXPECT_EQ(check_includes(source_of("kernels/x.cuh", "#  include \"cpu/y.h\"\n")).size(), 1u);
  EXPECT_EQ(check_includes(source_of("transfer/x.h", "#include \"runtime/cache.h\"\n")).size(), 1u);
  EXPECT_EQ(check_includes(source_of("runtime/x.h", "#include \"tools/mllm/y.h\"\n")).size(), 1u);
  EXPECT_EQ(check_includes(source_of("runtime/base/x.h", "#include \"cpu/y.h\"\n")).size(), 1u);
  EXPECT_EQ(check_includes(source_of("runtime/include/vkv/x.h", "#include \"runtime/base/y.h\"\n"))
                .size(),
            1u);
  EXPECT_EQ(check_includes(source_of("cpu/x.cpp", "#include \"y.h\"\n")).size(), 1u);
}

TEST(rule, base_and_public_headers_are_for_everyone) {
  const std::string text = "#include \"runtime/base/lse.h\"\n#include \"vkv/types.h\"\n";
  for (const char* path : {"cpu/x.cpp", "kernels/x.cu", "transfer/x.h", "runtime/x.cpp",
                           "runtime/base/x.h", "tools/vkv/x.cpp", "tests/x.cpp"}) {
    EXPECT_EQ(check_includes(source_of(path, text)), Complaints{}) << path;
  }
}

TEST(rule, long_lines_and_files_are_found) {
  EXPECT_EQ(check_lengths(source_of("a.h", std::string(100, 'x') + "\n")), Complaints{});
  EXPECT_EQ(check_lengths(source_of("a.h", std::string(101, 'x') + "\n")),
            Complaints{"a.h:1: 101 columns; 100 at most"});
  EXPECT_EQ(check_lengths(source_of("a.h", std::string(500, '\n'))), Complaints{});
  EXPECT_EQ(check_lengths(source_of("a.h", std::string(501, '\n'))),
            Complaints{"a.h:501: 501 lines; split files at 500"});
}

TEST(rule, letters_count_not_bytes) {
  std::string line;
  for (int i = 0; i < 100; ++i) line += "\u00fc";
  EXPECT_EQ(check_lengths(source_of("a.py", line)), Complaints{});
}

TEST(rule, tabs_and_blanks_at_line_ends_are_found) {
  EXPECT_EQ(
      check_blanks(source_of("a.py", "x\n\ty\nz \nw\r\n")),
      (Complaints{"a.py:2: a tab", "a.py:3: a blank at the end", "a.py:4: a blank at the end"}));
}

TEST(rule, a_head_without_name_or_licence_is_found) {
  const std::string licence = "SPDX-License-Identifier: Apache-2.0\n";
  EXPECT_EQ(check_head(source_of("cpu/a.h", "// a.h: it.\n// " + licence)), Complaints{});
  EXPECT_EQ(check_head(source_of("x/a.h", "/* a.h: it.\n   " + licence + "*/")), Complaints{});
  EXPECT_EQ(check_head(source_of("a.sh", "#!/bin/bash\n# a.sh: it.\n# " + licence)), Complaints{});
  EXPECT_EQ(check_head(source_of("tests/a.cpp", "// Any claim.\n// " + licence)), Complaints{});
  EXPECT_EQ(check_head(source_of("x/CMakeLists.txt", "# x: it.\n")), Complaints{});

  EXPECT_EQ(check_head(source_of("cpu/a.h", "// b.h: it.\n// " + licence)),
            Complaints{"cpu/a.h:1: the first comment is not 'a.h: ...'"});
  EXPECT_EQ(check_head(source_of("cpu/a.h", "// a.h: it.\n#pragma once\n")),
            Complaints{"cpu/a.h:1: no SPDX line at the top"});
  EXPECT_EQ(check_head(source_of("cpu/a.h", "// a.h: it.\n\n\n\n\n// " + licence)),
            Complaints{"cpu/a.h:1: no SPDX line at the top"});
  EXPECT_EQ(check_head(source_of("cpu/a.h", "#pragma once\n")),
            Complaints{"cpu/a.h:1: does not begin with a comment"});
  EXPECT_EQ(check_head(source_of("a.py", "#!/usr/bin/env python3\nimport os\n")),
            Complaints{"a.py:2: does not begin with a comment"});
  EXPECT_EQ(check_head(source_of("a.py", "")).size(), 1u);
}

TEST(rule, preprocessor_conditions_are_found_outside_two_headers) {
  const std::string text = "// x\n#ifdef __CUDACC__\n#endif\n";
  EXPECT_EQ(check_if(source_of("runtime/include/vkv/types.h", text)), Complaints{});
  EXPECT_EQ(check_if(source_of("cpu/types.h", text)),
            Complaints{"cpu/types.h:2: #if; let CMake choose a file instead"});
  EXPECT_EQ(check_if(source_of("cpu/a.cpp", "  # if X\n# elif Y\n#ifndef Z\n")).size(), 3u);
  EXPECT_EQ(check_if(source_of("cpu/a.cpp", "#include <if>\n#iffy\n")), Complaints{});
}

TEST(rule, paths_that_do_not_exist_are_found) {
  const fs::path root = VKV_SOURCE_DIR;
  const auto complaints = [&](const std::string& text) {
    return check_readme_paths(source_of("runtime/README.md", text), root);
  };
  EXPECT_EQ(complaints("`tests/tidy_test.cpp`, `vkv/types.h`, `base/lse.h`, `base/`.\n"),
            Complaints{});
  EXPECT_EQ(complaints("`image/png`, `Qwen/Qwen2-VL`, `K8/V4`, `config.json`, `build/cpu/x/`\n"),
            Complaints{});
  EXPECT_EQ(complaints("a\nsee `tests/gone.txt` there\n"),
            Complaints{"runtime/README.md:2: there is no tests/gone.txt"});
  EXPECT_EQ(complaints("`tools/gone.sh --all` and `gone.h` and `gone/`\n").size(), 3u);
  EXPECT_EQ(complaints("```\n$ tools/gone.sh  # my/photo.png\n```\n"),
            Complaints{"runtime/README.md:2: there is no tools/gone.sh"});
}

}  // namespace
