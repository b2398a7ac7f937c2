"""Labels of known content: an index from content keys to the shards that hold a label for them, and what finds labels there."""

from pipeline.labels.known.index import index_commits
from pipeline.labels.known.labels import KnownLabels

__all__ = ["KnownLabels", "index_commits"]
