"""The trainer: backbones, compiled steps, metrics and evaluation."""
