#include <catch2/catch.hpp>

#include "pt_builder.hpp"
#include "torch/pickle_machine.hpp"

using namespace cachecard;
using namespace cachecard::pytorch;
using namespace cachecard::pytorch::testing;

namespace {

struct Outcome {
  Result<PickleId> root;
  PickleValues values;
};

Outcome run_bytes(const std::string& bytes) {
  PickleValues values;
  PickleMachine machine(std::as_bytes(std::span(bytes)), 1000, values);
  auto root = machine.run();
  return {root, std::move(values)};
}

Outcome run(const std::string& body) { return run_bytes(pickle_of(body)); }

Error refused(const std::string& body) {
  const Outcome outcome = run(body);
  REQUIRE_FALSE(outcome.root);
  return outcome.root.error();
}

std::string repeated(std::string_view piece, std::size_t count) {
  std::string all;
  for (std::size_t i = 0; i < count; ++i) all += piece;
  return all;
}

}  // namespace

TEST_CASE("a pickle of plain values and tensors becomes data", "[converters]") {
  const Outcome outcome =
      run(dict({{"a", number(-5)}, {"t", tensor("HalfStorage", "7", {1, 2, 3, 4})}, {"n", "N"}}));
  REQUIRE(outcome.root);
  const PickleValues& v = outcome.values;
  CHECK(v.nodes[*v.find(*outcome.root, "a")].number == -5);
  const TensorRef& t = v.tensor(*v.find(*outcome.root, "t"));
  CHECK(t.sizes == std::vector<std::uint64_t>{1, 2, 3, 4});
  CHECK(t.strides == std::vector<std::uint64_t>{24, 12, 4, 1});
  CHECK(v.storages[t.storage].key == "7");
  CHECK(v.storages[t.storage].element == Element::kF16);
  CHECK(v.storages[t.storage].element_count == 24);
  CHECK_FALSE(v.find(*outcome.root, "b"));
}

TEST_CASE("integers of every width have their sign", "[converters]") {
  CHECK(run("K\xff").values.nodes[0].number == 255);
  CHECK(run("M\xff\xff").values.nodes[0].number == 65535);
  CHECK(run("J\xfe\xff\xff\xff").values.nodes[0].number == -2);
  CHECK(run(std::string("\x8a\x00", 2)).values.nodes[0].number == 0);
  CHECK(run("\x8a\x01\x80").values.nodes[0].number == -128);
  CHECK(run(std::string("\x8a\x02\x80\x00", 4)).values.nodes[0].number == 128);
}

TEST_CASE("names outside the allow list are refused where they stand", "[converters]") {
  const std::pair<std::string, std::string> bodies[] = {
      {global("posix", "system") + "(" + text("true") + "tR", "names posix.system"},
      {text("builtins") + text("eval") + "\x93", "names builtins.eval"},
      {global("builtins", "getattr"), "names builtins.getattr"},
      {global("torch", "load"), "names torch.load"},
      {global("torch", "FloatStorage.__init__"), "names torch.FloatStorage.__init__"},
      {global("torch._utils", "_rebuild_tensor"), "names torch._utils._rebuild_tensor"},
      {global("transformers.cache_utils", "QuantoQuantizedCache"), "a quantised Hugging Face cache"},
      {global("transformers.cache_utils", "HQQQuantizedCache"), "a quantised Hugging Face cache"},
      {global("transformers.cache_utils", "StaticCache"), "a static cache"},
      {global("transformers.cache_utils", "EncoderDecoderCache"), "an encoder-decoder cache"},
      {global("torch._utils", "_rebuild_qtensor"), "a quantised tensor"},
      {global("torch._utils", "_rebuild_sparse_tensor"), "a sparse tensor"},
      {global("os\x1b[2J", "x"), "names os?[2J.x"},
      {global("__torch__.Cache", "K"), "a TorchScript class"},
  };
  for (const auto& [body, says] : bodies) {
    INFO(says);
    const Error error = refused(body);
    CHECK(error.code == ErrorCode::kForeignInput);
    CHECK(error.offset >= 1002);
    CHECK_THAT(error.detail, Catch::Contains(says));
    CHECK(error.detail.find('\n') == std::string::npos);
  }
}

TEST_CASE("calls that make more than data are refused", "[converters]") {
  const std::pair<std::string, std::string> bodies[] = {
      {global("collections", "OrderedDict") + "(NtR", "REDUCE of collections.OrderedDict"},
      {text("posix.system") + ")R", "REDUCE of a str"},
      {global("torch", "HalfStorage") + ")R", "REDUCE of torch.HalfStorage"},
      {global("torch._utils", "_rebuild_tensor_v2") + ")R", "a tensor without storage"},
      {global("transformers.cache_utils", "DynamicCache") + ")R",
       "REDUCE of transformers.cache_utils.DynamicCache"},
      {global("collections", "OrderedDict") + ")\x81", "NEWOBJ of collections.OrderedDict"},
      {text("x") + ")\x81", "NEWOBJ of a str"},
      {global("transformers.cache_utils", "DynamicCache") + "(Nt\x81", "NEWOBJ of transformers"},
      {"]}b", "BUILD of a list"},
      {global("transformers.cache_utils", "DynamicCache") + ")\x81)b", "BUILD of an object with a tuple"},
      {global("transformers.cache_utils", "DynamicCache") + ")\x81}b}b", "BUILD of an object"},
      {text("x") + "Q", "a persistent id that is no storage"},
      {"(" + text("module") + "NNNNtQ", "a persistent id that is no storage"},
      {storage("HalfStorage", "0", -1), "a persistent id that is no storage"},
      {"(" + text("storage") + global("collections", "OrderedDict") + text("0") + text("cpu") + "K\x01tQ",
       "is no type of storage"},
  };
  for (const auto& [body, says] : bodies) {
    INFO(says);
    const Error error = refused(body);
    CHECK(error.code == ErrorCode::kForeignInput);
    CHECK_THAT(error.detail, Catch::Contains(says));
  }
}

