"""What is made of a profile: Chrome trace, web page, roofline plot."""

import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from nanoinfer import InputError
from nanoinfer.reports.chrome_trace import chrome_trace
from nanoinfer.reports.plots import plot_roofline
from nanoinfer.reports.profile_html import page

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def test_chrome_trace_has_a_lane_per_thread(profile):
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


def test_html_page_is_self_contained_and_well_formed(profile):
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


def test_roofline_plot(profile, tmp_path):
    pytest.importorskip("matplotlib")
    plot_roofline(profile, str(tmp_path / "roofline.png"))
    assert (tmp_path / "roofline.png").read_bytes().startswith(b"\x89PNG")


def test_roofline_plot_needs_matplotlib(profile, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match="pip install matplotlib"):
        plot_roofline(profile, str(tmp_path / "roofline.png"))


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_html_page_and_trace_open_in_browser(profile, tmp_path):
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
