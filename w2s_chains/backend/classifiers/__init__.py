"""Models that judge whole texts."""
