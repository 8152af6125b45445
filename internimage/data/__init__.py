"""Pictures and data sets: reading, preprocessing, class names."""
