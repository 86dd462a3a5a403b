# cachecard_export_public_headers(target headers...): in a shared library, what the public headers declare is
# exported and everything else hidden. Every source is compiled behind a header that says so.
function(cachecard_export_public_headers target)
  set(exports "#pragma GCC visibility push(default)\n")
  foreach(header ${ARGN})
    string(APPEND exports "#include \"cachecard/${header}\"\n")
  endforeach()
  string(APPEND exports "#pragma GCC visibility pop\n")
  file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/${target}_exports.hpp CONTENT "${exports}" @ONLY)
  set_target_properties(${target} PROPERTIES CXX_VISIBILITY_PRESET hidden)
  target_compile_options(${target} PRIVATE -include ${PROJECT_BINARY_DIR}/${target}_exports.hpp)
endfunction()
