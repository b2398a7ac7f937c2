"""Who is reached by which wave."""

import json
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.rollout.evidence import DeviceFacts
from pipeline.rollout.targeting import Selector, bucket, is_allowed, misfit, ranked, wave_reach

shares = st.lists(st.floats(0.001, 0.999), max_size=5, unique=True).map(lambda found: (*sorted(found), 1.0))


def test_three_devices_in_waves_of_a_third_and_all_are_one_canary_then_two() -> None:
    assert [wave_reach((0.34, 1.0), wave, 3) for wave in (1, 2)] == [1, 3]


@given(shares=shares, population=st.integers(0, 500))
def test_waves_grow_and_end_with_everybody(shares: tuple[float, ...], population: int) -> None:
    reaches = [wave_reach(shares, wave, population) for wave in range(1, len(shares) + 1)]
    assert reaches == sorted(reaches)
    assert reaches[-1] == population
    assert all(reach >= min(wave, population) for wave, reach in enumerate(reaches, start=1)), "each wave has a device while there are some"


@given(st.text(max_size=10), st.sets(st.text(max_size=8), max_size=50))
def test_order_depends_on_salt_and_ids_alone(salt: str, devices: set[str]) -> None:
    assert ranked(salt, devices) == ranked(salt, sorted(devices, reverse=True))
    assert all(0 <= bucket(salt, device) < 2**64 for device in devices)


def test_another_salt_draws_other_canaries() -> None:
    devices = [f"d-{n}" for n in range(100)]
    assert ranked("a", devices)[:10] != ranked("b", devices)[:10]


def test_buckets_are_spread_evenly() -> None:
    low = sum(bucket("salt", f"d-{n}") < 2**63 for n in range(2000))
    assert 880 < low < 1120


def test_salt_and_id_do_not_run_together() -> None:
    assert bucket("a", "bc") != bucket("ab", "c")


def test_hardware_that_a_release_does_not_name_is_not_allowed() -> None:
    assert is_allowed("pi4", ())
    assert is_allowed("pi4", ("pi4", "x86"))
    assert not is_allowed("pi3", ("pi4",))


@given(population=st.integers(0, 500))
def test_a_number_of_devices_is_that_many_and_never_fewer_than_the_wave_before(population: int) -> None:
    waves = (0.5, 10, 100, 1.0)
    reaches = [wave_reach(waves, wave, population) for wave in range(1, 5)]
    assert reaches == sorted(reaches)
    assert reaches[2] == min(population, max(100, population // 2, 3))
    assert wave_reach((1, 1.0), 1, population) == min(1, population)


def facts(**changes: Any) -> DeviceFacts:
    return DeviceFacts(**{"hardware": "x86", "labels": frozenset({"ring=beta", "site=oslo"}), "runtime": "1.23.2", **changes})


@pytest.mark.parametrize(
    ("selector", "fits"),
    [
        (Selector(), True),
        (Selector(labels=("ring=beta", "site=oslo")), True),
        (Selector(labels=("ring=beta", "site=rome")), False),
        (Selector(hardware=("pi4", "x86")), True),
        (Selector(hardware=("pi4",)), False),
        (Selector(runtime_at_least="1.9"), True),
        (Selector(runtime_at_least="1.24"), False),
        (Selector(free_memory_bytes=64), False),
    ],
)
def test_a_device_must_meet_every_demand(selector: Selector, fits: bool) -> None:
    assert (misfit(facts(), selector, ()) == "") is fits


def test_what_a_device_does_not_tell_meets_no_demand() -> None:
    assert misfit(facts(runtime=""), Selector(runtime_at_least="1.0"), ())
    assert misfit(facts(runtime="nonsense"), Selector(runtime_at_least="1.0"), ())
    assert misfit(facts(free_memory_bytes=0), Selector(free_memory_bytes=1), ())


def test_a_selector_reads_back_from_its_log() -> None:
    selector = Selector(labels=("ring=beta",), hardware=("x86",), runtime_at_least="1.2", free_memory_bytes=3)
    assert Selector.from_facts(json.loads(json.dumps(asdict(selector)))) == selector
