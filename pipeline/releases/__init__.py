"""Releases: the one file a device downloads, and the signatures that say it may.

`manifest`, `bundle`: what is in the file. `keys`, `repository`, `signer`, `online`, `target`: the TUF repository, each private key with one
owner. `assignment`: which device should run which release. `lineage`: where each release came from. No clock and no
network: time is an argument, bytes come in and go out.
"""
