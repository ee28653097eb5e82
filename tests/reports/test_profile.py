"""Profiles: fields and sums, the tables in every format, trace, page and roofline; none of the times are judged."""

import csv
import io
import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from nanoinfer import InputError, create_model
from nanoinfer.cli import commands as cli
from nanoinfer.graph import passes
from nanoinfer.machine.roofline import Limits
from nanoinfer.reports.measure import level, step_limit
from nanoinfer.reports.profile_html import page
from nanoinfer.reports.profile_views import chrome_trace, compare, plot_roofline

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LIMITS = Limits(2, 32 << 10, 1 << 20, 32 << 20, [100.0, 200.0], *[[float(rate)] * 2 for rate in (400, 200, 100, 20)])


@pytest.fixture(scope="module")
def model():
    return create_model("digits", "random", threads=2)


@pytest.fixture(scope="module")
def profile(model):
    return model.profile(np.ones((1, 3, 96, 96), np.float32), repeat=5)


@pytest.fixture
def run(capsys):
    """run("digits", ...) -> (exit code, standard output, standard error) of nanoinfer profile."""

    def run(*arguments):
        code = cli.main(["profile", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


def test_there_is_a_row_for_every_step(model, profile):
    program = model.program((1, 3, 96, 96))
    assert [row.layer for row in profile.rows] == [step.node.output for step in program.steps]
    assert [row.flops for row in profile.rows] == [step.flops for step in program.steps]
    assert profile.rows[0].shapes == "1x3x96x96 -> 1x11x48x48" and profile.rows[0].kind == "matmul 3x3"
    assert profile.limits.gflops[1] > 0 and profile.timeline.shape == (2, len(program.steps), 3)


def test_bytes_are_those_of_values_and_weights(model):
    steps = model.program((1, 3, 96, 96)).steps
    assert steps[0].bytes == 4 * (3 * 96 * 96 + 11 * 48 * 48 + 11 * 3 * 9 + 11)
    graph, tensors = passes.optimise(model.graph, model.tensors)
    weights = sum(tensors[name].size for node in graph.nodes for name in node.tensors.values())
    assert sum(step.weight_bytes for step in steps) == 4 * weights


def test_times_are_consistent(profile):
    for row in profile.rows:
        assert 0 < row.microseconds <= row.p95 * 1.000001 and row.imbalance >= 1 and row.wait >= 0
        assert row.gflops == pytest.approx(row.flops / row.microseconds / 1e3)
        assert row.bound in ("compute", "L2", "L3", "memory") and row.percent > 0
    assert sum(row.share for row in profile.rows) == pytest.approx(1)
    # The steps of a run lie within the time that was measured around it.
    assert 0.3 < profile.agreement <= 1.001
    line = profile.timeline.reshape(2, -1)
    assert (np.diff(line) >= 0).all() and line.min() == 0


def test_kinds_and_slowest_are_the_same_rows(profile):
    assert sum(group.steps for group in profile.kinds) == len(profile.rows)
    assert sum(group.microseconds for group in profile.kinds) == pytest.approx(
        sum(row.microseconds for row in profile.rows)
    )
    times = [row.microseconds for row in profile.slowest]
    assert len(times) == 10 and times == sorted(times, reverse=True)
    assert times[0] == max(row.microseconds for row in profile.rows)


def test_a_profile_changes_no_result(model):
    x = np.random.default_rng(0).standard_normal((1, 3, 96, 96), np.float32)
    before = model(x)
    model.profile(x, repeat=1)
    np.testing.assert_array_equal(model(x), before)


def test_one_thread_never_waits():
    profile = create_model("digits", "random", threads=1).profile(np.ones((1, 3, 64, 64), np.float32), repeat=2)
    assert all(row.imbalance == 1 and row.wait < row.microseconds for row in profile.rows)


@pytest.mark.parametrize("repeat", [0, -1, 1.5])
def test_repeat_is_checked(model, repeat):
    with pytest.raises(InputError, match="repeat"):
        model.profile(np.ones((1, 3, 96, 96), np.float32), repeat=repeat)


def test_the_limit_that_binds():
    class Step:
        flops, bytes, weight_bytes = 2_000_000, 1000, 0

    assert step_limit(Step, LIMITS, 2, 1 << 30) == (pytest.approx(10), "compute")
    Step.bytes = 4_000_000  # more than two L2 caches hold
    assert step_limit(Step, LIMITS, 2, 1 << 30) == (pytest.approx(40), "L3")
    Step.weight_bytes = 3_000_000  # last read a whole run ago
    assert step_limit(Step, LIMITS, 2, 1 << 30) == (pytest.approx(10 + 150), "memory")
    for size in (1, 2 << 20, 3 << 20, 32 << 20, 33 << 20):
        rate = {"L2": LIMITS.l2_read, "L3": LIMITS.l3_read, "memory": LIMITS.memory_read}[level(LIMITS, size, 2)]
        assert LIMITS.bandwidth(size, 2) == rate[1]


def test_text_holds_three_tables_and_the_sums(profile):
    text = str(profile)
    for part in ("In run order", "The slowest ten", "By kind of kernel", "sum of steps", "time stamps cost", "peak"):
        assert part in text
    assert "### By kind of kernel" in profile.to_markdown()


def test_trace_is_one_lane_per_thread(profile):
    trace = json.loads(json.dumps(chrome_trace(profile)))
    slices = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert len(slices) == 2 * 2 * len(profile.rows) and {event["tid"] for event in slices} == {0, 1}
    for thread in (0, 1):
        lane = [event for event in slices if event["tid"] == thread]
        ends = [event["ts"] + event["dur"] for event in lane]
        assert all(event["dur"] >= 0 for event in lane)
        assert all(event["ts"] >= end - 1e-6 for event, end in zip(lane[1:], ends, strict=False))
    names = [event["args"]["name"] for event in trace["traceEvents"] if event["name"] == "thread_name"]
    assert names == ["thread 0 (the caller)", "thread 1"]


def test_page_is_self_contained_and_well_formed(profile):
    text, tags = page(profile), []

    class Parser(HTMLParser):
        def handle_starttag(self, tag, attributes):
            assert not {"src", "href"} & dict(attributes).keys()
            if tag not in ("meta", "br"):
                tags.append(tag)

        def handle_endtag(self, tag):
            assert tags.pop() == tag

        def handle_startendtag(self, tag, attributes):
            pass

    Parser().feed(text)
    assert tags == [] and "http" not in text and "url(" not in text


def test_plot(profile, tmp_path):
    pytest.importorskip("matplotlib")
    plot_roofline(profile, str(tmp_path / "roofline.png"))
    assert (tmp_path / "roofline.png").read_bytes().startswith(b"\x89PNG")


def test_plot_without_matplotlib_says_what_to_install(profile, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match="pip install matplotlib"):
        plot_roofline(profile, str(tmp_path / "roofline.png"))


def test_compare_matches_rows_by_layer(profile):
    before = json.loads(profile.to_json())
    before["rows"][0]["microseconds"] *= 2
    before["rows"][1]["kernel"] = "another_f32"
    gone = before["rows"].pop(2)
    before["rows"].append({**gone, "layer": "removed"})
    changes = compare(before, profile)
    assert changes.rows[0].change == pytest.approx(-0.5)
    assert (changes.rows[1].kernel_before, changes.rows[1].change) == ("another_f32", 0)
    assert (changes.rows[2].before, changes.rows[2].change) == (None, None)
    assert (changes.rows[-1].layer, changes.rows[-1].now) == ("removed", None)
    assert "wall" in str(changes) and json.loads(changes.to_json())["wall"] == pytest.approx(profile.wall)
    with pytest.raises(InputError, match="threads 3, not 2"):
        compare({**before, "threads": 3}, profile)
    with pytest.raises(InputError, match="no profile"):
        compare({"rows": [1]}, profile)


def test_command_writes_every_file(run, tmp_path):
    trace, html, before = (tmp_path / name for name in ("trace.json", "report.html", "before.json"))
    size = ("--input-size", 64, 64, "--threads", 2, "--repeat", 2)
    code, out, err = run("digits", *size, "--trace", trace, "--html", html, "--format", "json")
    assert (code, err) == (0, "")
    assert json.loads(out)["input_shape"] == [1, 3, 64, 64] and json.loads(trace.read_text())["traceEvents"]
    assert html.read_text(encoding="utf-8").startswith("<!doctype html>")
    before.write_text(out)
    code, out, err = run("digits", *size, "--compare", before)
    assert (code, err) == (0, "") and "before us" in out and "In run order" in out
    code, out, err = run("digits", *size, "--compare", before, "--format", "csv")
    assert list(csv.DictReader(io.StringIO(out)))[0]["layer"] == "first_conv.relu6"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["no_such_network"], "no_such_network"),
        (["digits", "--input-size", "1", "3", "64", "64", "--batch-size", "2"], "--batch-size"),
        (["digits", "--input-size", "3", "64", "64"], "N C H W"),
        (["digits", "--input-size", "100000000", "100000000"], "choose a smaller one"),
        (["digits", "--batch-size", "10000000000"], "up to 1,000,000,000"),
        (["digits", "--input-size", "1", "4", "64", "64"], "4 channels"),
        (["digits", "--repeat", "0"], "--repeat"),
        (["digits", "--compare", "nowhere.json"], "nowhere.json"),
        (["digits", "--compare", __file__], "not JSON"),
    ],
)
def test_wrong_use_is_one_line(run, arguments, part):
    code, out, err = run(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1) and part in err


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_page_and_trace_open_in_a_browser(profile, tmp_path):
    # A script error, a load of anything or a trace that does not parse leaves the title as it was.
    check = """<script>
      const failed = [], trace = JSON.parse(document.getElementById("trace").textContent);
      window.addEventListener("error", event => failed.push(event.message));
      window.addEventListener("load", () => {
        for (const head of document.querySelectorAll("th")) head.click();
        run.dispatchEvent(new WheelEvent("wheel", {deltaY: -1, cancelable: true}));
        if (!(run.viewBox.baseVal.width < whole)) failed.push("no zoom");
        document.querySelector("rect").dispatchEvent(new PointerEvent("pointerenter"));
        if (!detail.textContent.startsWith("step 0")) failed.push("no detail");
        const lanes = new Set(trace.traceEvents.filter(event => event.ph === "X").map(event => event.tid));
        const loads = performance.getEntriesByType("resource").length;
        const rows = document.querySelectorAll("tr").length;
        document.title = JSON.stringify({failed, lanes: [...lanes], loads, rows});
      });
    </script>"""
    trace = json.dumps(chrome_trace(profile))
    source = page(profile).replace(
        "<script>", f'<script type="text/plain" id="trace">{trace}</script>{check}<script>', 1
    )
    (tmp_path / "page.html").write_text(source, encoding="utf-8")
    (tmp_path / "trace.json").write_text(trace, encoding="utf-8")

    def dump(name):
        options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
        options += f" --disable-component-update --disable-sync --user-data-dir={tmp_path / 'browser'} --dump-dom"
        command = [BROWSER, *options.split(), (tmp_path / name).as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout

    dom = dump("page.html")
    rows = len(profile.rows) + len(profile.slowest) + len(profile.kinds) + 3
    assert f'<title>{{"failed":[],"lanes":[0,1],"loads":0,"rows":{rows}}}</title>' in dom
    assert "traceEvents" in dump("trace.json")
