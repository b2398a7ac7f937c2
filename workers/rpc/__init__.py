"""`kdpipe.fleet.v1` on the wire, `kdpipe.local.v1` on a device: fleet.proto, local.proto and what protoc makes of them.

The stubs are committed; a test regenerates them with the pinned grpcio-tools and compares, so they are never edited by hand.
To regenerate: `python -m grpc_tools.protoc -I . --python_out=. --grpc_python_out=. --pyi_out=. workers/rpc/*.proto`.
"""
