"""From a case on disk to arrays that a network eats, and back."""
