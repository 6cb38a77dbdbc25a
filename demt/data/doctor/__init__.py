"""The checker of data sets: what is there, what is wrong with it, and how to convert it."""
