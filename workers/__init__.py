"""The processes of kdpipe: everything that owns a Ray actor, a gRPC server, a subprocess, a terminal or a metrics port."""
