# embed_chart_script.cmake: Chart.js -> a C++ file that holds its text.
# SPDX-License-Identifier: Apache-2.0
#
# cmake -DSCRIPT=chart.min.js -DTARGET=chart_script.cpp -P embed_chart_script.cmake
file(READ ${SCRIPT} bytes HEX)
string(LENGTH "${bytes}" digits)
math(EXPR byte_count "${digits} / 2")
# 20 bytes a line; the longest literal that compilers must take is too short for the text.
string(REGEX REPLACE "(........................................)" "\\1\n" bytes "${bytes}")
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
file(WRITE ${TARGET} "// chart_script.cpp: Chart.js, MIT licence; made by embed_chart_script.cmake.
// SPDX-License-Identifier: Apache-2.0
#include \"tools/quality/quality_report.h\"

namespace vkv {
namespace {
constexpr unsigned char kScript[${byte_count}] = {
${bytes}
};
}  // namespace

std::string_view chart_script() {
  return {reinterpret_cast<const char*>(kScript), sizeof(kScript)};
}

}  // namespace vkv
")
