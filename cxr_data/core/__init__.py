"""What everything else may use: errors, storage, processes. It knows nothing of X-rays."""
