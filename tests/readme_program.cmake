# readme_program.cmake: makes a test of the C++ program in the README.
# SPDX-License-Identifier: Apache-2.0
file(READ ${PROJECT_SOURCE_DIR}/README.md readme)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/README.md)
if(NOT readme MATCHES "\n```cpp\n(.*)\n```\n\n## Map")
  message(FATAL_ERROR "README.md has no C++ program before its map")
endif()
file(CONFIGURE OUTPUT readme_program.cpp CONTENT "${CMAKE_MATCH_1}\n" @ONLY)
add_executable(readme_program ${CMAKE_CURRENT_BINARY_DIR}/readme_program.cpp)
target_link_libraries(readme_program PRIVATE vkv)
add_test(NAME readme_program COMMAND readme_program)
set_tests_properties(readme_program PROPERTIES LABELS cpu PASS_REGULAR_EXPRESSION
                                               "out.0. = 0.500, [34]\\.[0-9]+ bits a value")
