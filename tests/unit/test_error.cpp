#include <catch2/catch.hpp>
#include <set>

#include "cachecard/error.hpp"

using namespace cachecard;

TEST_CASE("the error table has every code once, with a name, an exit code and a meaning", "[unit]") {
  std::size_t count = 0;
  const ErrorInfo* table = error_table(&count);
  std::set<ErrorCode> codes;
  std::set<std::string_view> names;
  for (std::size_t i = 0; i < count; ++i) {
    CHECK(codes.insert(table[i].code).second);
    CHECK(names.insert(table[i].name).second);
    CHECK_FALSE(table[i].meaning.empty());
    CHECK((table[i].exit_code == 0) == (table[i].code == ErrorCode::kOk));
    CHECK(&error_info(table[i].code) == &table[i]);
  }
  CHECK(table[count - 1].code == ErrorCode::kInternal);
  CHECK(error_info(static_cast<ErrorCode>(12345)).code == ErrorCode::kInternal);
}

TEST_CASE("exit codes follow the cause", "[unit]") {
  CHECK(error_info(ErrorCode::kInvalidArgument).exit_code == 2);
  CHECK(error_info(ErrorCode::kIo).exit_code == 3);
  CHECK(error_info(ErrorCode::kTargetBusy).exit_code == 3);
  CHECK(error_info(ErrorCode::kBadMagic).exit_code == 4);
  CHECK(error_info(ErrorCode::kUnsupportedFeature).exit_code == 4);
  CHECK(error_info(ErrorCode::kTruncated).exit_code == 5);
  CHECK(error_info(ErrorCode::kNonFinite).exit_code == 5);
  CHECK(error_info(ErrorCode::kModelMismatch).exit_code == 6);
  CHECK(error_info(ErrorCode::kLimitExceeded).exit_code == 7);
  CHECK(error_info(ErrorCode::kUnsupportedCodec).exit_code == 8);
  CHECK(error_info(ErrorCode::kInterrupted).exit_code == 130);
  CHECK(error_info(ErrorCode::kInternal).exit_code == 1);
}

TEST_CASE("a message is one line with what is known", "[unit]") {
  CHECK(Error{ErrorCode::kCorrupt, 12, "record.field", "why"}.message() ==
        "corrupt at offset 12, record.field: why");
  CHECK(Error{ErrorCode::kIo, kNoOffset, "", "why"}.message() == "io: why");
  CHECK(Error{ErrorCode::kIo, kNoOffset, "record", ""}.message() == "io in record");
  CHECK(Error{ErrorCode::kTruncated, 3, "", ""}.message() == "truncated at offset 3");
}

TEST_CASE("a result holds a value or an error", "[unit]") {
  const Result<int> value = 3;
  const Result<int> error = Error{ErrorCode::kIo, kNoOffset, {}, "why"};
  CHECK(value);
  CHECK(*value == 3);
  CHECK_FALSE(error);
  CHECK(error.error().code == ErrorCode::kIo);
  CHECK(Status());
  CHECK_FALSE(Status(Error{}));
}
