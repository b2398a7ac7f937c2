"""Who is reached by which wave."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.rollout.targeting import bucket, is_allowed, ranked, wave_reach

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
