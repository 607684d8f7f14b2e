# readme_program.cmake: makes tests of the programs in the README, and keeps them as a project.
# SPDX-License-Identifier: Apache-2.0
#
# The section "Embed" of the README is a project: its C++ program is the one before it. They are
# written to `readme_project`, which package_test.sh builds against an installed vkv.
file(READ ${PROJECT_SOURCE_DIR}/README.md readme)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/README.md)
set(readme_project ${CMAKE_CURRENT_BINARY_DIR}/readme_project)

# The first fence of a language, as a file; its time stays if it says the same as before.
function(readme_file language file)
  string(FIND "${readme}" "\n```${language}\n" start)
  if(start EQUAL -1)
    message(FATAL_ERROR "README.md has no ```${language}, which ${file} is made of")
  endif()
  string(SUBSTRING "${readme}" ${start} -1 text)
  string(REGEX REPLACE "^\n```[a-z]+\n" "" text "${text}")
  string(FIND "${text}" "\n```\n" length)
  string(SUBSTRING "${text}" 0 ${length} text)
  file(CONFIGURE OUTPUT ${readme_project}/${file} CONTENT "${text}\n" @ONLY)
endfunction()
readme_file(cpp program.cpp)
readme_file(c program.c)
readme_file(cmake CMakeLists.txt)

set(readme_says "out.0. = 0.500, [34]\\.[0-9]+ bits a value")
foreach(language cpp c)
  add_executable(readme_${language} ${readme_project}/program.${language})
  target_link_libraries(readme_${language} PRIVATE vkv)
  add_test(NAME readme_${language} COMMAND readme_${language})
  set_tests_properties(readme_${language} PROPERTIES LABELS cpu PASS_REGULAR_EXPRESSION
                                                     "${readme_says}")
endforeach()
