"""HTML pages and plots of results, self-contained."""
