#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "llama_server/cover_cause.hpp"
#include "llama_server/journal.hpp"
#include "llama_server/prompt_input.hpp"

namespace cachecard::llama_server {
namespace {

/// An empty folder, gone at the end of the test.
class TestFolder {
 public:
  TestFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "cachecard-journal-XXXXXX").string();
    path_ = ::mkdtemp(name.data()) == nullptr ? std::string() : name;
    REQUIRE_FALSE(path_.empty());
  }
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;
  ~TestFolder() { std::filesystem::remove_all(path_); }

  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  void write(const std::string& name, const std::string& text) const { std::ofstream(file(name)) << text; }
  std::size_t file_count() const {
    std::size_t count = 0;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(path_)) ++count;
    return count;
  }

 private:
  std::string path_;
};

Journal sample_journal() {
  Journal journal;
  journal.server = "http://127.0.0.1:8080";
  journal.instance = "marker \"quoted\"\n";
  journal.slot = 3;
  journal.process = 4711;
  journal.step = InjectStep::kRestoring;
  journal.old_tokens = 81;
  journal.old_bytes = 1'867'000;
  journal.new_tokens = 2'000;
  journal.new_digest = 0xFEDCBA9876543210u;
  return journal;
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

}  // namespace

TEST_CASE("a journal reads back as it was written, at every step", "[unit]") {
  Journal journal = sample_journal();
  for (const InjectStep step : {InjectStep::kSaving, InjectStep::kSaved, InjectStep::kProbing,
                                InjectStep::kRestoring, InjectStep::kPuttingBack}) {
    journal.step = step;
    auto read = parse_journal(encode_journal(journal));
    REQUIRE(read);
    CHECK(*read == journal);
  }
}

TEST_CASE("a journal that no injector wrote is corrupt, and the field is named", "[unit]") {
  const std::string good = encode_journal(sample_journal());
  struct Defect {
    std::string from, to, field;
  };
  const Defect defects[] = {
      {"\"cachecard_journal\": 1", "\"cachecard_journal\": 2", "journal.cachecard_journal"},
      {"\"slot\": 3", "\"slot\": -3", "journal.slot"},
      {"\"slot\": 3", "\"slot\": 4294967296", "journal.slot"},
      {"\"restoring\"", "\"resting\"", "journal.step"},
      {"\"old_bytes\": 1867000", "\"old_bytes\": \"1867000\"", "journal.old_bytes"},
      {"fedcba9876543210", "fedcba987654321", "journal.new_digest"},
      {"fedcba9876543210", "FEDCBA9876543210", "journal.new_digest"}};
  for (const Defect& defect : defects) {
    auto read = parse_journal(replaced(good, defect.from, defect.to));
    REQUIRE_FALSE(read);
    CHECK(read.error().code == ErrorCode::kCorrupt);
    CHECK(read.error().field == defect.field);
  }
  for (std::size_t size = 0; size + 2 < good.size(); ++size) {
    CHECK_FALSE(parse_journal(std::string_view(good).substr(0, size)));
  }
}

TEST_CASE("a slot without a journal has none, and one of another slot is not taken", "[unit]") {
  const TestFolder folder;
  auto none = read_journal(folder.path(), 3);
  REQUIRE(none);
  CHECK_FALSE(none->has_value());
  const Journal journal = sample_journal();
  REQUIRE(write_journal(folder.path(), journal));
  auto mine = read_journal(folder.path(), 3);
  REQUIRE(mine);
  CHECK(**mine == journal);
  std::filesystem::rename(folder.file(SlotFileNames(3).journal), folder.file(SlotFileNames(4).journal));
  auto other = read_journal(folder.path(), 4);
  REQUIRE_FALSE(other);
  CHECK(other.error().field == "journal.slot");
}

TEST_CASE("removing a slot's files takes its temporaries and leaves all others", "[unit]") {
  const TestFolder folder;
  REQUIRE(write_journal(folder.path(), sample_journal()));
  const SlotFileNames names(3);
  for (const std::string& name :
       {names.safety, names.staged, names.sample, names.staged + ".17.0.tmp", names.journal + ".17.0.tmp"}) {
    folder.write(name, "x");
  }
  folder.write("mine.bin", "x");
  folder.write(SlotFileNames(33).safety, "x");
  auto kept = keep_safety_copy(folder.path(), 3);
  REQUIRE(kept);
  REQUIRE(remove_slot_files(folder.path(), 3));
  CHECK(folder.file_count() == 3);
  CHECK(std::filesystem::exists(folder.file("mine.bin")));
  CHECK(std::filesystem::exists(folder.file(SlotFileNames(33).safety)));
  CHECK(std::filesystem::exists(folder.file(*kept)));
  REQUIRE(remove_slot_files(folder.path(), 3));
}

