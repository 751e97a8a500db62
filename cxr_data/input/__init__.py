"""From shards to batches: order, readers, caches, and what limits them."""
