"""Tasks that come with Heliograph, by subject."""
