# Packages everything that is installed, without components, as Slicer's file of this name does. Like there, the metadata
# go through a function call without quotes.
function(describe)
  cmake_parse_arguments(MY "" "HOMEPAGE;CATEGORY;ICONURL;CONTRIBUTORS;DESCRIPTION;SCREENSHOTURLS;DEPENDS" "" ${ARGN})
  if(MY_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "These parts of the extension's metadata would be lost: ${MY_UNPARSED_ARGUMENTS}")
  endif()
endfunction()
describe(
  HOMEPAGE ${EXTENSION_HOMEPAGE}
  CATEGORY ${EXTENSION_CATEGORY}
  ICONURL ${EXTENSION_ICONURL}
  CONTRIBUTORS ${EXTENSION_CONTRIBUTORS}
  DESCRIPTION ${EXTENSION_DESCRIPTION}
  SCREENSHOTURLS ${EXTENSION_SCREENSHOTURLS}
  DEPENDS ${EXTENSION_DEPENDS}
  )
set(CPACK_GENERATOR TGZ)
set(CPACK_MONOLITHIC_INSTALL ON)
set(CPACK_PACKAGE_FILE_NAME ${PROJECT_NAME})
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY ${EXTENSION_DESCRIPTION})
include(CPack)
