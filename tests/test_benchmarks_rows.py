import json
import pickle
import pickletools
import subprocess
import sys

import pytest

from benchmark_miniatures import dump, picture
from visurf.benchmarks import BENCHMARKS, Benchmark, get_benchmark
from visurf.benchmarks.rows import (
    RowReport,
    finish,
    image_path,
    numbers,
    read_json,
    read_jsonl,
    read_pickle,
    require,
)
from visurf.types import DataError, ImageRef, Objects, Sample

TASKS = {
    *("referring", "reasoning_segmentation", "detection", "classification", "grounding", "gui", "anomaly"),
    *("anomaly_yes_no", "lesion", "mathematics", "question_answering"),
}


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_every_benchmark_is_described(name):
    benchmark = get_benchmark(name)
    assert isinstance(benchmark, Benchmark)
    assert benchmark.name == name
    assert benchmark.task in TASKS
    assert all((benchmark.splits, benchmark.metrics, benchmark.source, benchmark.licence))


@pytest.mark.parametrize("name", sorted(set(BENCHMARKS) - {"vlm_r1"}))
def test_every_benchmark_refuses_an_unknown_split_and_an_empty_folder(name, tmp_path):
    benchmark = get_benchmark(name)
    with pytest.raises(DataError, match="unknown split 'nonsense'"):
        benchmark.load(tmp_path, "nonsense")
    for split in benchmark.splits:
        with pytest.raises(DataError):
            benchmark.load(tmp_path, split)


def test_unknown_benchmark_suggests_a_name():
    with pytest.raises(DataError, match="did you mean 'grefcoco'"):
        get_benchmark("gref_coco")
    with pytest.raises(DataError, match="cannot be imported"):
        get_benchmark("visurf.nowhere:NAME")
    with pytest.raises(DataError, match="expected a Benchmark"):
        get_benchmark("visurf.benchmarks.coco:SPLITS")
    assert get_benchmark("visurf.benchmarks.coco:BENCHMARK").name == "coco"


def test_importing_the_package_imports_no_data_set_and_no_torch():
    code = "import sys, visurf.benchmarks;print([m for m in sys.modules if m == 'torch' or m.startswith('visurf.benchmarks.')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_importing_every_benchmark_imports_no_torch():
    code = (
        "import sys; from visurf.benchmarks import BENCHMARKS, get_benchmark; [get_benchmark(n) for n in BENCHMARKS];"
        "print([m for m in ('torch', 'pyarrow', 'cv2', 'pycocotools', 'transformers') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_report_raises_or_counts():
    with pytest.raises(DataError, match="broken"), RowReport().row(3):
        raise DataError("broken")
    report = RowReport("skip")
    with report.row(3):
        raise DataError("file x: row 3: broken")
    report.leave_out(4, "a crowd")
    assert report.bad == [("3", "file x: row 3: broken")]
    assert report.summary() == "left out, a crowd: 1 (4)\nskipped as bad: 1 (3); first: file x: row 3: broken"


def test_report_lets_a_programming_error_through():
    with pytest.raises(KeyError), RowReport("skip").row(1):
        raise KeyError("not a data error")


def test_finish_refuses_duplicate_ids_and_an_empty_list():
    sample = Sample("a", (), "?", Objects())
    assert finish([sample], "f") == [sample]
    with pytest.raises(DataError, match="'a' occurs twice"):
        finish([sample, sample], "f")
    with pytest.raises(DataError, match="at least one usable row"):
        finish([], "f")


def test_require_names_file_row_and_field():
    with pytest.raises(DataError, match=r"f\.json: row 2, field 'x': expected int, but the field is missing"):
        require({"y": 1}, "x", int, "f.json: row 2")
    with pytest.raises(DataError, match="expected int, got True"):
        require({"x": True}, "x", int, "f")
    with pytest.raises(DataError, match="expected int, got '7'"):  # numbers as strings
        require({"x": "7"}, "x", int, "f")
    with pytest.raises(DataError, match="expected an object"):
        require([1], "x", int, "f")
    for bad in ([1, 2], [1, 2, 3, float("nan")], [1, 2, 3, "4"], [1, 2, 3, True], None, "1234"):
        with pytest.raises(DataError, match="expected"):
            numbers(bad, 4, "f")


@pytest.mark.parametrize(
    "name",
    [
        *("/etc/passwd", "../secret.jpg", "a/../../b.jpg", "..\\b.jpg", "C:\\x.jpg", "c:/x.jpg", "\\\\host\\x.jpg"),
        *("http://x/y.jpg", "file:///x.jpg", "", "  ", "a\0.jpg", 7, None),
    ],
)
def test_trap_image_path_absolute_or_parent_is_refused(name, tmp_path):
    with pytest.raises(DataError, match="image path"):
        image_path(tmp_path, name, "row 1")


def test_trap_windows_separators_in_image_paths(tmp_path):
    assert image_path(tmp_path, "a\\b..c.jpg", "row 1") == tmp_path / "a" / "b..c.jpg"


def test_trap_jsonl_lines_end_at_newline_only(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"id": 1, "text": "one\u2028two\u2029three\x85four\x0bfive"}, {"id": 2, "text": "x"}]
    path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in rows) + "\n", encoding="utf-8", newline="")
    assert [row for _, row in read_jsonl(path)] == json.loads(json.dumps(rows))


