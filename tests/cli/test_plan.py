"""plan, --topology and --link: budgets and readers by link, and what is refused, by line."""
import json
import os
import pathlib
import struct
import sys

from cli_runner import CACHES, MODEL as LLAMA, CommandTest, main
from state_builder import write_state

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "fidelity"))
import schema_check  # noqa: E402

GOLDEN = pathlib.Path(__file__).parent / "golden"
SCHEMA = json.loads((pathlib.Path(__file__).parents[2] / "spec" / "schemas" / "topology.schema.json").read_text())
STATE, MODEL = CACHES / "gemma3_f16.seq", CACHES / "models" / "tiny_gemma3.gguf"
GRAPH = """{
  "seconds": 0.5,
  "agents": [
    {"name": "reader", "role": "reads the repository"},
    {"name": "planner", "role": "plans the change"},
    {"name": "coder", "weights": "head.npy"},
    {"name": "reviewer", "weights": "tail.npy", "share": 3}
  ],
  "links": [
    {"from": "reader", "to": "planner", "bandwidth": 36000},
    {"from": "planner", "to": "coder", "bandwidth": 20000, "seconds": 1},
    {"from": "reader", "to": "reviewer", "bandwidth": 1e6, "bytes": 16000},
    {"from": "coder", "to": "reviewer", "bandwidth": 1e9}
  ]
}
"""


def npy(values):
    header = str({"descr": "<f4", "fortran_order": False, "shape": (len(values),)}).encode()
    header += b" " * (117 - len(header)) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + struct.pack(f"<{len(values)}f", *values)


