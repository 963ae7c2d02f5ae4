"""Charts as Vega-Lite specifications (plain dicts, pure) and their rendering to SVG."""
