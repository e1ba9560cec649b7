"""Programs that made what the repository holds: data sets, trained models, figures."""
