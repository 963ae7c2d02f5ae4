"""The page, its tables and charts."""
