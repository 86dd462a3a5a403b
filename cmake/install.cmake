# cachecard_install(): cmake --install and find_package(cachecard) for the library.
include(CMakePackageConfigHelpers)

function(cachecard_install)
  set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/cachecard)
  install(TARGETS cachecard EXPORT cachecardTargets
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
    LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
    RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/libcachecard/include/cachecard
    DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h" PATTERN "*.hpp")
  install(EXPORT cachecardTargets NAMESPACE cachecard:: DESTINATION ${package_dir})

  set(cachecard_is_shared ${BUILD_SHARED_LIBS})
  if(NOT cachecard_is_shared)
    set(cachecard_is_shared OFF)
  endif()
  configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/cachecardConfig.cmake.in
    ${PROJECT_BINARY_DIR}/cachecardConfig.cmake INSTALL_DESTINATION ${package_dir})
  write_basic_package_version_file(${PROJECT_BINARY_DIR}/cachecardConfigVersion.cmake
    COMPATIBILITY SameMinorVersion)  # under 0.x a minor may change anything
  install(FILES ${PROJECT_BINARY_DIR}/cachecardConfig.cmake ${PROJECT_BINARY_DIR}/cachecardConfigVersion.cmake
    ${PROJECT_SOURCE_DIR}/cmake/find_hwy.cmake DESTINATION ${package_dir})
endfunction()
