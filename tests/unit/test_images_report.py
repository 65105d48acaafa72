"""What CI jobs get of a build: each image's end, as JSON and as JUnit."""

from __future__ import annotations

import json
from xml.etree import ElementTree

from provisioner.errors import ImageError
from provisioner.events import Event, RecordingObserver
from provisioner.images.report import Report


def make_report() -> tuple[Report, RecordingObserver]:
    observer = RecordingObserver()
    report = Report(observer)
    error = ImageError("it <broke>", where="install.d/50", cause='a\x1b[1m & "b"', hint="see the log").to_dict()
    for event in (
        Event("image.timing", "layer", data={"image": "all", "phase": "layer", "seconds": 30.0}),
        Event("image.timing", "chunks", data={"image": "db", "phase": "chunks", "seconds": 2.5}),
        Event("image.done", "db", data={"image": "db", "id": "db-1", "seconds": 12.0, "reason": "because"}),
        Event("image.unchanged", "ramdisk", data={"image": "ramdisk", "id": "ramdisk-1"}),
        Event("image.failed", "web", data={"image": "web", "seconds": 3.0, "error": error}),
    ):
        report(event)
    report.fail(["db", "web", "late"], ImageError("nothing more was built"))
    return report, observer


def test_each_image_ends_in_one_way_and_events_go_on() -> None:
    report, observer = make_report()
    found = json.loads(report.render_json())
    assert {one["name"]: one["result"] for one in found["images"]} == {
        "db": "built",
        "late": "failed",
        "ramdisk": "unchanged",
        "web": "failed",
    }
    assert found["images"][0]["phases"] == {"chunks": 2.5} and found["phases"] == {"all": {"layer": 30.0}}
    assert len(observer.events) == 5


def test_junit_counts_and_quotes() -> None:
    suite = ElementTree.fromstring(make_report()[0].render_junit())
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("4", "2", "1")
    web = next(case for case in suite if case.get("name") == "web")
    failure = web.find("failure")
    assert failure is not None and failure.get("message") == "it <broke>"
    assert failure.text is not None and 'cause: a[1m & "b"' in failure.text
    assert web.get("time") == "3.000"
