"""What a model is worth: metrics and reports."""
