"""The harness judges others, so it is judged here: normaliser, HPACK builder, readers, comparison, allow-list.

Run in tests/parity: python -m unittest
"""
import asyncio
import datetime
import unittest

import hpack

from difft import compare, config, h1, h2frames, script
from difft.normalise import Normaliser

ID1 = "11111111-2222-4333-8444-555555555555"
ID2 = "22222222-2222-9333-8444-555555555555"


class Hpack(unittest.TestCase):
    def test_literals_decode_to_what_went_in(self):
        fields = [(b":path", b"/" + b"a" * 300), (b"X-Upper", b"b\r\nc\0"), (b"", b"\xe9")]
        decoded = hpack.Decoder().decode(h2frames.block(fields), raw=True)
        self.assertEqual([(n, v) for n, v in decoded], fields)

    def test_integer_prefix_boundary(self):
        self.assertEqual(h2frames.integer(126, 7), b"\x7e")
        self.assertEqual(h2frames.integer(127, 7), b"\x7f\x00")
        self.assertEqual(h2frames.integer(1337, 5), b"\x1f\x9a\x0a")  # RFC 7541 C.1.2

    def test_big_block_is_cut_into_continuations(self):
        frames, used = h2frames.split_frames(h2frames.big_headers(1, [("a", "x" * 40000)], True))
        self.assertEqual([(k, fl) for k, fl, _, _ in frames], [(1, 1), (9, 0), (9, 4)])
        self.assertEqual(used, sum(9 + len(p) for *_, p in frames))

    def test_reader_keeps_every_event_of_a_stream(self):
        reader = h2frames.Reader()
        data = h2frames.headers(1, [(":status", 200)]) + h2frames.frame(0, 0, 1, b"hi") + h2frames.headers(1, [("t", 1)], True)
        reader.feed(data + h2frames.frame(3, 0, 1, b"\0\0\0\0")[:5])  # a frame that is not all there yet
        stream = reader.streams[1]
        self.assertEqual((stream["body"], stream["trailers"], stream["end"]), (b"hi", [["t", "1"]], "fin"))
        reader.feed(data + h2frames.frame(3, 0, 1, b"\0\0\0\0"))
        self.assertEqual(stream["end"], "fin+rst:0")


class Http1Reader(unittest.TestCase):
    def read(self, text, methods=("GET",), eof=False):
        return h1.read_all(bytearray(text.encode("latin-1")), list(methods), eof)

    def test_chunked_with_trailers_and_a_rest(self):
        _, (rec,), rest = self.read("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-t: 1\r\n\r\nevil")
        self.assertEqual((rec["body"], rec["trailers"], rec["complete"], rest), (b"hi", [["x-t", "1"]], True, b"evil"))

    def test_truncated_body_only_ends_with_the_connection(self):
        text = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345"
        self.assertEqual(self.read(text)[1], [])
        rec = self.read(text, eof=True)[1][0]
        self.assertEqual((rec["complete"], rec["body"]), (False, b"12345"))

    def test_head_has_no_body_and_interim_is_apart(self):
        interim, final, rest = self.read("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n", ["HEAD"])
        self.assertEqual((len(interim), len(final), rest), (1, 1, b""))

    def test_garbage_is_shown_not_swallowed(self):
        self.assertIn(b"malformed", self.read("GARBAGE\r\n\r\n")[2])


class Normalising(unittest.TestCase):
    def setUp(self):
        self.norm = Normaliser({"L0": 20001, "A": 20002}, {"10.9.8.7"}, "/tmp/x")

    def test_same_id_same_symbol_and_trace_reason_kept(self):
        self.assertEqual(self.norm.text(f"{ID1} {ID2} {ID1}"), "<uuid#0:4> <uuid#1:9> <uuid#0:4>")

    def test_ports_addresses_dates(self):
        text = self.norm.text("127.0.0.1:20001 127.0.0.1:45678 10.9.8.7 Sun, 22 Nov 2026 16:26:31 GMT")
        self.assertEqual(text, "127.0.0.1:<L0> 127.0.0.1:<ephemeral> <local-ip> <date>")

    def test_order_matters_per_name_only(self):
        one = self.norm.headers([["a", "1"], ["b", "2"], ["a", "3"]])
        self.assertEqual(one, self.norm.headers([["b", "2"], ["a", "1"], ["a", "3"]]))
        self.assertNotEqual(one, self.norm.headers([["a", "3"], ["b", "2"], ["a", "1"]]))

    def test_case_of_names_is_kept(self):
        self.assertNotEqual(self.norm.headers([["A", "1"]]), self.norm.headers([["a", "1"]]))

    def test_expected_timeout_exact_first_then_remaining(self):
        name = "x-envoy-expected-rq-timeout-ms"
        self.assertEqual(self.norm.headers([[name, "15000"]]), {name: ["15000"]})
        self.assertEqual(self.norm.headers([[name, "14987"]]), {name: ["<rest of 15000>"]})

    def test_a_missing_duration_stays_a_difference(self):
        self.assertNotEqual(self.norm.log({"duration": None}), self.norm.log({"duration": 3}))


