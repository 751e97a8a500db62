"""From shards to batches: order, readers, caches, and what limits them. Sixteen modules, since the three
readers and their service are four of them, and what measures an input takes these readers apart.
"""
