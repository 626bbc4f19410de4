"""The report's data and page: what is read, what is drawn together, what is embedded, and what can't get out of its text."""

import http.client
import json
import re
import threading

import pytest

from report_runs import HOSTILE, absent, boxes, group, present, write_run
from visurf.cli import main
from visurf.judging import judge
from visurf.reporting.compare import comparison_data, differing, read_records, statistics, write_comparison
from visurf.reporting.correlation import alarms, between_evaluations, deception, rank_correlation
from visurf.reporting.curves import POINTS, bundles, curves, series
from visurf.reporting.groups import LONGEST_TEXT, chosen_groups, flags, spread_order
from visurf.reporting.page import SCRIPTS, asset, embedded, finite, policy, render
from visurf.reporting.reading import distinct_names, find_runs, read_run
from visurf.reporting.report import report_data, write_report
from visurf.reporting.watch import Server
from visurf.small_pictures import illustrate
from visurf.tasks import TASKS
from visurf.types import Completion, DataError, Objects, ParseError


def data_in(page):
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(found)


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", [group(s, HOSTILE) for s in present(4)])


def test_a_line_that_is_still_written_waits(run):
    with (run / "metrics.jsonl").open("a") as rows:
        rows.write('{"step": 5, "reward/total": 9.0}\n{"step": 6, "rew')
    with (run / "rollouts.jsonl").open("a") as rows:
        rows.write('{"step": 5, "members": [{"sour')
    found = read_run(run)
    assert [row["step"] for row in found.metrics] == [1, 2, 3, 4, 5]
    assert len(found.groups) == 4
    assert found.damaged == 0
    with (run / "metrics.jsonl").open("a") as rows:
        rows.write("\n")
    assert read_run(run).damaged == 1


def test_steps_that_were_done_again_count_once(run):
    with (run / "metrics.jsonl").open("a") as rows:
        rows.write('{"step": 2, "reward/total": 7.0}\n')
    found = read_run(run)
    assert [(row["step"], row["reward/total"]) for row in found.metrics][:2] == [(1, 1.0), (2, 7.0)]
    assert len(found.metrics) == 4


def test_a_folder_of_runs_stands_for_all_in_it(tmp_path):
    for name in ("b", "a"):
        write_run(tmp_path / "runs" / name, [])
    assert [p.name for p in find_runs([tmp_path])] == ["a", "b"]
    with pytest.raises(DataError, match="expected a run folder"):
        find_runs([tmp_path / "runs" / "a" / "pictures"])
    assert distinct_names([tmp_path / "x" / "run", tmp_path / "y" / "run"]) == ["x/run", "y/run"]


def test_seeds_of_the_same_settings_are_one_band(tmp_path):
    def value(seed):
        return lambda step: {"reward/total": step + seed, "time/step": 1.0}

    paths = [write_run(tmp_path / f"s{seed}", [], steps=3, seed=seed, metrics=value(seed)) for seed in (0, 2)]
    paths.append(write_run(tmp_path / "other", [], steps=3, seed=0, paradigm="rlvr", metrics=value(10)))
    runs = [read_run(path) for path in paths]
    assert bundles(runs) == [[0, 1], [2]]
    band = series(runs, [0, 1], "reward/total")
    assert band == {"x": [1, 2, 3], "y": [2, 3, 4], "low": [1, 2, 3], "high": [3, 4, 5]}
    found = curves(runs)
    assert [line["runs"] for line in found["lines"]] == [[0, 1], [2]]
    (chart,) = [c for s in found["sections"] for c in s["charts"] if c["name"] == "reward/total"]
    assert chart["series"][1] == {"x": [1, 2, 3], "y": [11, 12, 13]}
    # The same seed twice is no spread over seeds.
    again = read_run(write_run(tmp_path / "again", [], steps=3, seed=0, metrics=value(0)))
    assert bundles([runs[0], again]) == [[0], [1]]


