#include <catch2/catch.hpp>
#include <set>

#include "cachecard/card.hpp"

using namespace cachecard;

TEST_CASE("identity fields are ascending, named once and found by name", "[unit]") {
  std::set<std::string_view> names;
  std::uint16_t previous = 0;
  for (const IdentityFieldInfo& info : identity_fields()) {
    CHECK(static_cast<std::uint16_t>(info.field) > previous);
    previous = static_cast<std::uint16_t>(info.field);
    CHECK(names.insert(info.name).second);
    CHECK(identity_field_by_name(info.name) == &info);
    CHECK(identity_field_info(previous) == &info);
  }
  CHECK(identity_field_by_name("no_such_field") == nullptr);
  CHECK(identity_field_info(999) == nullptr);
}

TEST_CASE("an identity holds one value of each field, ascending", "[unit]") {
  Identity identity;
  identity.set_u64(IdentityField::kVocabSize, 5);
  identity.set_text(IdentityField::kArchitecture, "llama");
  identity.set_f64(IdentityField::kRopeBase, 1e4);
  identity.set_text(IdentityField::kArchitecture, "qwen2");
  CHECK(identity.values().size() == 3);
  CHECK(identity.values().front().bytes == "qwen2");
  CHECK(identity.text(IdentityField::kArchitecture) == "qwen2");
  CHECK(identity.u64(IdentityField::kVocabSize) == 5u);
  CHECK(identity.f64(IdentityField::kRopeBase) == 1e4);
  identity.remove(IdentityField::kArchitecture);
  CHECK_FALSE(identity.text(IdentityField::kArchitecture));
}

TEST_CASE("a value of another type is not given out", "[unit]") {
  Identity identity;
  identity.set_u64(IdentityField::kVocabSize, 5);
  CHECK_FALSE(identity.text(IdentityField::kVocabSize));
  CHECK_FALSE(identity.f64(IdentityField::kVocabSize));
  CHECK_FALSE(identity.digest(IdentityField::kVocabSize));
  CHECK_FALSE(identity.u64(IdentityField::kRopeBase));
}

TEST_CASE("values are printed as a person reads them", "[unit]") {
  Identity identity;
  Digest128 digest{};
  digest[0] = 0xAB;
  identity.set_digest(IdentityField::kWeightsDigest, digest);
  identity.set_u64(IdentityField::kVocabSize, 18446744073709551615u);
  identity.set_f64(IdentityField::kRopeBase, 0.1);
  identity.set_text(IdentityField::kProducer, "p");
  CHECK(format_identity_value(*identity.find(IdentityField::kWeightsDigest)) == "ab" + std::string(30, '0'));
  CHECK(format_identity_value(*identity.find(IdentityField::kVocabSize)) == "18446744073709551615");
  CHECK(format_identity_value(*identity.find(IdentityField::kRopeBase)) == "0.10000000000000001");
  CHECK(format_identity_value(*identity.find(IdentityField::kProducer)) == "p");
}
