"""The orchestrator: enrols devices, serves signed releases, and brings a release to a population in waves.

One process, three gRPC ports (devices, enrolment, operator) and /metrics. It holds snapshot, timestamp and assignment keys,
never the release key: it can choose among signed releases, not make one. What a rollout does is decided in
`pipeline.rollout`; this package keeps it, tells devices, and hears them.

    pki, identity, enrolment     who is who
    tables, roster, writer       what is known: one database, one writer thread, an image of it in memory
    reports, engine              what devices say, and what follows from it
    fleet, operations, server    the services and their life; `client` is the operator's side
"""
