"""Dense prediction: one image, several targets for each of its pixels."""
