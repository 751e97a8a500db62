"""From an image file to the pixels of a record. Nothing here imports TensorFlow. Sixteen modules, since four
are of DICOM alone, and most of the others are one rule each that several formats share.
"""