class Plan(CommandTest):
    def setUp(self):
        super().setUp()
        self.expect(0, "convert", STATE, "cache.card", "--model", MODEL, "-q")
        count = self.json("inspect", "cache.card")["token_count"]
        self.count = count
        self.write("head.npy", npy([40.0 if token < 8 else 1.0 for token in range(count)]))
        self.write("tail.npy", npy([40.0 if token >= count - 8 else 1.0 for token in range(count)]))
        self.write("graph.json", GRAPH)

    def write(self, name, content):
        (self.folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    def plan(self, graph=None, *flags):
        if graph is not None:
            self.write("other.json", graph)
        return self.json("plan", "other.json" if graph is not None else "graph.json", "cache.card", "--queries", "none", *flags)

    def test_golden_table(self):
        text = self.expect(0, "plan", "graph.json", STATE, "--model", MODEL).stdout.decode().replace(str(STATE), "STATE")
        path = GOLDEN / "plan.txt"
        if os.environ.get("CACHECARD_BLESS"):
            path.write_text(text)
        self.assertEqual(text, path.read_text(), "run with CACHECARD_BLESS=1 to write plan.txt anew")

    def test_the_graph_is_what_the_schema_says(self):
        schema_check.check(json.loads(GRAPH), SCHEMA)

    def test_budgets_readers_and_caps(self):
        facts = self.plan()
        links = {(link["from"], link["to"]): link for link in facts["links"]}
        self.assertEqual(facts["whole_bytes"], (self.folder / "cache.card").stat().st_size)
        first, second, direct, last = links.values()
        self.assertEqual([link["budget_bytes"] for link in links.values()], [18000, 20000, 16000, 500000000])
        self.assertEqual([link["card_bytes"] for link in links.values()], [18000, 18000, 16000, 18000])
        self.assertIsNone(first["capped_by"])
        self.assertEqual(second["capped_by"], {"from": "reader", "to": "planner"})
        self.assertEqual(last["capped_by"], {"from": "planner", "to": "coder"})
        self.assertEqual(first["readers"], ["planner", "coder", "reviewer"])
        self.assertEqual(direct["readers"], ["reviewer"])
        self.assertAlmostEqual(first["bits_per_value"], 8 * 18000 / facts["value_count"])
        self.assertAlmostEqual(second["seconds"], 0.9)
        self.assertGreater(direct["gain_db"], first["gain_db"])
        self.assertEqual([agent["weights"] for agent in facts["agents"]], [None, "the same for all", "from head.npy", "from tail.npy"])

    def test_all_of_the_cache_passes_where_it_fits(self):
        graph = '{"agents": [{"name": "a"}, {"name": "b"}], "links": [{"from": "a", "to": "b", "bandwidth": 1e9}]}'
        link = self.plan(graph)["links"][0]
        self.assertTrue(link["whole"])
        self.expect(0, "convert", STATE, "all.card", "--model", MODEL, "-q", "--topology", "other.json", "--link", "a:b")
        self.expect(0, "diff", "cache.card", "all.card", "-q")

    def test_link_makes_the_card_of_its_budget_and_readers(self):
        flags = ["--model", MODEL, "-q", "--topology", "graph.json", "--link"]
        self.expect(0, "convert", STATE, "direct.card", *flags, "reader:reviewer")
        self.expect(0, "convert", STATE, "coder.card", *flags, "planner:coder")
        sizes = {name: (self.folder / name).stat().st_size for name in ("direct.card", "coder.card")}
        self.assertLessEqual(sizes["direct.card"], 16000)
        self.assertGreater(sizes["direct.card"], 16000 * 0.9)
        self.assertLessEqual(sizes["coder.card"], 18000)

        def offsets(card):
            rows = self.json("inspect", card, "--map")["map"]
            return {row["first_token"]: row["offset"] for row in rows
                    if row["streams"].startswith("key") and isinstance(row["offset"], int)}

        direct, coder = offsets("direct.card"), offsets("coder.card")
        self.assertEqual(len([token for token, offset in direct.items() if offset > 0]), 1)
        self.assertGreater(direct[self.count - 8], 0)  # what the reviewer looks at
        self.assertGreater(max(offset for token, offset in coder.items() if token < 8), 0)  # and the coder, who is behind the other link
        self.assertGreater(max(offset for token, offset in coder.items() if token >= self.count - 8), 0)
        provenance = self.json("inspect", "coder.card", "--provenance")["provenance"][-1]["text"]
        self.assertIn("token weights of coder, reviewer (link planner -> coder)", provenance)

    def test_extend_keeps_to_the_link(self):
        base = self.card(write_state(self.folder / "200.seq", 200), "--codec", "entropy", "--bits", "6", name="base.card")
        state = write_state(self.folder / "300.seq", 300)
        self.write("hop.npy", npy([1.0] * 250 + [9.0] * 50))
        size = base.stat().st_size

        def extend(most, exit_code=0):
            graph = {"agents": [{"name": "a"}, {"name": "b", "weights": "hop.npy"}], "links": [{"from": "a", "to": "b", "bytes": most}]}
            self.write("hop.json", json.dumps(graph))
            return self.expect(exit_code, "extend", base, state, "-o", "next.card", "--model", LLAMA, "--topology", "hop.json", "--link", "a:b",
                               *(["--json"] if exit_code == 0 else []))

        wide = json.loads(extend(10 * size).stdout)
        self.assertTrue(wide["shared_lanes"])
        small = size + wide["added_bytes"] * 2 // 3
        done = extend(small)
        tight = json.loads(done.stdout)
        self.assertLessEqual(tight["file_bytes"], small)
        self.assertGreater(tight["file_bytes"], 0.9 * small)
        self.assertIn("BASE's steps would take more than link a -> b lets pass", done.stderr.decode())
        self.expect(0, "verify", "--decode", "-q", "next.card")
        self.assertIn("token weights of b (link a -> b)", self.json("inspect", "next.card", "--provenance")["provenance"][-1]["text"])
        (self.folder / "next.card").unlink()
        self.assertIn("what is kept of BASE takes", extend(size - 1000, 2).stderr.decode())
        self.assertFalse((self.folder / "next.card").exists())

    def test_topology_and_link_go_together(self):
        self.expect(2, "convert", STATE, "no.card", "--model", MODEL, "--topology", "graph.json")
        self.expect(2, "convert", STATE, "no.card", "--model", MODEL, "--link", "reader:planner")

    def refused(self, graph, exit_code=2):
        self.write("bad.json", graph)
        line = self.expect(exit_code, "plan", "bad.json", "cache.card", "--queries", "none").stderr.decode()
        self.assertTrue(line.startswith("cachecard: plan: "), line)
        converted = self.expect(exit_code, "convert", STATE, "no.card", "--model", MODEL, "--topology", "bad.json", "--link", "reader:planner")
        self.assertEqual(converted.stderr.decode().split(": ", 2)[2], line.split(": ", 2)[2])
        self.assertFalse((self.folder / "no.card").exists())
        return line

    def test_a_bad_graph_is_refused_by_its_line(self):
        def changed(old, new):
            self.assertIn(old, GRAPH)
            return GRAPH.replace(old, new)

        cycle = changed('"reviewer", "bandwidth": 1e9}', '"reviewer", "bandwidth": 1e9},\n    {"from": "reviewer", "to": "planner", "bandwidth": 9}')
        link = '{"from": "reader", "to": "planner", "bandwidth": 36000}'
        by_schema = [
            (changed("36000", "-36000"), "line 10", "found -36000"),
            (changed("36000", "0"), "line 10", "found 0"),
            (changed("36000}", "-1\n}"), "line 10", "found -1"),
            (changed("36000", '"fast"'), "line 10", "found text, allowed is a number"),
            (changed('"seconds": 1}', '"seconds": -1}'), "line 11", "found -1"),
            (changed("0.5,", "0,"), "line 2", "found 0"),
            (changed('"share": 3', '"share": -3'), "line 7", "found a share of -3"),
            (changed('"bandwidth": 36000', '"bandwith": 24000'), "line 10", "has no 'bandwith'"),
            (changed('"to": "planner", ', ""), "line 10", "lacks 'to'"),
            (changed('"name": "coder", ', ""), "line 6", "lacks 'name'"),
            (changed('"name": "coder"', '"name": ""'), "line 6", "found no text"),
            ('{"agents": [], "links": []}', "line 1", "the list is empty"),
            ("[]", "line 1", "found a list"),
            ("\n\n{}", "line 3", "lacks 'agents'"),
        ]
        others = [
            (cycle, "line 14", "a cycle: planner -> coder -> reviewer -> planner"),
            (changed(link, link.replace('"planner"', '"painter"')), "line 10", "there is no agent 'painter'"),
            (changed(link, '{"from": "reader", "to":\n "painter", "bandwidth": 1}'), "line 11", "there is no agent 'painter'"),
            (changed(link, link + ",\n" + link), "line 11", "reader -> planner is there twice"),
            (changed(link, link.replace('"reader"', '"planner"')), "line 10", "back to its sender"),
            (changed('"bandwidth": 36000', '"seconds": 2'), "line 10", "neither a bandwidth nor a limit"),
            (changed('"name": "coder"', '"name": "planner"'), "line 6", "agent 'planner' is there twice"),
            (changed('"weights": "head.npy"', '"weights": "head.npy", "probe_text": "code"'), "line 6", "give one of them"),
            (changed("36000", "NaN"), "line 10", "not JSON"),
            (changed("36000", "1e999"), "line 10", "not JSON"),
            (changed('"seconds": 0.5,', '"seconds": 0.5, "seconds": 1,'), "line 2", "'seconds' is there twice"),
            (GRAPH[:-6], "line", "not JSON"),
            ("", "line 1", "not JSON"),
            ("[" * 100, "line 1", "in each other"),
            ('{"agents": "\xff"}'.encode("latin-1"), "line 1", "not JSON"),
        ]
        for graph, line, said in by_schema + others:
            with self.subTest(said=said, graph=graph[:200]):
                stderr = self.refused(graph)
                self.assertIn(f"--topology bad.json, {line}", stderr)
                self.assertIn(said, stderr)
        for graph, _line, said in by_schema:
            with self.subTest(schema=said):
                with self.assertRaises(schema_check.SchemaError):
                    schema_check.check(json.loads(graph), SCHEMA)

    def test_bad_weights_are_refused_by_agent_and_line(self):
        self.write("long.npy", npy([1.0] * (self.count + 1)))
        self.write("nan.npy", npy([float("nan")] * self.count))
        self.write("low.npy", npy([-1.0] * self.count))
        for name, exit_code, said in (("none.npy", 3, "No such file"), ("long.npy", 2, f"the cache has {self.count}"),
                                      ("nan.npy", 2, "found nan"), ("low.npy", 2, "found -1"), ("graph.json", 2, "no .npy")):
            with self.subTest(name=name):
                stderr = self.refused(GRAPH.replace("head.npy", name), exit_code)
                self.assertIn("--topology bad.json, line 6: agent 'coder', " + name, stderr)
                self.assertIn(said, stderr)

    def test_files_and_links_that_are_not_there(self):
        self.assertIn("none.json", self.expect(3, "plan", "none.json", "cache.card").stderr.decode())
        self.expect(3, "plan", "graph.json", "none.card")
        self.expect(2, "plan", "-", "-")
        flags = ["convert", STATE, "no.card", "--model", MODEL, "--topology", "graph.json", "--link"]
        said = self.expect(2, *flags, "reader:coder").stderr.decode()
        self.assertIn("reader:planner, planner:coder, reader:reviewer, coder:reviewer", said)
        self.assertIn("--bits excludes --link", self.expect(2, *flags, "reader:planner", "--bits", "2").stderr.decode())
        self.assertIn("leave --codec planes out", self.expect(2, *flags, "reader:planner", "--codec", "planes").stderr.decode())
        self.assertIn("--weights excludes --link", self.expect(2, *flags, "reader:planner", "--weights", "head.npy").stderr.decode())
        self.assertIn("needs --profile", self.expect(2, *flags, "reader:planner", "--queries", "newest").stderr.decode())
        self.write("small.json", GRAPH.replace("36000", "20"))
        small = ["convert", STATE, "no.card", "--model", MODEL, "--topology", "small.json", "--link", "reader:planner"]
        self.assertIn("it lets 10 bytes pass", self.expect(2, *small).stderr.decode())
        self.assertIn("link reader -> planner lets 10 bytes pass: no card is that small",
                      self.expect(0, "plan", "small.json", "cache.card").stderr.decode())
        self.assertFalse((self.folder / "no.card").exists())

    def test_the_example_is_a_graph(self):
        example = pathlib.Path(__file__).parents[2] / "tools" / "examples" / "topology.json"
        schema_check.check(json.loads(example.read_text()), SCHEMA)
        done = self.expect(0, "plan", example, "cache.card")
        self.assertIn("probes are read by a model, and --model is not given", done.stderr.decode())

    def test_a_graph_comes_from_a_pipe(self):
        piped = self.json("plan", "-", "cache.card", "--queries", "none", stdin=GRAPH.encode())
        self.assertEqual(piped["links"], self.plan()["links"])


if __name__ == "__main__":
    main()