def test_trap_jsonl_byte_order_mark_blank_lines_and_crlf(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": 1}\r\n\r\n\n{"id": 2}')
    assert list(read_jsonl(path)) == [(1, {"id": 1}), (4, {"id": 2})]


def test_trap_jsonl_that_is_a_json_array(tmp_path):
    assert [r for _, r in read_jsonl(dump(tmp_path / "rows.jsonl", [{"id": 1}, {"id": 2}]))] == [{"id": 1}, {"id": 2}]


def test_broken_json_names_the_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": 1}\n{"id": \n')
    with pytest.raises(DataError, match=r"rows\.jsonl: line 2: not valid JSON"):
        list(read_jsonl(path))
    with pytest.raises(DataError, match="not valid JSON"):
        read_json(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_json(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b'"caf\xe9"')
    with pytest.raises(DataError, match="expected text in utf-8"):
        read_json(tmp_path / "latin.json")
    (tmp_path / "deep.json").write_text("[" * 200_000)
    with pytest.raises(DataError, match="not valid JSON"):
        read_json(tmp_path / "deep.json")


# As Python 2 wrote it, protocol 0: a list of a dict with byte strings, one of them utf-8.
PYTHON2 = b"(lp0\n(dp1\nS'sent'\np2\nS'caf\\xc3\\xa9'\np3\nsS'ref_id'\np4\nI7\nsa."


def test_trap_python2_pickle_is_read(tmp_path):
    path = tmp_path / "refs(unc).p"
    path.write_bytes(PYTHON2)
    assert read_pickle(path) == [{"sent": "cafÃ©", "ref_id": 7}]
    for protocol in range(6):
        path.write_bytes(pickle.dumps([{"a": [1, 2.5, None, True, ("x",)]}], protocol))
        assert read_pickle(path) == [{"a": [1, 2.5, None, True, ("x",)]}]


class _Evil:
    def __reduce__(self):
        import os

        return os.system, ("touch /tmp/visurf-pickle-was-run",)


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps([_Evil()]),
        pickle.dumps([_Evil()], 0),
        pickle.dumps({1, 2}, 0),
        pickle.dumps(complex(1, 2)),
        b"cos\nsystem\n(S'true'\ntR.",
        b"c__builtin__\neval\n(S'1'\ntR.",
        b"(S'true'\nios\nsystem\n.",
        b"Pid\n.",
        b"\x80\x04\x82\x01.",
        b"\x95\x04\x956\x00\x00\x00\x00\xed\x00.",
        b"",
        b"not a pickle",
        PYTHON2[:-9],
        b"\x80\x02]q\x00(K\x01b.",
    ],
)
def test_trap_pickle_with_anything_but_plain_values_is_refused(data, tmp_path):
    path = tmp_path / "refs(unc).p"
    path.write_bytes(data)
    with pytest.raises(DataError, match="refused as a pickle"):
        read_pickle(path)


def test_the_pickles_refused_do_name_globals():
    names = [op.name for op, _, _ in pickletools.genops(pickle.dumps([_Evil()]))]
    assert "STACK_GLOBAL" in names


def test_trap_wrong_extensions_are_opened_by_content(tmp_path):
    path = picture(tmp_path / "a.png", format="JPEG")
    assert ImageRef(path).size == (64, 48)
    assert ImageRef(picture(tmp_path / "b.jpg", format="GIF")).load().mode == "RGB"


def test_image_ref_fetches_bytes_on_demand(tmp_path):
    calls = []

    def fetch():
        calls.append(1)
        return picture(tmp_path / "a.png").read_bytes()

    ref = ImageRef(fetch)
    assert not calls
    assert ref.size == (64, 48)
    assert ref.load().size == (64, 48)
