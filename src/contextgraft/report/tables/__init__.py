"""Tables of the page and their wording."""
