"""How the weights change: loss, optimizer, schedule, augmentation, averaging, loss scaling."""
