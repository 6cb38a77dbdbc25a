"""The authors' checkpoints: recognised, fetched, converted, and the results they published."""
