"""Where a release came from, short enough for every device to fetch."""

import hashlib
import json

from pipeline.releases.origin import gate_evidence

REPORT = {
    "student": "small",
    "ships": True,
    "basis": "labels",
    "summary": "ships",
    "version": 1,
    "lines": [{"name": "accuracy", "value": 0.9549999999999998, "bound": 0.8, "passed": True, "says": ""}],
    "breakdown": {"slices": [{"value": "a mail's domain", "right": 3}]},
}


def test_the_verdict_travels_line_by_line_and_its_slices_do_not() -> None:
    found = gate_evidence(REPORT)
    assert found["lines"] == [{"name": "accuracy", "value": 0.955, "bound": 0.8, "passed": True, "says": ""}]
    assert (found["ships"], found["summary"]) == (True, "ships")
    assert "domain" not in json.dumps(found)


def test_the_digest_is_of_the_whole_report_as_the_run_keeps_it() -> None:
    kept = json.loads(json.dumps(REPORT, indent=1))
    assert gate_evidence(REPORT)["report_sha256"] == hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
    assert gate_evidence({**REPORT, "breakdown": {}})["report_sha256"] != gate_evidence(REPORT)["report_sha256"]
