"""A device's status as a person sees it."""

from typing import Any

from workers.edge.picture import picture

RUNS = {"digest": "ab" * 32, "student": "small", "release": 2}
BEFORE = {"digest": "cd" * 32, "student": "small", "release": 1}
STATUS: dict[str, Any] = {
    "device": "d-1",
    "agent_version": "0.1.0",
    "state": "CONFIRMED",
    "code": "",
    "detail": "",
    "generation": 2,
    "wanted": {"generation": 2, "target": "releases/small-000002.kdpb", "digest": "ab" * 32},
    "incumbent": RUNS,
    "previous": BEFORE,
    "running_digest": "ab" * 32,
    "input": {"kind": "floats", "width": 64},
    "arrival": {"digest": "ab" * 32, "way": "delta", "fetched_bytes": 1200, "bundle_bytes": 17_108},
    "downloaded_bytes": 0,
    "wanted_bytes": 0,
    "blocked": "",
    "clock_wrong": False,
    "last_sync_unix_s": 1000.0,
    "next_sync_s": 30.0,
    "reports_queued": 0,
    "trusted_time": "2026-11-01T12:00:00+00:00",
    "asking": None,
}


def shown(**changes: Any) -> dict[str, str]:
    head, *lines = picture({**STATUS, **changes}, now=1012.0)
    return {"": head, **{line[2:12].strip(): line[14:] for line in lines}}


def test_what_the_teacher_is_asked_and_why_it_does_not_answer() -> None:
    asking = {"below": 0.6, "share": 0.01, "asked": 1200, "answered": 1100, "used": 900, "last_failure": ""}
    both = "asked below 0.6, 1 % of answers held against it; 1,200 asked, 1,100 answered, 900 used"
    assert shown(asking=asking)["teacher"] == both
    assert shown(asking={**asking, "share": 0.0, "last_failure": "UNAVAILABLE"})["teacher"] == (
        "asked below 0.6; 1,200 asked, 1,100 answered, 900 used; UNAVAILABLE"
    )


def test_at_rest_it_says_what_runs_how_it_came_and_the_way_back() -> None:
    assert shown() == {
        "": "d-1 CONFIRMED",
        "runs": "small-000002, sha256 abababababab, came as a delta: 1.2 kB for a bundle of 17.1 kB",
        "before it": "small-000001, sha256 cdcdcdcdcdcd",
        "eats": "rows of 64 numbers",
        "assigned": "small-000002, sha256 abababababab, assignment number 2",
        "update": "none under way",
        "called": "12 s ago, every 30 s",
        "teacher": "never asked: inputs stay on the device",
        "clock": "right",
        "agent": "0.1.0",
    }


def test_a_download_shows_how_far_it_is_and_why_it_waits() -> None:
    found = shown(state="DOWNLOAD", downloaded_bytes=8_000, wanted_bytes=17_108, blocked="no space", reports_queued=2)
    assert found["update"] == "download; 8.0 kB are here, the whole bundle is 17.1 kB; waits: no space"
    assert found["called"] == "12 s ago, every 30 s; 2 reports wait to be sent"


def test_a_candidate_on_trial_is_not_taken_for_the_confirmed_release() -> None:
    found = shown(state="TRIAL", running_digest="ef" * 32)
    assert found["runs"] == "a candidate on trial, sha256 efefefefefef; small-000002, sha256 abababababab stands by"
    assert found["update"] == "trial"


def test_what_went_wrong_and_a_wrong_clock_are_told() -> None:
    found = shown(state="ROLLED_BACK", code="golden_mismatch", detail="sample 3 differs", clock_wrong=True, last_sync_unix_s=0.0)
    assert found[""] == "d-1 ROLLED_BACK golden_mismatch"
    assert found["update"] == "sample 3 differs"
    assert found["clock"] == "CLOCK_WRONG, signed time is 2026-11-01T12:00:00+00:00"
    assert found["called"].startswith("not answered since the agent started")


def test_a_device_that_has_nothing_yet_says_so() -> None:
    found = shown(state="IDLE", running_digest="", incumbent=None, previous=None, wanted=None, input=None, arrival=None)
    assert (found["runs"], found["assigned"], found["eats"]) == ("nothing yet", "-", "-")
