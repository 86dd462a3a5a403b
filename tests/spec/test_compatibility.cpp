#include <catch2/catch.hpp>

#include "cachecard/match.hpp"
#include "spec_file.hpp"

/// The verdicts of COMPATIBILITY.md against match_identity's.
namespace cachecard {

using spec::Row;
using spec::Table;

namespace {

/// A value of a field's type that differs by `which`.
Identity::Value sample(const IdentityFieldInfo& info, char which) {
  const std::size_t size = info.type == ValueType::kDigest ? 16 : 8;
  return {static_cast<std::uint16_t>(info.field), info.type, std::string(size, which)};
}

/// Identities that agree in everything.
Identity full_identity() {
  Identity identity;
  for (const auto& info : identity_fields()) identity.set(sample(info, 'a'));
  return identity;
}

FieldVerdict verdict_of(const Identity& card, const Identity& target, const std::string& field) {
  const auto report = match_identity(card, target, {});
  REQUIRE(report);
  for (const auto& verdict : report->fields) {
    if (verdict.field == field) return verdict;
  }
  FAIL("no verdict for " << field);
  return {};
}

}  // namespace

TEST_CASE("verdicts of COMPATIBILITY.md are the code's") {
  const std::string text = spec::read_spec("COMPATIBILITY.md");
  const Table table = spec::table_under(text, "Fields");
  const auto report = match_identity(full_identity(), full_identity(), {});
  REQUIRE(report);
  CHECK(report->accepted);
  REQUIRE(table.rows.size() == report->fields.size());
  for (std::size_t i = 0; i < table.rows.size(); ++i) {
    const Row& row = table.rows[i];
    const std::string& field = table.cell(row, "field");
    INFO(field);
    CHECK(report->fields[i].field == field);
    CHECK(report->fields[i].verdict == Verdict::kEqual);
    if (field == "weights_digest") continue;
    const IdentityFieldInfo& info = *identity_field_by_name(field);
    Identity other = full_identity();
    other.set(sample(info, 'b'));
    const auto differing = verdict_of(full_identity(), other, field);
    CHECK(name_of(differing.verdict) == table.cell(row, "both, differing"));
    CHECK(differing.override_name.empty());
    other.remove(info.field);
    const auto lacking = verdict_of(other, full_identity(), field);
    CHECK(name_of(lacking.verdict) == table.cell(row, "lacking on one side or both"));
    CHECK(table.cell(row, "override") ==
          (lacking.override_name.empty() ? "-" : "unknown: " + lacking.override_name));
    const bool optional = field.rfind("rope_", 0) == 0 && field != "rope_type";
    CHECK(name_of(verdict_of(other, other, field).verdict) ==
          (optional ? "compatible" : table.cell(row, "lacking on one side or both")));
  }
}

TEST_CASE("weights verdicts of COMPATIBILITY.md are the code's") {
  const auto tables =
      spec::tables_with(spec::read_spec("COMPATIBILITY.md"),
                        {"source_id", "digests", "weights_quantization", "verdict", "override"});
  REQUIRE(tables.size() == 1);
  const Table& table = tables.begin()->second;
  const auto info = [](const char* name) { return *identity_field_by_name(name); };
  for (const Row& row : table.rows) {
    INFO(row[0] << ", " << row[1] << ", " << row[2]);
    for (const bool remove : {false, true}) {  // "differs or lacking": both
      Identity card = full_identity();
      const auto change = [&](const char* name, bool lacking) {
        if (lacking) {
          card.remove(info(name).field);
        } else {
          card.set(sample(info(name), 'b'));
        }
      };
      change("weights_digest", row[1] == "lacking on one side or both");
      if (row[0] != "equal on both sides") change("source_id", remove);
      if (row[2] != "equal on both sides" && (row[2] != "any" || remove))
        change("weights_quantization", remove);
      const auto verdict = verdict_of(card, full_identity(), "weights_digest");
      CHECK(name_of(verdict.verdict) == row[3]);
      CHECK((verdict.override_name.empty() ? "-" : verdict.override_name) == row[4]);
    }
  }
}

TEST_CASE("overrides of COMPATIBILITY.md are the code's") {
  const Table table = spec::table_under(spec::read_spec("COMPATIBILITY.md"), "Overrides");
  REQUIRE(table.rows.size() == overrides().size());
  for (std::size_t i = 0; i < table.rows.size(); ++i) {
    CHECK(table.rows[i] == Row{std::string(overrides()[i].name), std::string(overrides()[i].meaning)});
  }
}

}  // namespace cachecard