TEST_CASE("opcodes that torch.save does not need are refused by name", "[converters]") {
  const std::pair<std::string, std::string> codes[] = {
      {"i", "INST"},         {"o", "OBJ"},           {"P", "PERSID"},        {"2", "DUP"},
      {"0", "POP"},          {"1", "POP_MARK"},      {"I", "INT"},           {"S", "STRING"},
      {"V", "UNICODE"},      {"g", "GET"},           {"B", "BINBYTES"},      {"F", "FLOAT"},
      {"\x82", "EXT1"},      {"\x84", "EXT4"},       {"\x8b", "LONG4"},      {"\x8f", "EMPTY_SET"},
      {"\x92", "NEWOBJ_EX"}, {"\x96", "BYTEARRAY8"}, {"\x97", "NEXT_BUFFER"}};
  for (const auto& [code, name] : codes) {
    const Error error = refused(code);
    CHECK(error.code == ErrorCode::kForeignInput);
    CHECK_THAT(error.detail, Catch::Contains("opcode " + name + " "));
  }
  CHECK(refused("\xff").code == ErrorCode::kCorrupt);
  CHECK(run_bytes("\x80\x06N.").root.error().detail == "found protocol 6, allowed 2 to 5");
}

TEST_CASE("a pickle cut anywhere is an error", "[converters]") {
  const std::string whole =
      pickle_of(dict({{"a", tuple({"N", "K\x01"})}, {"t", tensor("HalfStorage", "7", {1, 2, 3, 4})}}));
  for (std::size_t size = 0; size < whole.size(); ++size) {
    const Outcome outcome = run_bytes(whole.substr(0, size));
    REQUIRE_FALSE(outcome.root);
    CHECK(outcome.root.error().code == ErrorCode::kTruncated);
  }
  CHECK(run_bytes(whole).root);
}

TEST_CASE("broken stacks, marks and memos are errors", "[converters]") {
  for (const std::string& body :
       {std::string(""), std::string("NN"), std::string("(N"), std::string("t"), std::string("e"),
        std::string("a"), std::string("Na"), std::string("\x85"), std::string("R"), std::string("(R"),
        std::string("Nu"), std::string("}(Nu"), std::string("](NNu"), std::string("h\x05"),
        std::string("q\x05"), std::string("NN\x93"), std::string("b"), std::string("\x81")}) {
    INFO(body);
    CHECK(refused(body).code == ErrorCode::kCorrupt);
  }
}

TEST_CASE("hostile sizes are refused before anything is allocated", "[converters]") {
  const std::string huge = std::string("\x8d") + std::string(7, '\xff') + "\x7f";
  CHECK(refused(huge).code == ErrorCode::kTruncated);
  CHECK(refused("X\xff\xff\xff\xff").code == ErrorCode::kTruncated);
  CHECK(refused("\x8a\xff" + std::string(255, '\xff')).code == ErrorCode::kForeignInput);
  CHECK(refused(repeated("(", 100000)).code == ErrorCode::kLimitExceeded);
  CHECK(refused(repeated("N", kMaxPickleNodes + 1)).code == ErrorCode::kLimitExceeded);
  View wide;
  wide.sizes = std::vector<std::int64_t>(9, 1);
  wide.strides = wide.sizes;
  CHECK_THAT(refused(tensor(wide)).detail, Catch::Contains("at most 8 integers"));
  View negative;
  negative.sizes = {1, -1};
  negative.strides = {1, 1};
  CHECK_THAT(refused(tensor(negative)).detail, Catch::Contains("integers from 0"));
}

// A machine that copied or walked what it is given would not end here before the test's time limit.
TEST_CASE("cycles, doubling lists and repeated calls cost what they are long", "[converters]") {
  CHECK(run("]q\x01h\x01"
            "a")
            .root);                 // a list that holds itself
  std::string doubling = "]q\x01";  // each list holds the one before twice
  for (int i = 0; i < 200; ++i) doubling += std::string("](h\x01h\x01") + "eq\x01";
  CHECK(run("]q\x01" + doubling.substr(3) + "").root.error().code ==
        ErrorCode::kCorrupt);                                    // all stay on the stack
  CHECK(run(repeated("]", 1) + repeated("\x85", 200000)).root);  // nested 200,000 deep
  // A tuple of 100,000, handed to a call 100,000 times.
  std::string calls = "(" + repeated("N", 100000) + "tq\x01" + global("builtins", "set") + "q\x02";
  calls += repeated("h\x02h\x01R", 100000);
  CHECK(refused(calls).code == ErrorCode::kCorrupt);  // values are left on the stack
}
