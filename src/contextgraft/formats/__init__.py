"""Files that several packages read or write."""