class Comparing(unittest.TestCase):
    def test_paths_of_differences(self):
        a = {"conns": [{"headers": {"a": ["1", "2"]}, "x": 1}]}
        b = {"conns": [{"headers": {"a": ["2", "1"]}, "x": 1, "y": 2}]}
        self.assertEqual([d[0] for d in compare.diff(a, b)], ["conns[0].headers.a", "conns[0].y"])

    def test_missing_list_element(self):
        self.assertEqual(compare.diff({"logs": [1]}, {"logs": []}), [("logs[0]", 1, "<absent>")])

    def test_tolerance_is_for_wire_bytes_only(self):
        self.assertEqual(compare.diff({"up_wire_rx": 100}, {"up_wire_rx": 120}), [])
        self.assertEqual(len(compare.diff({"up_wire_rx": 100}, {"up_wire_rx": 300})), 1)
        self.assertEqual(len(compare.diff({"up_wire_rx": 100}, {"up_wire_rx": None})), 1)
        self.assertEqual(len(compare.diff({"tx": 100}, {"tx": 101})), 1)

    def test_unmet_expectation_is_reported(self):
        record = {"conns": [{"conn": "open", "responses": [{"status": 200, "headers": {}, "body": "x"}]}], "upstream": [], "logs": [{"flags": "-"}]}
        self.assertEqual(compare.unmet({"status": 200, "flags": "-", "up": 0}, record), [])
        self.assertEqual(len(compare.unmet({"status": 404, "flags": "NR", "nonsense": 1}, record)), 3)


def entry(**over):
    base = {"id": "D-1", "where": "a/x/*:conns[0].*", "envoy": 200, "ours": 400, "class": "cosmetic", "justification": "j", "owner": "o", "until": "never"}
    return base | over


class Allow(unittest.TestCase):
    def test_matches_selector_and_both_values(self):
        allow = compare.AllowList([entry()])
        self.assertIsNotNone(allow.match("a/x/A01", "conns[0].responses[0].status", 200, 400))
        for case, path, a, b in [("a/y/A01", "conns[0].s", 200, 400), ("a/x/A01", "logs[0].s", 200, 400), ("a/x/A01", "conns[0].s", 200, 403)]:
            self.assertIsNone(allow.match(case, path, a, b))

    def test_header_value_lists_of_one(self):
        allow = compare.AllowList([entry(envoy="x", ours="y")])
        self.assertIsNotNone(allow.match("a/x/A01", "conns[0].headers.a", ["x"], ["y"]))

    def test_unused_entry_is_stale_only_when_its_case_ran(self):
        allow = compare.AllowList([entry()])
        self.assertEqual(len(allow.unused(["a/x/A01"])), 1)
        self.assertEqual(allow.unused(["b/x/A01"]), [])
        allow.match("a/x/A01", "conns[0].s", 200, 400)
        self.assertEqual(allow.unused(["a/x/A01"]), [])

    def test_discipline(self):
        today = datetime.date(2026, 11, 22)
        for bad in (entry(until=datetime.date(2026, 11, 21)), entry(until="soon"), entry(**{"class": "whatever"})):
            self.assertEqual(len(compare.AllowList([bad], today).errors), 1, bad)
        incomplete = entry()
        del incomplete["justification"]
        self.assertEqual(len(compare.AllowList([incomplete]).errors), 1)
        self.assertEqual(len(compare.AllowList([entry(), entry()]).errors), 1)


class Config(unittest.TestCase):
    def test_whole_placeholder_keeps_its_type(self):
        self.assertEqual(config.substitute({"p": "${A}", "s": "x:${A}", "u": "${NOPE}"}, {"A": 7}), {"p": 7, "s": "x:7", "u": "${NOPE}"})

    def test_merge_null_removes(self):
        self.assertEqual(config.merge({"a": {"b": 1, "c": 2}}, {"a": {"b": None, "d": 3}}), {"a": {"c": 2, "d": 3}})

    def test_only_keeps_a_listener_and_its_clusters(self):
        case = {"listeners": {"L0": {"http": {}}, "L1": {"http": {"routes": ["/ -> dead"]}}}, "clusters": {"a": {}, "dead": {}}}
        static = config.bootstrap(case, {}, {"L1"})["static_resources"]
        self.assertEqual(([x["name"] for x in static["listeners"]], [x["name"] for x in static["clusters"]]), (["L1"], ["dead"]))


class Script(unittest.TestCase):
    def test_seq_advances_and_stays_at_the_last(self):
        counters = {}
        got = [script.parse("/seq/k/503,rst,200:retry-after=1", counters) for _ in range(4)]
        self.assertEqual([(a.kind, a.status) for a in got], [("reply", 503), ("rst", 200), ("reply", 200), ("reply", 200)])
        self.assertEqual(got[2].headers, [["retry-after", "1"]])

    def test_unknown_and_broken(self):
        self.assertEqual((script.parse("/x", {}).status, script.parse("/s/abc", {}).status), (200, 500))


class ConnState(unittest.TestCase):
    def test_fin_rst_and_data_before_rst(self):
        from difft import conn
        from difft.backend import reset

        async def scenario(ending):
            async def serve(_, writer):
                writer.write(b"data")
                await writer.drain()
                await got.wait()
                reset(writer) if ending == "rst" else writer.close()
            got = asyncio.Event()
            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            client = await conn.connect(server.sockets[0].getsockname()[1])
            await client.wait_for(lambda: len(client.buf) == 4, 2)
            got.set()
            await client.wait_for(lambda: False, 2)
            server.close()
            client.close()
            return client.state, bytes(client.buf)

        for ending in ("fin", "rst"):
            self.assertEqual(asyncio.run(scenario(ending)), (ending, b"data"))


if __name__ == "__main__":
    unittest.main()
