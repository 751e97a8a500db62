"""What a model looks at: Grad-CAM, its occlusion check, filters, galleries."""
