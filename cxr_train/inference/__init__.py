"""A model outside of training: files, panels, exports, embeddings."""
