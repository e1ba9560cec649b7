"""What is measured: cases, on the model and on the graph, and how far rounding may go."""
