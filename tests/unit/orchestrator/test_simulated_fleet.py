"""The load of `bench fleet` speaks the real protocol: simulated devices go through a rollout, and a build that fails halts."""

from pathlib import Path

from pipeline.rollout.rollout import RolloutState
from tests.kit.orchestrators import RunningOrchestrator
from tests.kit.simulated_fleet import Load, LoadProcess


def test_simulated_devices_confirm_a_release_and_fall_back_from_one_that_fails(orchestrator: RunningOrchestrator, tmp_path: Path) -> None:
    ends = orchestrator.endpoints
    load = Load(
        fleet_address=f"127.0.0.1:{ends.fleet}",
        enrolment_address=f"127.0.0.1:{ends.enrolment}",
        ca_pem=ends.ca_pem.decode(),
        tokens=orchestrator.operator.create_tokens("mail", count=6),
        first_within_s=0.1,
    )
    with LoadProcess(load, log=tmp_path / "load.log") as crowd:
        crowd.wait_enrolled()
        orchestrator.roll_out(orchestrator.release())
        orchestrator.wait_for(lambda: orchestrator.operator.get_rollout("r1").state is RolloutState.COMPLETED, timeout_s=60)
        assert orchestrator.operator.get_rollout("r1").confirmed == 6
        crowd.play(failing=1.0)
        orchestrator.roll_out(orchestrator.release(2), rollout_id="r2", waves=(1, 1.0))
        orchestrator.wait_for(lambda: orchestrator.operator.get_rollout("r2").state is RolloutState.HALTED, timeout_s=60)
        running = {device.running_digest for device in orchestrator.operator.get_fleet().devices}
        assert running == {orchestrator.operator.get_rollout("r1").digest}, "it fell back"
    counts = crowd.told[-1]["counts"]
    assert counts["switched"] == 7
    assert counts["metadata"] >= 4 * 6, "as a TUF client asks"