def test_a_long_curve_is_thinned_and_what_is_no_number_left_out(tmp_path):
    path = write_run(tmp_path, [], steps=5000, metrics=lambda step: {"a": step / 2, "b": float("nan"), "c": "text", "d": True})
    found = series([read_run(path)], [0], "a")
    assert len(found["x"]) == POINTS
    assert found["y"] == pytest.approx([x / 2 for x in found["x"]], rel=1e-5)
    assert {c["name"] for s in curves([read_run(path)])["sections"] for c in s["charts"]} == {"a"}


def test_rank_correlation_by_hand():
    assert rank_correlation([1, 2, 3, 4], [2, 4, 8, 16]) == 1
    assert rank_correlation([1, 2, 3, 4], [5, 3, 2, 1]) == -1
    assert rank_correlation([1, 2, 3], [1, 2, 3]) is None
    assert rank_correlation([1, 1, 1, 1], [1, 2, 3, 4]) is None
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: Pearson's r of them.
    assert rank_correlation([1, 2, 2, 4], [1, 2, 3, 4]) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)


def test_a_reward_that_rises_while_accuracy_falls_is_seen(tmp_path):
    def row(step):
        held = {"validation/giou": 1 - step / 10, "validation/samples": 4.0} if step % 2 == 0 else {}
        return {"reward/total": float(step), "reward/format": 1.0, "alarm/deceptive": float(step > 6), "alarm/quiet": 0.0, **held}

    panel = deception(read_run(write_run(tmp_path, [], steps=10, metrics=row)))
    assert panel["metrics"] == ["validation/giou"]
    assert panel["steps"] == [2, 4, 6, 8, 10]
    assert panel["rewards"]["reward/total"] == [1.5, 3.5, 5.5, 7.5, 9.5]
    assert panel["correlation"] == {"reward/total": [-1.0], "reward/format": [None]}
    assert alarms(read_run(tmp_path)) == [{"name": "alarm/deceptive", "steps": [7, 8, 9, 10]}, {"name": "alarm/quiet", "steps": []}]
    assert between_evaluations({1: 2.0, 2: 4.0}, [2, 5]) == [3.0, None]


def test_every_filter_by_hand(tmp_path):
    there, gone = present(1)[0], absent(1)[0]
    right, wrong = boxes([round(v) for v in there.target.boxes[0]]), boxes([1, 1, 4, 4])
    # Far away, but every part except accuracy is paid: 4 of the label's 6 are not high; a point inside earns more.
    cases = {
        "wrong": group(there, [wrong, wrong]),
        "rescued": group(gone, [wrong, wrong]),
        "flat": group(there, [right, right]),
        "parse": group(there, [right, "nothing to read>"]),
        "truncated": group(there, [right, "<think>cut"]),
        "sound": group(there, [right, wrong]),
    }
    write_run(tmp_path, list(cases.values()))
    rows, counts = chosen_groups([read_run(tmp_path)], 10**7)
    found = {name: set(row["flags"]) for name, row in zip(cases, rows, strict=True)}
    assert counts == [{"shown": 6, "recorded": 6, "damaged": 0}]
    assert found["wrong"] == {"wrong", "rescued"}
    assert found["rescued"] == {"wrong", "rescued"}
    assert found["flat"] <= {"flat"}
    assert found["parse"] == {"parse"}
    assert found["truncated"] == {"parse", "truncated"}
    assert found["sound"] == set()
    hollow = json.loads(json.dumps(rows[5]))
    hollow["members"][1]["total"] = 0.75 * hollow["members"][2]["total"]
    assert flags(hollow, 0.0) == ["hollow"]
    hollow["members"][1]["total"] -= 0.01
    assert flags(hollow, 0.0) == []


def test_what_does_not_fit_is_sampled_evenly(tmp_path):
    runs = [read_run(write_run(tmp_path / str(i), [group(s, [boxes([1, 1, 9, 9])] * 4) for s in present(40)])) for i in range(2)]
    every, _ = chosen_groups(runs, 10**8)
    assert len(every) == 80
    some, counts = chosen_groups(runs, 400_000)
    assert 8 < len(some) < 40
    assert [c["recorded"] for c in counts] == [40, 40]
    steps = [row["step"] for row in some if row["run"] == 0]
    assert max(b - a for a, b in zip([0, *steps], [*steps, 41], strict=True)) <= 2 * 40 / len(steps) + 2
    assert sorted(spread_order(11)) == list(range(11))
    small = report_data([r.path for r in runs], largest=900_000)
    assert len(render(small, "x")) <= 900_000
    assert small["groups"]


