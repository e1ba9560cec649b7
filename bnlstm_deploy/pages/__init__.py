"""Pages of plots: HTML without outside resources, for screens and for paper."""
