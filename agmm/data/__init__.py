"""Data sets: images, dense masks and weak labels, embedded, public or a user's own."""
