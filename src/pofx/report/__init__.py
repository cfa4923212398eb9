"""The page that a comparison ends in."""
