# Flags of our own targets only; nothing global.
function(cachecard_options target)
  target_compile_options(${target} PRIVATE
    -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion
    $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>  # false alarms on string concatenation (GCC bug 105651)
    -ffp-contract=off  # encoders give the same bytes on every machine (spec: determinism)
    $<$<BOOL:${CACHECARD_WERROR}>:-Werror>)
  if(CACHECARD_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${CACHECARD_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
    target_link_options(${target} PUBLIC -fsanitize=${CACHECARD_SANITIZE})
  endif()
endfunction()
