"""Running models: predictions on images and in tiles, files of them, fused copies, costs."""
