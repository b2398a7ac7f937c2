"""The orchestrator: enrols devices, serves signed releases, and brings a release to a population in waves.

One process or several on one database, each with three gRPC ports (devices, enrolment, operator) and /metrics. It holds snapshot,
timestamp and assignment keys, never the release key: it can choose among signed releases, not make one. What a rollout does is
decided in `pipeline.rollout`; this package keeps it, tells devices, and hears them.

    pki, identity, access        who is who, and who may what
    enrolment, operator_file     how one becomes a device, or an operator
    gate, limits, listening      what stands before every method, and on which port
    tables, roster, writer       what is known: one database, one writer thread, an image of it in memory
    leadership, turns            which replica runs the wave engine, and what each does by itself
    reports, engine              what devices say, and what follows from it
    asking, answering, question  a device's question to the teacher, and who waits for whom
    teacher_process, _worker     a process that holds the teacher; what it is made of is imported there only
    fleet, operations, server    the services and their life; `client` is the operator's side
"""
