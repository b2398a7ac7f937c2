"""What a student learns from: losses, weighting ("what matters") and metrics. Pure; no model, no file, no Ray."""
