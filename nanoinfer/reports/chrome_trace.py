"""A profile in Chrome's trace format, which Perfetto and chrome://tracing open."""

from __future__ import annotations

from .profile import Profile


def chrome_trace(profile: Profile) -> dict:
    """A typical run, ready for JSON: a lane per thread, with slices of work and of waiting in microseconds.

    https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
    """
    events = [{"name": "process_name", "ph": "M", "pid": 1, "args": {"name": f"nanoinfer {profile.heading()[0]}"}}]
    for thread, steps in enumerate(profile.timeline.tolist()):
        lane = {"pid": 1, "tid": thread}
        name = f"thread {thread}{' (the caller)' if thread == 0 else ''}"
        events.append({"name": "thread_name", "ph": "M", **lane, "args": {"name": name}})
        for row, (start, done, met) in zip(profile.rows, steps, strict=True):
            details = {
                "step": row.step,
                "layer": row.layer,
                "shapes": row.shapes,
                "GFLOP/s": row.gflops,
                "GB/s": row.gbs,
                "percent of limit": row.percent,
                "limit": row.bound,
            }
            work = {"name": row.kernel, "cat": "work", "ts": start, "dur": done - start, "args": details}
            wait = {"name": "wait", "cat": "wait", "ts": done, "dur": met - done, "args": {"step": row.step}}
            events += [{"ph": "X", **lane, **work}, {"ph": "X", **lane, **wait}]
    return {"traceEvents": events, "displayTimeUnit": "ns"}
