"""Images and annotations of a user's own."""
