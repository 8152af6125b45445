"""Training: one loop for every task, exactly resumable."""
