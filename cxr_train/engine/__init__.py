"""What runs on the devices: placement, replicas, processes, the compiled steps."""
