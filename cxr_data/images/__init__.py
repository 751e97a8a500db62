"""From an image file to the pixels of a record. Nothing here imports TensorFlow."""