def test_no_text_gets_out_of_the_page(run, tmp_path):
    page = write_report([run], tmp_path / "r.html").read_text()
    assert page.count("<script") == 2
    assert "\u2028" not in page
    data = data_in(page)
    assert [m["text"] for m in data["groups"][0]["members"][:-1]] == list(HOSTILE)
    assert "onerror=" not in page.replace(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1], "")
    # The scripts of the page take every text as text.
    own = "".join(asset(name) for name in SCRIPTS if not name.startswith("uPlot"))
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|setAttribute\(.style", own)
    assert "'unsafe" not in policy()
    assert "connect-src 'none'" in policy()
    assert json.loads(embedded({"a": "</script>\u2029&<!--"})) == {"a": "</script>\u2029&<!--"}
    assert finite({"a": [float("nan"), 1.0, float("inf")]}) == {"a": [None, 1.0, None]}
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page.split('id="data"')[0] + own)


def test_names_of_pictures_lead_nowhere_else(run, tmp_path):
    (tmp_path / "secret.png").write_bytes(b"\x89PNG secret")
    rows = [json.loads(line) for line in (run / "rollouts.jsonl").read_text().split("\n") if line]
    rows[0]["pictures"] = ["../../secret.png", str(tmp_path / "secret.png"), 3]
    (run / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = report_data([run])
    assert data["groups"][0]["pictures"] == []
    assert all(value.startswith("data:image/png;base64,") for value in data["pictures"].values())


def test_a_very_long_text_is_cut_and_says_so(tmp_path):
    write_run(tmp_path, [group(present(1)[0], ["x" * (LONGEST_TEXT + 5)])])
    member = report_data([tmp_path])["groups"][0]["members"][0]
    assert (len(member["text"]), member["cut"]) == (LONGEST_TEXT, LONGEST_TEXT + 5)


def test_runs_of_earlier_versions_and_damaged_rows_are_shown_as_far_as_they_go(tmp_path, run):
    old = tmp_path / "old"
    old.mkdir()
    (old / "metrics.jsonl").write_text('{"step": 1, "reward/total": 1.0}\n')
    (old / "rollouts.jsonl").write_text('{"step": 1}\nnot json\n')
    data = report_data([run, old])
    assert data["counts"][1] == {"shown": 0, "recorded": 2, "damaged": 2}
    assert data["runs"][1]["starts"] == []
    assert data["runs"][0]["starts"][0]["command"]


def test_the_command_writes_one_small_file(run, capsys):
    assert main(["report", str(run)]) == 0
    assert "report.html" in capsys.readouterr().out
    assert (run / "report.html").stat().st_size < 10_000_000
    assert main(["report"]) == 2
    assert main(["report", str(run / "nothing")]) == 2


@pytest.fixture
def server(run):
    with Server([run]) as found:
        thread = threading.Thread(target=found.serve_forever, daemon=True)
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def asked(server, path, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def test_watching_serves_what_the_folder_holds_now(server, run):
    answer, page = asked(server, "/")
    assert answer.status == 200
    assert data_in(page.decode())["watch"] is True
    answer, body = asked(server, "/data.json")
    first, tag = json.loads(body), answer.headers["ETag"]
    assert first["runs"][0]["steps"] == 4
    assert asked(server, "/data.json", **{"If-None-Match": tag})[0].status == 304
    with (run / "metrics.jsonl").open("a") as rows:
        rows.write('{"step": 5, "reward/total": 3.0}\n{"step": 6')
    answer, body = asked(server, "/data.json", **{"If-None-Match": tag})
    assert answer.status == 200
    assert json.loads(body)["runs"][0]["steps"] == 5
    (address,) = {json.loads(body)["pictures"][k] for k in list(json.loads(body)["pictures"])[:1]}
    answer, picture = asked(server, f"/{address}")
    assert answer.status == 200
    assert picture.startswith(b"\x89PNG")


def test_the_server_answers_to_this_machine_and_gives_no_other_file(server, run):
    assert server.server_address[0] == "127.0.0.1"
    assert asked(server, "/", Host="attacker.example")[0].status == 403
    for path in (
        "/config.yaml",
        "/picture/0/../../config.yaml",
        "/picture/0/%2e%2e%2fconfig.yaml",
        "/picture/9/" + "a" * 24 + ".png",
    ):
        answer, body = asked(server, path)
        assert (answer.status, body) == (404, b"")
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    asked(server, "/data.json")
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*")} == before


def records(folder, answers, samples):
    found = []
    for sample, answer in zip(samples, answers, strict=True):
        said = None if isinstance(answer, ParseError) else answer
        completion = Completion(HOSTILE[0], (1,), said, answer if said is None else None)
        found.append(judge(sample, completion, TASKS["referring"]))
    folder.mkdir(parents=True)
    found = illustrate(found, samples, folder, 10**6, 384)
    (folder / "records.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in found))
    return folder


def test_a_comparison_by_hand(tmp_path, capsys):
    samples = present(6)
    right = [Objects(s.target.boxes, s.target.points) for s in samples]
    half = [Objects(((x1, y1, (x1 + x2) / 2, y2),)) for ((x1, y1, x2, y2),) in (s.target.boxes for s in samples)]
    first = records(tmp_path / "first", [*right[:3], *half[3:5], ParseError("no_answer")], samples)
    second = records(tmp_path / "second", right, samples)
    sides = read_records(first), read_records(second / "records.jsonl")
    rows, notes = statistics(*sides)
    found = {row["name"]: row for row in rows}
    assert notes == []
    assert found["gIoU"]["first"] == pytest.approx((3 + 0.5 + 0.5) / 6)
    assert found["gIoU"]["second"] == pytest.approx(1)
    assert found["gIoU"]["difference"] == pytest.approx(1 / 3)
    areas = [(x2 - x1) * (y2 - y1) for ((x1, y1, x2, y2),) in (s.target.boxes for s in samples)]
    assert found["cIoU"]["first"] == pytest.approx((sum(areas[:3]) + sum(areas[3:5]) / 2) / sum(areas))
    assert found["parse failed"]["difference"] == pytest.approx(-1 / 6)
    assert all(row["holm"] >= row["p"] for row in rows)
    assert [name for name, _ in differing(*sides)] == [samples[5].id, samples[3].id, samples[4].id]
    assert differing(*sides)[0][1] == 1
    data = comparison_data(first, second)
    assert data["names"] == ["first", "second"]
    assert data["pictures"].keys() == {item["picture"] for item in data["items"]}
    assert main(["report", "--compare", str(first), str(second), "--out", str(tmp_path / "c.html")]) == 0
    assert "3 samples differ" in capsys.readouterr().out
    assert (tmp_path / "c.html").read_text().count("<script") == 2
    assert write_comparison(first, first, tmp_path / "same.html")["items"] == []


def test_a_last_record_without_a_line_feed_counts_and_a_missing_file_is_said_to_be_missing(tmp_path):
    samples = present(3)
    folder = records(tmp_path / "a", [Objects()] * 3, samples)
    (folder / "records.jsonl").write_bytes((folder / "records.jsonl").read_bytes().rstrip(b"\n"))
    assert list(read_records(folder)) == [s.id for s in samples]
    with pytest.raises(DataError, match=r"b/records\.jsonl: no such file"):
        read_records(tmp_path / "b" / "records.jsonl")
    with pytest.raises(DataError, match="no such file"):
        read_records(tmp_path)


def test_records_of_other_samples_are_refused(tmp_path):
    samples = present(3)
    answers = [Objects()] * 3
    first, second = records(tmp_path / "a", answers, samples), records(tmp_path / "b", answers[:2], samples[:2])
    with pytest.raises(DataError, match="1 ids are in one file only"):
        comparison_data(first, second)
    (first / "records.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"records\.jsonl:1"):
        comparison_data(first, second)
