"""The format on disk: records, shards, the index and the manifest, and their verification."""
