"""run_testee must notice a testee that is wrong. Usage: test_run_testee.py RIGHT_TESTEE"""
import pathlib
import subprocess
import sys
import tempfile

RUN = pathlib.Path(__file__).resolve().parent / "run_testee"
WRONG = {
    "wrong values": "s/\"xxh3_64\":\"./\"xxh3_64\":\"x/",
    "wrong tokens": "s/\"tokens\":\\[/\"tokens\":[0,/",
    "wrong offset": "s/\"offset\":/\"offset\":1/",
    "wrong code": "s/bad_magic/corrupt/",
    "no JSON": "s/^{//",
}


def verdict(command):
    done = subprocess.run([sys.executable, "-B", RUN, "--only", "tokens_1.card", *command], capture_output=True)
    more = subprocess.run([sys.executable, "-B", RUN, "--only", "magic_", *command], capture_output=True)
    return done.returncode == 0 and more.returncode == 0


def main():
    testee = sys.argv[1]
    failures = [] if verdict([testee]) else ["the right testee is called wrong"]
    with tempfile.TemporaryDirectory() as folder:
        for name, edit in WRONG.items():
            script = pathlib.Path(folder) / "wrong"
            script.write_text(f"#!/bin/sh\n'{testee}' \"$@\" | sed '{edit}'\n")
            script.chmod(0o755)
            if verdict([str(script)]):
                failures.append(f"not noticed: {name}")
    print("\n".join(failures) or "all wrong testees noticed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
