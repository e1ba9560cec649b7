"""What is reported: pages, plots, records in files, folders that reproduce a failure."""
