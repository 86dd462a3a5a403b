#pragma once

namespace CLI {
class App;
}

/// One function for each command: registers its options and, as callback, what it does.
/// A callback sets context.exit_code (through Context::fail) and throws nothing of its own.
/// context outlives app's parse.
namespace cachecard::cli {

struct Context;

void add_calibrate(CLI::App& app, Context& context);
void add_capture(CLI::App& app, Context& context);
void add_codecs(CLI::App& app, Context& context);
void add_convert(CLI::App& app, Context& context);
void add_diff(CLI::App& app, Context& context);
void add_extend(CLI::App& app, Context& context);
void add_inject(CLI::App& app, Context& context);
void add_inspect(CLI::App& app, Context& context);
void add_plan(CLI::App& app, Context& context);
void add_trim(CLI::App& app, Context& context);
void add_verify(CLI::App& app, Context& context);

}  // namespace cachecard::cli
