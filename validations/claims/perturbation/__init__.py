"""A tuned prefix under attack, with a controller that heals its states."""