TEST_CASE("one injector at a time holds a slot, and leaves no lock behind", "[unit]") {
  const TestFolder folder;
  {
    auto first = SlotLock::take(folder.path(), 0);
    REQUIRE(first);
    auto second = SlotLock::take(folder.path(), 0);
    REQUIRE_FALSE(second);
    CHECK(second.error().code == ErrorCode::kTargetBusy);
    CHECK(SlotLock::take(folder.path(), 1));
  }
  CHECK(folder.file_count() == 0);
  CHECK(SlotLock::take(folder.path(), 0));
  auto nowhere = SlotLock::take(folder.file("missing"), 0);
  REQUIRE_FALSE(nowhere);
  CHECK(nowhere.error().code == ErrorCode::kIo);
}

TEST_CASE("a prompt file is told by its content", "[unit]") {
  CHECK(parse_prompt("Once upon a time").form == PromptForm::kText);
  CHECK(parse_prompt("").form == PromptForm::kText);
  CHECK(parse_prompt("{\"name\": 1}").form == PromptForm::kText);
  CHECK(parse_prompt("[1, 2]").form == PromptForm::kText);
  CHECK(parse_prompt("[{\"role\": \"user\"").form == PromptForm::kText);
  CHECK(parse_prompt(" [{\"role\": \"user\", \"content\": \"x\"}]\n").form == PromptForm::kMessages);
  CHECK(parse_prompt("{\"prompt\": [1, 2]}").form == PromptForm::kBody);
  CHECK(parse_prompt("{\"messages\": []}").form == PromptForm::kBody);
}

TEST_CASE("the cause of a first difference is named", "[unit]") {
  using Tokens = std::vector<std::int32_t>;
  const Tokens card{5, 6, 7, 8, 9};
  const auto cause = [&](const Tokens& prompt, std::string_view card_text = "",
                         std::string_view prompt_text = "", std::uint64_t covered_bytes = 0,
                         std::optional<bool> same_template = std::nullopt) {
    return likely_cause({card, prompt, card_text, prompt_text, covered_bytes, same_template});
  };
  CHECK(cause({5, 6, 7, 8, 9, 10}) == CoverCause::kNone);
  CHECK(cause({5, 6}) == CoverCause::kPromptEnds);
  CHECK(cause({1, 5, 6, 7, 8, 9}) == CoverCause::kBos);
  CHECK(cause({6, 7, 8, 9}) == CoverCause::kBos);
  CHECK(cause({5, 5, 6, 7, 8}) == CoverCause::kBos);
  CHECK(cause({5, 6, 11, 12}, "one two three", "one two three", 3) == CoverCause::kTokenBoundary);
  CHECK(cause({5, 6, 11}, "a<think>b</think>\nc", "ac", 1) == CoverCause::kStrippedThinking);
  CHECK(cause({5, 6, 11}, "ac and more", "a<think>\n\n</think>\n\nc and", 1) ==
        CoverCause::kStrippedThinking);
  CHECK(cause({5, 11}, "<|im_start|>system", "<|im_start|>user", 12) == CoverCause::kTemplate);
  CHECK(cause({5, 11}, "plain words", "plain wards", 6, false) == CoverCause::kTemplate);
  CHECK(cause({5, 11}, "plain words", "plain wards", 6, true) == CoverCause::kText);
}

TEST_CASE("thinking blocks are dropped, closed or not", "[unit]") {
  CHECK(without_thinking("a<think>b</think>\n\nc") == "ac");
  CHECK(without_thinking("a<think>b") == "a");
  CHECK(without_thinking("a[THINK]b[/THINK]c<thinking>d</thinking>e") == "ace");
  CHECK(without_thinking("nothing <b>here</b>") == "nothing <b>here</b>");
}

}  // namespace cachecard::llama_server
