"""From an image file to the pixels of a record. Nothing imports TensorFlow, but the pixels of plain DICOM."""
