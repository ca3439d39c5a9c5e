"""What the harness makes of samples, without namespaces: `make test-fast` runs it."""

import contextlib
import io
import json
import tempfile
import unittest
import xml.etree.ElementTree
from pathlib import Path

import compare
import integrity
import report
import soak


class Report(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.output = Path(folder.name) / "results/run"
        self.samples = report.Samples(self.output)
        self.addCleanup(self.samples.file.close)
        for value in (100, 300, 200):
            self.samples.add("0 ms", "wireguard-go", "up1", value)
        self.samples.add("0 ms", "kvpn <kernel>", "up1", 500)
        self.samples.add("0 ms", "kvpn <kernel>", "up1-cpu", 0.5)
        with contextlib.redirect_stderr(io.StringIO()):
            self.samples.note("said once")
            self.samples.note("said once")

    def written(self):
        with contextlib.redirect_stdout(io.StringIO()):
            report.write(self.samples, "wireguard-go", self.output)
        return {end: self.output.with_suffix(end).read_text(encoding="utf-8") for end in (".txt", ".json", ".svg", ".tsv")}

    def test_a_row_has_median_range_and_ratio(self):
        rows = report.table(self.samples, "0 ms", "wireguard-go").splitlines()
        self.assertRegex(rows[2], r"^TCP up, 1 stream, Mbit/s +200 \[100-300\] +500 x2\.50$")
        self.assertRegex(rows[3], r"s/GB +- +0\.5$")

    def test_every_form_says_the_same(self):
        written = self.written()
        self.assertEqual(written[".txt"].count("said once"), 1)
        document = json.loads(written[".json"])
        kernel = next(s for s in document["samples"] if s["peer"] == "kvpn <kernel>" and s["figure"] == "up1")
        self.assertEqual((kernel["median"], kernel["ratio"], kernel["unit"]), (500, 2.5, "Mbit/s"))
        xml.etree.ElementTree.fromstring(written[".svg"])

    def test_samples_are_read_as_they_were_written(self):
        again = report.Samples.read(self.output.with_suffix(".tsv"))
        self.assertEqual((again.values, again.notes), (self.samples.values, self.samples.notes))


class Words(unittest.TestCase):
    def test_sizes(self):
        self.assertEqual(integrity.size_of("10GiB"), 10 << 30)
        self.assertEqual(integrity.size_of("512MiB"), 512 << 20)
        self.assertEqual(integrity.size_of("1000"), 1000)

    def test_a_link_without_impairment_has_no_words(self):
        self.assertEqual(compare.link_words(0, 0), [])
        self.assertEqual(compare.link_words(20, 0.1), ["delay=10ms", "loss=0.1%"])


class Soak(unittest.TestCase):
    def test_memory_that_fills_its_pools_and_stays_is_flat(self):
        self.assertFalse(soak.grew([5, 20, 30, 31, 30, 31, 30, 31, 31, 30]))

    def test_memory_that_climbs_is_found(self):
        self.assertTrue(soak.grew([30 + n for n in range(20)]))


if __name__ == "__main__":
    unittest.main()
