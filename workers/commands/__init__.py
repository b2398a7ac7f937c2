"""The verbs of `kdpipe`, one a file. `workers.cli` lists them; what needs the cluster extra is imported when a verb runs."""
