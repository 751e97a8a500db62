"""The outer loop: epochs, validation, checkpoints, stopping and going on."""
