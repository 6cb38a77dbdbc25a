"""The checker of data sets: what a folder contains, what is wrong with it, and how to convert it."""
